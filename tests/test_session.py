import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest

from mxfast import (
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayTransportError,
    Session,
    from_mx_value,
    to_mx_value,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.conftest import Context, ScriptedGateway, ok


async def read_one(session: Session, server: int, tag: str) -> Any:
    (result,) = await session.read_bulk(server, [tag])
    assert result.was_successful, result.error_message
    return from_mx_value(result.value)


async def test_one_item_from_end_to_end(session: Session) -> None:
    server = await session.register("line-4")
    item = await session.add_item(server, "Tank1.Level")
    assert server != 0
    assert item != 0
    events = session.stream_events()
    await session.advise(server, item)
    await session.write(server, item, 3.25, user_id=0)
    seen = []
    async for event in events:
        seen.append((event.family, from_mx_value(event.value)))
        if event.family == pb.MX_EVENT_FAMILY_ON_DATA_CHANGE and event.value.double_value == 3.25:
            break
    await events.aclose()
    assert (pb.MX_EVENT_FAMILY_ON_DATA_CHANGE, 3.25) in seen
    assert await read_one(session, server, "Tank1.Level") == 3.25
    await session.un_advise(server, item)
    await session.remove_item(server, item)
    with pytest.raises(MxAccessError):
        await session.write(server, item, 1.0)
    await session.unregister(server)
    with pytest.raises(MxAccessError):
        await session.add_item(server, "Tank1.Level")


@pytest.mark.parametrize("value", [True, 5, 2**40, 2.5, "text", b"\x00\x01", [1.0, 2.0]])
async def test_written_values_come_back(session: Session, value: Any) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    await session.write(server, item, value)
    back = await read_one(session, server, "A.B")
    assert np.array_equal(back, value)


@pytest.mark.parametrize(
    "given",
    [
        datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2020, 1, 2, 3, 4, 5),
        np.datetime64("2020-01-02T03:04:05"),
        np.array("2020-01-02T03:04:05", "M8[ns]"),
        to_mx_value(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
async def test_write2_carries_its_timestamp(session: Session, given: Any) -> None:
    server = await session.register("x")
    item = await session.add_item2(server, "Level", "Tank1")
    time = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    await session.write2(server, item, 7, given)
    (result,) = await session.read_bulk(server, ["Tank1.Level"])
    assert result.value.int32_value == 7
    assert result.source_timestamp.ToDatetime(tzinfo=UTC) == time


async def test_supervisory_advise_ping_and_state(session: Session) -> None:
    server = await session.register("x")
    await session.advise_supervisory(server, await session.add_item(server, "A.B"))
    await session.ping("hello")
    assert await session.get_session_state() == pb.SESSION_STATE_READY


async def test_bulk_commands(session: Session) -> None:
    server = await session.register("x")
    tags = [f"T{n}.V" for n in range(20)]
    added = await session.add_item_bulk(server, tags)
    handles = [each.item_handle for each in added]
    assert [each.tag_address for each in added] == tags
    assert all(each.was_successful for each in added)
    for method in (
        session.advise_item_bulk,
        session.un_advise_item_bulk,
        session.remove_item_bulk,
    ):
        results = await method(server, np.array(handles))
        assert [each.item_handle for each in results] == handles
        assert all(each.was_successful for each in results)
    subscribed = await session.subscribe_bulk(server, iter(tags))
    handles = [each.item_handle for each in subscribed]
    entries = [pb.WriteBulkEntry(item_handle=h, value=to_mx_value(h / 2)) for h in handles]
    assert all(r.was_successful for r in await session.write_bulk(server, entries))
    times = to_mx_value(datetime(2026, 1, 1, tzinfo=UTC))
    entries2 = [
        pb.Write2BulkEntry(item_handle=h, value=to_mx_value(h), timestamp_value=times)
        for h in handles[:3]
    ]
    assert len(await session.write2_bulk(server, entries2, correlation_id="mine")) == 3
    read = await session.read_bulk(server, tags, timeout_ms=500)
    assert [from_mx_value(r.value) for r in read] == handles[:3] + [h / 2 for h in handles[3:]]
    assert all(r.was_successful for r in await session.unsubscribe_bulk(server, handles))


async def test_refused_tag() -> None:
    async with (
        SimulatedGateway(tags=["Tank1.Level"]) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        with pytest.raises(MxAccessError, match=r"add_item: Tank9\.Level; .*1003"):
            await session.add_item(server, "Tank9.Level")
        good, bad = await session.subscribe_bulk(server, ["Tank1.Level", "Tank9.Level"])
        assert good.was_successful
        assert not bad.was_successful
        assert bad.item_handle == 0
        assert bad.error_message


async def test_bulk_of_nothing_sends_nothing(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    assert await scripted_session.subscribe_bulk(1, []) == []
    assert await scripted_session.unsubscribe_bulk(1, np.array([], int)) == []
    assert await scripted_session.read_bulk(1, ()) == []
    assert await scripted_session.write_bulk(1, []) == []
    assert "Invoke" not in scripted.calls


async def test_bulk_limit(gateway: SimulatedGateway) -> None:
    async with await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=3
    ) as client:
        session = await client.open_session()
        server = await session.register("x")
        assert len(await session.add_item_bulk(server, ["A.1", "A.2", "A.3"])) == 3
        for method in (session.add_item_bulk, session.subscribe_bulk, session.read_bulk):
            with pytest.raises(ValueError, match="4 tag_addresses: at most max_bulk_items = 3"):
                await method(server, ["A.1", "A.2", "A.3", "A.4"])
        with pytest.raises(ValueError, match="max_bulk_items"):
            await session.advise_item_bulk(server, range(4))
        with pytest.raises(ValueError, match="max_bulk_items"):
            await session.write_bulk(server, [pb.WriteBulkEntry()] * 4)


@pytest.mark.parametrize(
    ("method", "argument", "named"),
    [
        ("subscribe_bulk", None, "tag_addresses"),
        ("subscribe_bulk", "Tank1.Level", "tag_addresses"),
        ("subscribe_bulk", ["A.B", 5], r"tag_addresses\[1\]"),
        ("add_item_bulk", 7, "tag_addresses"),
        ("read_bulk", None, "tag_addresses"),
        ("read_bulk", [b"A.B"], r"tag_addresses\[0\]"),
        ("advise_item_bulk", None, "item_handles"),
        ("remove_item_bulk", [1, "2"], r"item_handles\[1\]"),
        ("un_advise_item_bulk", [1.0], r"item_handles\[0\]"),
        ("unsubscribe_bulk", [True], r"item_handles\[0\]"),
        ("write_bulk", None, "entries"),
        ("write_bulk", [pb.Write2BulkEntry()], r"entries\[0\] must be a WriteBulkEntry"),
        ("write2_bulk", [1.0], r"entries\[0\]"),
        ("register", 5, "client_name"),
        ("ping", None, "message"),
    ],
)
async def test_wrong_types(
    scripted: ScriptedGateway, scripted_session: Session, method: str, argument: Any, named: str
) -> None:
    call = getattr(scripted_session, method)
    with pytest.raises(TypeError, match=named):
        await (call(argument) if method in ("register", "ping") else call(1, argument))
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize("handle", ["1", 1.0, None, True, 2**31, [1]])
async def test_wrong_handles(
    scripted: ScriptedGateway, scripted_session: Session, handle: Any
) -> None:
    error = ValueError if handle == 2**31 else TypeError
    with pytest.raises(error, match="server_handle"):
        await scripted_session.add_item(handle, "A.B")
    with pytest.raises(error, match="item_handle"):
        await scripted_session.write(1, handle, 2.0)
    with pytest.raises(error, match="user_id"):
        await scripted_session.write(1, 2, 2.0, user_id=handle)
    assert "Invoke" not in scripted.calls


async def test_value_that_cannot_be_written_is_not_sent(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    with pytest.raises(ValueError, match="finite"):
        await scripted_session.write(1, 2, float("nan"))
    with pytest.raises(TypeError, match="timedelta"):
        await scripted_session.write2(1, 2, 1.0, np.timedelta64(1, "s"))
    assert "Invoke" not in scripted.calls


async def test_handles_of_numpy_are_handles(session: Session) -> None:
    server = np.int32(await session.register("x"))
    item = np.int64(await session.add_item(int(server), "A.B"))
    await session.write(int(server), item, 1.0)  # type: ignore[arg-type]
    await session.remove_item(server, item)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.register("x"),
        lambda s: s.add_item(1, "A.B"),
        lambda s: s.add_item2(1, "B", "A"),
        lambda s: s.subscribe_bulk(1, ["A.B"]),
        lambda s: s.advise_item_bulk(1, [1]),
        lambda s: s.write_bulk(1, [pb.WriteBulkEntry()]),
        lambda s: s.read_bulk(1, ["A.B"]),
        lambda s: s.get_session_state(),
    ],
)
@pytest.mark.parametrize("payload", ["none", "another"])
async def test_reply_without_its_payload(
    scripted: ScriptedGateway, scripted_session: Session, call: Any, payload: str
) -> None:
    reply = pb.MxCommandReply(protocol_status=ok())
    if payload == "another":
        reply.drain_events.SetInParent()
    scripted.reply_with(reply)
    with pytest.raises(MalformedReplyError, match="the reply has no ") as caught:
        await call(scripted_session)
    assert caught.value.reply == reply


async def test_reply_with_handle_0(scripted: ScriptedGateway, scripted_session: Session) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok(), register=pb.RegisterReply()))
    with pytest.raises(MalformedReplyError, match="no handle"):
        await scripted_session.register("x")


async def test_bulk_reply_with_fewer_results(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    results = pb.BulkSubscribeReply(results=[pb.SubscribeResult(item_handle=1)])
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok(), subscribe_bulk=results))
    with pytest.raises(MalformedReplyError, match="2 entries were sent and 1 results"):
        await scripted_session.subscribe_bulk(1, ["A.B", "A.C"])


