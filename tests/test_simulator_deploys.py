"""What a watcher of deploys is sent by the simulated gateway, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from mxfast.contract import galaxy_repository as pb
from mxfast.simulator import SimulatedGateway, VirtualClock
from tests.simulator_client import Peer

_METHOD = "/galaxy_repository.v1.GalaxyRepository/WatchDeployEvents"

Watch = grpc.aio.UnaryStreamCall[Any, pb.DeployEvent]


@pytest.fixture
async def gateway() -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(clock=VirtualClock(start=0)) as running:
        yield running


@pytest.fixture
async def peer(gateway: SimulatedGateway) -> AsyncIterator[Peer]:
    async with Peer(gateway.endpoint) as peer:
        yield peer


def watch(peer: Peer, request: pb.WatchDeployEventsRequest) -> Watch:
    call = peer.channel.unary_stream(
        _METHOD,
        request_serializer=pb.WatchDeployEventsRequest.SerializeToString,
        response_deserializer=pb.DeployEvent.FromString,
    )
    return call(request, metadata=peer.metadata)


async def told(stream: Watch, count: int) -> list[int]:
    """Return the sequences of so many events."""
    events = [await asyncio.wait_for(stream.read(), 30) for _ in range(count)]
    return [event.sequence for event in events if isinstance(event, pb.DeployEvent)]


async def test_each_of_several_deploys_in_a_row_is_told_to_each_watcher(
    gateway: SimulatedGateway, peer: Peer
) -> None:
    watchers = [watch(peer, pb.WatchDeployEventsRequest()) for _ in range(2)]
    for stream in watchers:
        assert await told(stream, 1) == [1]
    for _ in range(3):
        gateway.galaxy.deploy()
    for stream in watchers:
        assert await told(stream, 3) == [2, 3, 4]


async def test_more_deploys_than_are_kept_leave_a_gap(
    gateway: SimulatedGateway, peer: Peer
) -> None:
    stream = watch(peer, pb.WatchDeployEventsRequest())
    assert await told(stream, 1) == [1]
    for _ in range(150):  # none can be sent in between
        gateway.galaxy.deploy()
    assert await told(stream, 100) == list(range(2, 102))
    gateway.galaxy.deploy()
    assert await told(stream, 1) == [152]


async def test_a_watcher_that_leaves_is_forgotten(gateway: SimulatedGateway, peer: Peer) -> None:
    stream = watch(peer, pb.WatchDeployEventsRequest())
    await told(stream, 1)
    assert gateway.galaxy.watchers == 1
    stream.cancel()
    async with asyncio.timeout(30):
        while gateway.galaxy.watchers:  # noqa: ASYNC110 - the gateway tells nobody
            await asyncio.sleep(0.001)


async def test_no_time_is_not_the_time_of_a_deploy_in_1970(
    gateway: SimulatedGateway, peer: Peer
) -> None:
    assert gateway.galaxy.last_deploy.ToNanoseconds() == 0
    request = pb.WatchDeployEventsRequest()
    assert await told(watch(peer, request), 1) == [1]
    request.last_seen_deploy_time.SetInParent()
    stream = watch(peer, request)
    async with asyncio.timeout(30):
        while gateway.galaxy.watchers < 2:  # noqa: ASYNC110 - the gateway tells nobody
            await asyncio.sleep(0.001)
    gateway.galaxy.deploy()
    assert await told(stream, 1) == [2]
