import asyncio
import gc
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxfast import (
    EventBatch,
    GatewayClient,
    MalformedReplyError,
    MxGatewayError,
    MxGatewayOverflowError,
    MxGatewaySessionError,
    Session,
    ValueKind,
)
from mxfast.codec import decode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.conftest import ScriptedGateway
from tests.feed import (
    CHANGE,
    COMPLETE,
    Feed,
    ended,
    event,
    sentinel,
    sequences,
    settled,
    waiting,
)

# ---------------------------------------------------------------- against the simulated gateway


async def test_columns(session: Session) -> None:
    server = await session.register("x")
    events = session.event_batches()
    subscribed = await session.subscribe_bulk(server, ["A.B", "A.C"])
    handles = [r.item_handle for r in subscribed]
    await session.write_array(server, handles, [2.5, 3.5])
    batches = []
    async for batch in events:
        batches.append(batch)
        if sum(map(len, batches)) >= 6:
            break
    await events.aclose()
    family = np.concatenate([b.family for b in batches])
    item = np.concatenate([b.item_handle for b in batches])
    value = np.concatenate([b.value for b in batches])
    changes = family == CHANGE
    assert dict(zip(item[changes], value[changes], strict=True)) == dict(
        zip(handles, [2.5, 3.5], strict=True)
    )
    assert sorted(item[family == COMPLETE]) == sorted(handles)
    assert np.isnan(value[family == COMPLETE]).all()
    assert sequences(batches) == list(range(1, 7))
    assert not any(b.gap or b.dropped for b in batches)
    for batch in batches:
        assert (batch.server_handle == server).all()
        assert batch.ok.all()
        assert (batch.quality[batch.family == CHANGE] == 192).all()
        assert not np.isnat(batch.gateway_timestamp).any()
        assert batch.source_timestamp.dtype == "datetime64[ns]"
        with pytest.raises(ValueError, match="read-only"):
            batch.value[:] = 0


async def test_a_second_stream_is_refused(session: Session) -> None:
    async with session.event_batches() as first:
        server = await session.register("x")
        await session.subscribe_bulk(server, ["A.B"])
        await anext(first)
        with pytest.raises(MxGatewaySessionError, match="ALREADY_EXISTS"):
            await anext(session.event_batches())


