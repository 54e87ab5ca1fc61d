"""`confirm`: what the write-completes of a session's event stream say of its writes."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import (
    EventStream,
    GatewayClient,
    MxAccessError,
    MxGatewayAuthorizationError,
    MxGatewayConnectionError,
    Outcome,
    Session,
    confirm,
)
from mxfast.confirm import Completions
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from mxfast.simulator.faults import FailWrites
from tests.conftest import KEY, SECRET, Context, OpenLimited, ScriptedGateway, Writes, ok

ACCEPTED, REJECTED, UNKNOWN = Outcome.ACCEPTED, Outcome.REJECTED, Outcome.UNKNOWN
COMPLETED, FAILED, NOT_SENT = Outcome.COMPLETED, Outcome.FAILED, Outcome.NOT_SENT

CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
SOON = 0.2  # seconds to wait for what will not come
LONG = 30.0  # and for what will


def event(
    item: int, *, failure: int = 0, family: Any = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE
) -> bytes:
    message = pb.MxEvent(family=family, server_handle=1, item_handle=item)
    if failure:
        category = pb.MX_STATUS_CATEGORY_SECURITY_ERROR
        message.statuses.add(category=category, detail=failure, diagnostic_text=f"for {KEY}")
    return message.SerializeToString()


class Plant(Writes):
    """Accepts writes, and tells of their completion what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.complete: Callable[[list[int]], Iterable[bytes]] = lambda items: map(event, items)
        self.events: asyncio.Queue[bytes | grpc.StatusCode | None] = asyncio.Queue()

    async def invoke(self, request: bytes, context: Context) -> bytes:
        command = pb.MxCommandRequest.FromString(request).command
        if command.HasField("get_session_state"):  # asked for where the stream ends
            reply = pb.MxCommandReply(protocol_status=ok())
            reply.session_state.state = pb.SESSION_STATE_READY
            return reply.SerializeToString()
        return await super().invoke(request, context)

    def answer(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        reply = super().answer(request)
        rows = reply.write_bulk.results
        for row in rows:
            row.was_successful = row.item_handle < 900
        self.tell(self.complete([row.item_handle for row in rows if row.was_successful]))
        return reply

    def tell(self, events: Iterable[bytes | grpc.StatusCode | None]) -> None:
        for each in events:
            self.events.put_nowait(each)

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        while (message := await self.events.get()) is not None:
            if isinstance(message, grpc.StatusCode):
                await context.abort(message, "by script")
            else:
                yield message


@pytest.fixture
def plant(scripted: ScriptedGateway) -> Plant:
    made = Plant()
    scripted.unary["Invoke"] = made.invoke
    scripted.stream["StreamEvents"] = made.stream
    return made


@pytest.fixture
async def stream(plant: Plant, scripted_session: Session) -> AsyncIterator[EventStream]:
    async with scripted_session.event_batches() as opened:
        yield opened


# ---------------------------------------------------------------- against the simulated gateway


@pytest.mark.parametrize("overflow", ["block", "latest", "drop_oldest"])
async def test_batches_that_nobody_takes(gateway: SimulatedGateway, overflow: Any) -> None:
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=100
        ) as client,
        await client.open_session() as session,
        session.event_batches(max_events=10, overflow=overflow) as stream,
    ):
        server = await session.register("x")
        tags = [f"T{n}.V" for n in range(60)]
        handles = [r.item_handle for r in await session.subscribe_bulk(server, tags)]
        for _ in range(2):
            result = await session.write_array(
                server, np.tile(handles, 5), np.arange(300.0), confirm=LONG
            )
            assert set(result.outcome) == {COMPLETED}
            assert result.ok
            result.raise_for_failure()
        batch = await anext(stream)
        assert len(batch) == 10, "the user has them all the same"


async def test_a_fast_writer_does_not_overflow_its_own_event_queue(
    gateway: SimulatedGateway,
) -> None:
    # One completion and one data change a value: unheeded they end the session at 10,000.
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
        session.event_batches(overflow="drop_oldest"),
    ):
        server = await session.register("x")
        items = await session.subscribe(server, [f"T{n}.V" for n in range(1_000)])
        result = await session.write_array(
            server, np.tile(items.item_handle, 20), np.arange(20_000.0)
        )
        assert result.ok
        await session.ping()


