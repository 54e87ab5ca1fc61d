import asyncio
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxfast import (
    EncodeError,
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewayAuthorizationError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayTimeoutError,
    Outcome,
    Session,
    WriteError,
    WriteResult,
    from_mx_value,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import parse
from mxfast.simulator import SimulatedGateway
from tests.conftest import KEY, SECRET, Context, OpenLimited, ScriptedGateway, Writes, ok

ACCEPTED, REJECTED, UNKNOWN, NOT_SENT = (
    Outcome.ACCEPTED,
    Outcome.REJECTED,
    Outcome.UNKNOWN,
    Outcome.NOT_SENT,
)


# ---------------------------------------------------------------- against the simulated gateway


@pytest.mark.parametrize("dtype", ["?", "i2", "i4", "u4", "i8", "f2", "f4", "f8", ">f8"])
async def test_values_arrive(session: Session, dtype: str) -> None:
    server = await session.register("x")
    tags = [f"T{n}.V" for n in range(50)]
    handles = [r.item_handle for r in await session.add_item_bulk(server, tags)]
    values = np.arange(50).astype(dtype)
    result = await session.write_array(server, handles, values)
    assert result.ok
    assert result.item_handle.dtype == np.int32
    assert result.outcome.dtype == np.uint8
    assert result.hresult.dtype == np.int32
    assert result.item_handle.tolist() == handles
    assert set(result.outcome) == {ACCEPTED}
    assert result.errors == {}
    assert len(result) == 50
    result.raise_for_failure()
    read = await session.read_bulk(server, tags)
    assert [from_mx_value(r.value) for r in read] == values.tolist()


async def test_many_requests(gateway: SimulatedGateway) -> None:
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=64
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        handles = [
            (await session.add_item_bulk(server, [f"T{n}.V"]))[0].item_handle for n in range(50)
        ]
        repeated = np.tile(handles, 20)
        values = np.arange(1000.0)
        progress: list[tuple[int, int]] = []
        result = await session.write_array(
            server, repeated, values, on_progress=lambda *at: progress.append(at)
        )
        assert result.ok
        read = await session.read_bulk(server, [f"T{n}.V" for n in range(50)])
        assert [r.value.double_value for r in read] == values[-50:].tolist(), "the last one wins"
        assert progress == [(min(n, 1000), 1000) for n in range(64, 1064, 64)]


async def test_timestamps(session: Session) -> None:
    server = await session.register("x")
    handles = [r.item_handle for r in await session.add_item_bulk(server, ["A.B", "A.C"])]
    times = np.array(["2020-01-01", "2021-02-03T04:05:06.789"], "datetime64[ms]")
    assert (await session.write_array(server, handles, [1.0, 2.0], timestamps=times)).ok
    read = await session.read_bulk(server, ["A.B", "A.C"])
    stamped = [r.source_timestamp.ToDatetime() for r in read]
    assert np.array_equal(np.array(stamped, "datetime64[ms]"), times)


async def test_rejected_items(session: Session) -> None:
    server = await session.register("x")
    good = await session.add_item(server, "Tank1.Level")
    gone = await session.add_item(server, "Tank2.Level")
    handles = [good, 9999, good, gone]
    await session.remove_item(server, gone)
    result = await session.write_array(server, handles, [1, 2, 3, 4])
    assert not result.ok
    assert result.outcome.tolist() == [ACCEPTED, REJECTED, ACCEPTED, REJECTED]
    assert list(result.errors) == [1, 3]
    assert result.errors[1].message
    assert repr(result) == "<WriteResult of 4 values: 2 ACCEPTED, 2 REJECTED>"
    with pytest.raises(MxAccessError, match=r"2 of 4 values .* index 1, item 9999: .") as caught:
        result.raise_for_failure()
    assert caught.value.result is result


# ---------------------------------------------------------------- what is refused before sending


@pytest.mark.parametrize(
    ("handles", "values", "error", "named"),
    [
        ([1, 2, 3], [1.0, 2.0], ValueError, "3 item handles but 2 values"),
        ([1, 2], [[1.0, 2.0]], ValueError, r"values must be one-dimensional.*\(1, 2\)"),
        ([[1, 2]], [1.0, 2.0], ValueError, r"item_handles must be one-dimensional.*\(1, 2\)"),
        (1, [1.0], ValueError, "item_handles must be one-dimensional"),
        ([1], 1.0, ValueError, "values must be one-dimensional"),
        ([1], [1j], TypeError, r"values\[0\] is a complex: 1j"),
        ([1], np.array([1], "m8[s]"), TypeError, "timedelta64"),
        ([1], [None], TypeError, r"values\[0\] is a NoneType"),
        ([1], np.zeros(1, [("a", "f8")]), TypeError, "dtype"),
        ([1], np.ma.array([1.0], mask=[True]), TypeError, "masked"),
        ([1, 2.5], [1.0, 2.0], TypeError, r"item_handles\[1\] is 2.5"),
        (np.array([1.0]), [1.0], TypeError, r"item_handles\[0\] is 1.0"),
        (["1"], [1.0], ValueError, r"item_handles\[0\] is the tag '1', which is no item"),
        ([True], [1.0], TypeError, r"item_handles\[0\] is True"),
        ([1, 2**31], [1.0, 2.0], ValueError, r"item_handles\[1\] is 2147483648"),
        (np.array([2**63], "u8"), [1.0], ValueError, r"item_handles\[0\]"),
        (np.ma.array([1], mask=[True]), [1.0], TypeError, "masked"),
        ([1, 2], [1.0, float("nan")], ValueError, r"values\[1\] is nan \(item handle 2\)"),
        ([1], np.array([np.inf], "f4"), ValueError, r"values\[0\] is inf"),
        ([1], np.array([2**63], "u8"), ValueError, r"values\[0\]"),
    ],
)
async def test_bad_input_sends_nothing(  # noqa: PLR0917 - fixtures and parameters
    scripted: ScriptedGateway,
    scripted_session: Session,
    handles: Any,
    values: Any,
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        await scripted_session.write_array(1, handles, values)
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"timestamps": ["2026-01-01"]}, ValueError, "2 item handles but 1 timestamps"),
        ({"timestamps": [1, 2]}, TypeError, "datetime64"),
        ({"timestamps": np.array(["2026-01-01", "NaT"], "M8[s]")}, ValueError, r"timestamps\[1\]"),
        ({"user_id": "me"}, TypeError, "user_id"),
        ({"secured_by": 5}, TypeError, "secured_by"),
        ({"secured_by": (1, 2), "user_id": 3}, ValueError, "user_id"),
    ],
)
async def test_bad_options_send_nothing(
    scripted: ScriptedGateway,
    scripted_session: Session,
    fields: dict[str, Any],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        await scripted_session.write_array(1, [1, 2], [1.0, 2.0], **fields)
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize(
    ("values", "fields", "index"),
    [
        (np.append(np.ones(299), np.nan), {}, 299),
        (np.append(np.ones(299, "f4"), np.inf).astype("f4"), {}, 299),
        (np.append(np.ones(298, "u8"), np.array([2**64 - 1, 1], "u8")), {}, 298),
        (
            np.ones(300),
            {
                "timestamps": np.append(
                    np.zeros(298), [np.datetime64("NaT").astype(int), 0]
                ).astype("M8[s]")
            },
            298,
        ),
    ],
    ids=["float64", "float32", "uint64", "timestamp"],
)
async def test_a_bad_element_of_the_last_request_stops_the_first(
    scripted: ScriptedGateway,
    open_limited: OpenLimited,
    values: Any,
    fields: dict[str, Any],
    index: int,
) -> None:
    session = await open_limited(max_bulk_items=10)
    with pytest.raises(EncodeError, match=rf"\[{index}\]") as caught:
        await session.write_array(1, np.arange(1, 301), values, **fields)
    assert caught.value.index == index
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize("empty", [[], np.array([], "f8"), np.array([], "i4")])
async def test_empty_array(
    scripted: ScriptedGateway, scripted_session: Session, empty: Any
) -> None:
    result = await scripted_session.write_array(1, [], empty)
    assert isinstance(result, WriteResult)
    assert len(result) == 0
    assert result.ok
    assert "Invoke" not in scripted.calls
    with pytest.raises(TypeError, match="complex"):
        await scripted_session.write_array(1, [], np.array([], complex))


# ---------------------------------------------------------------- splitting and order


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_requests_hold_everything_once_and_in_order(data: st.DataObject) -> None:
    handles = data.draw(st.lists(st.integers(-3, 12) | st.sampled_from([-(2**31), 2**31 - 1])))
    limit = data.draw(st.integers(1, 7))
    reject = data.draw(st.sets(st.integers(-3, 12)))

    class Rejecting(Writes):
        def answer(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
            reply = super().answer(request)
            for result in reply.write_bulk.results:
                if result.item_handle in reject:
                    result.was_successful = False
                    result.hresult = -5
                    result.error_message = f"not {result.item_handle}"
            return reply

    async def run() -> None:
        writes = Rejecting()
        async with ScriptedGateway() as scripted:
            scripted.unary["Invoke"] = writes.invoke
            async with await scripted.connect(max_bulk_items=limit) as client:
                session = await client.open_session()
                result = await session.write_array(1, handles, np.arange(len(handles)))
        assert sorted(writes.written(), key=lambda row: row[1]) == list(
            zip(handles, range(len(handles)), strict=True)
        )
        for handle in set(handles):
            order = [value for h, value in writes.written() if h == handle]
            assert order == sorted(order), "writes to one item keep their order"
        rejected = [handle in reject for handle in handles]
        assert result.outcome.tolist() == [REJECTED if bad else ACCEPTED for bad in rejected]
        assert result.hresult.tolist() == [-5 if bad else 0 for bad in rejected]
        assert {i: e.message.split(";")[0] for i, e in result.errors.items()} == {
            i: f"not {handles[i]}" for i, bad in enumerate(rejected) if bad
        }

    asyncio.run(run())


async def test_two_requests_are_under_way_where_no_item_is_in_both(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    both = asyncio.Event()

    async def wait_for_the_other(number: int, context: Context) -> None:
        if number == 1:
            both.set()
        # Never set if the second request waited for the first reply.
        await both.wait()

    writes.before_answer = wait_for_the_other
    session = await open_limited(max_bulk_items=2)
    assert (await session.write_array(1, [1, 2, 3, 4, 5, 6, 1, 2], np.arange(8))).ok
    assert writes.most_under_way == 2


@pytest.mark.parametrize("handles", [[1, 2, 2, 3], [7, 8, 9, 7], [5, 5, 5, 5, 5, 5]])
async def test_requests_that_share_an_item_wait_for_each_other(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes, handles: list[int]
) -> None:
    async def take_a_while(number: int, context: Context) -> None:
        await asyncio.sleep(0.02)

    writes.before_answer = take_a_while
    session = await open_limited(max_bulk_items=2)
    assert (await session.write_array(1, handles, np.arange(len(handles)))).ok
    assert writes.most_under_way == 1
    assert writes.written() == list(zip(handles, range(len(handles)), strict=True))


async def test_handles_far_apart(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    handles = np.linspace(-(2**31), 2**31 - 1, 1000).astype(np.int32)
    session = await open_limited(max_bulk_items=10)
    assert (await session.write_array(1, np.tile(handles, 3), np.arange(3000))).ok
    assert sum(map(len, writes.handles())) == 3000


async def test_requests_keep_below_the_message_size(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    session = await open_limited(max_message_bytes=2000, max_bulk_items=1000)
    handles = np.arange(1, 501)
    assert (await session.write_array(1, handles, handles * 0.5)).ok
    assert max(writes.sizes) <= 2000
    assert len(writes.sizes) < 12, "nearly as full as may be"
    assert [h for request in writes.handles() for h in request] == handles.tolist()


async def test_a_value_that_fits_in_no_message(
    scripted: ScriptedGateway, open_limited: OpenLimited
) -> None:
    session = await open_limited(max_message_bytes=50)
    with pytest.raises(ValueError, match=r"values\[0\] .item handle 1. .*max_message_bytes is 50"):
        await session.write_array(1, [1, 2], [1.0, 2.0])
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "write_bulk"),
        ({"user_id": 5}, "write_bulk"),
        ({"timestamps": np.array(["2026-01-01"], "M8[D]")}, "write2_bulk"),
        ({"secured_by": (3, 4)}, "write_secured_bulk"),
        (
            {"secured_by": (3, 4), "timestamps": np.array(["2026-01-01"], "M8[D]")},
            "write_secured2_bulk",
        ),
    ],
)
async def test_kind_of_write(
    scripted: ScriptedGateway,
    scripted_session: Session,
    writes: Writes,
    fields: dict[str, Any],
    name: str,
) -> None:
    assert (await scripted_session.write_array(8, [7], [2.5], **fields)).ok
    command = writes.requests[0]
    assert command.WhichOneof("payload") == name
    assert command.kind == pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}")
    payload = getattr(command, name)
    assert payload.server_handle == 8
    (entry,) = payload.entries
    assert (entry.item_handle, entry.value.double_value) == (7, 2.5)
    if "secured_by" in fields:
        assert (entry.current_user_id, entry.verifier_user_id) == (3, 4)
    else:
        assert entry.user_id == fields.get("user_id", 0)


# ---------------------------------------------------------------- failures on the way


async def test_failure_on_the_way(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    async def fail_third(number: int, context: Context) -> None:
        if number == 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    writes.before_answer = fail_third
    session = await open_limited(max_bulk_items=2)
    with pytest.raises(MxGatewayConnectionError, match=r"write_array: .*broke off") as caught:
        await session.write_array(1, np.arange(1, 13), np.arange(12.0))
    result = caught.value.result
    sent = sorted(row[1] for row in writes.written())
    assert result.outcome[:4].tolist() == [ACCEPTED] * 4
    assert result.outcome[4:6].tolist() == [UNKNOWN] * 2
    # The fourth was under way with the third, and has an outcome of its own.
    assert result.outcome[6:].tolist() == [
        ACCEPTED if value in sent else NOT_SENT for value in range(6, 12)
    ]
    assert len(sent) <= 8
    with pytest.raises(MxAccessError, match="index 4, item 5: unknown"):
        result.raise_for_failure()


async def test_both_under_way_fail(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    arrived = asyncio.Event()

    async def fail(number: int, context: Context) -> None:
        if number == 1:
            arrived.set()
        await arrived.wait()
        await context.abort(grpc.StatusCode.INTERNAL, f"request {number}")

    writes.before_answer = fail
    session = await open_limited(max_bulk_items=1)
    with pytest.raises(Exception, match=r"request [01]") as caught:
        await session.write_array(1, [1, 2, 3], [1.0, 2.0, 3.0])
    assert caught.value.result.outcome.tolist() == [UNKNOWN, UNKNOWN, NOT_SENT]  # type: ignore[attr-defined]


async def test_no_answer_in_time(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    async def never(number: int, context: Context) -> None:
        await asyncio.Event().wait()

    writes.before_answer = never
    session = await open_limited(call_timeout=0.1, max_bulk_items=1)
    with pytest.raises(MxGatewayTimeoutError, match="outcome is unknown") as caught:
        await session.write_array(1, [1, 1, 1], [1.0, 2.0, 3.0])
    assert caught.value.result.outcome.tolist() == [UNKNOWN, NOT_SENT, NOT_SENT]
    assert len(writes.requests) == 1, "a write is never sent again"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda reply: reply.write_bulk.results.pop(), "2 values were sent and 1 results"),
        (lambda reply: reply.write_bulk.results.add(), "2 values were sent and 3 results"),
        (lambda reply: reply.write_bulk.results.reverse(), "result 2 is for item 4, item 3"),
        (lambda reply: reply.ClearField("write_bulk"), "no results"),
        (lambda reply: reply.register.SetInParent(), "no results"),
        (lambda reply: reply.ClearField("protocol_status"), None),
    ],
)
async def test_reply_that_does_not_fit(
    scripted: ScriptedGateway,
    open_limited: OpenLimited,
    spoil: Callable[[Any], Any],
    named: str | None,
) -> None:
    class Spoiled(Writes):
        def answer(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
            reply = super().answer(request)
            if request.command.write_bulk.entries[0].item_handle == 3:
                spoil(reply)
            return reply

    scripted.unary["Invoke"] = Spoiled().invoke
    session = await open_limited(max_bulk_items=2)
    # Item 3 in all requests but the first: none is under way with the spoiled one.
    handles, values = [1, 2, 3, 4, 3, 4], np.arange(6.0)
    if named is None:
        # The results are there and fit: they count.
        assert (await session.write_array(1, handles, values)).ok
        return
    with pytest.raises(MalformedReplyError, match=named) as caught:
        await session.write_array(1, handles, values)
    assert caught.value.result.outcome.tolist() == [ACCEPTED] * 2 + [UNKNOWN] * 2 + [NOT_SENT] * 2


@pytest.mark.parametrize("reply", [b"\xff\xff", b""])
async def test_garbage_reply(
    scripted: ScriptedGateway, scripted_session: Session, reply: bytes
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return reply

    scripted.unary["Invoke"] = answer
    with pytest.raises(MalformedReplyError) as caught:
        await scripted_session.write_array(1, [1], [1.0])
    assert caught.value.result.outcome.tolist() == [UNKNOWN]


async def test_refused_session(scripted: ScriptedGateway, scripted_session: Session) -> None:
    code = pb.PROTOCOL_STATUS_CODE_SESSION_NOT_READY
    scripted.reply_with(pb.MxCommandReply(protocol_status=pb.ProtocolStatus(code=code)))
    with pytest.raises(MxGatewaySessionError, match="session not ready") as caught:
        await scripted_session.write_array(1, [1], [1.0])
    assert caught.value.reply is not None
    assert caught.value.result.outcome.tolist() == [REJECTED]
    assert caught.value.result.errors[0].message.startswith("session not ready")


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, REJECTED),
        (grpc.StatusCode.PERMISSION_DENIED, REJECTED),
        (grpc.StatusCode.INVALID_ARGUMENT, REJECTED),
        (grpc.StatusCode.NOT_FOUND, REJECTED),
        (grpc.StatusCode.FAILED_PRECONDITION, REJECTED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, UNKNOWN),
        (grpc.StatusCode.INTERNAL, UNKNOWN),
        (grpc.StatusCode.UNKNOWN, UNKNOWN),
        (grpc.StatusCode.CANCELLED, UNKNOWN),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, UNKNOWN),
    ],
)
async def test_a_request_that_the_gateway_did_not_begin(
    open_limited: OpenLimited,
    writes: Writes,
    code: grpc.StatusCode,
    outcome: Outcome,
    requests: int,
) -> None:
    """What the gateway says it did not begin was not written; anything else may have been."""

    async def refuse_last(number: int, context: Context) -> None:
        if number == requests - 1:
            await context.abort(code, f"not for {KEY}")

    writes.before_answer = refuse_last
    session = await open_limited(max_bulk_items=2)
    rows = 2 * requests
    with pytest.raises(MxGatewayError, match=f"{code.name}: not for") as caught:
        await session.write_array(1, [7] * rows, np.arange(float(rows)))
    result = caught.value.result
    assert result.outcome.tolist() == [ACCEPTED] * (rows - 2) + [outcome] * 2
    if outcome == UNKNOWN:
        assert result.errors == {}
        return
    said = str(caught.value).removeprefix("write_array: ")
    assert result.errors == {row: WriteError(said, ()) for row in (rows - 2, rows - 1)}
    assert SECRET not in said
    with pytest.raises(MxAccessError, match=rf"index {rows - 2}, item 7: .*{code.name}"):
        result.raise_for_failure()


