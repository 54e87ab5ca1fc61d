"""What ReadBulk answers from the last data changes of the simulated gateway, over real gRPC."""

from collections.abc import AsyncIterator

import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock, faults
from tests.simulator_client import Peer, Remote, double

SCAN = 0.1


@pytest.fixture
async def gateway(clock: VirtualClock) -> AsyncIterator[SimulatedGateway]:
    """A gateway that tells what changed when the clock is advanced by SCAN."""
    async with SimulatedGateway(clock=clock, update_interval=SCAN) as gateway:
        yield gateway


@pytest.fixture
async def remote(gateway: SimulatedGateway) -> AsyncIterator[Remote]:
    async with Peer(gateway.endpoint) as peer:
        yield await peer.registered()


async def read(remote: Remote, name: str) -> tuple[bool, pb.MxValue]:
    (result,) = await remote.read(name)
    assert result.was_successful
    return result.was_cached, result.value


async def test_a_write_is_read_from_the_cache_once_its_data_change_was_told(
    remote: Remote, clock: VirtualClock
) -> None:
    (item,) = await remote.subscribe("A.x")
    (before,) = await remote.read("A.x")
    clock.advance(SCAN / 2)
    await remote.write([item], [5.0])
    assert await remote.read("A.x") == [before]
    clock.advance(SCAN / 2)
    (after,) = await remote.read("A.x")
    assert (after.was_cached, after.value, after.item_handle) == (True, double(5.0), item)
    assert after.source_timestamp.ToNanoseconds() == clock.time_ns() - int(SCAN / 2 * 1e9)


async def test_each_session_has_the_values_that_it_was_told(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
) -> None:
    (item,) = await remote.subscribe("A.x")
    await remote.write([item], [5.0])
    other = await remote.peer.registered()
    assert await read(other, "A.x") == (False, double(5.0))
    await other.subscribe("A.x")
    assert await read(other, "A.x") == (True, double(5.0))
    assert await read(remote, "A.x") == (True, double(0.0))
    clock.advance(SCAN)
    assert await read(remote, "A.x") == (True, double(5.0))


async def test_a_suspended_item_is_read_as_it_was_told_last(
    remote: Remote, clock: VirtualClock
) -> None:
    (item,) = await remote.subscribe("A.x")
    await remote.invoke("suspend", item_handle=item)
    await remote.write([item], [6.0])
    clock.advance(10)
    assert await read(remote, "A.x") == (True, double(0.0))
    await remote.invoke("activate", item_handle=item)
    assert await read(remote, "A.x") == (True, double(6.0))


async def test_an_item_advised_while_it_is_suspended_has_nothing_cached(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    for command in ("suspend", "advise"):
        await remote.invoke(command, item_handle=item)
    assert await read(remote, "A.x") == (False, double(0.0))
    await remote.invoke("activate", item_handle=item)
    assert await read(remote, "A.x") == (True, double(0.0))


async def test_an_item_advised_again_has_what_it_was_told_since(remote: Remote) -> None:
    (item,) = await remote.subscribe("A.x")
    await remote.write([item], [1.0])
    await remote.invoke("un_advise", item_handle=item)
    assert await read(remote, "A.x") == (False, double(1.0))
    await remote.invoke("advise", item_handle=item)
    assert await read(remote, "A.x") == (True, double(1.0))


async def test_the_events_of_a_buffered_item_fill_no_cache(
    remote: Remote, clock: VirtualClock
) -> None:
    reply = await remote.invoke("add_buffered_item", item_definition="A.x")
    item = reply.add_buffered_item.item_handle
    await remote.invoke("advise", item_handle=item)
    clock.advance(10)
    await remote.write([item], [2.0])
    assert await read(remote, "A.x") == (False, double(2.0))


async def test_a_value_of_any_type_stays_until_the_next_was_told(
    remote: Remote, clock: VirtualClock
) -> None:
    text = pb.MxValue(
        data_type=pb.MX_DATA_TYPE_STRING, variant_type="VT_BSTR", string_value="läuft"
    )
    names = [f"A.x{n}" for n in range(200)]  # more than the table's first rows
    items = await remote.subscribe(*names)
    for told, written in [(double(0.0), text), (text, double(3.0)), (double(3.0), text)]:
        entries = [pb.WriteBulkEntry(item_handle=item, value=written) for item in items]
        await remote.invoke("write_bulk", entries=entries)
        assert [result.value for result in await remote.read(*names)] == [told] * 200
        clock.advance(SCAN)
        assert [result.value for result in await remote.read(*names)] == [written] * 200


async def test_a_quality_is_cached_as_it_was_told(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
) -> None:
    await remote.subscribe("A.x")
    gateway.faults.add(faults.Quality(tags="A.*", quality=64))
    (result,) = await remote.read("A.x")
    assert (result.was_cached, result.quality) == (True, 64)
    gateway.faults.clear()
    (result,) = await remote.read("A.x")
    assert (result.was_cached, result.quality) == (True, 192)


async def test_of_several_writes_at_interval_zero_the_last_is_cached() -> None:
    async with SimulatedGateway(update_interval=0) as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        (item,) = await remote.subscribe("A.x")
        text = pb.MxValue(string_value="x")
        entries = [
            pb.WriteBulkEntry(item_handle=item, value=value) for value in (text, double(1.0), text)
        ]
        for last in (text, double(1.0)):
            await remote.invoke("write_bulk", entries=entries)
            assert await read(remote, "A.x") == (True, last)
            entries.pop()
