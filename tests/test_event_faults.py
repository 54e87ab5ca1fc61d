"""Event streams under the simulated gateway's faults, slow users and cancellation."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import (
    EventBatch,
    GatewayClient,
    MxGatewayError,
    MxGatewaySessionLostError,
    Session,
    recovery,
    to_mx_value,
)
from mxfast.codec import decode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.event_queue import repeated
from mxfast.events import EventStream
from mxfast.simulator import SimulatedGateway, faults
from tests.feed import CHANGE, Feed, ended, event, sequences, settled


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(recovery, "LONGEST_PAUSE", 0.1)


async def numbers(stream: EventStream, last: float) -> tuple[list[float], list[EventBatch]]:
    """Take batches up to the data change with this number; return all of the data changes."""
    seen: list[float] = []
    batches = []
    async with asyncio.timeout(30):
        async for batch in stream:
            batches.append(batch)
            seen += batch.value[batch.family == CHANGE].tolist()
            if last in seen:
                return seen, batches
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("max_events", [1, 3, 10_000])
@pytest.mark.parametrize(
    "fault",
    [
        faults.CutAfter(events=3, times=4),
        faults.DuplicateEvents(every=2),
        faults.CutStreams(),
        faults.DropConnections(),
    ],
    ids=lambda fault: fault.name(),
)
async def test_every_value_comes_once_and_in_order(
    gateway: SimulatedGateway, session: Session, fault: Any, max_events: int
) -> None:
    server = await session.register("x")
    async with session.event_batches(max_events=max_events, max_delay=0) as events:
        (found,) = await session.subscribe_bulk(server, ["A.B"])
        await anext(events)
        gateway.faults.add(fault)
        for number in range(1, 31):
            while True:
                with contextlib.suppress(MxGatewayError):  # the connection may be gone
                    await session.write(server, found.item_handle, float(number))
                    break
        seen, batches = await numbers(events, 30.0)
    # A write whose answer was lost was made again above, so that it may be there twice.
    assert sorted(set(seen)) == [float(n) for n in range(1, 31)]
    assert seen == sorted(seen)
    told = sequences(batches)
    assert told == list(range(told[0], told[0] + len(told)))
    assert not any(batch.gap or batch.dropped for batch in batches)


async def test_events_that_never_come_are_a_gap(
    gateway: SimulatedGateway, session: Session
) -> None:
    server = await session.register("x")
    async with session.event_batches() as events:
        (found,) = await session.subscribe_bulk(server, ["A.B"])
        before = sequences([await anext(events)])[-1]
        gateway.faults.add(faults.MissingEvents(times=1))
        for number in range(1, 6):
            await session.write(server, found.item_handle, float(number))
        _, batches = await numbers(events, 5.0)
    assert any(batch.gap for batch in batches)
    told = sequences(batches)
    assert told[-1] - before == len(told) + 1, "one is missing"


async def test_replay_gap_of_the_gateway(gateway: SimulatedGateway, session: Session) -> None:
    server = await session.register("x")
    async with session.event_batches() as events:
        (found,) = await session.subscribe_bulk(server, ["A.B"])
        await session.write(server, found.item_handle, 4.5)
        await numbers(events, 4.5)
        gateway.faults.add(faults.ReplayGap(lost=3))
        gateway.faults.add(faults.CutStreams())
        seen, batches = await numbers(events, 4.5)
    assert any(batch.gap for batch in batches)
    assert seen == [4.5]
    (batch,) = [batch for batch in batches if batch.reread.any()]
    assert batch.item_handle[batch.reread].tolist() == [found.item_handle]
    assert batch.ok.all()


@pytest.mark.parametrize("fault", [faults.CrashWorker(), faults.OverflowQueues()])
@pytest.mark.parametrize("rebuild", [True, False])
async def test_session_that_dies(
    gateway: SimulatedGateway, session: Session, fault: Any, rebuild: bool
) -> None:
    server = await session.register("x")
    async with session.event_batches(rebuild=rebuild) as events:
        items = await session.subscribe(server, ["A.B"])
        await session.write_array(items.server_handle, items, [2.5])
        await numbers(events, 2.5)
        gateway.faults.add(fault)
        if rebuild:
            _, batches = await numbers(events, 2.5)
            assert any(batch.rebuilt for batch in batches)
            assert (await session.write_array(items.server_handle, items, [3.5])).ok
            await numbers(events, 3.5)
        else:
            with pytest.raises(MxGatewaySessionLostError):
                await numbers(events, -1.0)  # what comes before the end is taken


@pytest.mark.parametrize("rebuild", [True, False])
async def test_worker_that_is_handshaking_for_a_moment(
    gateway: SimulatedGateway, session: Session, rebuild: bool
) -> None:
    """The session lives: it answers a little later."""
    server = await session.register("x")
    async with session.event_batches(rebuild=rebuild) as events:
        items = await session.subscribe(server, ["A.B"])
        await anext(events)
        session_id = session.session_id
        gateway.faults.add(faults.HandshakeWorker(times=3))
        gateway.faults.add(faults.CutStreams())
        async with asyncio.timeout(30):
            while list(gateway.faults):  # noqa: ASYNC110 - the gateway tells nobody
                await asyncio.sleep(0.01)
        await session.write_array(server, items, [2.5])
        await numbers(events, 2.5)
        assert session.session_id == session_id


# ---------------------------------------------------------------- repeated events


@given(
    last=st.integers(0, 5),
    sequence=st.lists(st.integers(0, 12), max_size=12),
    samples=st.lists(st.integers(1, 3), min_size=12, max_size=12),
)
def test_repeated(last: int, sequence: list[int], samples: list[int]) -> None:
    def message(number: int, count: int) -> bytes:
        if count == 1:
            return event(number)
        buffered = pb.MxEvent(
            family=pb.MX_EVENT_FAMILY_ON_BUFFERED_DATA_CHANGE, worker_sequence=number
        )
        buffered.value.CopyFrom(to_mx_value(np.arange(float(count))))
        buffered.on_buffered_data_change.SetInParent()
        return buffered.SerializeToString()

    expected, highest = [], last
    for index, number in enumerate(sequence):
        if 0 < number <= highest:
            expected.append(index)
        highest = max(highest, number)
    messages = [message(number, samples[index]) for index, number in enumerate(sequence)]
    assert repeated(decode_events(messages), last).tolist() == expected


async def test_event_that_comes_again_in_another_batch(
    scripted_session: Session, feed: Feed
) -> None:
    events = scripted_session.event_batches(max_events=2)
    feed.put(*map(event, [1, 2, 2, 1, 3, 3, 4, 6, 6]))
    feed.end()
    batches = [batch async for batch in events]
    assert sequences(batches) == [1, 2, 3, 4, 6]
    assert [batch.gap for batch in batches if 6 in batch.worker_sequence] == [True]


# ---------------------------------------------------------------- slow users


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest", "error"])
@pytest.mark.parametrize("max_events", [1, 50])
async def test_user_that_takes_nothing_costs_the_session_nothing(
    overflow: Any, max_events: int
) -> None:
    """The gateway's queue holds 100 events: only a reader apart from the user empties it."""
    async with (
        SimulatedGateway(update_interval=0, event_queue_capacity=100) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        events = session.event_batches(max_events=max_events, overflow=overflow)
        (found,) = await session.subscribe_bulk(server, ["A.B"])
        for number in range(300):
            await session.write(server, found.item_handle, float(number))
        assert len(events._queue.messages) <= 2 * max_events
        if overflow == "error":
            await settled(events, ended)
        else:
            seen, batches = await numbers(events, 299.0)
            assert seen[-1] == 299.0
            count = sum(map(len, batches)) + sum(batch.dropped for batch in batches)
            assert count in (600, 601)  # the last write-complete may be still to come
            assert not any(batch.gap for batch in batches)
        await session.ping()
        await events.aclose()


# ---------------------------------------------------------------- cancellation


Step = Callable[[], Awaitable[object]]


async def cancelled_after(step: Step, turns: int) -> None:
    """Cancel what a step does after some turns of the event loop."""
    task = asyncio.ensure_future(step())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, MxGatewayError):
        await task


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_anywhere_the_call_ends_and_the_session_goes_on(
    session: Session, turns: int
) -> None:
    server = await session.register("x")
    (found,) = await session.subscribe_bulk(server, ["A.B"])

    async def whole() -> None:
        async with session.event_batches(max_delay=0) as events:
            other = asyncio.create_task(session.write(server, found.item_handle, 1.0))
            try:
                await anext(events)
                await anext(events)
            finally:
                await asyncio.wait([other])

    await cancelled_after(whole, turns)
    # The one subscriber's place is free again: else this would be refused.
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.event_batches(max_delay=0) as events:
                    await session.write(server, found.item_handle, 2.0)
                    await numbers(events, 2.0)
                break
            except MxGatewayError as error:
                if "ALREADY_EXISTS" not in str(error):  # it has not noticed yet
                    raise
    await session.ping()


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_cancelled_while_it_resumes(
    gateway: SimulatedGateway, session: Session, turns: int
) -> None:
    await session.register("x")
    events = session.event_batches(max_delay=0, rebuild=True)
    await session.ping()
    gateway.faults.add(faults.CrashWorker())
    await cancelled_after(events.__anext__, turns)
    await events.aclose()
    assert events._reader.task.done()
    before = {task.get_name() for task in asyncio.all_tasks()}
    assert "mxfast event reader" not in before