async def test_requests_refused_while_others_are_under_way(
    open_limited: OpenLimited, writes: Writes
) -> None:
    async def refuse(number: int, context: Context) -> None:
        while len(writes.requests) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"request {number}")

    writes.before_answer = refuse
    session = await open_limited(max_bulk_items=1)
    with pytest.raises(MxGatewayAuthorizationError) as caught:
        await session.write_array(1, [1, 2, 3], np.arange(3.0))
    result = caught.value.result
    assert result.outcome.tolist() == [REJECTED, REJECTED, NOT_SENT]
    assert list(result.errors) == [0, 1]
    assert "request 0" in result.errors[0].message
    assert "request 1" in result.errors[1].message


async def test_errors_are_made_when_they_are_asked_for(
    open_limited: OpenLimited, scripted: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rejecting(Writes):
        def answer(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
            reply = super().answer(request)
            for result in reply.write_bulk.results:
                result.was_successful = result.item_handle % 3 == 0
                result.error_message = f"no {result.item_handle}"
            return reply

    made = []

    def noted(message_type: Any, data: bytes, operation: str) -> Any:
        made.append(data)
        return parse(message_type, data, operation)

    monkeypatch.setattr("mxfast.outcomes.parse", noted)
    scripted.unary["Invoke"] = Rejecting().invoke
    session = await open_limited(max_bulk_items=7)
    result = await session.write_array(1, np.arange(30), np.zeros(30))
    with pytest.raises(MxAccessError, match=r"20 of 30 .* index 1, item 1: no 1"):
        result.raise_for_failure()
    assert len(made) == 1
    expected = {row: WriteError(f"no {row}", ()) for row in range(30) if row % 3}
    assert len(result.errors) == 20
    assert len(made) == 1
    assert result.errors == expected
    assert list(result.errors) == list(expected)
    for row in (0, -1, 30):
        assert row not in result.errors
    assert repr(result.errors) == f"<errors of 20 rows, the first 1: {expected[1]!r}>"


@pytest.mark.parametrize("how", ["task", "timeout"])
async def test_cancellation(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes, how: str
) -> None:
    third, left = asyncio.Event(), asyncio.Event()

    async def hold_third(number: int, context: Context) -> None:
        if number == 2:
            third.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

    writes.before_answer = hold_third
    session = await open_limited(max_bulk_items=1)
    writing = session.write_array(1, [1] * 5, np.arange(5.0))
    if how == "task":
        task = asyncio.create_task(writing)
        await third.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        cancelled: Any = caught.value
    else:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(0.2):
                await writing
        cancelled = late.value.__context__
    assert cancelled.result.outcome.tolist() == [ACCEPTED] * 2 + [UNKNOWN] + [NOT_SENT] * 2
    await left.wait()
    assert len(writes.requests) == 3


async def test_cancellation_with_two_requests_under_way(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    both, left = asyncio.Event(), []

    async def hold(number: int, context: Context) -> None:
        if number == 1:
            both.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.append(number)

    writes.before_answer = hold
    session = await open_limited(max_bulk_items=1)
    task = asyncio.create_task(session.write_array(1, [1, 2, 3], np.arange(3.0)))
    await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        # Not before both calls have ended; unanswered ones would take call_timeout.
        async with asyncio.timeout(10):
            await task
    cancelled: Any = caught.value
    assert cancelled.result.outcome.tolist() == [UNKNOWN, UNKNOWN, NOT_SENT]
    assert len(writes.requests) == 2


async def test_cancellation_while_a_failure_waits_for_the_other_request(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    both = asyncio.Event()

    async def fail_the_first(number: int, context: Context) -> None:
        if number == 0:
            await both.wait()
            await context.abort(grpc.StatusCode.INTERNAL, "by script")
        both.set()
        await asyncio.Event().wait()

    writes.before_answer = fail_the_first
    session = await open_limited(max_bulk_items=1)
    task = asyncio.create_task(session.write_array(1, [1, 2, 3], np.arange(3.0)))
    await both.wait()
    await asyncio.sleep(0.1)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    cancelled: Any = caught.value
    assert cancelled.result.outcome.tolist() == [UNKNOWN, UNKNOWN, NOT_SENT]


async def test_failing_progress_callback_stops_and_keeps_the_outcomes(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes
) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError(f"{done} of {total}")

    session = await open_limited(max_bulk_items=1)
    with pytest.raises(KeyError, match="1 of 3") as caught:
        await session.write_array(1, [1, 1, 1], [1.0, 2.0, 3.0], on_progress=fail)
    assert caught.value.result.outcome.tolist() == [ACCEPTED, NOT_SENT, NOT_SENT]  # type: ignore[attr-defined]


async def test_result_is_not_the_callers_array(scripted_session: Session, writes: Writes) -> None:
    handles = np.array([1, 2], np.int32)
    result = await scripted_session.write_array(1, handles, [1.0, 2.0])
    handles[:] = 0
    assert result.item_handle.tolist() == [1, 2]


async def test_error_names_the_tag(scripted: ScriptedGateway, scripted_session: Session) -> None:
    result = pb.SubscribeResult(item_handle=7, was_successful=True, tag_address="Tank1.Level")
    scripted.reply_with(
        pb.MxCommandReply(
            protocol_status=ok(), subscribe_bulk=pb.BulkSubscribeReply(results=[result])
        )
    )
    await scripted_session.subscribe_bulk(1, ["Tank1.Level"])
    status = pb.MxStatusProxy(category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR, detail=1013)
    status.diagnostic_text = f"told by {KEY}"
    refused = pb.BulkWriteResult(item_handle=7, statuses=[status], error_message="denied")
    scripted.reply_with(
        pb.MxCommandReply(protocol_status=ok(), write_bulk=pb.BulkWriteReply(results=[refused]))
    )
    written = await scripted_session.write_array(1, [7], [1.0])
    status.diagnostic_text = "told by mxgw_test_***"
    assert written.errors[0].statuses == (status,)
    assert SECRET not in repr(written.errors)
    with pytest.raises(MxAccessError) as caught:
        written.raise_for_failure()
    assert "index 0, item 7 (Tank1.Level): denied; security error 1013" in str(caught.value)


async def test_members_of_an_enum_are_written_as_their_values(session: Session) -> None:
    class State(str, Enum):  # noqa: UP042 - numpy makes text of its str(), which is its name
        MANUAL = "manual"

    class Mode(IntEnum):
        AUTO = 5

    server = await session.register("enums")
    items = await session.subscribe(server, ["Enum.A", "Enum.B"])
    cases: list[tuple[Any, list[Any]]] = [
        ([State.MANUAL, "auto"], ["manual", "auto"]),
        (np.array([State.MANUAL] * 2, object), ["manual", "manual"]),
        ([Mode.AUTO, 7], [5, 7]),
    ]
    for values, written in cases:
        assert (await session.write_array(server, items, values)).ok
        read = await session.read_bulk(server, ["Enum.A", "Enum.B"])
        assert [from_mx_value(each.value) for each in read] == written
