"""A session that died, built anew: with the stream that noticed, or by hand."""

import asyncio
import datetime
import inspect
import itertools
from typing import Any

import grpc
import numpy as np
import pytest

from mxfast import (
    EventBatch,
    GatewayClient,
    HandleChanges,
    MxGatewayConnectionError,
    MxGatewaySessionError,
    MxGatewaySessionLostError,
    Session,
    reader,
    recovery,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.events import EventStream
from mxfast.simulator import SimulatedGateway, faults
from tests.conftest import KEY, SECRET, Context, ScriptedGateway, ok
from tests.feed import CHANGE, Feed, event
from tests.proxy import Proxy


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(recovery, "LONGEST_PAUSE", 0.1)


async def kill_worker(session: Session) -> None:
    """End the session's worker: its handles are gone, the gateway answers on."""
    await session.invoke_raw(
        pb.MxCommand(
            kind=pb.MX_COMMAND_KIND_SHUTDOWN_WORKER, shutdown_worker=pb.ShutdownWorkerCommand()
        )
    )


async def next_rebuilt(stream: EventStream) -> tuple[list[EventBatch], EventBatch, HandleChanges]:
    """Take batches up to the first of a new session."""
    before: list[EventBatch] = []
    async with asyncio.timeout(20):
        async for batch in stream:
            if batch.rebuilt is not None:
                return before, batch, batch.rebuilt
            before.append(batch)
    raise AssertionError("the stream ended")


async def first_values(stream: EventStream, batch: EventBatch, count: int) -> dict[int, float]:
    """Return the value of each item once so many have told it."""
    values: dict[int, float] = {}
    async with asyncio.timeout(20):
        while True:
            changes = batch.family == CHANGE
            values |= zip(batch.item_handle[changes], batch.value[changes], strict=True)
            if len(values) >= count:
                return values
            batch = await anext(stream)


async def test_stream_goes_on_in_a_new_session(session: Session) -> None:
    server = await session.register("x")
    other = await session.register("y")
    async with session.event_batches(rebuild=True) as events:
        dead = await session.add_item(other, "A.Removed")
        await session.remove_item(other, dead)
        found = await session.subscribe_bulk(server, ["A.B", "A.C"])
        items = [each.item_handle for each in found]
        relative = await session.add_item2(other, "D", "A")
        await session.advise_supervisory(other, relative)
        idle = await session.add_item(other, "A.Idle")
        await session.write_array(server, items, [1.5, 2.5])
        old_id = session.session_id

        await kill_worker(session)
        before, batch, changes = await next_rebuilt(events)

        assert {int(s) for b in before for s in b.server_handle} <= {server, other}
        assert batch.gap
        assert session.session_id != old_id
        assert set(changes.servers) == {server, other}
        assert not set(changes.servers.values()) & {server, other}
        assert not changes.failed
        new_server, new_items = changes.servers[server], changes.item_handles(server, items)
        new_relative, new_idle = changes.keys[other, relative], changes.keys[other, idle]
        values = await first_values(events, batch, 3)
        assert [values[item] for item in new_items] == [1.5, 2.5]
        assert new_relative[1] in values
        assert new_idle[1] not in values, "what was not advised is not advised"

        await session.write_array(new_server, new_items, [7.0, 8.0])
        seen: dict[int, float] = {}
        async with asyncio.timeout(20):
            while seen != dict(zip(new_items.tolist(), [7.0, 8.0], strict=True)):
                batch = await anext(events)
                rows = (batch.family == CHANGE) & np.isin(batch.item_handle, new_items)
                seen |= zip(batch.item_handle[rows].tolist(), batch.value[rows], strict=True)
                assert batch.rebuilt is None
        assert (await session.read_bulk(new_server, ["A.B"]))[0].was_cached


async def test_old_handles_are_refused_never_taken_for_other_items(session: Session) -> None:
    """Also after several rebuilds, though a gateway counts handles from 1 each time."""
    pairs = []
    server = await session.register("x")
    for _ in range(3):
        item = await session.add_item(server, "A.B")
        pairs.append((server, item))
        changes = await session.rebuild()
        server = changes.servers[server]
        for old, old_item in pairs:
            with pytest.raises(MxGatewaySessionError, match=f"handle {old} .* give {server} "):
                await session.write(old, old_item, 1.0)
        assert await session.register("later") not in {old for old, _ in pairs}
    await session.unregister(server)
    for old, _ in pairs:
        with pytest.raises(MxGatewaySessionError, match="it was unregistered"):
            await session.subscribe(old, ["A.B"])


OF_A_SERVER_HANDLE: dict[str, tuple[Any, ...]] = {
    "activate": (1,),
    "add_buffered_item": ("A.B",),
    "add_item": ("A.B",),
    "add_item2": ("B", "A"),
    "add_item_bulk": (["A.B"],),
    "advise": (1,),
    "advise_item_bulk": ([1],),
    "advise_supervisory": (1,),
    "archestra_user_to_id": ("guid",),
    "authenticate_user": ("user", "secret"),
    "bulk_writer": (),
    "prepare_write": ([1],),
    "read_array": (["A.B"],),
    "read_bulk": (["A.B"],),
    "remove_item": (1,),
    "remove_item_bulk": ([1],),
    "set_buffered_update_interval": (100,),
    "subscribe": (["A.B"],),
    "subscribe_bulk": (["A.B"],),
    "suspend": (1,),
    "un_advise": (1,),
    "un_advise_item_bulk": ([1],),
    "unregister": (),
    "unsubscribe_bulk": ([1],),
    "write": (1, 1.0),
    "write2": (1, 1.0, datetime.datetime.now(datetime.UTC)),
    "write2_bulk": ([pb.Write2BulkEntry()],),
    "write_array": ([1], [1.0]),
    "write_array_elements": (1, pb.MX_DATA_TYPE_DOUBLE, 2, {0: 1.0}),
    "write_bulk": ([pb.WriteBulkEntry()],),
    "write_secured": (1, 1, 1, 1.0),
    "write_secured2": (1, 1, 1, 1.0, datetime.datetime.now(datetime.UTC)),
    "write_secured2_bulk": ([pb.WriteSecured2BulkEntry()],),
    "write_secured_bulk": ([pb.WriteSecuredBulkEntry()],),
}


def test_all_commands_with_a_server_handle_are_listed() -> None:
    assert set(OF_A_SERVER_HANDLE) == {
        name
        for name, method in inspect.getmembers(Session, inspect.isfunction)
        if not name.startswith("_") and "server_handle" in inspect.signature(method).parameters
    }


@pytest.mark.parametrize("command", OF_A_SERVER_HANDLE)
async def test_old_server_handle_is_refused_before_anything_is_sent(
    scripted: ScriptedGateway, scripted_session: Session, command: str
) -> None:
    """The gateway would take it: it was registered again, to be passed over."""
    registered = itertools.count(1)

    async def answer(request: bytes, context: Context) -> bytes:
        reply = pb.MxCommandReply(protocol_status=ok())
        reply.register.server_handle = next(registered)
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    old = await scripted_session.register("x")
    new = (await scripted_session.rebuild()).servers[old]
    assert (old, new) == (1, 2)
    sent = len(scripted.calls)
    with pytest.raises(MxGatewaySessionError, match=r"server handle 1 .* give 2 now"):
        await getattr(scripted_session, command)(old, *OF_A_SERVER_HANDLE[command])
    assert len(scripted.calls) == sent


async def test_session_rebuilt_between_two_requests_of_a_subscribe(
    scripted: ScriptedGateway,
) -> None:
    """Those that follow would add items to a server handle that is another's by now."""
    registered = itertools.count(1)

    async def answer(request: bytes, context: Context) -> bytes:
        command = pb.MxCommandRequest.FromString(request).command
        reply = pb.MxCommandReply(protocol_status=ok())
        if command.HasField("register"):
            reply.register.server_handle = next(registered)
        elif command.HasField("subscribe_bulk"):
            subscribed.append(command.subscribe_bulk.server_handle)
            await session.rebuild()
            reply.subscribe_bulk.results.add(item_handle=1, was_successful=True)
        return reply.SerializeToString()

    subscribed: list[int] = []
    scripted.unary["Invoke"] = answer
    async with await scripted.connect(max_bulk_items=1) as client:
        session = await client.open_session()
        server = await session.register("x")
        with pytest.raises(MxGatewaySessionError, match=f"server handle {server} "):
            await session.subscribe(server, ["A.B", "A.C"])
    assert subscribed == [server]


async def test_a_session_has_as_many_server_handles_after_each_rebuild(session: Session) -> None:
    server = await session.register("x")
    for _ in range(4):
        changes = await session.rebuild()
        assert list(changes.servers) == [server]
        server = changes.servers[server]
        assert session._commands.handles.servers == {server: "x"}


async def test_server_handles_that_the_session_before_had_are_passed_over(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    """Also where the gateway comes to one of them only after the rebuild."""
    given = iter([5, 1, 4, 5, 6])

    async def answer(request: bytes, context: Context) -> bytes:
        reply = pb.MxCommandReply(protocol_status=ok())
        reply.register.server_handle = next(given)
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    assert await scripted_session.register("x") == 5
    assert (await scripted_session.rebuild()).servers == {5: 1}
    assert [await scripted_session.register(name) for name in "yz"] == [4, 6]
    assert scripted_session._commands.handles.servers == {1: "x", 4: "y", 6: "z"}


async def test_what_is_done_again(session: Session) -> None:
    server = await session.register("x")
    buffered = await session.add_buffered_item(server, "A.Buffered")
    await session.set_buffered_update_interval(server, 200)
    advised, ended, suspended, supervised = [
        each.item_handle
        for each in await session.add_item_bulk(server, ["A.A", "A.E", "A.S", "A.U"])
    ]
    await session.advise_item_bulk(server, [buffered, advised, ended, suspended])
    await session.un_advise(server, ended)
    await session.suspend(server, suspended)
    await session.advise_supervisory(server, supervised)

    changes = await session.rebuild()
    again = await session.rebuild()
    both = changes.then(again)

    table = session._commands.handles
    new = {old: both.keys[server, old] for old in (buffered, advised, ended, suspended, supervised)}
    assert table.intervals == {both.servers[server]: 200}
    assert table.added_by == {new[buffered]: ("add_buffered_item", "A.Buffered", "")}
    assert table.advised == {
        new[buffered]: "advise",
        new[advised]: "advise",
        new[suspended]: "advise",
        new[supervised]: "advise_supervisory",
    }
    assert table.suspended == {new[suspended]}
    assert sorted(table.tags.values()) == ["A.A", "A.Buffered", "A.E", "A.S", "A.U"]
    await session.activate(*new[suspended])


async def test_more_items_than_a_bulk_command_takes(gateway: SimulatedGateway) -> None:
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=3
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        tags = [f"T{n}.V" for n in range(8)]
        items: list[int] = []
        for start in range(0, 8, 3):
            found = await session.subscribe_bulk(server, tags[start : start + 3])
            items += [each.item_handle for each in found]
        changes = await session.rebuild()
        new_server, new_items = changes.servers[server], changes.item_handles(server, items)
        assert [session._commands.tags[new_server, item] for item in new_items.tolist()] == tags
        assert len(session._commands.handles.advised) == 8


async def test_tag_that_is_gone_is_named(gateway: SimulatedGateway) -> None:
    async with (
        Proxy(gateway.endpoint) as proxy,
        await GatewayClient.connect(
            endpoint=proxy.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        SimulatedGateway(tags=["A.B"]) as poorer,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        found = await session.subscribe_bulk(server, ["A.Gone", "A.B"])
        gone = await session.add_item2(server, "AlsoGone", "A")
        proxy.target = poorer.endpoint
        proxy.cut()
        changes = await rebuilt_as_soon_as_it_can_be(session)
        items = [*(each.item_handle for each in found), gone]
        assert (changes.item_handles(server, items) > 0).tolist() == [False, True, False]
        assert set(changes.failed) == {"A.Gone", "A.AlsoGone"}
        assert all(changes.failed.values())
        assert repr(changes) == "<HandleChanges of 1 items, 2 failed>"


async def test_what_failed_is_tried_again_in_the_next_rebuild(
    gateway: SimulatedGateway, session: Session
) -> None:
    """As when an object is being deployed while the session is built anew."""
    server, gone = await session.register("x"), await session.register("y")
    items = await session.subscribe(server, ["Tank1.Level", "Tank2.Level"])
    relative = await session.add_item2(server, "Flow", "Tank2")
    await session.advise_supervisory(server, relative)
    await session.suspend(server, items.handle_of("Tank2.Level"))
    await session.subscribe(gone, ["Tank2.Other"])
    lost = [(server, items.handle_of("Tank2.Level")), (server, relative)]

    refusal = gateway.faults.add(faults.RefuseTags(tags="Tank2.*"))
    changes = await session.rebuild()
    assert set(changes.failed) == {"Tank2.Level", "Tank2.Flow", "Tank2.Other"}
    await session.unregister(changes.servers[gone])
    changes = await session.rebuild()
    assert set(changes.failed) == {"Tank2.Level", "Tank2.Flow"}
    assert list(items.failed) == ["Tank2.Level"]
    gateway.faults.remove(refusal)
    changes = await session.rebuild()

    assert not changes.failed
    assert items.ok.all()
    table = session._commands.handles
    now, relative_now = (changes.keys[key] for key in lost)
    assert now == (items.server_handle, items.handle_of("Tank2.Level"))
    assert table.servers == {now[0]: "x"}
    assert table.advised == {
        (now[0], items.handle_of("Tank1.Level")): "advise",
        now: "advise",
        relative_now: "advise_supervisory",
    }
    assert table.added_by == {relative_now: ("add_item2", "Flow", "Tank2")}
    assert table.suspended == {now}
    assert (await session.write_array(items.server_handle, items, [1.0, 2.0])).ok
    again = (await session.rebuild()).keys
    assert len(again) == 3, "what was had again is had once"


@pytest.mark.parametrize("command", ["advise_item_bulk", "advise_supervisory", "suspend"])
async def test_item_that_cannot_be_advised_again(
    scripted: ScriptedGateway, scripted_session: Session, command: str
) -> None:
    """It is no item of the new session: nothing would tell that no values come."""
    handles = itertools.count(1)
    removed: list[int] = []
    refuses = False

    async def answer(request: bytes, context: Context) -> bytes:
        sent = pb.MxCommandRequest.FromString(request).command
        name = sent.WhichOneof("payload")
        assert name is not None
        reply = pb.MxCommandReply(protocol_status=ok())
        payload: Any = getattr(sent, name)
        tags = getattr(payload, "tag_addresses", ())
        items = getattr(payload, "item_handles", [next(handles) for _ in tags])
        for index, item in enumerate(items):
            refused = refuses and name == command and index == 1
            getattr(reply, name).results.add(
                item_handle=item, was_successful=not refused, error_message="refused" * refused
            )
        if name == "remove_item_bulk":
            removed.extend(items)
        elif name == "register":
            reply.register.server_handle = next(handles)
        elif name == "suspend":
            reply.suspend.SetInParent()
        if refuses and name == command and not items:
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    session = scripted_session
    server = await session.register("x")
    items = await session.subscribe(server, ["A.B", "A.C", "A.D"])
    old = items.handle_of("A.C")
    if command != "advise_item_bulk":
        await getattr(session, command)(server, old)
    done = dict(session._commands.handles.advised)

    refuses = True
    changes = await session.rebuild()
    assert list(changes.failed) == list(items.failed) == ["A.C"]
    assert items.ok.tolist() == [True, False, True]
    assert changes.item_handles(server, [old]).tolist() == [0]
    assert len(removed) == 1
    assert len(session._commands.handles.tags) == len(session._commands.handles.advised) == 2
    refuses = False
    changes = await session.rebuild()
    assert items.ok.all()
    assert changes.keys[server, old] == (items.server_handle, items.handle_of("A.C"))
    assert sorted(session._commands.handles.advised.values()) == sorted(done.values())
    assert len(session._commands.handles.suspended) == (command == "suspend")


@pytest.mark.parametrize("command", ["add_item_bulk", "advise_item_bulk", "add_item2", "suspend"])
async def test_a_reason_holds_no_key(
    scripted: ScriptedGateway, scripted_session: Session, command: str
) -> None:
    refuses = False

    async def answer(request: bytes, context: Context) -> bytes:
        name = pb.MxCommandRequest.FromString(request).command.WhichOneof("payload")
        assert name is not None
        reply = pb.MxCommandReply(protocol_status=ok())
        if name == "register":
            reply.register.server_handle = len(scripted.calls)
        elif name == "add_item2":
            reply.add_item2.item_handle = 2
        elif name == "suspend":
            reply.suspend.SetInParent()
        else:
            getattr(reply, name).results.add(
                item_handle=1,
                was_successful=not (refuses and name == command),
                error_message=f"not for {KEY}",
            )
        if refuses and name == command and not name.endswith("_bulk"):
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
            reply.protocol_status.message = f"not for {KEY}"
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    server = await scripted_session.register("x")
    items = await scripted_session.subscribe(server, ["A.B"])
    await scripted_session.suspend(server, items.handle_of("A.B"))
    await scripted_session.add_item2(server, "B", "A")
    refuses = True
    (reason,) = (await scripted_session.rebuild()).failed.values()
    assert "not for mxgw_test_***" in reason
    assert SECRET not in reason
    assert [SECRET in said for said in items.failed.values()] == [False] * (~items.ok).sum()


async def rebuilt_as_soon_as_it_can_be(session: Session) -> HandleChanges:
    async with asyncio.timeout(20):
        while True:
            try:
                return await session.rebuild()
            except MxGatewayConnectionError:
                await asyncio.sleep(0.01)


async def test_gateway_that_was_started_anew(gateway: SimulatedGateway) -> None:
    """It is away for a while, and then knows nothing of the session."""
    async with (
        Proxy(gateway.endpoint) as proxy,
        await GatewayClient.connect(
            endpoint=proxy.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
        session.event_batches(rebuild=True) as events,
    ):
        server = await session.register("x")
        (found,) = await session.subscribe_bulk(server, ["A.B"])
        proxy.refuses = True
        proxy.cut()
        async with SimulatedGateway() as anew:
            proxy.target = anew.endpoint
            proxy.refuses = False
            _, batch, changes = await next_rebuilt(events)
            values = await first_values(events, batch, 1)
            assert list(values) == changes.item_handles(server, [found.item_handle]).tolist()
            await session.close()


async def test_stream_and_user_rebuild_once_between_them(
    gateway: SimulatedGateway, session: Session
) -> None:
    server = await session.register("x")
    async with session.event_batches(rebuild=True) as events:
        await session.subscribe_bulk(server, ["A.B"])
        await anext(events)
        await kill_worker(session)
        by_hand = asyncio.create_task(session.rebuild())
        _, batch, changes = await next_rebuilt(events)
        assert (await by_hand).keys == changes.keys
        await first_values(events, batch, 1)
        assert session.session_id == events._reader._link.session_id


async def test_stream_without_rebuild_ends_with_its_session(session: Session) -> None:
    events = session.event_batches()
    await session.ping()
    await kill_worker(session)
    with pytest.raises(MxGatewaySessionLostError, match=r"(?i)worker ?unavailable"):
        await anext(events)


async def test_session_that_is_closed_under_its_stream(
    client: GatewayClient, session: Session
) -> None:
    """As a gateway does whose lease has run out: the stream ends as if all were well."""
    server = await session.register("x")
    async with session.event_batches(rebuild=True) as events:
        items = await session.subscribe(server, ["A.B"])
        await anext(events)
        await client.close_session_raw(pb.CloseSessionRequest(session_id=session.session_id))
        _, batch, changes = await next_rebuilt(events)
        assert list(changes.servers) == [server]
        assert set(await first_values(events, batch, 1)) == {items.handle_of("A.B")}


async def test_every_consumer_is_told(session: Session) -> None:
    first = session.event_batches(rebuild=True, overflow="error")
    second = first.consumer(max_events=1, overflow="latest")
    server = await session.register("x")
    await session.subscribe_bulk(server, ["A.B"])
    await kill_worker(session)
    told = [(await next_rebuilt(each))[2] for each in (first, second)]
    assert told[0] is told[1]
    await first.aclose()
    await second.aclose()


async def test_stream_that_missed_a_rebuild_is_told_of_all(
    gateway: SimulatedGateway, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program rebuilt twice by itself while the stream waited to try again."""
    server, spare = await session.register("x"), await session.register("y")
    async with session.event_batches(rebuild=True) as events:
        items = await session.subscribe(server, ["A.B", "A.C"])
        await anext(events)
        old = items.item_handle
        held = asyncio.Event()
        monkeypatch.setattr(reader.EventReader, "_pause", lambda self, failure: held.wait())
        gateway.faults.add(faults.CutStreams())
        between = (await session.rebuild()).servers
        await session.remove_item(items.server_handle, items.handle_of("A.B"))
        await session.unregister(between[spare])
        added = await session.add_item(between[server], "A.D")
        last = await session.rebuild()
        held.set()
        _, _, changes = await next_rebuilt(events)
    assert changes.servers == {server: items.server_handle, between[server]: items.server_handle}
    assert changes.item_handles(server, old).tolist() == [0, items.handle_of("A.C")]
    assert changes.keys[between[server], added] == last.keys[between[server], added]
    assert repr(changes) == "<HandleChanges of 2 items, 0 failed>"


def test_changes_of_two_rebuilds_are_one() -> None:
    first, later = HandleChanges(), HandleChanges()
    first.servers = {1: 3, 2: 4}  # of which 4 was unregistered
    first.keys = {(1, 7): (3, 1), (1, 8): (3, 2), (2, 7): (4, 3)}  # and (3, 2) removed
    first.failed = {"A.Deployed": "not yet", "A.Gone": "no such tag"}
    later.servers = {3: 6}
    later.keys = {(3, 1): (6, 1), (1, 9): (6, 2), (3, 4): (6, 3)}  # failed before; added
    later.failed = {"A.Gone": "no such tag"}
    both = first.then(later)
    assert both.servers == {1: 6, 3: 6}
    assert both.keys == {(1, 7): (6, 1), (3, 1): (6, 1), (1, 9): (6, 2), (3, 4): (6, 3)}
    assert both.item_handles(1, [7, 8, 9]).tolist() == [1, 0, 2]
    assert both.failed == {"A.Gone": "no such tag"}
    assert repr(both) == "<HandleChanges of 3 items, 1 failed>"


async def test_holders_of_handles_are_told(session: Session) -> None:
    class Holder:
        changes: HandleChanges | None = None

        def rebind(self, changes: HandleChanges) -> None:
            self.changes = changes

    kept, dropped = Holder(), Holder()
    session._commands.rebindables.add(kept)
    session._commands.rebindables.add(dropped)
    del dropped
    assert await session.rebuild() is kept.changes
    assert len(session._commands.rebindables) == 1


async def test_items_have_the_new_handles(session: Session) -> None:
    server = await session.register("x")
    spare = await session.add_item(server, "A.Spare")
    items = await session.subscribe(server, ["A.B", "A.C"])
    some = items[1:]
    await session.remove_item(server, spare)
    old = items.item_handle
    changes = await session.rebuild()
    assert items.server_handle == some.server_handle == changes.servers[server]
    assert items.item_handle.tolist() == changes.item_handles(server, old).tolist()
    assert (items.item_handle != old).all()
    result = await session.write_array(items.server_handle, items, [1.5, 2.5])
    assert result.ok
    found = await session.read_array(some.server_handle, some)
    assert found.value.tolist() == [2.5]
    assert found.was_cached.all()  # it is advised again


async def test_closed_session_is_not_built_anew(session: Session) -> None:
    await session.close()
    with pytest.raises(MxGatewaySessionError, match="closed"):
        await session.rebuild()


async def test_session_that_is_closed_meanwhile(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    """Another one that is open by then is closed too."""
    closed = []

    async def close(request: bytes, context: Context) -> bytes:
        closed.append(pb.CloseSessionRequest.FromString(request).session_id)
        return pb.CloseSessionReply(protocol_status=ok()).SerializeToString()

    async def open_slowly(request: bytes, context: Context) -> bytes:
        await scripted_session.close()
        return pb.OpenSessionReply(session_id="new", protocol_status=ok()).SerializeToString()

    scripted.unary["CloseSession"] = close
    scripted.unary["OpenSession"] = open_slowly
    with pytest.raises(MxGatewaySessionError, match="is closed"):
        await scripted_session.rebuild()
    assert closed == ["session-scripted", "session-scripted", "new"]


async def test_gateway_without_fresh_server_handles(scripted: ScriptedGateway) -> None:
    reply = pb.MxCommandReply(protocol_status=ok())
    reply.register.server_handle = 7
    scripted.reply_with(reply)
    async with await scripted.connect() as client, await client.open_session() as session:
        await session.register("x")
        with pytest.raises(MxGatewaySessionError, match="no server handle but"):
            await session.rebuild()


async def test_failed_rebuild_is_tried_again(
    scripted: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    """Opening fails while the gateway starts its worker; then it is another session's stream."""
    opened = []

    async def open_late(request: bytes, context: Context) -> bytes:
        opened.append(1)
        if len(opened) < 3:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no worker yet")
        return pb.OpenSessionReply(session_id="new", protocol_status=ok()).SerializeToString()

    scripted.unary["OpenSession"] = open_late
    events = scripted_session.event_batches(rebuild=True)
    feed.put(event(5))
    feed.end(grpc.StatusCode.NOT_FOUND)
    feed.put(event(1))
    before, batch, _ = await next_rebuilt(events)
    async with asyncio.timeout(20):
        while not len(batch):
            batch = await anext(events)
    assert [b.worker_sequence.tolist() for b in before] == [[5]]
    assert batch.worker_sequence.tolist() == [1]
    assert [r.session_id for r in feed.requests] == ["session-scripted", "new"]
    await events.aclose()


async def test_rebuild_needs_resume(scripted: ScriptedGateway, scripted_session: Session) -> None:
    with pytest.raises(ValueError, match="needs resume"):
        scripted_session.event_batches(resume=False, rebuild=True)
    assert "StreamEvents" not in scripted.calls


async def test_old_events_are_not_taken_for_items_of_the_new_session(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle that was one tag's is another's when an item before it was removed.

    On a gateway where the handles of each session count from 1.
    """
    monkeypatch.setattr("mxfast.simulator.session._SESSIONS", 1)
    server = await session.register("x")
    async with session.event_batches(max_delay=0, rebuild=True) as events:
        spare = await session.add_item(server, "A.Spare")
        items = await session.subscribe(server, ["A.B", "A.C"])
        await session.remove_item(server, spare)
        await session.write_array(server, items, [1.0, 2.0])
        await kill_worker(session)
        before, batch, _ = await next_rebuilt(events)
    shifted = [b for b in before if set(b.item_handle) & set(items.item_handle)]
    assert shifted, "else this shows nothing"
    for old in shifted:
        assert items.rows_of(old).tolist() == [-1] * len(old)
    if len(batch):
        assert (items.rows_of(batch) >= 0).all()


async def test_items_and_tags_stay_valid(session: Session) -> None:
    server = await session.register("x")
    await session.add_item(server, "A.First")
    async with session.event_batches(rebuild=True) as events:
        items = await session.subscribe(server, ["A.B", "A.C", "A.D"])
        some, old = items[1:], items.item_handle
        await session.write_array(items.server_handle, items, [1.0, 2.0, 3.0])
        await kill_worker(session)
        _, batch, changes = await next_rebuilt(events)
        assert items.ok.all()
        assert items.server_handle == changes.servers[server] != server
        assert items.item_handle.tolist() == changes.item_handles(server, old).tolist()
        assert await first_values(events, batch, 3) == dict(
            zip(items.item_handle.tolist(), [1.0, 2.0, 3.0], strict=True)
        )
        assert (await session.write_array(items.server_handle, some, [8.0, 9.0])).ok
        assert (await session.write_array(items.server_handle, ["A.B"], [7.0])).ok
        read = await session.read_array(items.server_handle, items)
        assert read.value.tolist() == [7.0, 8.0, 9.0]
