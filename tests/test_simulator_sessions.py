"""How long sessions live, what they have room for, and the three eras, over real gRPC."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock, faults
from mxfast.simulator.events import EventLog, EventRules
from mxfast.simulator.session import Session
from tests.simulator_client import Peer, Remote, Stream, double, sequences, take

Code = grpc.StatusCode


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[SimulatedGateway, Peer, VirtualClock]]:
    """A gateway where every write is a data change of its own, and time stands still."""
    clock = VirtualClock()
    async with (
        SimulatedGateway(clock=clock, **{"update_interval": 0, **options}) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        yield gateway, peer, clock


async def refusal(attempt: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt
    return caught.value.code(), caught.value.details() or ""


async def end_of(stream: Stream) -> grpc.StatusCode:
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the gateway tells nobody
            await asyncio.sleep(0.001)


async def leave(gateway: SimulatedGateway, stream: Stream) -> None:
    """End a stream, and wait until the gateway knows."""
    left = gateway.event_streams - 1
    stream.cancel()
    await until(lambda: gateway.event_streams == left)


# Lease and detach grace


async def test_a_session_without_activity_is_closed_when_its_lease_is_over():
    async with running() as (_, peer, clock):
        remote = await peer.open()
        clock.advance(1700)
        await remote.invoke("ping")  # renews it
        clock.advance(1799)
        await remote.invoke("ping")
        clock.advance(1830)
        code, details = await refusal(remote.invoke("ping"))
        assert code == Code.FAILED_PRECONDITION
        assert "Closed (lease-expired)" in details
        assert (await remote.close()).final_state == pb.SESSION_STATE_CLOSED


async def test_an_event_stream_keeps_its_session():
    async with running() as (_, peer, clock):
        remote = await peer.open()
        stream = await remote.stream()
        clock.advance(10_000)
        await remote.invoke("ping")
        stream.cancel()


async def detached(gateway: SimulatedGateway, peer: Peer) -> Remote:
    """Return a session whose stream has ended."""
    remote = await peer.registered()
    await leave(gateway, await remote.stream())
    return remote


async def test_a_session_whose_stream_ended_is_closed_after_the_grace():
    async with running() as (gateway, peer, clock):
        remote = await detached(gateway, peer)
        clock.advance(29)
        await remote.invoke("ping")  # this alone does not keep it
        clock.advance(31)
        code, details = await refusal(remote.invoke("ping"))
        assert code == Code.FAILED_PRECONDITION
        assert "detach-grace-expired" in details


async def test_attaching_again_within_the_grace_keeps_the_session():
    async with running() as (gateway, peer, clock):
        remote = await detached(gateway, peer)
        clock.advance(20)
        stream = await remote.stream()
        clock.advance(600)
        await remote.invoke("ping")
        stream.cancel()


@pytest.mark.parametrize("options", [{"era": 1}, {"detach_grace": 0}])
async def test_without_a_grace_a_session_lives_as_long_as_its_lease(options: dict[str, Any]):
    async with running(**options) as (gateway, peer, clock):
        remote = await detached(gateway, peer)
        clock.advance(1000)
        await remote.invoke("register")


# Commands that take time


async def test_a_hundred_and_twenty_eight_commands_may_be_pending():
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        gateway.faults.add(faults.SlowTags(seconds=0.1))
        writes = [asyncio.ensure_future(remote.write([item], [n])) for n in range(128)]
        await until(lambda: clock.waiting == 129)  # the one at work, and everyone's timeout
        code, details = await refusal(remote.write([item], [0.0]))
        assert code == Code.RESOURCE_EXHAUSTED
        assert "128" in details
        gateway.faults.clear()
        while not writes[-1].done():
            clock.advance(0.1)
            await asyncio.sleep(0.001)
        await asyncio.gather(*writes)
        assert await remote.numbers("A.x") == [127.0]


async def test_a_command_that_takes_too_long_ends_its_call_and_goes_on():
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        slow = gateway.faults.add(faults.SlowTags(seconds=40))
        write = asyncio.ensure_future(remote.write([item], [5.0]))
        await until(lambda: clock.waiting == 2)
        clock.advance(30)
        code, details = await refusal(write)
        assert code == Code.DEADLINE_EXCEEDED
        assert "30 s" in details
        gateway.faults.remove(slow)
        clock.advance(10)
        assert await remote.numbers("A.x") == [5.0]


async def test_a_command_that_never_ends_costs_the_session_its_worker():
    async with running(command_timeout=1000) as (gateway, peer, clock):
        remote = await peer.registered()
        stream = await remote.stream()
        (item,) = await remote.add("A.x")
        gateway.faults.add(faults.SlowTags(seconds=100))
        writes = [asyncio.ensure_future(remote.write([item], [n])) for n in range(2)]
        await until(lambda: clock.waiting == 3)
        clock.advance(74)
        await asyncio.sleep(0)
        assert not writes[0].done()
        clock.advance(1)
        for reply in await asyncio.gather(*writes):
            assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE
        assert await end_of(stream) == Code.UNAVAILABLE


async def test_a_caller_that_gives_up_does_not_stop_the_command():
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        slow = gateway.faults.add(faults.SlowTags(seconds=1))
        write = asyncio.ensure_future(remote.write([item], [5.0]))
        await until(lambda: clock.waiting == 2)
        write.cancel()
        await until(lambda: clock.waiting == 1)
        gateway.faults.remove(slow)
        clock.advance(1)
        assert await remote.numbers("A.x") == [5.0]


async def test_a_session_can_have_a_timeout_of_its_own():
    async with running(command_timeout=12) as (gateway, peer, clock):
        plain = pb.OpenSessionReply.FromString(await peer.raw("OpenSession", b""))
        assert plain.default_command_timeout.seconds == 12
        request = pb.OpenSessionRequest()
        request.command_timeout.FromMilliseconds(1500)
        data = await peer.raw("OpenSession", request.SerializeToString())
        reply = pb.OpenSessionReply.FromString(data)
        assert reply.default_command_timeout.ToMilliseconds() == 1500
        remote = Remote(peer, reply.session_id)
        gateway.faults.add(faults.LateFirstValue(seconds=3))
        remote.server = (await remote.invoke("register")).register.server_handle
        read = asyncio.ensure_future(remote.read("A.x"))
        await until(lambda: clock.waiting == 2)
        clock.advance(1.5)
        assert (await refusal(read))[0] == Code.DEADLINE_EXCEEDED


async def test_a_command_that_waits_its_turn_can_end_the_worker():
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        slow = gateway.faults.add(faults.SlowTags(seconds=1))
        first = asyncio.ensure_future(remote.write([item], [5.0]))
        await until(lambda: clock.waiting == 2)
        shutdown = asyncio.ensure_future(remote.invoke("shutdown_worker"))
        await until(lambda: clock.waiting == 3)
        last = asyncio.ensure_future(remote.write([item], [6.0]))
        await until(lambda: clock.waiting == 4)
        gateway.faults.remove(slow)
        clock.advance(1)
        replies = await asyncio.gather(first, shutdown, last)
        assert [reply.protocol_status.code for reply in replies] == [
            pb.PROTOCOL_STATUS_CODE_OK,
            pb.PROTOCOL_STATUS_CODE_OK,
            pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE,
        ]


@pytest.mark.parametrize("seconds", [315_576_000_001, 10**14, 2**62, -(2**62)])
async def test_a_timeout_that_is_no_duration_opens_no_session(seconds: int):
    async with running() as (gateway, peer, _):
        request = pb.OpenSessionRequest()
        request.command_timeout.seconds = seconds
        code, details = await refusal(peer.raw("OpenSession", request.SerializeToString()))
        assert code == Code.INVALID_ARGUMENT
        assert f"command_timeout is {seconds:g} s" in details
        assert gateway.open_sessions == 0


async def test_a_session_can_have_the_longest_timeout():
    async with running() as (_, peer, _):
        request = pb.OpenSessionRequest()
        request.command_timeout.seconds = 315_576_000_000
        data = await peer.raw("OpenSession", request.SerializeToString())
        reply = pb.OpenSessionReply.FromString(data)
        assert reply.default_command_timeout == request.command_timeout


async def test_closing_a_session_ends_what_is_pending():
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        gateway.faults.add(faults.SlowTags(seconds=1))
        write = asyncio.ensure_future(remote.write([item], [5.0]))
        await until(lambda: clock.waiting == 2)
        await remote.close()
        assert (await refusal(write))[0] == Code.FAILED_PRECONDITION


async def test_a_gateway_that_stops_leaves_no_command_behind():
    before = asyncio.all_tasks()
    async with running() as (gateway, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        gateway.faults.add(faults.SlowTags(seconds=1))
        write = asyncio.ensure_future(remote.write([item], [5.0]))
        await until(lambda: clock.waiting == 2)
        await gateway.__aexit__(None, None, None)
        with pytest.raises(grpc.aio.AioRpcError):
            await write
    await until(lambda: not asyncio.all_tasks() - before)


async def test_a_gateway_that_fails_says_so_and_lives_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(self: Session) -> int:
        raise ZeroDivisionError("within")

    async with running() as (_, peer, _):
        remote = await peer.open()
        with monkeypatch.context() as patched:
            patched.setattr(Session, "register", fail)
            code, details = await refusal(remote.invoke("register"))
        assert code == Code.INTERNAL
        assert "within" not in details
        (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        assert (await remote.invoke("register")).register.server_handle > 0


# Several subscribers


async def test_all_subscribers_of_a_session_get_all_events():
    async with running(max_event_subscribers=2) as (gateway, peer, _):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        first, second = await remote.stream(), await remote.stream()
        code, details = await refusal(remote.first_event())
        assert code == Code.RESOURCE_EXHAUSTED
        assert "EventSubscriberLimitReached" in details
        await remote.write([item] * 3, range(3))
        assert await take(first, 3) == await take(second, 3)
        await leave(gateway, first)
        await remote.write([item], [9.0])
        assert sequences(await take(second, 1)) == [4]


@pytest.mark.parametrize("number", [0, 9])
def test_no_more_than_eight_subscribers_can_be_allowed(number: int):
    with pytest.raises(ValueError, match="max_event_subscribers"):
        SimulatedGateway(max_event_subscribers=number)


async def test_of_several_subscribers_only_the_slow_one_is_cut():
    rules = EventRules(capacity=10, most_subscribers=2, fail_fast=True, replays=True)
    log = EventLog("session-1", rules, VirtualClock())
    slow, _ = log.subscribe(0, lambda: None, lambda: 0)
    fast, _ = log.subscribe(0, lambda: None, lambda: 0)
    for _ in range(3):
        log.publish(pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE, 1, np.arange(1, 6, dtype=np.int32))
        for _ in await fast.take():
            fast.wrote()
    assert slow.ended.is_set()
    assert slow.refusal is not None
    assert slow.refusal.code == Code.RESOURCE_EXHAUSTED
    assert not fast.ended.is_set()
    assert log.subscribers == [fast]
    assert not log.overflowed


async def test_a_refused_resume_does_not_use_up_a_replay_gap():
    async with running() as (gateway, peer, _):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        stream = await remote.stream()
        await remote.write([item] * 3, range(3))
        await take(stream, 3)
        gateway.faults.add(faults.ReplayGap(times=1))
        assert await end_of(await remote.stream(after=3)) == Code.ALREADY_EXISTS
        await leave(gateway, stream)
        (sentinel,) = await take(await remote.stream(after=3), 1)
        assert sentinel.HasField("replay_gap")


async def test_disconnecting_the_subscriber_leaves_the_session_ready():
    options = {"overflow_policy": "DisconnectSubscriber", "event_queue_capacity": 10}
    async with running(**options) as (_, peer, _):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        stream = await remote.stream()
        await remote.write([item] * 11, range(11))
        assert await end_of(stream) == Code.RESOURCE_EXHAUSTED
        reply = await remote.invoke("get_session_state")
        assert reply.session_state.state == pb.SESSION_STATE_READY
        assert sequences(await take(await remote.stream(after=3), 8)) == list(range(4, 12))


# Replay by age


async def test_events_older_than_five_minutes_are_not_replayed():
    async with running() as (_, peer, clock):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        await remote.write([item] * 2, range(2))
        clock.advance(200)
        await remote.write([item] * 2, range(2))
        clock.advance(101)
        sentinel, *events = await take(await remote.stream(after=1), 3)
        assert sentinel.replay_gap.oldest_available_sequence == 3
        assert sequences(events) == [3, 4]


# Eras


def test_there_are_three_eras():
    with pytest.raises(ValueError, match="era"):
        SimulatedGateway(era=4)


async def test_in_era_1_what_nobody_read_comes_as_one_burst_and_is_gone_then():
    async with running(era=1) as (gateway, peer, _):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        await remote.write([item] * 5, range(5))
        stream = await remote.stream()
        assert sequences(await take(stream, 5)) == [1, 2, 3, 4, 5]
        await leave(gateway, stream)
        again = await remote.stream(after=1)
        await remote.write([item], [1.0])
        assert sequences(await take(again, 1)) == [6]  # no sentinel, no replay


async def test_in_era_1_events_that_nobody_reads_fault_the_session():
    async with running(era=1, event_queue_capacity=10) as (_, peer, _):
        remote = await peer.registered()
        await remote.subscribe(*(f"A.x{n}" for n in range(10)))
        await remote.subscribe("A.y")
        code, details = await refusal(remote.subscribe("A.z"))
        assert code == Code.FAILED_PRECONDITION
        assert "Faulted" in details


@pytest.mark.parametrize(
    "command",
    [
        "ping",
        "get_session_state",
        "get_worker_info",
        "drain_events",
        "shutdown_worker",
        "add_buffered_item",
        "set_buffered_update_interval",
        "suspend",
        "activate",
        "authenticate_user",
        "archestra_user_to_id",
    ],
)
async def test_era_1_does_not_know_these_commands(command: str):
    async with running(era=1) as (_, peer, _):
        reply = await (await peer.registered()).invoke(command)
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST
        assert reply.protocol_status.message.startswith("Unsupported MXAccess command kind")


async def test_replay_is_a_capability_since_era_2():
    for era, replays in ((1, False), (2, True), (3, True)):
        async with running(era=era) as (_, peer, _):
            reply = pb.OpenSessionReply.FromString(await peer.raw("OpenSession", b""))
            assert ("event-replay" in reply.capabilities) == replays


async def array_written(remote: Remote, name: str) -> tuple[pb.MxCommandReply, pb.MxValue]:
    """Write an array of three by a name, and return what is read by its full name."""
    (item,) = await remote.add(name)
    array = pb.MxArray(
        element_data_type=pb.MX_DATA_TYPE_DOUBLE,
        dimensions=[3],
        double_values=pb.DoubleArray(values=[1.0, 2.0, 3.0]),
    )
    value = pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, array_value=array)
    reply = await remote.invoke("write", item_handle=item, value=value)
    return reply, (await remote.read("A.list[]"))[0].value


@pytest.mark.parametrize(("era", "commits"), [(1, False), (2, False), (3, True)])
async def test_a_bare_array_name_is_completed_since_era_3(era: int, commits: bool):
    async with running(era=era, tags=["A.list[]"]) as (_, peer, _):
        remote = await peer.registered()
        stream = await remote.stream()
        reply, value = await array_written(remote, "A.list")
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
        assert value.HasField("array_value") == commits
        assert (await remote.read("A.list"))[0].was_successful
        _, value = await array_written(remote, "A.list[]")
        assert value.HasField("array_value")
        assert sequences(await take(stream, 2 if commits else 1))[0] == 1


async def test_each_way_to_add_an_item_completes_an_array_name():
    async with running(tags=["A.list[]"]) as (_, peer, _):
        remote = await peer.registered()
        added = await remote.add("A.list")
        for command in ("add_item", "add_item2", "add_buffered_item"):
            reply = await remote.invoke(command, item_definition="A.list")
            added.append(getattr(reply, command).item_handle)
        reply = await remote.invoke("advise_item_bulk", item_handles=added)
        names = [result.tag_address for result in reply.advise_item_bulk.results]
        assert names == ["A.list[]"] * 4


@pytest.mark.parametrize("era", [1, 2])
async def test_sparse_arrays_are_not_known_before_era_3(era: int):
    async with running(era=era) as (_, peer, _):
        remote = await peer.registered()
        (item,) = await remote.add("A.x")
        sparse = pb.MxSparseArray(element_data_type=pb.MX_DATA_TYPE_DOUBLE, total_length=3)
        value = pb.MxValue(sparse_array_value=sparse)
        single = await remote.invoke("write", item_handle=item, value=value)
        assert single.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
        entries = [pb.WriteBulkEntry(item_handle=item, value=value)]
        bulk = await remote.invoke("write_bulk", entries=entries)
        assert not bulk.write_bulk.results[0].was_successful
        assert await remote.numbers("A.x") == [0.0]


# Writes


async def test_strictly_an_item_takes_no_write_before_its_first_data_change():
    async with running(strict_writes=True) as (_, peer, _):
        remote = await peer.registered()
        x, y = await remote.add("A.x", "A.y")
        await remote.invoke("advise", item_handle=x)
        reply = await remote.write([x, y], [1.0, 2.0])
        good, bad = reply.write_bulk.results
        assert (good.was_successful, bad.was_successful) == (True, False)
        assert "does not fall within the expected range" in bad.error_message
        single = await remote.invoke("write", item_handle=y, value=double(2.0))
        assert single.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
        await remote.invoke("advise", item_handle=y)
        await remote.invoke("un_advise", item_handle=y)
        await remote.write([y], [3.0])  # once resolved, it stays so
        assert await remote.numbers("A.x", "A.y") == [1.0, 3.0]


async def test_a_plain_write_records_its_user_only_with_a_supervisory_advise():
    async with running() as (gateway, peer, _):
        remote = await peer.registered()
        x, y = await remote.add("A.x", "A.y")
        await remote.invoke("advise", item_handle=x)
        await remote.invoke("advise_supervisory", item_handle=y)
        entries = [
            pb.WriteBulkEntry(item_handle=item, value=double(1.0), user_id=7) for item in (x, y)
        ]
        await remote.invoke("write_bulk", entries=entries)
        assert [gateway.recorded_user(name) for name in ("A.x", "A.y")] == [0, 7]
        await remote.invoke("write", item_handle=y, value=double(2.0), user_id=8)
        assert gateway.recorded_user("A.y") == 8
        await remote.invoke("un_advise", item_handle=y)
        await remote.invoke("write", item_handle=y, value=double(2.0), user_id=9)
        assert gateway.recorded_user("A.y") == 0
        await remote.invoke(
            "write_secured",
            item_handle=x,
            value=double(3.0),
            current_user_id=3,
            verifier_user_id=4,
        )
        assert gateway.recorded_user("A.x") == 3


# MXAccess's own alarm commands


async def test_a_session_that_subscribes_to_alarms_is_told_of_every_change():
    async with running() as (gateway, peer, _):
        remote = await peer.registered()
        stream = await remote.stream()
        reply = await remote.invoke("subscribe_alarms", subscription_expression="\\\\Galaxy!Area")
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
        gateway.alarms.raise_alarm("Tank1.Level.Hi", severity=700)
        gateway.alarms.set_provider(pb.ALARM_PROVIDER_MODE_SUBTAG, reason="lost")
        raised, changed = await take(stream, 2)
        assert raised.family == pb.MX_EVENT_FAMILY_ON_ALARM_TRANSITION
        transition = raised.on_alarm_transition
        assert transition.alarm_full_reference == "Tank1.Level.Hi"
        assert transition.transition_kind == pb.ALARM_TRANSITION_KIND_RAISE
        assert changed.family == pb.MX_EVENT_FAMILY_ON_ALARM_PROVIDER_MODE_CHANGED
        assert changed.on_alarm_provider_mode_changed.mode == pb.ALARM_PROVIDER_MODE_SUBTAG
        assert sequences([raised, changed]) == [1, 2]
        await remote.invoke("unsubscribe_alarms")
        gateway.alarms.clear_alarm("Tank1.Level.Hi")
        await remote.write(await remote.add("A.x"), [1.0])
        assert (await take(stream, 1))[0].family == pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE


async def test_alarms_are_queried_and_acknowledged_by_command():
    async with running() as (gateway, peer, _):
        remote = await peer.registered()
        for reference in ("Tank1.Level.Hi", "Tank1.Level.Lo", "Pump1.Trip"):
            gateway.alarms.raise_alarm(reference)
        by_guid = await remote.invoke(
            "acknowledge_alarm",
            alarm_guid=gateway.alarms.guid("Tank1.Level.Hi").upper(),
            operator_user="anna",
            comment="seen",
        )
        by_name = await remote.invoke("acknowledge_alarm_by_name", alarm_name="Pump1.Trip")
        for reply in (by_guid, by_name):
            assert reply.WhichOneof("payload") == "acknowledge_alarm"
            assert reply.acknowledge_alarm.native_status == 0
        reply = await remote.invoke("query_active_alarms", alarm_filter_prefix="Tank1.")
        high, low = reply.query_active_alarms.snapshots
        assert high.current_state == pb.ALARM_CONDITION_STATE_ACTIVE_ACKED
        assert (high.operator_user, high.operator_comment) == ("anna", "seen")
        assert low.current_state == pb.ALARM_CONDITION_STATE_ACTIVE
        for command in ("acknowledge_alarm", "acknowledge_alarm_by_name"):
            reply = await remote.invoke(command)
            assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
