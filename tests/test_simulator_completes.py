"""Write-completes of the simulated gateway: writes that it accepts and fails, over real gRPC."""

import math
from collections.abc import AsyncIterator

import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock
from mxfast.simulator.faults import FailWrites, fault_from_fields, fault_from_text
from tests.simulator_client import Peer, Remote, double, handles, sequences, take

COMPLETE = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE
CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE


@pytest.fixture
async def gateway(clock: VirtualClock) -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(update_interval=0, clock=clock) as running:
        yield running


@pytest.fixture
async def remote(gateway: SimulatedGateway) -> AsyncIterator[Remote]:
    async with Peer(gateway.endpoint) as peer:
        yield await peer.registered()


def outcome(event: pb.MxEvent) -> tuple[int, int, int]:
    (status,) = event.statuses
    return status.success, status.category, status.detail


OK = (1, pb.MX_STATUS_CATEGORY_OK, 0)
FAILED = (0, pb.MX_STATUS_CATEGORY_OPERATIONAL_ERROR, 902)


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_write_is_accepted_and_fails_and_changes_nothing(
    gateway: SimulatedGateway, remote: Remote, bulk: bool
) -> None:
    stream = await remote.stream()
    x, y = await remote.subscribe("A.x", "A.y")
    await take(stream, 2)
    fault = gateway.faults.add(FailWrites(tags="*.x", category="WARNING", detail=-7))
    if bulk:
        reply = await remote.write([x, y], [1.0, 2.0])
        assert [result.was_successful for result in reply.write_bulk.results] == [True, True]
    else:
        for item, number in ((x, 1.0), (y, 2.0)):
            reply = await remote.invoke("write", item_handle=item, value=double(number))
            assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    events = await take(stream, 3)
    told = {(event.family, event.item_handle): outcome(event) for event in events}
    assert told == {
        (COMPLETE, x): (0, pb.MX_STATUS_CATEGORY_WARNING, -7),
        (COMPLETE, y): OK,
        (CHANGE, y): OK,
    }
    failed = next(event.statuses[0] for event in events if outcome(event) != OK)
    assert (failed.raw_category, failed.raw_detected_by) == (2, 5)
    assert failed.diagnostic_text
    assert await remote.numbers("A.x", "A.y") == [0.0, 2.0]
    gateway.faults.remove(fault)
    await remote.write([x], [3.0])
    assert [outcome(event) for event in await take(stream, 2)] == [OK, OK]
    assert await remote.numbers("A.x") == [3.0]


async def test_the_completes_of_a_bulk_keep_its_order(
    gateway: SimulatedGateway, remote: Remote
) -> None:
    stream = await remote.stream()
    x, y = await remote.add("A.x", "A.y")
    gateway.faults.add(FailWrites(tags="A.x"))
    order = [x, x, y, x, y, y, x]
    await remote.write(order, range(7))
    events = await take(stream, 7)
    assert handles(events) == order
    assert [outcome(event) for event in events] == [FAILED if i == x else OK for i in order]
    assert sequences(events) == list(range(1, 8))
    # Replayed ones say the same.
    drained = (await remote.invoke("drain_events")).drain_events.events
    assert list(drained) == events


async def test_a_failed_write_records_no_user(gateway: SimulatedGateway, remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    await remote.invoke("advise_supervisory", item_handle=item)
    gateway.faults.add(FailWrites())
    await remote.invoke("write", item_handle=item, value=double(1.0), user_id=7)
    assert gateway.recorded_user("A.x") == 0


async def test_of_several_such_faults_the_first_counts(
    gateway: SimulatedGateway, remote: Remote
) -> None:
    stream = await remote.stream()
    items = await remote.add("A.x", "A.y")
    gateway.faults.add(FailWrites(tags="A.x", detail=1))
    gateway.faults.add(FailWrites(detail=2))
    await remote.write(items, [1.0, 1.0])
    assert [outcome(event)[2] for event in await take(stream, 2)] == [1, 2]


async def test_a_failure_can_come_late_or_never(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
) -> None:
    stream = await remote.stream()
    late, silent, good = await remote.add("A.late", "A.silent", "A.good")
    gateway.faults.add(FailWrites(tags="A.late", delay=2))
    gateway.faults.add(FailWrites(tags="A.silent", delay=math.inf))
    await remote.write([late, silent, good], [1.0] * 3)
    clock.advance(1.9)
    await remote.write([good], [2.0])
    clock.advance(0.1)
    await remote.write([good], [3.0])
    events = await take(stream, 4)
    assert handles(events) == [good, good, late, good]
    assert outcome(events[2]) == FAILED
    clock.advance(100)
    await remote.write([good], [4.0])
    assert handles(await take(stream, 1)) == [good]


def test_such_a_fault_in_text_and_fields():
    text = "fail-writes:tags=Tank*,category=SECURITY_ERROR,detail=3,delay=inf"
    fault = FailWrites(tags="Tank*", category="SECURITY_ERROR", detail=3, delay=math.inf)
    assert fault_from_text(text) == fault
    assert fault_from_fields("fail-writes", {"delay": 0.5}) == FailWrites(delay=0.5)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"category": "OK"}, r"category 'OK' is none of WARNING, COMMUNICATION_ERROR, .*"),
        ({"detail": 2**31}, "detail is 2147483648, not a 32-bit number"),
        ({"delay": -1.0}, r"delay is -1.0, not 0 or more seconds"),
        ({"delay": math.nan}, "delay is nan, not 0 or more seconds"),
    ],
)
def test_such_a_fault_that_cannot_be(fields, complaint):
    with pytest.raises(ValueError, match=f"^fail-writes: {complaint}$"):
        FailWrites(**fields)
