"""Events of the simulated gateway, over real gRPC."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.simulator_client import Peer, Remote, Stream, double, handles, resume, sequences, take

DATA_CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
WRITE_COMPLETE = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE
NEVER = 3600.0
"""An update interval that no test lives to see."""


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A gateway where every write is a data change of its own."""
    async with SimulatedGateway(update_interval=0) as gateway, Peer(gateway.endpoint) as peer:
        yield peer


@pytest.fixture
async def remote(peer: Peer) -> Remote:
    return await peer.registered()


@pytest.fixture
async def writer(peer: Peer) -> Remote:
    """A second session, so that write-completes do not mix with data changes."""
    return await peer.registered()


def numbers(events: list[pb.MxEvent]) -> list[float]:
    return [event.value.double_value for event in events]


async def drain(remote: Remote, max_events: int = 0) -> list[pb.MxEvent]:
    reply = await remote.invoke("drain_events", max_events=max_events)
    return list(reply.drain_events.events)


async def status_of(stream: Stream) -> grpc.StatusCode:
    """Read a stream to its end."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# Data changes


async def test_advise_tells_the_current_value_first(remote: Remote, writer: Remote) -> None:
    await writer.write(await writer.add("A.x"), [2.5])
    stream = await remote.stream()
    (item,) = await remote.add("A.x")
    await remote.invoke("advise", item_handle=item)
    (event,) = await take(stream, 1)
    assert event.family == DATA_CHANGE
    assert event.WhichOneof("body") == "on_data_change"
    assert event.session_id == remote.session_id
    assert (event.server_handle, event.item_handle) == (remote.server, item)
    assert event.value == double(2.5)
    assert event.quality == 192
    assert event.worker_sequence == 1
    (status,) = event.statuses
    assert (status.success, status.category) == (1, pb.MX_STATUS_CATEGORY_OK)
    assert event.source_timestamp == (await remote.read("A.x"))[0].source_timestamp
    assert event.worker_timestamp == event.gateway_receive_timestamp
    assert event.worker_timestamp.seconds >= event.source_timestamp.seconds
    assert not event.HasField("replay_gap")


async def test_a_fresh_tag_tells_its_zero(remote: Remote) -> None:
    stream = await remote.stream()
    await remote.subscribe("A.fresh")
    (event,) = await take(stream, 1)
    assert event.value == double(0.0)


@pytest.mark.parametrize("command", ["advise", "advise_supervisory"])
async def test_advising_twice_tells_the_value_once(remote: Remote, command: str) -> None:
    stream = await remote.stream()
    x, y = await remote.add("A.x", "A.y")
    for item in (x, x, y):
        await remote.invoke(command, item_handle=item)
    assert handles(await take(stream, 2)) == [x, y]


async def test_every_write_is_told_at_interval_zero(remote: Remote, writer: Remote) -> None:
    stream = await remote.stream()
    x, y = await remote.subscribe("A.x", "A.y")
    await take(stream, 2)
    other = await writer.add("A.y", "A.unwatched", "A.x")
    await writer.write([other[2], other[0], other[1], other[2]], [1.0, 2.0, 3.0, 4.0])
    await writer.invoke("write", item_handle=other[0], value=double(5.0))
    events = await take(stream, 4)
    assert list(zip(handles(events), numbers(events), strict=True)) == [
        (x, 1.0),
        (y, 2.0),
        (x, 4.0),
        (y, 5.0),
    ]
    assert sequences(events) == [3, 4, 5, 6]


async def test_two_items_of_one_tag_are_both_told(remote: Remote, writer: Remote) -> None:
    stream = await remote.stream()
    items = await remote.subscribe("A.x", "A.x")
    await take(stream, 2)
    await writer.write(await writer.add("A.x"), [3.0])
    events = await take(stream, 2)
    assert sorted(handles(events)) == sorted(items)
    assert numbers(events) == [3.0, 3.0]


async def test_items_of_two_server_handles_carry_their_own(remote: Remote) -> None:
    stream = await remote.stream()
    second = (await remote.invoke("register")).register.server_handle
    await remote.subscribe("A.x")
    await remote.invoke("subscribe_bulk", server_handle=second, tag_addresses=["A.x"])
    assert [event.server_handle for event in await take(stream, 2)] == [remote.server, second]


async def test_an_item_no_longer_advised_is_silent(remote: Remote, writer: Remote) -> None:
    stream = await remote.stream()
    w, x, y, z = await remote.subscribe("A.w", "A.x", "A.y", "A.z")
    await take(stream, 4)
    await remote.invoke("un_advise", item_handle=w)
    await remote.invoke("remove_item", item_handle=x)
    await remote.invoke("unsubscribe_bulk", item_handles=[y])
    await writer.write(await writer.add("A.w", "A.x", "A.y", "A.z"), [1.0, 2.0, 3.0, 4.0])
    (event,) = await take(stream, 1)
    assert (event.item_handle, event.value) == (z, double(4.0))


async def test_values_that_are_no_number_are_told_whole(remote: Remote, writer: Remote) -> None:
    stream = await remote.stream()
    await remote.subscribe("A.x", "A.y")
    await take(stream, 2)
    text = pb.MxValue(
        data_type=pb.MX_DATA_TYPE_STRING, variant_type="VT_BSTR", string_value="läuft"
    )
    entries = [
        pb.WriteBulkEntry(item_handle=item, value=value)
        for item, value in zip(await writer.add("A.x", "A.y"), [double(1.0), text], strict=True)
    ]
    await writer.invoke("write_bulk", entries=entries)
    assert [event.value for event in await take(stream, 2)] == [double(1.0), text]


async def test_the_newest_value_is_told_once_an_interval() -> None:
    async with SimulatedGateway(update_interval=0.05) as gateway, Peer(gateway.endpoint) as peer:
        remote, writer = await peer.registered(), await peer.registered()
        stream = await remote.stream()
        x, y = await remote.subscribe("A.x", "A.y")
        await take(stream, 2)
        (other,) = await writer.add("A.x")
        await writer.write([other] * 1000, range(1000))  # one request, so one interval
        await writer.write(await writer.add("A.y"), [7.0])
        events = await take(stream, 2)
        assert dict(zip(handles(events), numbers(events), strict=True)) == {x: 999.0, y: 7.0}
        assert sequences(events) == [3, 4]


async def test_a_first_value_does_not_wait_for_the_interval() -> None:
    async with SimulatedGateway(update_interval=NEVER) as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        stream = await remote.stream()
        await remote.subscribe("A.x")
        assert (await take(stream, 1))[0].family == DATA_CHANGE


async def test_a_value_told_by_advise_is_not_told_again() -> None:
    async with SimulatedGateway(update_interval=0.02) as gateway, Peer(gateway.endpoint) as peer:
        remote, writer = await peer.registered(), await peer.registered()
        stream = await remote.stream()
        x, y = await writer.add("A.x", "A.y")
        await writer.write([x, y], [1.0, 1.0])
        await remote.subscribe("A.x", "A.y")
        await take(stream, 2)
        await writer.write([y], [2.0])
        assert numbers(await take(stream, 1)) == [2.0]


# Write-completes


async def test_each_accepted_write_completes_in_order_to_its_writer(
    remote: Remote, writer: Remote
) -> None:
    stream = await writer.stream()
    x, y = await writer.add("A.x", "A.y")
    await writer.write([y, 99, x, y], [1.0, 2.0, 3.0, 4.0])
    await writer.invoke("write", item_handle=x, value=double(5.0))
    await writer.invoke("write", item_handle=99, value=double(6.0))
    await writer.write([y], [7.0])
    events = await take(stream, 5)
    assert handles(events) == [y, x, y, x, y]
    assert sequences(events) == [1, 2, 3, 4, 5]
    for event in events:
        assert event.family == WRITE_COMPLETE
        assert event.WhichOneof("body") == "on_write_complete"
        assert event.server_handle == writer.server
        assert not event.HasField("value")
        assert not event.HasField("source_timestamp")
        assert event.statuses[0].category == pb.MX_STATUS_CATEGORY_OK
    assert await drain(remote) == []


# Streams


async def test_a_second_subscriber_is_refused_until_the_first_leaves(remote: Remote) -> None:
    await remote.subscribe("A.x", "A.y")
    first = await remote.stream()
    assert await status_of(await remote.stream()) == grpc.StatusCode.ALREADY_EXISTS
    first.cancel()
    _, events = await resume(remote, 1, 1)
    assert sequences(events) == [2]


async def test_a_fresh_stream_replays_nothing(remote: Remote) -> None:
    _, y = await remote.subscribe("A.x", "A.y")
    stream = await remote.stream()
    await remote.write([y], [1.0])
    assert sequences(await take(stream, 2)) == [3, 4]


async def test_closing_the_session_ends_its_stream(remote: Remote) -> None:
    stream = await remote.stream()
    await remote.close()
    assert await status_of(stream) == grpc.StatusCode.OK


async def test_a_reader_that_leaves_harms_nobody(
    remote: Remote, writer: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"A.x{i}" for i in range(10)]
    items = await writer.add(*names)
    await remote.subscribe(*names)
    last = 1
    for _ in range(20):
        await writer.write(items, range(10))
        stream, events = await resume(remote, last, 1)
        last = events[0].worker_sequence
        stream.cancel()
    assert last == 21
    assert await remote.numbers("A.x9") == [9.0]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Replay


async def test_a_stream_resumes_after_a_sequence_without_gap_or_repeat(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    stream = await remote.stream()
    await remote.write([item] * 10, range(10))
    told = await take(stream, 4)
    stream.cancel()
    await remote.write([item], [10.0])
    stream, replayed = await resume(remote, told[-1].worker_sequence, 7)
    await remote.write([item], [11.0])
    live = await take(stream, 1)
    assert sequences(told + replayed + live) == list(range(1, 13))


async def test_a_replayed_event_equals_the_first_one(remote: Remote, writer: Remote) -> None:
    stream = await remote.stream()
    await remote.subscribe("A.x")
    await writer.write(await writer.add("A.x"), [1.5])
    first = await take(stream, 2)
    assert first == await drain(remote)
    stream.cancel()
    _, replayed = await resume(remote, 1, 1)
    assert replayed == first[1:]


async def test_the_ring_holds_1024_events_and_says_when_it_does_not_reach_back(
    remote: Remote,
) -> None:
    (item,) = await remote.add("A.x")
    for count in (500, 1, 600):
        await remote.write([item] * count, range(count))
    oldest = 1101 - 1024 + 1
    stream = await remote.stream(after=oldest - 2)
    (sentinel, *events) = await take(stream, 1025)
    assert sentinel.family == pb.MX_EVENT_FAMILY_UNSPECIFIED
    assert sentinel.WhichOneof("body") is None
    assert sentinel.replay_gap.requested_after_sequence == oldest - 2
    assert sentinel.replay_gap.oldest_available_sequence == oldest
    assert sequences(events) == list(range(oldest, 1102))


async def test_the_oldest_event_in_the_ring_is_resumed_without_a_sentinel(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    await remote.write([item] * 5000, range(5000))
    stream = await remote.stream(after=5000 - 1024)
    events = await take(stream, 1024)
    assert sequences(events) == list(range(5000 - 1024 + 1, 5001))


async def test_a_cursor_at_the_end_replays_nothing(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    await remote.write([item] * 3, range(3))
    stream = await remote.stream(after=3)
    await remote.write([item], [3.0])
    assert sequences(await take(stream, 1)) == [4]


# DrainEvents


async def test_drain_events_gives_each_event_once(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    await remote.write([item] * 5, range(5))
    assert sequences(await drain(remote, 2)) == [1, 2]
    assert sequences(await drain(remote, 1)) == [3]
    assert sequences(await drain(remote)) == [4, 5]
    assert await drain(remote) == []
    await remote.write([item], [0.0])
    assert sequences(await drain(remote, 10)) == [6]


async def test_drain_events_never_tells_of_a_gap(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    await remote.write([item] * 3000, range(3000))
    events = await drain(remote)
    assert sequences(events) == list(range(3000 - 1024 + 1, 3001))
    assert not any(event.HasField("replay_gap") for event in events)


# Overflow


async def write_for_ever(remote: Remote, entries: list[pb.WriteBulkEntry]) -> None:
    while True:
        await remote.invoke("write_bulk", entries=entries)


async def is_faulted(remote: Remote) -> bool:
    try:
        await remote.invoke("ping")
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.FAILED_PRECONDITION
    return False


async def assert_faulted(remote: Remote) -> None:
    for attempt in (remote.invoke("ping"), remote.write([1], [1.0])):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "Faulted" in (caught.value.details() or "")
    assert await status_of(await remote.stream()) == grpc.StatusCode.FAILED_PRECONDITION
    assert (await remote.close()).final_state == pb.SESSION_STATE_CLOSED


async def test_a_full_queue_ends_the_stream_and_faults_the_session() -> None:
    async with SimulatedGateway(event_queue_capacity=10) as gateway, Peer(gateway.endpoint) as peer:
        remote, other = await peer.registered(), await peer.registered()
        (item,) = await remote.add("A.x")
        stream = await remote.stream()
        await remote.write([item] * 10, range(10))
        await take(stream, 10)
        reply = await remote.write([item] * 11, range(11))
        assert all(result.was_successful for result in reply.write_bulk.results)
        assert await status_of(stream) == grpc.StatusCode.RESOURCE_EXHAUSTED
        await assert_faulted(remote)
        assert await other.numbers("A.x") == [10.0]


async def test_without_a_subscriber_nothing_overflows() -> None:
    async with SimulatedGateway(event_queue_capacity=10) as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        await remote.write([item] * 5000, range(5000))
        assert len(await drain(remote)) == 1024


async def test_a_reader_that_stops_reading_overflows_its_queue() -> None:
    async with (
        SimulatedGateway(update_interval=0.01, event_queue_capacity=10) as gateway,
        Peer(gateway.endpoint, options=[("grpc.http2.bdp_probe", 0)]) as peer,
    ):
        remote, writer = await peer.registered(), await peer.registered()
        names = [f"A.x{i}" for i in range(20)]
        stream = await remote.stream()
        await remote.subscribe(*names)
        items = await writer.add(*names)
        text = pb.MxValue(string_value="x" * 20_000)
        entries = [pb.WriteBulkEntry(item_handle=item, value=text) for item in items]
        writing = asyncio.create_task(write_for_ever(writer, entries))
        while not await is_faulted(remote):
            pass
        writing.cancel()
        await asyncio.wait([writing])  # no call may be left when its channel is closed
        assert await status_of(stream) == grpc.StatusCode.RESOURCE_EXHAUSTED
        await assert_faulted(remote)


@pytest.mark.parametrize("interval", [0.0, 0.01])
async def test_more_first_values_than_the_queue_holds_reach_a_reader_who_reads(
    interval: float,
) -> None:
    async with (
        SimulatedGateway(update_interval=interval, event_queue_capacity=10) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote = await peer.registered()
        stream = await remote.stream()
        items = await remote.subscribe(*(f"A.x{i}" for i in range(95)))
        events = await take(stream, 95)
        assert sorted(handles(events)) == items
        assert sequences(events) == list(range(1, 96))


async def test_more_changes_than_the_queue_holds_take_turns() -> None:
    async with (
        SimulatedGateway(update_interval=0.005, event_queue_capacity=300) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote, writer = await peer.registered(), await peer.registered()
        names = [f"A.x{i}" for i in range(900)]
        stream = await remote.stream()
        watched = await remote.subscribe(*names)
        await take(stream, 900)
        entries = [
            pb.WriteBulkEntry(item_handle=item, value=double(1.0))
            for item in await writer.add(*names)
        ]
        # The first items change as often as all others, and would fill the queue alone.
        writing = asyncio.create_task(write_for_ever(writer, entries))
        told = handles(await take(stream, 3000))
        writing.cancel()
        assert set(told) == set(watched)


async def test_catching_up_tells_nothing_twice() -> None:
    async with (
        SimulatedGateway(update_interval=0, event_queue_capacity=10) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote, writer = await peer.registered(), await peer.registered()
        stream = await remote.stream()
        (x,) = await remote.subscribe("A.x")
        (other,) = await writer.add("A.x")
        await writer.write([other], [1.0])
        assert handles(await take(stream, 2)) == [x, x]
        more = await remote.subscribe(*(f"A.y{i}" for i in range(15)))
        assert sorted(handles(await take(stream, 15))) == more
        await writer.write([other], [2.0])
        assert numbers(await take(stream, 1)) == [2.0]