async def test_prepared(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    prepared = session.prepare_write(server, [item, item, 999])
    with pytest.raises(RuntimeError, match="event_batches"):
        await prepared.write([1.0, 2.0, 3.0], confirm=1)
    async with session.event_batches():
        for _ in range(3):
            result = await prepared.write([1.0, 2.0, 3.0], confirm=LONG)
            assert result.outcome.tolist() == [COMPLETED, COMPLETED, REJECTED]


async def test_earlier_writes_are_counted(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    async with session.event_batches():
        for _ in range(5):
            await session.write_array(server, [item] * 50, np.arange(50.0))
        result = await session.write_array(server, [item], [1.0], confirm=LONG)
        assert result.outcome.tolist() == [COMPLETED]


# ---------------------------------------------------------------- what is refused before sending


@pytest.mark.parametrize("confirm", [True, "1", None.__class__])
async def test_no_number(scripted_session: Session, stream: EventStream, confirm: Any) -> None:
    with pytest.raises(TypeError, match="confirm must be seconds"):
        await scripted_session.write_array(1, [1], [1.0], confirm=confirm)


@pytest.mark.parametrize("confirm", [0, -1.0, float("nan"), float("inf")])
async def test_no_time(
    scripted: ScriptedGateway, scripted_session: Session, stream: EventStream, confirm: float
) -> None:
    with pytest.raises(ValueError, match="confirm must be a positive number of seconds"):
        await scripted_session.write_array(1, [1], [1.0], confirm=confirm)
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize("how", ["none", "closed", "ended", "dropped"])
async def test_without_a_stream(scripted_session: Session, plant: Plant, how: str) -> None:
    if how != "none":
        stream = scripted_session.event_batches()
        if how == "closed":
            await stream.aclose()
        elif how == "ended":
            plant.tell([None])
            async with asyncio.timeout(10):
                assert [batch async for batch in stream] == []
        else:
            del stream
        async with asyncio.timeout(10):
            while scripted_session._writer.completions is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.002)  # the reader task ends a little later
    with pytest.raises(RuntimeError, match=r"open event stream .* call event_batches\(\)"):
        await scripted_session.write_array(1, [1], [1.0], confirm=1)
    assert not plant.requests


async def test_a_stream_opened_as_soon_as_another_fails_confirms(
    scripted_session: Session, plant: Plant
) -> None:
    failing = scripted_session.event_batches(resume=False)

    async def open_another() -> EventStream:
        with pytest.raises(MxGatewayConnectionError):
            async for _ in failing:
                pass
        return scripted_session.event_batches()

    opening = asyncio.create_task(open_another())
    await scripted_session.write_array(1, [1], [1.0], confirm=LONG)
    plant.tell([grpc.StatusCode.UNAVAILABLE])
    async with await opening:
        result = await scripted_session.write_array(1, [1], [2.0], confirm=LONG)
    assert result.outcome.tolist() == [COMPLETED]


async def test_another_open_stream_confirms_when_one_ends() -> None:
    async with (
        SimulatedGateway(max_event_subscribers=3) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        item = await session.add_item(server, "A.B")
        streams = [session.event_batches() for _ in range(3)]
        for stream in (streams[1], streams[0], streams[2]):
            result = await session.write_array(server, [item], [1.0], confirm=LONG)
            assert result.outcome.tolist() == [COMPLETED]
            await stream.aclose()
        with pytest.raises(RuntimeError, match="open event stream"):
            await session.write_array(server, [item], [1.0], confirm=LONG)


# ---------------------------------------------------------------- what the completes say


async def test_failed(scripted_session: Session, stream: EventStream, plant: Plant) -> None:
    plant.complete = lambda items: [
        event(item, failure=1013 if n % 2 else 0) for n, item in enumerate(items)
    ]
    result = await scripted_session.write_array(
        1, [1, 2, 999, 3, 3], [1.0, 2.0, 3.0, 4.0, 5.0], confirm=LONG
    )
    # Of the two writes of item 3 the first completed well, told apart by order.
    assert result.outcome.tolist() == [COMPLETED, FAILED, REJECTED, COMPLETED, FAILED]
    assert list(result.errors) == [1, 2, 4]
    assert "security error 1013" in result.errors[4].message
    assert result.errors[1].statuses[0].detail == 1013
    assert result.errors[1].statuses[0].diagnostic_text == "for mxgw_test_***"
    assert SECRET not in repr(result.errors)
    assert not result.ok
    with pytest.raises(MxAccessError, match=r"index 1, item 2: security error 1013"):
        result.raise_for_failure()
    assert repr(result) == "<WriteResult of 5 values: 1 REJECTED, 2 COMPLETED, 2 FAILED>"


@pytest.mark.parametrize("several", [False, True])
async def test_a_request_that_was_not_begun_has_no_completes(
    open_limited: OpenLimited, plant: Plant, several: bool
) -> None:
    async def refuse(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not this key")

    session = await open_limited(max_bulk_items=1)
    async with session.event_batches():
        plant.before_answer = refuse
        with pytest.raises(MxGatewayAuthorizationError):
            await session.write_array(1, [1, 2][: 1 + several], [1.0, 2.0][: 1 + several])
        plant.before_answer = None
        # Had the refused one been counted, this one would wait for a second complete.
        result = await session.write_array(1, [1], [3.0], confirm=SOON)
        assert result.outcome.tolist() == [COMPLETED]


async def test_a_write_that_the_gateway_accepts_and_fails(
    gateway: SimulatedGateway, session: Session
) -> None:
    server = await session.register("x")
    tags = ["A.good", "A.bad", "A.late", "A.silent"]
    items = [each.item_handle for each in await session.add_item_bulk(server, tags)]
    gateway.faults.add(FailWrites(tags="A.bad", category="COMMUNICATION_ERROR", detail=5))
    gateway.faults.add(FailWrites(tags="A.late", delay=0.05))
    gateway.faults.add(FailWrites(tags="A.silent", delay=math.inf))
    async with session.event_batches():
        told = await session.write_array(server, items[:3], [1.0] * 3, confirm=LONG)
        silent = await session.write_array(server, items[3:], [1.0], confirm=SOON)
    assert told.outcome.tolist() == [COMPLETED, FAILED, FAILED]
    assert silent.outcome.tolist() == [ACCEPTED]
    with pytest.raises(MxAccessError, match=r"index 1, item \d+ \(A\.bad\): communication error 5"):
        told.raise_for_failure()
    read = await session.read_array(server, tags)
    assert read.value.tolist() == [1.0, 0.0, 0.0, 0.0]


async def test_a_failure_is_told_only_of_its_own_write(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    plant.complete = lambda items: [event(item, failure=7) for item in items]
    assert (await scripted_session.write_array(1, [1], [1.0], confirm=LONG)).outcome == [FAILED]
    plant.complete = lambda items: map(event, items)
    assert (await scripted_session.write_array(1, [1], [1.0], confirm=LONG)).outcome == [COMPLETED]


async def test_what_is_not_confirmed_in_time_stays_accepted(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    plant.complete = lambda items: map(event, items[:2])
    result = await scripted_session.write_array(1, [5, 6, 7], [1.0, 2.0, 3.0], confirm=SOON)
    assert result.outcome.tolist() == [COMPLETED, COMPLETED, ACCEPTED]
    assert result.ok
    # The complete that is late belongs to the earlier write.
    plant.complete = lambda items: []
    plant.tell([event(7)])
    result = await scripted_session.write_array(1, [7], [4.0], confirm=SOON)
    assert result.outcome.tolist() == [ACCEPTED]
    plant.tell([event(7)])
    plant.complete = lambda items: map(event, items)
    assert (await scripted_session.write_array(1, [7], [5.0], confirm=LONG)).outcome == [COMPLETED]


async def test_other_events_confirm_nothing(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    other_server = pb.MxEvent.FromString(event(1))
    other_server.server_handle = 2
    plant.complete = lambda items: [
        event(1, family=CHANGE),
        event(2),
        other_server.SerializeToString(),
    ]
    result = await scripted_session.write_array(1, [1], [1.0], confirm=SOON)
    assert result.outcome.tolist() == [ACCEPTED]


async def test_writes_of_other_commands_that_completed_before(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    await scripted_session.write_array(1, [2], [0.0], confirm=LONG)  # counting has begun
    plant.tell([event(1)] * 3)  # scalar writes
    plant.complete = lambda items: []
    came = 0
    while came < 4:  # with the first write's; how they fall into batches is not said
        came += len(await anext(stream))
    result = await scripted_session.write_array(1, [1], [1.0], confirm=SOON)
    assert result.outcome.tolist() == [ACCEPTED]


async def test_completes_that_come_before_the_reply(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    plant.complete = lambda items: []

    async def complete_first(number: int, context: Context) -> None:
        plant.tell([event(1), event(2, failure=3)])
        await anext(stream)

    plant.before_answer = complete_first
    result = await scripted_session.write_array(1, [1, 2], [1.0, 2.0], confirm=LONG)
    assert result.outcome.tolist() == [COMPLETED, FAILED]


async def test_a_rejected_write_has_no_complete(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    for _ in range(3):
        result = await scripted_session.write_array(1, [999, 1, 999], np.ones(3), confirm=LONG)
        assert result.outcome.tolist() == [REJECTED, COMPLETED, REJECTED]
    result = await scripted_session.write_array(1, [999], [1.0], confirm=LONG)
    assert result.outcome.tolist() == [REJECTED]


@pytest.mark.parametrize("how", ["end", "close", "garbage"])
async def test_a_stream_that_ends_ends_the_wait(
    scripted_session: Session, stream: EventStream, plant: Plant, how: str
) -> None:
    plant.complete = lambda items: [event(1)]
    writing = asyncio.create_task(scripted_session.write_array(1, [1, 2], [1.0, 2.0], confirm=3600))
    await anext(stream)
    if how == "close":
        await stream.aclose()
    else:
        plant.tell([None if how == "end" else b"\xff\xff"])
    async with asyncio.timeout(10):
        assert (await writing).outcome.tolist() == [COMPLETED, ACCEPTED]


async def test_cancelled_while_waiting(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    plant.complete = lambda items: [event(1)]
    writing = asyncio.create_task(scripted_session.write_array(1, [1, 2], [1.0, 2.0], confirm=9))
    await anext(stream)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await writing
    cancelled: Any = caught.value
    assert cancelled.result.outcome.tolist()[1] == ACCEPTED
    assert NOT_SENT not in cancelled.result.outcome


async def test_failed_request_waits_for_no_complete(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    async def fail(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "by script")

    plant.before_answer = fail
    with pytest.raises(Exception, match="by script") as caught:
        await scripted_session.write_array(1, [1], [1.0], confirm=3600)
    assert caught.value.result.outcome.tolist() == [UNKNOWN]  # type: ignore[attr-defined]
    # It may have been carried out: one complete more is needed than is known to be due.
    plant.before_answer = None
    result = await scripted_session.write_array(1, [1], [1.0], confirm=SOON)
    assert result.outcome.tolist() == [ACCEPTED]


async def test_two_writes_wait_at_the_same_time(
    scripted_session: Session, stream: EventStream, plant: Plant
) -> None:
    plant.complete = lambda items: []
    both = [
        asyncio.create_task(
            scripted_session.write_array(1, range(n, n + 100), np.ones(100), confirm=LONG)
        )
        for n in (1, 101)
    ]
    while len(plant.requests) < 2:  # noqa: ASYNC110 - the gateway tells nobody
        await asyncio.sleep(0.002)
    plant.tell(event(item, failure=5 * (item == 150)) for item in range(200, 0, -1))
    first, second = await asyncio.gather(*both)
    assert set(first.outcome) == {COMPLETED}
    assert np.flatnonzero(second.outcome != COMPLETED).tolist() == [49]
    assert second.outcome[49] == FAILED


# ---------------------------------------------------------------- the counting itself


@given(st.data())
def test_the_nth_complete_of_an_item_is_the_nth_accepted_write(data: st.DataObject) -> None:
    """Against a plain model: queues of writes, one an item."""
    items = st.integers(-2, 3) | st.sampled_from([-(2**31), 2**31 - 1])
    counted = Completions()
    due: dict[int, list[tuple[int, int]]] = {}  # accepted writes of an item, as (request, row)
    done: dict[tuple[int, int], bool] = {}
    requests = []
    with counted.confirming():
        for number in range(data.draw(st.integers(1, 6))):
            handles = np.array(data.draw(st.lists(items, max_size=8)), np.int32)
            accepted = np.array(
                data.draw(st.lists(st.booleans(), min_size=len(handles), max_size=len(handles))),
                np.bool_,
            )
            counted.begin()
            counted.sent(1, handles)
            requests.append((counted.answered(1, handles, accepted), number))
            for row, handle in enumerate(handles[accepted].tolist()):
                due.setdefault(handle, []).append((number, row))
            for handle in data.draw(st.lists(items, max_size=8)):
                if not due.get(handle):
                    counted.hear([event(handle)])  # of a write by another command
                else:
                    good = data.draw(st.booleans())
                    done[due[handle].pop(0)] = good
                    counted.hear([event(handle, failure=0 if good else 4)])
        for writes, number in requests:
            asyncio.run(counted.wait(writes, 0.0001))
            told = counted.completed(writes).tolist()
            assert told == [(number, row) in done for row in range(len(told))]
            failed = counted.failures(writes)
            assert sorted(failed) == [
                row for row in range(len(told)) if not done.get((number, row), True)
            ]


async def test_completes_under_way_are_bounded(
    scripted_session: Session,
    stream: EventStream,
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confirm, "UNDER_WAY", 10)
    plant.complete = lambda items: []
    for _ in range(2):
        await scripted_session.write_array(1, range(1, 6), np.ones(5))
    held = asyncio.create_task(scripted_session.write_array(1, range(1, 6), np.ones(5)))
    await asyncio.sleep(SOON)
    assert len(plant.requests) == 2
    plant.tell(map(event, range(1, 6)))
    assert (await held).ok
    assert len(plant.requests) == 3


@pytest.mark.parametrize("way", ["write_array", "prepared", "prepared int32", "bulk_writer"])
async def test_a_request_is_no_larger_than_what_may_be_under_way(
    open_limited: OpenLimited, plant: Plant, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Whatever max_bulk_items is: its completes alone would overflow the gateway's queue."""
    monkeypatch.setattr(confirm, "UNDER_WAY", 10)
    session = await open_limited(max_bulk_items=50)
    items, values = np.arange(1, 26), np.ones(25)
    prepared = session.prepare_write(1, items, np.int32 if "int32" in way else np.float64)
    async with session.bulk_writer(1) as writer:

        async def write() -> list[int]:
            plant.requests.clear()
            if way == "write_array":
                await session.write_array(1, items, values)
            elif way == "bulk_writer":
                writer.put(items, values)
                await writer.flush()
            else:
                await prepared.write(values.astype(prepared.dtype))
            return [len(command.write_bulk.entries) for command in plant.requests]

        assert await write() == [25]
        async with session.event_batches(overflow="drop_oldest"):
            assert await write() == [10, 10, 5]
        assert await write() == [25]


async def test_completes_that_never_come_hold_nothing_up(
    scripted_session: Session,
    stream: EventStream,
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confirm, "UNDER_WAY", 10)
    monkeypatch.setattr(confirm, "PATIENCE", 0.01)
    plant.complete = lambda items: []
    for _ in range(5):
        assert (await scripted_session.write_array(1, range(1, 6), np.ones(5))).ok


async def test_completes_that_come_slowly_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine: to take those that are late for lost would flood the gateway."""
    monkeypatch.setattr(confirm, "UNDER_WAY", 10)
    counted = Completions()
    counted.begin()
    counted.sent(1, np.arange(1, 11, dtype=np.int32))
    rounds = 0

    async def one_in_time(count: int, deadline: float) -> bool:
        nonlocal rounds
        rounds += 1
        counted.hear([event(rounds)])
        counted._read()
        return False

    monkeypatch.setattr(counted, "_more", one_in_time)
    await counted.room(5)
    assert rounds == 5


async def test_rejected_values_are_not_under_way(
    scripted_session: Session,
    stream: EventStream,
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confirm, "UNDER_WAY", 10)
    monkeypatch.setattr(confirm, "PATIENCE", 2 * LONG)
    async with asyncio.timeout(LONG):
        for _ in range(5):
            await scripted_session.write_array(1, range(900, 908), np.ones(8))
    assert len(plant.requests) == 5