async def test_resume_after_a_sequence(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    async with session.event_batches() as events:
        await session.advise(server, item)
        for number in range(3):
            await session.write(server, item, float(number))
        seen: list[int] = []
        while len(seen) < 7:
            seen += sequences([await anext(events)])
    async with session.event_batches(after_worker_sequence=3) as events:
        replayed: list[int] = []
        while len(replayed) < 4:
            batch = await anext(events)
            assert not batch.gap
            replayed += sequences([batch])
    assert seen[3:] == replayed


async def test_a_slow_consumer_holds_up_nothing(gateway: SimulatedGateway) -> None:
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        async with session.event_batches() as events:
            handles = [
                r.item_handle
                for r in await session.subscribe_bulk(server, [f"T{n}.V" for n in range(100)])
            ]
            for cycle in range(10):
                await session.write_array(server, handles, np.full(100, float(cycle)))
            # 100 first values, 1,000 write-completes, 1,000 changes: all read by the task.
            await settled(events, waiting(2100))
            batch = await anext(events)
    assert len(batch) == 2100
    assert sequences([batch]) == list(range(1, 2101))


# ---------------------------------------------------------------- the batch


@pytest.fixture
def batch() -> EventBatch:
    values: list[Any] = [1.5, 7, 2**60 + 1, True, "text", b"\x00\xff", [1.0, 2.0], None]
    messages = [event(n + 1, item=10 + n, value=value) for n, value in enumerate(values)]
    return EventBatch(decode_events(messages), dropped=3, gap=True)


def test_values_by_kind(batch: EventBatch) -> None:
    assert batch.values(ValueKind.DOUBLE).tolist() == [1.5]
    assert batch.values(ValueKind.INT64).tolist() == [2**60 + 1]
    assert batch.values(ValueKind.INT64).dtype == np.int64
    assert batch.values(ValueKind.BOOL).tolist() == [True]
    assert batch.values(ValueKind.STRING).tolist() == ["text"]
    assert batch.values(ValueKind.RAW).tolist() == [b"\x00\xff"]
    assert batch.values(ValueKind.ARRAY)[0].tolist() == [1.0, 2.0]
    assert batch.kind.tolist() == [5, 2, 3, 1, 6, 9, 8, 0]
    assert batch.value[:4].tolist() == [1.5, 7.0, float(2**60), 1.0]
    assert np.isnan(batch.value[4:]).all()


def test_one_event_as_a_message(batch: EventBatch) -> None:
    assert batch[0].value.double_value == 1.5
    assert batch[-1].value.is_null
    assert batch[np.int64(4)].value.string_value == "text"
    assert [message.item_handle for message in batch] == list(range(10, 18))
    for index in (8, -9):
        with pytest.raises(IndexError, match="8 events"):
            batch[index]
    with pytest.raises(TypeError):
        batch["value"]  # type: ignore[call-overload]


@pytest.mark.parametrize("rows", [slice(2, 5), slice(None), slice(5, 2), slice(-3, None)])
def test_slices(batch: EventBatch, rows: slice) -> None:
    part = batch[rows]
    assert len(part) == len(range(8)[rows])
    assert part.item_handle.tolist() == list(range(10, 18))[rows]
    assert [message.item_handle for message in part] == list(range(10, 18))[rows]
    assert part.kind.tolist() == batch.kind[rows].tolist()
    assert (part.dropped, part.gap) == (3, True)


def test_batch_repr(batch: EventBatch) -> None:
    assert repr(batch) == "<EventBatch of 8 events, 3 dropped, gap>"


# ---------------------------------------------------------------- batching


async def test_what_has_gathered_comes_as_one_batch(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_delay=3600 - 1, max_events=100)
    feed.put(*(event(n) for n in range(1, 251)))
    feed.end()
    batches = [batch async for batch in events]
    assert [len(b) for b in batches] == [100, 100, 50]
    assert sequences(batches) == list(range(1, 251))
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_max_delay_ends_the_wait_for_more(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_delay=0.01)
    feed.put(event(1))
    assert sequences([await anext(events)]) == [1]
    feed.put(event(2))
    assert sequences([await anext(events)]) == [2]
    await events.aclose()


async def test_no_delay(scripted_session: Session, feed: Feed) -> None:
    async with scripted_session.event_batches(max_delay=0) as events:
        feed.put(event(1), event(2), event(3))
        seen: list[int] = []
        while len(seen) < 3:
            seen += sequences([await anext(events)])
        assert seen == [1, 2, 3]


async def test_request(scripted_session: Session, feed: Feed) -> None:
    async with scripted_session.event_batches(after_worker_sequence=41) as events:
        feed.put(event(42))
        await anext(events)
    assert feed.requests == [
        pb.StreamEventsRequest(session_id="session-scripted", after_worker_sequence=41)
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"overflow": "ignore"}, ValueError),
        ({"max_events": 0}, ValueError),
        ({"max_events": True}, ValueError),
        ({"max_events": 1.5}, TypeError),
        ({"max_delay": -1}, ValueError),
        ({"max_delay": float("nan")}, ValueError),
        ({"after_worker_sequence": -1}, ValueError),
        ({"after_worker_sequence": "1"}, TypeError),
    ],
)
async def test_bad_arguments(
    scripted: ScriptedGateway, scripted_session: Session, arguments: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        scripted_session.event_batches(**arguments)
    assert "StreamEvents" not in scripted.calls


# ---------------------------------------------------------------- overflow


async def test_block_loses_nothing(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=1, overflow="block")
    feed.put(*(event(n) for n in range(1, 51)))
    feed.end()
    batches = []
    async for batch in events:
        assert len(batch) == 1
        assert len(events._queue.messages) <= 1
        batches.append(batch)
    assert sequences(batches) == list(range(1, 51))
    assert not any(b.gap or b.dropped for b in batches)


@pytest.mark.parametrize("max_events", [1, 10])
async def test_drop_oldest(scripted_session: Session, feed: Feed, max_events: int) -> None:
    events = scripted_session.event_batches(max_events=max_events, overflow="drop_oldest")
    feed.put(*(event(n, item=n) for n in range(1, 101)))
    feed.end()
    await settled(events, ended)
    assert len(events._queue.messages) <= 2 * max_events
    (batch,) = [b async for b in events]
    assert sequences([batch]) == list(range(101 - max_events, 101))
    assert batch.dropped == 100 - max_events
    assert not batch.gap, "what was dropped here is no gap of the gateway"


async def test_latest(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=10, overflow="latest")
    # Four items in turn, and one write-complete among them, which no data change replaces.
    messages = [event(n, item=n % 4, value=float(n)) for n in range(1, 101)]
    messages[49] = event(50, item=1, family=COMPLETE)
    feed.put(*messages)
    feed.end()
    await settled(events, ended)
    (batch,) = [b async for b in events]
    newest = {int(i): float(v) for i, v in zip(batch.item_handle, batch.value, strict=True)}
    assert newest == {0: 100.0, 1: 97.0, 2: 98.0, 3: 99.0}
    assert sequences([batch]) == sorted(sequences([batch]))
    assert 50 in sequences([batch])
    assert batch.dropped + len(batch) == 100
    assert not batch.gap


async def test_latest_with_more_items_than_room(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=5, overflow="latest")
    feed.put(*(event(n, item=n) for n in range(1, 101)))
    feed.end()
    await settled(events, ended)
    (batch,) = [b async for b in events]
    assert sequences([batch]) == [96, 97, 98, 99, 100]
    assert batch.dropped == 95


async def test_latest_keeps_values_rather_than_other_events(
    scripted_session: Session, feed: Feed
) -> None:
    events = scripted_session.event_batches(max_events=5, overflow="latest")
    feed.put(*(event(n, item=n) for n in range(1, 4)))
    feed.put(*(event(n, item=1, family=COMPLETE) for n in range(4, 101)))
    feed.end()
    await settled(events, ended)
    (batch,) = [b async for b in events]
    assert sequences([batch]) == [1, 2, 3, 99, 100]
    assert batch.dropped == 95


async def test_latest_that_drops_what_came_last_makes_no_gap(
    scripted_session: Session, feed: Feed
) -> None:
    async with scripted_session.event_batches(max_events=1, overflow="latest") as events:
        feed.put(event(1, item=1), event(2, item=1, family=COMPLETE))
        await settled(events, lambda stream: stream._queue.dropped == 1)
        first = await anext(events)
        feed.put(event(3, item=1), event(4, item=1, family=COMPLETE))
        await settled(events, lambda stream: stream._queue.dropped == 1)
        second = await anext(events)
        feed.put(event(5, item=1))
        third = await anext(events)
    assert sequences([first, second, third]) == [1, 3, 5]
    assert [first.dropped, second.dropped, third.dropped] == [1, 1, 0]
    assert [first.gap, second.gap, third.gap] == [False, False, False]


async def test_error(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=3, overflow="error")
    feed.put(*(event(n) for n in range(1, 101)))
    await settled(events, ended)
    await feed.left.wait()
    assert sequences([await anext(events)]) == [1, 2, 3]
    assert sequences([await anext(events)]) == [4]
    with pytest.raises(MxGatewayOverflowError, match="max_events = 3"):
        await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest", "error"])
async def test_fast_enough_drops_nothing(
    scripted_session: Session, feed: Feed, overflow: Any
) -> None:
    feed.put(event(1), event(2), event(3))
    async with scripted_session.event_batches(max_events=3, overflow=overflow) as events:
        batches: list[EventBatch] = []
        while len(sequences(batches)) < 3:
            batches.append(await anext(events))
    assert sequences(batches) == [1, 2, 3]
    assert not any(batch.dropped for batch in batches)


# ---------------------------------------------------------------- gaps


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 5]), min_size=1, max_size=40),
    items=st.integers(1, 4),
    max_events=st.integers(1, 6),
    overflow=st.sampled_from(["block", "latest", "drop_oldest"]),
    pause=st.integers(0, 3),
)
def test_nothing_is_lost_uncounted_and_only_jumps_are_gaps(
    steps: list[int], items: int, max_events: int, overflow: Any, pause: int
) -> None:
    sent = np.cumsum(steps).tolist()

    async def run() -> list[EventBatch]:
        async with ScriptedGateway() as scripted:
            feed = Feed()
            scripted.stream["StreamEvents"] = feed.stream
            feed.put(*(event(n, item=n % items) for n in sent))
            feed.end()
            async with await scripted.connect() as client:
                session = await client.open_session()
                batches = []
                async for batch in session.event_batches(
                    max_events=max_events, max_delay=0, overflow=overflow
                ):
                    batches.append(batch)
                    await asyncio.sleep(pause / 1000)
                return batches

    batches = asyncio.run(run())
    seen = sequences(batches)
    assert seen == sorted(set(seen) & set(sent))
    assert len(seen) + sum(b.dropped for b in batches) == len(sent)
    assert seen[-1] == sent[-1], "the newest is never dropped"
    # The first event has nothing before it that it could have jumped over.
    assert any(b.gap for b in batches) == any(step > 1 for step in steps[1:])
    if overflow == "block":
        assert seen == sent


