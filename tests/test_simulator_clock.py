"""The time of the simulated gateway."""

import asyncio

import pytest

from mxfast.simulator import SimulatedGateway, VirtualClock
from mxfast.simulator.clock import Clock
from tests.simulator_client import Peer, take


def test_a_virtual_clock_goes_on_only_when_told():
    clock = VirtualClock(start=1000)
    assert (clock.time_ns(), clock.monotonic()) == (10**12, 1000.0)
    clock.advance(0.5)
    assert (clock.time_ns(), clock.monotonic()) == (1_000_500_000_000, 1000.5)


def test_what_falls_due_happens_at_its_moment_and_in_order():
    clock = VirtualClock(start=0)
    happened = []
    clock.call_later(2, lambda: happened.append(("later", clock.monotonic())))
    clock.call_later(1, lambda: happened.append(("sooner", clock.monotonic())))
    clock.call_later(1.5, lambda: happened.append(("never", clock.monotonic()))).cancel()
    clock.advance(1.9)
    assert happened == [("sooner", 1.0)]
    clock.advance(0.1)
    assert happened == [("sooner", 1.0), ("later", 2.0)]


def test_a_repeated_call_is_made_each_time_that_an_advance_passes():
    clock = VirtualClock(start=0)
    moments = []
    timer = clock.every(10, lambda: moments.append(clock.monotonic()))
    clock.advance(35)
    assert moments == [10.0, 20.0, 30.0]
    timer.cancel()
    clock.advance(35)
    assert len(moments) == 3


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_time_does_not_go_back(seconds: float):
    with pytest.raises(ValueError, match="seconds"):
        VirtualClock().advance(seconds)


@pytest.mark.parametrize("clock", [Clock(), VirtualClock()])
async def test_a_sleeper_is_woken(clock: Clock):
    sleeping = asyncio.create_task(clock.sleep(0.01))
    await asyncio.sleep(0)
    if isinstance(clock, VirtualClock):
        assert not sleeping.done()
        clock.advance(0.01)
    await sleeping


async def test_a_gateway_publishes_by_its_own_clock():
    clock = VirtualClock(start=1_700_000_000)
    async with SimulatedGateway(clock=clock) as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        stream = await remote.stream()
        (item,) = await remote.subscribe("A.x")
        (first,) = await take(stream, 1)
        assert first.worker_timestamp.seconds == 1_700_000_000
        for number in range(5):
            await remote.write([item], [number])
        clock.advance(0.1)
        completes_and_change = await take(stream, 6)
        assert completes_and_change[-1].value.double_value == 4.0
        assert completes_and_change[-1].worker_timestamp.nanos == 100_000_000
