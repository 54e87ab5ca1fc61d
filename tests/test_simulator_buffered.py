"""Suspended items, plain and buffered, of the simulated gateway, over real gRPC."""

from collections.abc import AsyncIterator

import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock, faults
from tests.simulator_client import Peer, Remote, Stream, take

ADD = ["add_item", "add_buffered_item"]
COMPLETE = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE
INTERVAL = 1.0
"""Seconds after which a buffered item's events come."""


@pytest.fixture
async def gateway(clock: VirtualClock) -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(clock=clock) as gateway:
        yield gateway


@pytest.fixture
async def remote(gateway: SimulatedGateway) -> AsyncIterator[Remote]:
    async with Peer(gateway.endpoint) as peer:
        yield await peer.registered()


async def advised(remote: Remote, add: str, name: str) -> int:
    reply = await remote.invoke(add, item_definition=name)
    item: int = getattr(reply, add).item_handle
    await remote.invoke("advise", item_handle=item)
    return item


async def told(
    remote: Remote, clock: VirtualClock, stream: Stream
) -> list[tuple[int, list[float], list[int]]]:
    """Return item handle, values and qualities of the data changes until now.

    A write-complete ends them: it comes at once.
    """
    clock.advance(INTERVAL)
    (item,) = await remote.add("End.x")
    await remote.write([item], [0.0])
    changes = []
    while (event := (await take(stream, 1))[0]).item_handle != item:
        body = event.on_buffered_data_change
        if event.WhichOneof("body") == "on_buffered_data_change":
            values = list(event.value.array_value.double_values.values)
            qualities = list(body.quality_values.int32_values.values)
        else:
            values, qualities = [event.value.double_value], [event.quality]
        if event.family != COMPLETE:
            changes.append((event.item_handle, values, qualities))
    return changes


@pytest.mark.parametrize("add", ADD)
async def test_a_change_that_was_held_back_is_told_when_the_item_is_active_again(
    remote: Remote, clock: VirtualClock, add: str
) -> None:
    stream = await remote.stream()
    item = await advised(remote, add, "A.x")
    assert await told(remote, clock, stream) == [(item, [0.0], [192])]
    await remote.invoke("suspend", item_handle=item)
    for number in (6.0, 7.0):
        await remote.write([item], [number])
        assert await told(remote, clock, stream) == []
    await remote.invoke("activate", item_handle=item)
    assert await told(remote, clock, stream) == [(item, [7.0], [192])]
    await remote.write([item], [8.0])
    assert await told(remote, clock, stream) == [(item, [8.0], [192])]


@pytest.mark.parametrize("add", ADD)
async def test_an_item_without_changes_tells_nothing_when_it_is_active_again(
    remote: Remote, clock: VirtualClock, add: str
) -> None:
    stream = await remote.stream()
    item = await advised(remote, add, "A.x")
    await remote.write([item], [1.0])
    expected = [0.0, 1.0] if add == "add_buffered_item" else [1.0]
    assert (await told(remote, clock, stream))[-1][1] == expected
    for command in ("suspend", "activate", "activate"):
        await remote.invoke(command, item_handle=item)
    assert await told(remote, clock, stream) == []


async def test_activating_does_not_resolve_the_type_of_an_item_that_is_not_advised() -> None:
    async with SimulatedGateway(strict_writes=True) as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        await remote.invoke("activate", item_handle=item)
        (result,) = (await remote.write([item], [1.0])).write_bulk.results
        assert "'A.x' is not resolved yet" in result.error_message


@pytest.mark.parametrize("add", ADD)
async def test_a_quality_is_told_when_it_changes(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock, add: str
) -> None:
    stream = await remote.stream()
    x = await advised(remote, add, "A.x")
    await advised(remote, add, "B.x")
    await told(remote, clock, stream)
    fault = gateway.faults.add(faults.Quality(tags="A.*", quality=64))
    assert await told(remote, clock, stream) == [(x, [0.0], [64])]
    gateway.faults.remove(fault)
    assert await told(remote, clock, stream) == [(x, [0.0], [192])]
    await remote.invoke("suspend", item_handle=x)
    gateway.faults.add(fault)
    assert await told(remote, clock, stream) == []
