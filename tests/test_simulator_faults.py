"""Faults of the simulated gateway on request, over real gRPC."""

import asyncio
import json
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from mxfast import GalaxyRepositoryClient, GatewayClient
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import (
    DEFAULT_API_KEY,
    SimulatedGateway,
    SimulatedGatewayProcess,
    VirtualClock,
    faults,
)
from mxfast.simulator.connections import drop_connections
from mxfast.simulator.faults import FAULTS, Fault, fault_from_fields, fault_from_text
from tests.simulator_client import Peer, Remote, Stream, double, resume, sequences, take

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def gateway(clock: VirtualClock) -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(update_interval=0, clock=clock) as running:
        yield running


@pytest.fixture
async def peer(gateway: SimulatedGateway) -> AsyncIterator[Peer]:
    async with Peer(gateway.endpoint) as peer:
        yield peer


@pytest.fixture
async def remote(peer: Peer) -> Remote:
    return await peer.registered()


async def refused(attempt: Awaitable[Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt
    return caught.value.code()


async def end_of(stream: Stream) -> grpc.StatusCode:
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def after(clock: VirtualClock, seconds: float, attempt: Awaitable[Any]) -> Any:
    """Start a call, move the clock once the gateway waits for it, and return the answer."""
    task = asyncio.ensure_future(attempt)
    while not clock.waiting:  # noqa: ASYNC110 - the clock has no event for it
        await asyncio.sleep(0.001)
    assert not task.done()
    clock.advance(seconds)
    return await task


async def delayed(clock: VirtualClock, remote: Remote, count: int) -> "list[asyncio.Task[Any]]":
    """Start so many calls at once, and wait until the gateway delays them all."""
    pings = [asyncio.create_task(remote.invoke("ping")) for _ in range(count)]
    while clock.waiting < count:  # noqa: ASYNC110 - the clock has no event for it
        await asyncio.sleep(0.001)
    return pings


# Calls


async def test_latency_delays_each_call(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    fault = gateway.faults.add(faults.Latency(seconds=2, jitter=1, method="Invoke"))
    await after(clock, 3, remote.invoke("ping"))
    gateway.faults.remove(fault)
    await remote.invoke("ping")


async def test_jitter_differs_from_call_to_call(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    gateway.faults.add(faults.Latency(seconds=1, jitter=1))
    pings = await delayed(clock, remote, 20)
    clock.advance(1.0)
    assert clock.waiting == 20
    clock.advance(0.5)
    assert 0 < clock.waiting < 20
    clock.advance(0.5)
    await asyncio.gather(*pings)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (faults.RefuseCalls(code="UNAVAILABLE", times=1), UNAVAILABLE),
        (faults.HandshakeWorker(times=1), grpc.StatusCode.FAILED_PRECONDITION),
        (faults.ExpireKey(times=1), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_calls_that_are_delayed_together_wear_a_fault_off_once(
    gateway: SimulatedGateway,
    remote: Remote,
    clock: VirtualClock,
    fault: Fault,
    code: grpc.StatusCode,
):
    slow = gateway.faults.add(faults.Latency(seconds=1))
    gateway.faults.add(fault)
    pings = await delayed(clock, remote, 3)
    clock.advance(1)
    ends = await asyncio.gather(*pings, return_exceptions=True)
    refusals = [end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert refusals == [code]
    assert list(gateway.faults) == [slow]


async def test_faults_that_end_while_a_call_is_delayed_do_not_strike_it(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    gateway.faults.add(faults.Latency(seconds=1, times=2))
    gateway.faults.add(faults.RefuseCalls(times=2))
    pings = await delayed(clock, remote, 2)
    gateway.faults.clear()
    gateway.faults.add(faults.RefuseCalls(times=2))  # an equal one, but it began later
    clock.advance(1)
    await asyncio.gather(*pings)
    assert await refused(remote.invoke("ping")) == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"])
async def test_calls_are_refused_with_a_status_and_so_often(
    gateway: SimulatedGateway, remote: Remote, code: str
):
    gateway.faults.add(faults.RefuseCalls(code=code, method="Invoke", times=2))
    for _ in range(2):
        assert await refused(remote.invoke("ping")) == grpc.StatusCode[code]
    await remote.invoke("ping")
    assert list(gateway.faults) == []


async def test_a_worker_is_not_ready_for_a_moment(gateway: SimulatedGateway, remote: Remote):
    gateway.faults.add(faults.HandshakeWorker(times=1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await remote.invoke("ping")
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "Session state is Ready; worker state is Handshaking" in str(caught.value.details())
    await remote.invoke("ping")


async def test_a_key_expires_for_calls_and_streams_and_is_renewed(
    gateway: SimulatedGateway, remote: Remote
):
    gateway.faults.add(faults.ExpireKey(key="mxgw_other_1"))
    await remote.invoke("ping")
    gateway.faults.add(faults.ExpireKey(key=DEFAULT_API_KEY))
    for attempt in (remote.invoke("ping"), remote.first_event(), remote.peer.open()):
        assert await refused(attempt) == grpc.StatusCode.UNAUTHENTICATED
    gateway.faults.clear()
    await remote.invoke("ping")


@pytest.mark.parametrize("form", ["garbage", "empty", "no-payload"])
async def test_a_reply_is_malformed(gateway: SimulatedGateway, remote: Remote, form: str):
    gateway.faults.add(faults.MalformedReply(command="register", form=form, times=1))
    await remote.invoke("ping")
    if form == "garbage":
        with pytest.raises(DecodeError):
            await remote.invoke("register")
    else:
        reply = await remote.invoke("register")
        assert not reply.HasField("register")
        assert (reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK) == (form == "no-payload")
    assert (await remote.invoke("register")).register.server_handle > 0


async def test_the_replies_to_all_commands_are_malformed(gateway: SimulatedGateway, peer: Peer):
    gateway.faults.add(faults.MalformedReply(command="Invoke"))
    remote = await peer.open()
    for attempt in (remote.invoke("ping"), remote.write([1], [1.0])):
        with pytest.raises(DecodeError):
            await attempt


async def test_the_reply_to_open_session_lacks_its_id(gateway: SimulatedGateway, peer: Peer):
    gateway.faults.add(faults.MalformedReply(command="OpenSession", form="no-payload"))
    assert (await peer.open()).session_id == ""


async def test_a_reply_of_the_galaxy_is_malformed(gateway: SimulatedGateway, peer: Peer):
    connecting: Any = peer.channel.unary_unary(
        "/galaxy_repository.v1.GalaxyRepository/TestConnection"
    )
    assert await connecting(b"", metadata=peer.metadata)
    gateway.faults.add(faults.MalformedReply(command="TestConnection", form="no-payload"))
    assert await connecting(b"", metadata=peer.metadata) == b""


# Tags


async def test_single_tags_are_refused(gateway: SimulatedGateway, remote: Remote):
    x, y = await remote.add("A.x", "A.y")
    gateway.faults.add(faults.RefuseTags(tags="*.x", detail=77))
    reply = await remote.write([x, y], [1.0, 1.0])
    bad, good = reply.write_bulk.results
    assert (bad.was_successful, good.was_successful) == (False, True)
    assert bad.statuses[0].detail == 77
    assert bad.statuses[0].category == pb.MX_STATUS_CATEGORY_OPERATIONAL_ERROR
    single = await remote.invoke("write", item_handle=x, value=double(1.0))
    assert single.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
    assert await remote.add("A.x", "A.z") == [0, y + 1]
    assert [result.was_successful for result in await remote.read("A.x", "A.y")] == [False, True]
    gateway.faults.clear()
    assert (await remote.write([x], [2.0])).write_bulk.results[0].was_successful


async def test_a_slow_tag_holds_up_its_session_and_no_other(
    gateway: SimulatedGateway, peer: Peer, remote: Remote, clock: VirtualClock
):
    other = await peer.registered()
    x, y = await remote.add("A.x", "A.y")
    gateway.faults.add(faults.SlowTags(tags="A.x", seconds=5))
    slow = asyncio.ensure_future(remote.write([x, x], [1.0, 2.0]))
    while not clock.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    behind = asyncio.ensure_future(remote.write([y], [3.0]))
    await other.write(await other.add("A.z"), [4.0])
    clock.advance(9.9)
    assert await other.numbers("A.y", "A.z") == [0.0, 4.0]
    assert not slow.done()
    clock.advance(0.1)
    await slow
    await behind
    assert await other.numbers("A.y") == [3.0]


@pytest.mark.parametrize("quality", [0, 64])
async def test_tags_become_bad_or_uncertain_and_good_again(
    gateway: SimulatedGateway, remote: Remote, quality: int
):
    stream = await remote.stream()
    x, y = await remote.subscribe("A.x", "A.y")
    await take(stream, 2)
    fault = gateway.faults.add(faults.Quality(tags="A.x", quality=quality))
    (event,) = await take(stream, 1)
    assert (event.item_handle, event.quality, event.value) == (x, quality, double(0.0))
    assert [result.quality for result in await remote.read("A.x", "A.y")] == [quality, 192]
    await remote.write([x, y], [1.0, 1.0])
    changes = [event for event in await take(stream, 4) if event.HasField("value")]
    assert [event.quality for event in changes] == [quality, 192]
    gateway.faults.remove(fault)
    (event,) = await take(stream, 1)
    assert (event.item_handle, event.quality, event.value) == (x, 192, double(1.0))


async def test_a_first_value_comes_late_and_until_then_no_write_is_taken(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    gateway.faults.add(faults.LateFirstValue(seconds=3, longest=8))
    stream = await remote.stream()
    (item,) = await remote.subscribe("A.x")
    for _ in range(2):
        (result,) = (await remote.write([item], [1.0])).write_bulk.results
        assert not result.was_successful
        assert "does not fall within the expected range" in result.error_message
        clock.advance(1.4)
    clock.advance(5.2)
    assert (await take(stream, 1))[0].item_handle == item
    (result,) = (await remote.write([item], [1.0])).write_bulk.results
    assert result.was_successful


async def test_a_read_waits_for_a_late_first_value_or_gives_up(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    gateway.faults.add(faults.LateFirstValue(seconds=3, longest=3))
    reply = await after(clock, 6, remote.invoke("read_bulk", tag_addresses=["A.x", "A.y"]))
    assert [result.was_successful for result in reply.read_bulk.results] == [True, True]
    asked = remote.invoke("read_bulk", tag_addresses=["A.x"], timeout_ms=500)
    (result,) = (await after(clock, 0.5, asked)).read_bulk.results
    assert not result.was_successful
    assert "500 ms" in result.error_message


async def test_an_item_that_is_advised_and_has_no_value_yet_is_not_cached(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    fault = gateway.faults.add(faults.LateFirstValue())
    await remote.subscribe("A.x")
    gateway.faults.remove(fault)
    assert [result.was_cached for result in await remote.read("A.x")] == [False]
    clock.advance(8)
    assert [result.was_cached for result in await remote.read("A.x")] == [True]


# Streams


async def test_connections_drop_and_the_gateway_listens_on(
    gateway: SimulatedGateway, remote: Remote
):
    stream = await remote.stream()
    gateway.faults.add(faults.DropConnections())
    assert await end_of(stream) == UNAVAILABLE
    async with Peer(gateway.endpoint) as again:
        there = Remote(again, remote.session_id)
        await there.invoke("ping")


def test_dropping_connections_leaves_no_file_open_and_others_alone():
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("", 0)) as other:
        calls = [socket.create_connection(each.getsockname()) for each in (ours, other)]
        answers = [each.accept()[0] for each in (ours, other)]
        before = set(os.listdir("/dev/fd"))
        drop_connections(ours.getsockname()[1])
        assert set(os.listdir("/dev/fd")) <= before
        assert calls[0].recv(1) == b""
        answers[1].send(b"x")
        assert calls[1].recv(1) == b"x"
        socket.create_connection(ours.getsockname()).close()  # it listens on
        for each in calls + answers:
            each.close()


async def test_a_stream_is_cut_and_its_session_goes_on(gateway: SimulatedGateway, remote: Remote):
    stream = await remote.stream()
    (item,) = await remote.subscribe("A.x")
    await take(stream, 1)
    gateway.faults.add(faults.CutStreams(session="session-other"))
    await remote.write([item], [1.0])
    await take(stream, 2)
    gateway.faults.add(faults.CutStreams(session=remote.session_id))
    assert await end_of(stream) == UNAVAILABLE
    await remote.write([item], [2.0])
    _, events = await resume(remote, 3, 2)
    assert sequences(events) == [4, 5]


async def test_a_stream_is_cut_after_so_many_events_once(gateway: SimulatedGateway, remote: Remote):
    gateway.faults.add(faults.CutAfter(events=3))
    (item,) = await remote.add("A.x")
    stream = await remote.stream()
    await remote.write([item] * 5, range(5))
    assert sequences(await take(stream, 3)) == [1, 2, 3]
    assert await end_of(stream) == UNAVAILABLE
    _, events = await resume(remote, 3, 2)
    assert sequences(events) == [4, 5]


async def test_a_fault_can_strike_later(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    stream = await remote.stream()
    gateway.faults.add(faults.CutStreams(after=60))
    clock.advance(59)
    await remote.write(await remote.add("A.x"), [1.0])
    await take(stream, 1)
    clock.advance(1)
    assert await end_of(stream) == UNAVAILABLE


@pytest.mark.parametrize("equal", [False, True])
async def test_a_strike_is_taken_back(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock, equal: bool
):
    lasting = gateway.faults.add(faults.RefuseTags(tags="A.x"))
    late, later = faults.CrashWorker(after=60), faults.CrashWorker(after=60 if equal else 120)
    gateway.faults.add(late)
    gateway.faults.add(later)
    assert list(gateway.faults) == [lasting, late, later]
    gateway.faults.remove(late)
    assert [id(each) for each in gateway.faults] == [id(lasting), id(later)]
    clock.advance(59.9)
    gateway.faults.remove(later)
    clock.advance(61)
    assert (await remote.invoke("ping")).protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert list(gateway.faults) == [lasting]


async def test_a_strike_that_waits_twice_strikes_twice(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    cut = faults.CutStreams(after=60)
    gateway.faults.add(cut)
    clock.advance(30)
    gateway.faults.add(cut)
    for seconds, left in ((30, [cut]), (30, [])):
        stream = await remote.stream()
        clock.advance(seconds)
        assert await end_of(stream) == UNAVAILABLE
        assert list(gateway.faults) == left
    with pytest.raises(ValueError, match="no fault"):
        gateway.faults.remove(cut)


async def test_clearing_takes_strikes_back(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    gateway.faults.add(faults.CrashWorker(after=60))
    gateway.faults.clear()
    clock.advance(61)
    assert (await remote.invoke("ping")).protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert list(gateway.faults) == []


async def test_a_worker_crashes(gateway: SimulatedGateway, peer: Peer, remote: Remote):
    other = await peer.registered()
    stream = await remote.stream()
    (item,) = await remote.add("A.x")
    gateway.faults.add(faults.CrashWorker(session=remote.session_id))
    assert await end_of(stream) == UNAVAILABLE
    for reply in (await remote.invoke("ping"), await remote.write([item], [1.0])):
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE
    assert await refused(remote.first_event()) == UNAVAILABLE
    assert await other.numbers("A.x") == [0.0]
    assert (await remote.close()).final_state == pb.SESSION_STATE_CLOSED


async def test_a_worker_crashes_under_a_command(
    gateway: SimulatedGateway, remote: Remote, clock: VirtualClock
):
    (item,) = await remote.add("A.x")
    gateway.faults.add(faults.SlowTags())
    pending = asyncio.ensure_future(remote.write([item], [1.0]))
    while not clock.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    gateway.faults.add(faults.CrashWorker())
    reply = await pending
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE


@pytest.mark.parametrize(
    ("policy", "subscribers", "is_faulted"),
    [("FailFast", 1, True), ("FailFast", 2, False), ("DisconnectSubscriber", 1, False)],
)
async def test_a_queue_overflows_by_the_gateways_policy(
    policy: Any, subscribers: int, is_faulted: bool
):
    async with (
        SimulatedGateway(overflow_policy=policy, max_event_subscribers=subscribers) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote = await peer.registered()
        stream = await remote.stream()
        gateway.faults.add(faults.OverflowQueues())
        assert await end_of(stream) == grpc.StatusCode.RESOURCE_EXHAUSTED
        if is_faulted:
            assert await refused(remote.invoke("ping")) == grpc.StatusCode.FAILED_PRECONDITION
        else:
            await remote.invoke("ping")
            await remote.stream()


@pytest.mark.parametrize("seen", [2, 5])
async def test_a_resumed_stream_finds_a_gap(gateway: SimulatedGateway, remote: Remote, seen: int):
    (item,) = await remote.add("A.x")
    await remote.write([item] * 5, range(5))
    gateway.faults.add(faults.ReplayGap(lost=3))
    stream = await remote.stream(after=seen)
    (sentinel,) = await take(stream, 1)
    gap = sentinel.replay_gap
    assert gap.requested_after_sequence == seen
    assert gap.oldest_available_sequence == max(6, seen + 4)
    await remote.write([item], [9.0])
    assert sequences(await take(stream, 1)) == [gap.oldest_available_sequence]


async def test_sequences_are_doubled_and_missing(gateway: SimulatedGateway, remote: Remote):
    gateway.faults.add(faults.DuplicateEvents(every=3, times=1))
    gateway.faults.add(faults.MissingEvents(every=4))
    (item,) = await remote.add("A.x")
    stream = await remote.stream()
    await remote.write([item] * 9, range(9))
    assert sequences(await take(stream, 8)) == [1, 2, 3, 3, 5, 6, 7, 9]


# Alarms and deploys


async def test_alarms_are_raised_and_cleared(gateway: SimulatedGateway, clock: VirtualClock):
    async with await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
    ) as client:
        feed = client.stream_alarms()
        assert (await anext(feed)).snapshot_complete
        told: dict[str, Any] = {
            "severity": 700,
            "alarm_type": "Hi",
            "category": "Level",
            "description": "too full, by far",
        }
        gateway.faults.add(faults.RaiseAlarm(reference="Tank1.Level.Hi", **told))
        gateway.faults.add(faults.RaiseAlarm(reference="Pump1.Run.Fault", after=60))
        gateway.faults.add(faults.ClearAlarm(reference="Tank2.*"))
        raised = (await anext(feed)).transition
        assert raised.transition_kind == pb.ALARM_TRANSITION_KIND_RAISE
        assert raised.alarm_full_reference == "Tank1.Level.Hi"
        assert told == {
            "severity": raised.severity,
            "alarm_type": raised.alarm_type_name,
            "category": raised.category,
            "description": raised.description,
        }
        clock.advance(60)
        raised = (await anext(feed)).transition
        assert (raised.alarm_full_reference, raised.severity) == ("Pump1.Run.Fault", 500)
        gateway.faults.add(faults.ClearAlarm(reference="Tank?.*"))
        cleared = (await anext(feed)).transition
        assert cleared.transition_kind == pb.ALARM_TRANSITION_KIND_CLEAR
        assert cleared.alarm_full_reference == "Tank1.Level.Hi"
        assert gateway.alarms.is_active("Pump1.Run.Fault")
        gateway.faults.add(faults.ClearAlarm())
        assert not gateway.alarms.is_active("Pump1.Run.Fault")
        await feed.aclose()


async def test_a_process_of_its_own_is_told_of_alarms_and_a_deploy_by_its_file(tmp_path: Path):
    path = tmp_path / "faults.json"
    path.write_text('["raise-alarm:reference=Tank1.Level.Hi"]')
    async with SimulatedGatewayProcess(fault_file=path) as gateway:
        connection: dict[str, Any] = {
            "endpoint": gateway.endpoint,
            "api_key": gateway.api_key,
            "plaintext": True,
        }
        async with (
            await GatewayClient.connect(**connection) as client,
            await GalaxyRepositoryClient.connect(**connection) as galaxy,
            client.stream_alarms() as feed,
            galaxy.watch_deploy_events() as deploys,
        ):
            assert (await anext(feed)).active_alarm.alarm_full_reference == "Tank1.Level.Hi"
            assert (await anext(feed)).snapshot_complete
            before = await anext(deploys)
            path.write_text('["deploy", "clear-alarm"]')
            cleared = (await anext(feed)).transition
            assert cleared.transition_kind == pb.ALARM_TRANSITION_KIND_CLEAR
            assert (await anext(deploys)).sequence == before.sequence + 1


# How faults are named


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_a_text(name: str):
    needed = {"reference": "A.x.Hi"} if name == "raise-alarm" else {}
    fault = fault_from_text(":".join((name, *(f"{key}={value}" for key, value in needed.items()))))
    assert fault.name() == name
    assert fault == fault_from_fields(name, needed)


def test_a_text_gives_the_fields():
    assert fault_from_text("latency:seconds=0.2, jitter=1,method=Invoke") == faults.Latency(
        seconds=0.2, jitter=1.0, method="Invoke"
    )
    assert fault_from_text("refuse-tags:tags=Tank*.Level,detail=3") == faults.RefuseTags(
        tags="Tank*.Level", detail=3
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latncy", "latncy"),
        ("latency:second=1", "second"),
        ("latency:seconds", "field=value"),
        ("latency:seconds=soon", "soon"),
        ("latency:seconds=nan", "seconds"),
        ("latency:seconds=-1", "seconds"),
        ("refuse-calls:code=OK", "OK"),
        ("quality:quality=256", "256"),
        ("cut-after:events=0", "events"),
        ("malformed-reply:form=odd", "odd"),
        ("malformed-reply:command=writebulk", "command is 'writebulk', none of write_bulk, "),
        ("malformed-reply:command=StreamEvents", "'StreamEvents', none of .*, Invoke"),
        ("malformed-reply:command=opensession", "'opensession', none of OpenSession"),
        ("latency:method=invoke,seconds=1", "latency: method is 'invoke', none of Invoke$"),
        ("latency:method=xyz", "'xyz', none of OpenSession, .*, TestConnection, "),
        ("refuse-calls:method=WriteBulk", "refuse-calls: method is 'WriteBulk', none of"),
        ("latency:times=-1", "times"),
        ("raise-alarm:severity=700", "raise-alarm: which alarm"),
        ("raise-alarm:reference=A.x.Hi,severity=-1", "severity is -1, not 0 to"),
        ("raise-alarm:reference=A.x.Hi,severity=2147483648", "severity is 2147483648"),
    ],
)
def test_a_text_that_names_no_fault_is_refused(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        fault_from_text(text)
    with pytest.raises(ValueError, match=said):
        SimulatedGateway(initial_faults=[text])


KEY = "mxgw_a_TOPSECRET"


def test_no_repr_shows_a_key():
    assert "TOPSECRET" not in repr(faults.ExpireKey(key=KEY))


@pytest.mark.parametrize(
    "entry",
    [
        f"expire-key:{KEY}",
        f"expire-key={KEY}",
        f"expire-key {KEY}",
        f"expire_key:key={KEY}",
        f"expire-key:{KEY}=1",
        f"expire-key:key={KEY},times=-1",
        f"expire-key:times={KEY}",
        KEY,
        {"fault": "expire-key", "keys": KEY},
        {"fault": "expire-key", KEY: 1},
        {"fault": "expire-key", "times": KEY},
        {"fault": f"expire-key:key={KEY}"},
        {"falt": "expire-key", "key": KEY},
        ["expire-key", KEY],
    ],
)
async def test_no_error_shows_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: Any):
    path = tmp_path / "faults.json"
    path.write_text(json.dumps(["latency", entry]))
    with pytest.raises(ValueError, match=r"faults\.json, entry 2: ") as caught:
        await SimulatedGateway(fault_file=path).__aenter__()
    shown = "".join(traceback.format_exception(caught.value))
    if isinstance(entry, str):
        with pytest.raises(ValueError, match="expire-key") as caught:
            SimulatedGateway(initial_faults=[entry])
        shown += "".join(traceback.format_exception(caught.value))
    path.unlink()
    async with SimulatedGateway(fault_file=path):
        path.write_text(json.dumps([entry]))
        async with asyncio.timeout(30):
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert "faults stay as they are" in caplog.text
    assert "TOPSECRET" not in shown + caplog.text


def test_an_action_needs_a_gateway_that_runs():
    with pytest.raises(RuntimeError, match="crash-worker"):
        SimulatedGateway().faults.add(faults.CrashWorker())


def test_a_fault_is_removed_once():
    gateway = SimulatedGateway()
    fault = gateway.faults.add(faults.Latency(seconds=1))
    gateway.faults.remove(fault)
    with pytest.raises(ValueError, match="no fault"):
        gateway.faults.remove(fault)


async def test_a_gateway_begins_with_faults():
    async with (
        SimulatedGateway(initial_faults=["refuse-tags:tags=A.x"]) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        assert await (await peer.registered()).add("A.x", "A.y") == [0, 1]


# The file


async def has(gateway: SimulatedGateway, *expected: Fault) -> None:
    """Wait until these are the gateway's faults."""
    async with asyncio.timeout(30):
        while list(gateway.faults) != list(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_file_says_which_faults_there_are_while_the_gateway_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "faults.json"
    path.write_text('["latency:seconds=0"]')
    async with SimulatedGateway(fault_file=str(path)) as gateway, Peer(gateway.endpoint) as peer:
        assert list(gateway.faults) == [faults.Latency()]
        own = gateway.faults.add(faults.RefuseTags(tags="A.own"))
        path.write_text(json.dumps([{"fault": "quality", "tags": "A.x", "quality": 64}]))
        await has(gateway, own, faults.Quality(tags="A.x", quality=64))
        path.write_text("[")
        async with asyncio.timeout(30):
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "faults.json" in caplog.text
        await has(gateway, own, faults.Quality(tags="A.x", quality=64))
        remote = await peer.registered()
        stream = await remote.stream()
        path.write_text('["cut-streams"]')
        assert await end_of(stream) == UNAVAILABLE
        await has(gateway, own)
        path.unlink()
        await has(gateway, own)


async def test_what_a_file_has_strike_at_the_start_strikes(tmp_path: Path):
    path = tmp_path / "faults.json"
    path.write_text('["drop-connections", {"fault": "cut-streams", "after": 60}]')
    clock = VirtualClock()
    async with (
        SimulatedGateway(fault_file=str(path), clock=clock) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        stream = await (await peer.registered()).stream()
        clock.advance(60)
        assert await end_of(stream) == UNAVAILABLE


async def test_a_strike_that_a_file_holds_no_longer_is_taken_back(tmp_path: Path):
    path = tmp_path / "faults.json"
    path.write_text('["crash-worker:after=60", "cut-streams:after=60"]')
    clock = VirtualClock()
    async with (
        SimulatedGateway(fault_file=str(path), clock=clock) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote = await peer.registered()
        path.write_text('["cut-streams:after=60"]')
        await has(gateway, faults.CutStreams(after=60))
        clock.advance(60)
        assert (await remote.invoke("ping")).protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
        assert list(gateway.faults) == []


@pytest.mark.parametrize("text", ["{", '{"fault": "latency"}', '["nothing"]', "[1]"])
async def test_a_file_that_says_nothing_sensible_is_an_error_at_the_start(
    tmp_path: Path, text: str
):
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="fault"):
        await SimulatedGateway(fault_file=str(path)).__aenter__()
