"""Commands for users, secured attributes, buffered and suspended items, and the worker."""

import logging
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest

from mxfast import (
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayWorkerError,
    Outcome,
    Session,
    from_mx_value,
    to_mx_value,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.conftest import Context, ScriptedGateway, ok

BUFFERED = pb.MX_EVENT_FAMILY_ON_BUFFERED_DATA_CHANGE
DATA_CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
PASSWORD = "h0rseBattery"


@pytest.fixture
async def secured() -> AsyncIterator[Session]:
    """A session on a galaxy with two users and two attributes that ask for them."""
    async with (
        SimulatedGateway(
            update_interval=0,
            secured_tags={"Valve.Open": "secured", "Pump.Run": "verified"},
            users={"ann": PASSWORD, "bob": "secondPassword"},
        ) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        yield session


async def value_of(session: Session, server: int, tag: str) -> Any:
    (result,) = await session.read_bulk(server, [tag])
    return from_mx_value(result.value)


# Users and secured attributes


async def test_users_log_in_and_write_what_is_secured(secured: Session) -> None:
    server = await secured.register("x")
    valve = await secured.add_item(server, "Valve.Open")
    pump = await secured.add_item(server, "Pump.Run")
    ann = await secured.authenticate_user(server, "ann", PASSWORD)
    bob = await secured.authenticate_user(
        server, verify_user="bob", verify_user_password="secondPassword"
    )
    assert ann != bob
    assert 0 not in (ann, bob)

    with pytest.raises(MxAccessError, match=r"item \d+ \(Valve\.Open\).*security error 1012"):
        await secured.write(server, valve, True)
    with pytest.raises(MxAccessError, match=r"1013 \(the attribute needs a verified write"):
        await secured.write(server, pump, True)
    with pytest.raises(MxAccessError, match="1013"):
        await secured.write_secured(server, pump, ann, ann, True)
    assert await value_of(secured, server, "Valve.Open") == 0.0

    await secured.write_secured(server, valve, ann, ann, True)
    time = datetime(2024, 5, 6, tzinfo=UTC)
    await secured.write_secured2(
        server,
        pump,
        current_user_id=ann,
        verifier_user_id=bob,
        value=True,
        timestamp_value=time,
    )
    read = await secured.read_bulk(server, ["Valve.Open", "Pump.Run"])
    assert [from_mx_value(each.value) for each in read] == [True, True]
    assert read[1].source_timestamp.ToDatetime(tzinfo=UTC) == time


async def test_a_wrong_user_or_password_is_user_0(secured: Session) -> None:
    server = await secured.register("x")
    assert await secured.authenticate_user(server, "ann", "wrong") == 0
    assert await secured.authenticate_user(server, "eve", PASSWORD) == 0
    assert await secured.authenticate_user(server, "ann", "") == 0
    with pytest.raises(MxAccessError, match="80004021"):
        await secured.write_secured(server, await secured.add_item(server, "Valve.Open"), 0, 0, 1)


async def test_users_by_their_guid(secured: Session) -> None:
    server = await secured.register("x")
    ann = await secured.authenticate_user(server, "ann", PASSWORD)
    guid = str(uuid.uuid5(uuid.NAMESPACE_OID, "ann"))
    assert await secured.archestra_user_to_id(server, guid) == ann
    assert await secured.archestra_user_to_id(server, user_id_guid=str(uuid.uuid4())) == 0
    assert await secured.archestra_user_to_id(server, "no guid") == 0


async def test_a_galaxy_without_security_takes_anybody(session: Session) -> None:
    server = await session.register("x")
    assert await session.authenticate_user(server, "whoever", "") != 0
    assert await session.archestra_user_to_id(server, str(uuid.uuid4())) != 0
    item = await session.add_item(server, "A.B")
    await session.write_secured(server, item, 17, 18, 2.0)
    assert await value_of(session, server, "A.B") == 2.0


async def test_secured_bulk_writes_refuse_entry_by_entry(secured: Session) -> None:
    server = await secured.register("x")
    tags = ["Valve.Open", "Pump.Run", "Plain.Value"]
    valve, pump, plain = (each.item_handle for each in await secured.add_item_bulk(server, tags))
    ann = await secured.authenticate_user(server, "ann", PASSWORD)
    bob = await secured.authenticate_user(server, "bob", "secondPassword")

    entries = [
        pb.WriteBulkEntry(item_handle=item, value=to_mx_value(1.0)) for item in (valve, pump, plain)
    ]
    results = await secured.write_bulk(server, entries)
    assert [each.was_successful for each in results] == [False, False, True]
    assert [each.statuses[0].detail for each in results[:2]] == [1012, 1013]

    secured_entries = [
        pb.WriteSecuredBulkEntry(
            item_handle=item, current_user_id=by, verifier_user_id=ann, value=to_mx_value(2.0)
        )
        for item, by in ((valve, ann), (pump, ann), (pump, bob), (plain, ann), (plain, 77))
    ]
    results = await secured.write_secured_bulk(server, secured_entries, correlation_id="mine")
    assert [each.was_successful for each in results] == [True, False, True, True, False]

    time = to_mx_value(datetime(2024, 5, 6, tzinfo=UTC))
    entry = pb.WriteSecured2BulkEntry(
        item_handle=valve,
        current_user_id=ann,
        verifier_user_id=ann,
        value=to_mx_value(3.0),
        timestamp_value=time,
    )
    assert (await secured.write_secured2_bulk(server, [entry]))[0].was_successful
    (read,) = await secured.read_bulk(server, ["Valve.Open"])
    assert read.value.double_value == 3.0
    assert read.source_timestamp == time.timestamp_value


async def test_write_array_to_secured_attributes(secured: Session) -> None:
    server = await secured.register("x")
    tags = ["Valve.Open", "Pump.Run", "Plain.Value"]
    items = [each.item_handle for each in await secured.add_item_bulk(server, tags)]
    result = await secured.write_array(server, items, np.ones(3))
    assert result.outcome.tolist() == [Outcome.REJECTED, Outcome.REJECTED, Outcome.ACCEPTED]
    ann = await secured.authenticate_user(server, "ann", PASSWORD)
    bob = await secured.authenticate_user(server, "bob", "secondPassword")
    result = await secured.write_array(server, items, np.full(3, 2.0), secured_by=(ann, bob))
    assert result.ok
    result = await secured.write_array(server, items, np.full(3, 3.0), secured_by=(ann, ann))
    assert result.outcome.tolist() == [Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED]


@pytest.mark.parametrize("channel", ["grpc", "protocol", "mxaccess", "malformed", "type", "half"])
async def test_the_password_is_in_no_error_log_or_repr(
    scripted: ScriptedGateway,
    scripted_session: Session,
    caplog: pytest.LogCaptureFixture,
    channel: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    password: Any = PASSWORD
    echo = f"AuthenticateUser(ann, {PASSWORD})"
    if channel == "grpc":

        async def fail(request: bytes, context: Context) -> bytes:
            await context.abort(grpc.StatusCode.INTERNAL, echo)
            raise AssertionError

        scripted.unary["Invoke"] = fail
    elif channel == "protocol":
        status = pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST, message=echo)
        scripted.reply_with(pb.MxCommandReply(protocol_status=status))
    elif channel == "mxaccess":
        scripted.reply_with(
            pb.MxCommandReply(protocol_status=ok(), hresult=-1, diagnostic_message=echo)
        )
    elif channel == "malformed":
        scripted.reply_with(pb.MxCommandReply(protocol_status=ok(), diagnostic_message=echo))
    elif channel == "type":
        password = PASSWORD.encode()
    else:
        password = f"{PASSWORD}\ud800"
    with pytest.raises((MxGatewayError, TypeError, ValueError)) as caught:
        await scripted_session.authenticate_user(1, "ann", password)
    error: BaseException | None = caught.value
    while error is not None:
        shown = f"{error!r} {error} {error.args} {error.__dict__}"
        assert PASSWORD not in shown
        assert "authenticate_user" in shown or "verify_user_password" in shown
        error = error.__cause__ or error.__context__
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(scripted_session)


# Suspended items


async def test_a_suspended_item_is_silent_until_it_is_active_again(session: Session) -> None:
    server = await session.register("x")
    events = session.stream_events()
    x, y = [e.item_handle for e in await session.subscribe_bulk(server, ["A.x", "A.y"])]
    status = await session.suspend(server, x)
    assert status.category == pb.MX_STATUS_CATEGORY_OK
    await session.write_array(server, [x, x, y], [1.0, 2.0, 3.0])
    assert (await session.activate(server, x)).category == pb.MX_STATUS_CATEGORY_OK
    await session.write(server, x, 4.0)
    changes: list[Any] = []
    async for event in events:
        if event.family == DATA_CHANGE:
            changes.append((event.item_handle, event.value.double_value))
        if changes and changes[-1] == (x, 4.0):
            break
    await events.aclose()
    assert changes == [(x, 0.0), (y, 0.0), (y, 3.0), (x, 2.0), (x, 4.0)]


async def test_activating_what_was_not_suspended_tells_nothing_twice(session: Session) -> None:
    server = await session.register("x")
    events = session.stream_events()
    (x,) = [e.item_handle for e in await session.subscribe_bulk(server, ["A.x"])]
    await session.activate(server, x)
    await session.write(server, x, 1.0)
    changes: list[Any] = []
    while len(changes) < 2:
        event = await anext(events)
        if event.family == DATA_CHANGE:
            changes.append(event.value.double_value)
    assert changes == [0.0, 1.0]
    await events.aclose()


@pytest.mark.parametrize("method", ["suspend", "activate"])
async def test_suspending_another_sessions_item(
    client: GatewayClient, session: Session, method: str
) -> None:
    server = await session.register("x")
    async with await client.open_session() as other:
        item = await other.add_item(await other.register("y"), "A.x")
    with pytest.raises(MxAccessError, match=f"{method}: item {item}"):
        await getattr(session, method)(server, item)


# Buffered items


async def test_a_buffered_item_tells_many_values_in_one_event(session: Session) -> None:
    server = await session.register("x")
    await session.set_buffered_update_interval(server, update_interval_milliseconds=250)
    item = await session.add_buffered_item(server, "Level", "Tank")
    plain = await session.add_item(server, "Tank.Level")
    events = session.stream_events()
    await session.advise(server, item)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(milliseconds=n) for n in range(3)]
    await session.write_array(
        server,
        [plain] * 3,
        [1.5, 2.5, 3.5],
        timestamps=np.array([t.replace(tzinfo=None) for t in times], "datetime64[us]"),
    )
    buffered: list[pb.MxEvent] = []
    while len(buffered) < 2:
        event = await anext(events)
        assert event.family != DATA_CHANGE
        if event.family == BUFFERED:
            buffered.append(event)
    await events.aclose()
    first, many = buffered
    assert from_mx_value(first.value).tolist() == [0.0]
    assert many.item_handle == item
    assert many.server_handle == server
    assert many.worker_sequence > first.worker_sequence
    assert from_mx_value(many.value).tolist() == [1.5, 2.5, 3.5]
    body = many.on_buffered_data_change
    assert body.data_type == pb.MX_DATA_TYPE_DOUBLE
    assert list(body.quality_values.int32_values.values) == [192] * 3
    stamps = body.timestamp_values.timestamp_values.values
    assert [stamp.ToDatetime(tzinfo=UTC) for stamp in stamps] == times


async def test_buffered_values_of_two_types_come_in_two_events(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_buffered_item(server, "A.x")
    await session.advise(server, item)
    entries = [
        pb.WriteBulkEntry(item_handle=item, value=to_mx_value(value))
        for value in (1, 2, "text", [1.0, 2.0], None)
    ]
    await session.write_bulk(server, entries)
    drained = [e for e in await session.drain_events() if e.family == BUFFERED]
    values = [from_mx_value(event.value) for event in drained]
    assert values[0].tolist() == [0.0]
    assert values[1].tolist() == [1, 2]
    assert values[2].tolist() == ["text"]
    assert values[3].tolist() == [1.0, 2.0]
    assert values[4] is None


async def test_buffered_events_come_at_their_interval() -> None:
    async with (
        SimulatedGateway(update_interval=0.01) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        await session.set_buffered_update_interval(server, 1)
        item = await session.add_buffered_item(server, "A.x")
        async with session.stream_events() as events:
            await session.advise(server, item)
            event = await anext(events)
            assert event.family == BUFFERED
            await session.write_array(server, [item] * 2, [1.0, 2.0])
            values: list[float] = []
            while values != [1.0, 2.0]:
                event = await anext(events)
                if event.family == BUFFERED:
                    values += from_mx_value(event.value).tolist()


@pytest.mark.parametrize("interval", [-1, 2**31, 1.5, None, True])
async def test_wrong_buffered_intervals(session: Session, interval: Any) -> None:
    server = await session.register("x")
    with pytest.raises((TypeError, ValueError), match="update_interval_milliseconds"):
        await session.set_buffered_update_interval(server, interval)


# Elements of arrays


async def test_array_elements_are_written_and_the_others_reset(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.x[]")
    await session.write(server, item, [9.0, 9.0, 9.0])
    await session.write_array_elements(server, item, pb.MX_DATA_TYPE_DOUBLE, 3, {1: 2.5}, 0)
    assert (await value_of(session, server, "A.x[]")).tolist() == [0.0, 2.5, 0.0]
    await session.write_array_elements(
        server,
        item,
        element_data_type=pb.MX_DATA_TYPE_INTEGER,
        total_length=4,
        elements=[(3, 7), (0, np.int16(1))],
        user_id=5,
    )
    assert (await value_of(session, server, "A.x[]")).tolist() == [1, 0, 0, 7]


# The worker


async def test_worker_info(session: Session) -> None:
    info = await session.get_worker_info()
    assert info.worker_process_id > 0
    assert info.mxaccess_progid


async def test_drained_events(session: Session) -> None:
    server = await session.register("x")
    items = [e.item_handle for e in await session.subscribe_bulk(server, ["A.x", "A.y", "A.z"])]
    first = await session.drain_events(2)
    assert [event.item_handle for event in first] == items[:2]
    rest = await session.drain_events(max_events=0)
    assert [event.item_handle for event in rest] == items[2:]
    assert await session.drain_events() == []
    for wrong in (-1, 2**32, "1"):
        with pytest.raises((TypeError, ValueError), match="max_events"):
            await session.drain_events(wrong)  # type: ignore[arg-type]


async def test_a_session_without_its_worker(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.x")
    events = session.stream_events()
    await session.advise(server, item)
    await anext(events)
    command = pb.MxCommand(
        kind=pb.MX_COMMAND_KIND_SHUTDOWN_WORKER, shutdown_worker=pb.ShutdownWorkerCommand()
    )
    reply = await session.invoke(command)
    assert reply.WhichOneof("payload") is None
    with pytest.raises(MxGatewayError, match="worker"):
        await anext(events)
    for call in (session.ping, lambda: session.write(server, item, 1.0), session.drain_events):
        with pytest.raises(MxGatewayWorkerError, match="worker unavailable"):
            await call()
    with pytest.raises(MxGatewayWorkerError) as caught:
        await session.write_array(server, [item], [1.0])
    assert caught.value.result.outcome.tolist() == [Outcome.UNKNOWN]
    await session.close()
    with pytest.raises(MxGatewaySessionError):
        await session.ping()


# Replies that lack something


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("authenticate_user", (1, "ann", "password")),
        ("archestra_user_to_id", (1, "guid")),
        ("add_buffered_item", (1, "A.x")),
        ("suspend", (1, 1)),
        ("activate", (1, 1)),
        ("get_worker_info", ()),
        ("drain_events", ()),
        ("write_secured_bulk", (1, [pb.WriteSecuredBulkEntry()])),
        ("write_secured2_bulk", (1, [pb.WriteSecured2BulkEntry()])),
    ],
)
async def test_a_reply_without_its_payload_is_malformed(
    scripted: ScriptedGateway, scripted_session: Session, method: str, arguments: tuple[Any, ...]
) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok()))
    with pytest.raises(MalformedReplyError, match=f"{method}: the reply has no "):
        await getattr(scripted_session, method)(*arguments)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_buffered_update_interval", (1, 100)),
        ("write_secured", (1, 1, 1, 1, 2.0)),
        ("write_secured2", (1, 1, 1, 1, 2.0, datetime(2024, 1, 1, tzinfo=UTC))),
        ("write_array_elements", (1, 1, pb.MX_DATA_TYPE_DOUBLE, 2, {0: 1.0})),
        ("ping", ()),
    ],
)
async def test_a_bare_ok_is_enough_where_nothing_is_returned(
    scripted: ScriptedGateway, scripted_session: Session, method: str, arguments: tuple[Any, ...]
) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok()))
    assert await getattr(scripted_session, method)(*arguments) is None


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [
        ("write_secured", (1, 1, "a", 1, 2.0), "current_user_id"),
        ("write_secured", (1, 1, 1, None, 2.0), "verifier_user_id"),
        ("write_secured", (1, 1, 1, 1, object()), "object"),
        ("write_secured2", (1, 1, 1, 1, 2.0, np.timedelta64(1)), "timedelta"),
        ("authenticate_user", (1, 2, "x"), "verify_user"),
        ("archestra_user_to_id", (1, uuid.UUID(int=1)), "user_id_guid"),
        ("add_buffered_item", (1, "A", None), "item_context"),
        ("write_secured_bulk", (1, None), "entries"),
        ("write_secured2_bulk", (1, [pb.WriteSecuredBulkEntry()]), r"entries\[0\]"),
    ],
)
async def test_wrong_types_send_nothing(
    scripted: ScriptedGateway,
    scripted_session: Session,
    method: str,
    arguments: tuple[Any, ...],
    named: str,
) -> None:
    with pytest.raises(TypeError, match=named):
        await getattr(scripted_session, method)(*arguments)
    assert "Invoke" not in scripted.calls