async def test_jump_between_batches_and_inside_one(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=2)
    feed.put(*map(event, [5, 6, 7, 8, 10, 11, 12, 14, 15, 16]))
    feed.end()
    gaps = [(sequences([b]), b.gap) async for b in events]
    assert gaps == [
        ([5, 6], False),
        ([7, 8], False),
        ([10, 11], True),
        ([12, 14], True),
        ([15, 16], False),
    ]


async def test_jump_among_what_was_dropped(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches(max_events=2, overflow="drop_oldest")
    feed.put(*map(event, [1, 2, 5, 6, 7, 8]))
    feed.end()
    await settled(events, ended)
    (batch,) = [b async for b in events]
    assert (sequences([batch]), batch.dropped, batch.gap) == ([7, 8], 4, True)


async def test_jump_right_after_the_resumed_sequence(scripted_session: Session, feed: Feed) -> None:
    feed.put(event(44))
    async with scripted_session.event_batches(after_worker_sequence=42) as events:
        assert (await anext(events)).gap


async def test_replay_gap(scripted_session: Session, feed: Feed) -> None:
    feed.put(sentinel(5, 100), event(100), event(101))
    async with scripted_session.event_batches(
        after_worker_sequence=5, max_events=3, max_delay=10
    ) as events:
        batch = await anext(events)
        assert sequences([batch]) == [100, 101], "the sentinel is no event"
        assert batch.gap
        feed.put(event(102), event(103), event(104))
        assert not (await anext(events)).gap


async def test_replay_gap_alone_is_told_at_once(scripted_session: Session, feed: Feed) -> None:
    feed.put(sentinel(5, 100))
    async with scripted_session.event_batches(after_worker_sequence=5) as events:
        batch = await anext(events)
        assert (len(batch), batch.gap) == (0, True)


async def test_dropped_replay_gap_is_told_all_the_same(
    scripted_session: Session, feed: Feed
) -> None:
    events = scripted_session.event_batches(max_events=2, overflow="drop_oldest")
    feed.put(sentinel(5, 100), *map(event, range(100, 110)))
    feed.end()
    await settled(events, ended)
    (batch,) = [b async for b in events]
    assert batch.gap
    assert batch.dropped == 8


# ---------------------------------------------------------------- the end of a stream


async def test_error_comes_after_the_events_before_it(
    scripted_session: Session, feed: Feed
) -> None:
    events = scripted_session.event_batches()
    feed.put(event(1), event(2))
    feed.end(grpc.StatusCode.FAILED_PRECONDITION)
    await settled(events, ended)
    assert sequences([await anext(events)]) == [1, 2]
    with pytest.raises(MxGatewaySessionError, match=r"event_batches: .*FAILED_PRECONDITION"):
        await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


@pytest.mark.parametrize("overflow", ["block", "latest", "drop_oldest"])
async def test_event_that_cannot_be_read(
    scripted_session: Session, feed: Feed, overflow: Any
) -> None:
    events = scripted_session.event_batches(max_events=4, overflow=overflow)
    feed.put(event(1), event(2), b"\xff\xff", *map(event, range(4, 20)))
    feed.end()
    if overflow != "block":
        await settled(events, ended)
    assert sequences([await anext(events)]) == [1, 2]
    with pytest.raises(MalformedReplyError, match="unreadable event"):
        await anext(events)
    await feed.left.wait()


async def test_first_event_cannot_be_read(scripted_session: Session, feed: Feed) -> None:
    feed.put(b"\xff\xff")
    with pytest.raises(MalformedReplyError):
        await anext(scripted_session.event_batches())


@pytest.mark.parametrize("how", ["aclose", "cancel", "forget", "break", "never_iterated"])
async def test_the_call_is_cancelled_when_the_stream_is_left(
    scripted_session: Session, feed: Feed, how: str
) -> None:
    events = scripted_session.event_batches()
    if how == "never_iterated":
        await asyncio.sleep(0.05)
        del events
    else:
        feed.put(event(1))
        await anext(events)
        reader = events._reader.task
        if how == "aclose":
            await asyncio.gather(events.aclose(), events.aclose())
            with pytest.raises(StopAsyncIteration):
                await anext(events)
        elif how == "cancel":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(events)
        elif how == "forget":
            del events
        else:
            feed.put(event(2))
            async for _ in events:
                break
            del _, events
        await asyncio.wait([reader])
    gc.collect()
    async with asyncio.timeout(10):
        await feed.left.wait()


async def test_closing_wakes_a_loop_in_another_task(scripted_session: Session, feed: Feed) -> None:
    events = scripted_session.event_batches()

    async def consume() -> list[EventBatch]:
        return [batch async for batch in events]

    consumer = asyncio.create_task(consume())
    feed.put(event(1))
    await asyncio.sleep(0.05)
    await events.aclose()
    assert sequences(await consumer) == [1]


async def test_two_tasks_cannot_wait_for_one_stream(scripted_session: Session, feed: Feed) -> None:
    async with scripted_session.event_batches() as events:
        first = asyncio.create_task(events.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(events)
        feed.put(event(1))
        assert len(await first) == 1


async def test_client_that_closes_ends_the_stream_with_an_error(
    scripted: ScriptedGateway, feed: Feed
) -> None:
    client = await scripted.connect()
    events = (await client.open_session()).event_batches()
    feed.put(event(1))
    await anext(events)
    await client.close()
    with pytest.raises(MxGatewaySessionError, match="client is closed"):
        await anext(events)


# ---------------------------------------------------------------- message by message


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.urgent = False
        self.messages: list[bytes] = []
        self.has_ended = asyncio.Event()

    def hear(self, messages: list[bytes]) -> None:
        self.messages += messages

    def ended(self) -> None:
        self.has_ended.set()


@pytest.mark.parametrize("overflow", ["block", "latest", "drop_oldest"])
async def test_a_listener_hears_all_and_takes_nothing(
    scripted_session: Session, feed: Feed, overflow: Any
) -> None:
    stream = scripted_session.event_batches(max_events=100, max_delay=0, overflow=overflow)
    heard = Heard()
    stream.listen(heard)
    sent = [event(n) for n in range(1, 6)]
    feed.put(*sent)
    feed.end()
    batches = [batch async for batch in stream]
    assert sequences(batches) == [1, 2, 3, 4, 5]
    assert heard.messages == sent
    async with asyncio.timeout(10):
        await heard.has_ended.wait()


@pytest.mark.parametrize("before_it_ran", [True, False])
async def test_a_listener_is_told_when_the_stream_is_closed(
    scripted_session: Session, feed: Feed, before_it_ran: bool
) -> None:
    stream, heard = scripted_session.event_batches(), Heard()
    stream.listen(heard)
    if not before_it_ran:
        feed.put(event(1))
        await settled(stream, waiting(1))
    assert not heard.has_ended.is_set()
    await stream.aclose()
    async with asyncio.timeout(10):
        await heard.has_ended.wait()


async def test_an_urgent_listener_keeps_a_full_stream_going(
    scripted_session: Session, feed: Feed
) -> None:
    async with scripted_session.event_batches(max_events=2, max_delay=0) as stream:
        heard = Heard()
        look = stream.listen(heard)
        feed.put(*(event(n) for n in range(1, 7)))
        await settled(stream, waiting(2))
        assert len(heard.messages) == 2
        heard.urgent = True
        look()
        await settled(stream, waiting(6))
        assert len(heard.messages) == 6
        assert sequences([await anext(stream) for _ in range(3)]) == [1, 2, 3, 4, 5, 6]


async def test_stream_events(scripted_session: Session, feed: Feed) -> None:
    feed.put(sentinel(3, 9), event(9), event(10, value="text"))
    feed.end(grpc.StatusCode.ABORTED)
    events = scripted_session.stream_events(after_worker_sequence=3)
    assert (await anext(events)).HasField("replay_gap")
    assert (await anext(events)).worker_sequence == 9
    assert (await anext(events)).value.string_value == "text"
    with pytest.raises(MxGatewayError, match=r"stream_events: .*ABORTED"):
        await anext(events)
    assert feed.requests[0].after_worker_sequence == 3


async def test_stream_events_that_is_left(scripted_session: Session, feed: Feed) -> None:
    feed.put(event(1))
    async with scripted_session.stream_events() as events:
        async for message in events:
            assert message.worker_sequence == 1
            break
    await feed.left.wait()


async def test_stream_events_that_cannot_be_read(scripted_session: Session, feed: Feed) -> None:
    feed.put(b"\xff\xff")
    with pytest.raises(MalformedReplyError):
        await anext(scripted_session.stream_events_raw())
    await feed.left.wait()
