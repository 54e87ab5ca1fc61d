"""Faults of the simulated gateway that name tags: arrays, and reads that wait, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock, faults
from tests.simulator_client import Peer, Remote

ARRAY = pb.MxValue(
    data_type=pb.MX_DATA_TYPE_DOUBLE,
    array_value=pb.MxArray(double_values=pb.DoubleArray(values=[1.0])),
)


@pytest.fixture
async def gateway(clock: VirtualClock) -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(clock=clock, tags=["T.Arr[]", "T.x", "T.y"]) as gateway:
        yield gateway


@pytest.fixture
async def remote(gateway: SimulatedGateway) -> AsyncIterator[Remote]:
    async with Peer(gateway.endpoint) as peer:
        yield await peer.registered()


async def until_done(clock: VirtualClock, attempt: Awaitable[Any]) -> Any:
    """Let time pass while the gateway waits for it, half a second at a time."""
    task = asyncio.ensure_future(attempt)
    while not task.done():
        if clock.waiting == 2:  # the command, and its timeout
            clock.advance(0.5)
        await asyncio.sleep(0.001)
    return task.result()


by_either_name = pytest.mark.parametrize("tags", ["T.Arr", "T.Arr[]", "T.A*"])
NAMES = ["T.Arr", "T.Arr[]"]


@by_either_name
async def test_an_array_is_refused_by_either_of_its_names(
    gateway: SimulatedGateway, remote: Remote, tags: str
) -> None:
    items = await remote.add(*NAMES)
    gateway.faults.add(faults.RefuseTags(tags=tags))
    assert [result.was_successful for result in await remote.read(*NAMES, "T.x")] == [
        False,
        False,
        True,
    ]
    assert await remote.add(*NAMES) == [0, 0]
    for item in items:
        reply = await remote.invoke("write", item_handle=item, value=ARRAY)
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE


@by_either_name
async def test_an_array_has_a_quality_by_either_of_its_names(
    gateway: SimulatedGateway, remote: Remote, tags: str
) -> None:
    gateway.faults.add(faults.Quality(tags=tags, quality=64))
    assert [result.quality for result in await remote.read(*NAMES, "T.x")] == [64, 64, 192]


@by_either_name
async def test_writes_of_an_array_fail_by_either_of_its_names(
    gateway: SimulatedGateway, remote: Remote, tags: str
) -> None:
    gateway.faults.add(faults.FailWrites(tags=tags))
    for item in await remote.add(*NAMES):
        await remote.invoke("write", item_handle=item, value=ARRAY)
    (result,) = await remote.read("T.Arr[]")
    assert not result.value.HasField("array_value")


@by_either_name
@pytest.mark.parametrize("name", NAMES)
async def test_an_array_is_slow_by_either_of_its_names(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock, tags: str, name: str
) -> None:
    gateway.faults.add(faults.SlowTags(tags=tags, seconds=2))
    for command in ("read_bulk", "add_item_bulk"):
        began = clock.monotonic()
        await until_done(clock, remote.invoke(command, tag_addresses=[name]))
        assert clock.monotonic() - began == 2


@pytest.mark.parametrize(
    ("fields", "answers", "seconds"),
    [
        ({}, [True, True, True], 4.0),
        ({"timeout_ms": 2000}, [True, True, True], 4.0),
        ({"timeout_ms": 500}, [False, True, False], 1.0),
    ],
)
async def test_a_read_of_slow_tags_waits_for_each_as_long_as_it_was_told(  # noqa: PLR0917
    gateway: SimulatedGateway,
    remote: Remote,
    clock: VirtualClock,
    fields: dict[str, Any],
    answers: list[bool],
    seconds: float,
) -> None:
    gateway.faults.add(faults.SlowTags(tags="T.x", seconds=2))
    began = clock.monotonic()
    asked = remote.invoke("read_bulk", tag_addresses=["T.x", "T.y", "T.x"], **fields)
    results = (await until_done(clock, asked)).read_bulk.results
    assert clock.monotonic() - began == seconds
    assert [result.was_successful for result in results] == answers
    for result in results:
        assert result.was_successful or "500 ms" in result.error_message


async def test_a_slow_tag_and_a_late_value_take_their_time_one_after_the_other(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
) -> None:
    gateway.faults.add(faults.SlowTags(tags="T.x", seconds=2))
    gateway.faults.add(faults.LateFirstValue(seconds=3))
    for timeout, answered in ((5000, True), (4999, False)):
        asked = remote.invoke("read_bulk", tag_addresses=["T.x"], timeout_ms=timeout)
        (result,) = (await until_done(clock, asked)).read_bulk.results
        assert result.was_successful == answered