@pytest.mark.parametrize("reply", [b"\xff", b"\x22\x05\x01", b""])
async def test_garbage_reply(
    scripted: ScriptedGateway, scripted_session: Session, reply: bytes
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return reply

    scripted.unary["Invoke"] = answer
    with pytest.raises(MalformedReplyError, match="ping"):
        await scripted_session.ping()


async def test_every_request_has_a_correlation_id_of_its_own(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    seen = []

    async def answer(request: bytes, context: Context) -> bytes:
        seen.append(pb.MxCommandRequest.FromString(request).client_correlation_id)
        return pb.MxCommandReply(protocol_status=ok()).SerializeToString()

    scripted.unary["Invoke"] = answer
    for _ in range(3):
        await scripted_session.ping()
    await scripted_session.invoke(pb.MxCommand(), correlation_id="mine")
    assert len(set(seen)) == 4
    assert "" not in seen
    assert seen[-1] == "mine"


async def test_closed_session_sends_nothing(scripted: ScriptedGateway) -> None:
    async with await scripted.connect() as client:
        session = await client.open_session()
        await session.close()
        before = len(scripted.calls)
        for call in (
            session.ping,
            lambda: session.write(1, 1, 1.0),
            lambda: session.subscribe_bulk(1, []),
            lambda: session.write_array(1, [1], [1.0]),
            lambda: session.invoke_raw(pb.MxCommand()),
        ):
            with pytest.raises(MxGatewaySessionError, match="is closed"):
                await call()
        with pytest.raises(MxGatewaySessionError, match=r"event_batches: session .* is closed"):
            session.event_batches()
        with pytest.raises(MxGatewaySessionError, match="is closed"):
            session.stream_events()
        assert len(scripted.calls) == before
        assert repr(session) == "<Session session-scripted closed>"


async def test_concurrent_close_sends_one_close(scripted: ScriptedGateway) -> None:
    async with await scripted.connect() as client:
        session = await client.open_session()
        await asyncio.gather(*(session.close() for _ in range(5)))
        await session.close()
    assert scripted.calls.count("CloseSession") == 1


async def test_cancelled_close_still_closes_for_the_others(scripted: ScriptedGateway) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    close = scripted.unary["CloseSession"]

    async def slow(request: bytes, context: Context) -> bytes:
        arrived.set()
        await go_on.wait()
        return await close(request, context)

    scripted.unary["CloseSession"] = slow
    async with await scripted.connect() as client:
        session = await client.open_session()
        first = asyncio.create_task(session.close())
        second = asyncio.create_task(session.close())
        await arrived.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        await second


@pytest.mark.parametrize("how", ["status", "grpc"])
async def test_closing_a_session_the_gateway_forgot(scripted: ScriptedGateway, how: str) -> None:
    async def forgotten(request: bytes, context: Context) -> bytes:
        if how == "grpc":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such session")
        reply = pb.CloseSessionReply()
        reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_SESSION_NOT_FOUND
        return reply.SerializeToString()

    scripted.unary["CloseSession"] = forgotten
    async with await scripted.connect() as client:
        await (await client.open_session()).close()


async def test_failing_close_does_not_hide_what_went_wrong(scripted: ScriptedGateway) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "cannot close")
        raise AssertionError

    scripted.unary["CloseSession"] = fail
    async with await scripted.connect() as client:
        with pytest.raises(KeyError) as caught:
            async with await client.open_session():
                raise KeyError("the user's")
        assert any("cannot close" in note for note in caught.value.__notes__)
        with pytest.raises(MxGatewayError, match="cannot close"):
            async with await client.open_session():
                pass


@pytest.mark.parametrize("how", ["grpc", "mxaccess"])
async def test_a_close_that_failed_is_made_again(scripted: ScriptedGateway, how: str) -> None:
    close = scripted.unary["CloseSession"]

    async def fail_first(request: bytes, context: Context) -> bytes:
        if scripted.calls.count("CloseSession") > 1:
            return await close(request, context)
        if how == "grpc":
            await context.abort(grpc.StatusCode.INTERNAL, "hiccup")
        failure = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
        status = pb.ProtocolStatus(code=failure, message="hiccup")
        return pb.CloseSessionReply(protocol_status=status).SerializeToString()

    scripted.unary["CloseSession"] = fail_first
    async with await scripted.connect() as client:
        session = await client.open_session()
        both = await asyncio.gather(session.close(), session.close(), return_exceptions=True)
        assert [type(error) for error in both] == [
            MxGatewayTransportError if how == "grpc" else MxAccessError
        ] * 2
        assert all("close: " in str(error) and "hiccup" in str(error) for error in both)
        with pytest.raises(MxGatewaySessionError, match="is closed"):
            await session.ping()
        await asyncio.gather(session.close(), session.close())
        await session.close()
    assert scripted.calls == ["OpenSession", "CloseSession", "CloseSession"]


async def test_gateway_that_stops(client: GatewayClient, gateway: SimulatedGateway) -> None:
    session = await client.open_session()
    await gateway.__aexit__(None, None, None)
    with pytest.raises(MxGatewayConnectionError, match=r"register: 127\.0\.0\.1"):
        await session.register("x")
    await gateway.__aenter__()
