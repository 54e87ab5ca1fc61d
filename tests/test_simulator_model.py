"""Random commands in random order from twenty clients: gateway and model agree.

Each example starts a gateway. ``MXFAST_MODEL_EXAMPLES`` says how many there are, with each
write told at once and as many with a scan; 30 take about a minute (``make model``).
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import grpc
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock
from mxfast.simulator.events import REPLAY_EVENTS
from mxfast.simulator.faults import CrashWorker
from tests.simulator_client import Peer, Remote, kind_of

T = TypeVar("T")

CLIENTS = 20
MOST_SESSIONS = 30
LARGEST = 20_000
TAGS = [f"Tank{n}.Level" for n in range(8)]
NO_TAGS = ["", "Tank1", "Tank1.", "Pump1.Speed"]

Code = grpc.StatusCode
WORKER_UNAVAILABLE = pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE
OK = pb.PROTOCOL_STATUS_CODE_OK
FAILURE = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
COMPLETE = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE

clients = st.integers(0, CLIENTS - 1)
picks = st.integers(0, 10_000)
numbers = st.floats(allow_nan=False, width=64)


@dataclass
class Item:
    """What the model knows of one item handle."""

    server: int
    tag: str
    advised: bool = False
    told: float = 0.0
    changed: bool = False  # since it was told


@dataclass
class Known:
    """What the model knows of one session."""

    remote: Remote
    state: str = "ready"
    servers: list[int] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    # Family, server handle, item handle and value of each event that was not drained.
    events: deque[tuple[int, int, int, float]] = field(
        default_factory=lambda: deque(maxlen=REPLAY_EVENTS)
    )


class GatewayMachine(RuleBasedStateMachine):
    """The model, and the gateway beside it."""

    interval = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.gateway = SimulatedGateway(
            tags=TAGS,
            update_interval=self.interval,
            clock=self.clock,
            max_sessions=MOST_SESSIONS,
            max_message_bytes=LARGEST,
        )
        self.peers = self.run(self._start())
        self.sessions: list[Known] = []
        self.values = dict.fromkeys(TAGS, 0.0)

    async def _start(self) -> list[Peer]:
        await self.gateway.__aenter__()
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        return [Peer(self.gateway.endpoint, options=own_connection) for _ in range(CLIENTS)]

    async def _stop(self) -> None:
        for peer in self.peers:
            await peer.channel.close()
        await self.gateway.__aexit__(None, None, None)

    def teardown(self) -> None:
        """Compare every tag and every session, and stop."""
        try:
            for known in self.sessions:
                if known.state == "ready":
                    self.check_events(known)
                    for client in (0, CLIENTS - 1):
                        self.check_values(self.seen_by(client, known))
            states = [known.state for known in self.sessions]
            assert self.gateway.open_sessions == len(states) - states.count("closed")
        finally:
            self.run(self._stop())
            self.loop.close()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def seen_by(self, client: int, known: Known) -> Remote:
        return Remote(self.peers[client], known.remote.session_id)

    def pick(self, number: int) -> Known | None:
        return self.sessions[number % len(self.sessions)] if self.sessions else None

    def invoke(self, client: int, known: Known, command: str, **fields: Any) -> Any:
        """Send a command; return the reply, or None where the session's state refuses it."""
        remote = self.seen_by(client, known)
        if known.state == "closed":
            self.refused(Code.FAILED_PRECONDITION, remote.invoke(command, **fields))
            return None
        reply = self.run(remote.invoke(command, **fields))
        if known.state == "crashed":
            assert reply.protocol_status.code == WORKER_UNAVAILABLE
            return None
        return reply

    def refused(self, code: grpc.StatusCode, attempt: Awaitable[Any]) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            self.run(attempt)
        assert caught.value.code() == code, caught.value

    def handle(self, known: Known, number: int) -> tuple[int, int]:
        """Return a server and an item handle: of the session, of others, or of none."""
        handles = [(1, 1), (10_000_001, 10_000_001), (0, 0), (-1, 7), (2**31 - 1, 2**31 - 1)]
        handles += [(item.server, handle) for handle, item in known.items.items()]
        return handles[number % len(handles)]

    @staticmethod
    def server(known: Known, number: int) -> int:
        """Return a server handle: of the session, of others, or of none."""
        servers = [*known.servers * 2, 1, 10_000_001, 0, -1]
        return servers[number % len(servers)]

    @staticmethod
    def owned(known: Known, server: int, handle: int) -> Item | None:
        item = known.items.get(handle)
        return item if item is not None and item.server == server else None

    # Sessions

    @initialize()
    def begin(self) -> None:
        """Open some sessions: Hypothesis often leaves out a rule, and all others need one."""
        for client in range(4):
            self.open(client)
            self.add(client, client, 0, TAGS[:5], "subscribe_bulk")

    @rule(client=clients)
    def open(self, client: int) -> None:
        peer = self.peers[client]
        if sum(known.state != "closed" for known in self.sessions) == MOST_SESSIONS:
            self.refused(Code.RESOURCE_EXHAUSTED, peer.open())
        else:
            self.sessions.append(Known(self.run(peer.registered())))
            self.sessions[-1].servers.append(self.sessions[-1].remote.server)

    @rule(client=clients, pick=picks, one_in_five=st.integers(0, 4))
    def close(self, client: int, pick: int, one_in_five: int) -> None:
        known = self.pick(pick)
        if known and not one_in_five:
            reply = self.run(self.seen_by(client, known).close())
            assert reply.final_state == pb.SESSION_STATE_CLOSED
            known.state = "closed"

    @rule(client=clients)
    def use_a_session_that_never_was(self, client: int) -> None:
        remote = Remote(self.peers[client], "session-" + "0" * 32)
        for attempt in (remote.invoke("ping"), remote.close(), remote.write([1], [1.0])):
            self.refused(Code.NOT_FOUND, attempt)

    @rule(pick=picks, one_in_five=st.integers(0, 4))
    def crash(self, pick: int, one_in_five: int) -> None:
        known = self.pick(pick)
        if known and known.state == "ready" and not one_in_five:
            session_id = known.remote.session_id
            self.loop.call_soon(self.gateway.faults.add, CrashWorker(session=session_id))
            self.run(asyncio.sleep(0))
            known.state = "crashed"

    # Handles

    @rule(client=clients, pick=picks)
    def register(self, client: int, pick: int) -> None:
        if (known := self.pick(pick)) and (reply := self.invoke(client, known, "register")):
            handle = reply.register.server_handle
            assert handle > 0
            assert handle not in known.servers
            known.servers.append(handle)

    @rule(client=clients, pick=picks, which=picks)
    def unregister(self, client: int, pick: int, which: int) -> None:
        known = self.pick(pick)
        if not known:
            return
        server = self.server(known, which)
        if reply := self.invoke(client, known, "unregister", server_handle=server):
            assert reply.protocol_status.code == (OK if server in known.servers else FAILURE)
            if server in known.servers:
                known.servers.remove(server)
                kept = {h: item for h, item in known.items.items() if item.server != server}
                known.items = kept

    @rule(
        client=clients,
        pick=picks,
        which=picks,
        names=st.lists(st.sampled_from(TAGS + NO_TAGS), max_size=6),
        command=st.sampled_from(["add_item_bulk", "subscribe_bulk"]),
    )
    def add(self, client: int, pick: int, which: int, names: list[str], command: str) -> None:
        known = self.pick(pick)
        if not known:
            return
        server = self.server(known, which)
        reply = self.invoke(client, known, command, server_handle=server, tag_addresses=names)
        if not reply:
            return
        results = getattr(reply, command).results
        assert [result.tag_address for result in results] == names
        advise = command == "subscribe_bulk"
        for result in results:
            fine = server in known.servers and result.tag_address in TAGS
            assert result.was_successful == fine
            assert (result.item_handle > 0) == fine
            if fine:
                assert result.item_handle not in known.items
                known.items[result.item_handle] = Item(server, result.tag_address, advise)
                if advise:
                    self.tell(known, result.item_handle, self.values[result.tag_address])

    @staticmethod
    def tell(known: Known, handle: int, number: float) -> None:
        item = known.items[handle]
        item.told, item.changed = number, False
        known.events.append((CHANGE, item.server, handle, number))

    @rule(
        client=clients,
        pick=picks,
        which=picks,
        command=st.sampled_from(["advise", "advise_supervisory", "un_advise", "remove_item"]),
    )
    def act_on_one(self, client: int, pick: int, which: int, command: str) -> None:
        known = self.pick(pick)
        if not known:
            return
        server, handle = self.handle(known, which)
        fields = {"server_handle": server, "item_handle": handle}
        if not (reply := self.invoke(client, known, command, **fields)):
            return
        item = self.owned(known, server, handle)
        assert reply.protocol_status.code == (OK if item else FAILURE)
        if item and command == "remove_item":
            del known.items[handle]
        elif item and command == "un_advise":
            item.advised = False
        elif item and not item.advised:
            item.advised = True
            self.tell(known, handle, self.values[item.tag])

    # Writes and reads

    @rule(
        client=clients,
        pick=picks,
        entries=st.lists(st.tuples(picks, numbers), max_size=8),
        which=picks,
    )
    def write_many(
        self, client: int, pick: int, entries: list[tuple[int, float]], which: int
    ) -> None:
        known = self.pick(pick)
        if not known:
            return
        server = self.server(known, which)
        handles = [self.handle(known, item)[1] for item, _ in entries]
        asked = [
            pb.WriteBulkEntry(item_handle=handle, value=pb.MxValue(double_value=number))
            for handle, (_, number) in zip(handles, entries, strict=True)
        ]
        reply = self.invoke(client, known, "write_bulk", server_handle=server, entries=asked)
        if not reply:
            return
        results = reply.write_bulk.results
        assert [result.item_handle for result in results] == handles
        written = []
        for result, (_, number) in zip(results, entries, strict=True):
            item = self.owned(known, server, result.item_handle)
            assert result.was_successful == (item is not None)
            if item:
                written.append((result.item_handle, item.tag, number))
        self.wrote(known, server, written)

    def wrote(self, writer: Known, server: int, written: list[tuple[int, str, float]]) -> None:
        for _, tag, number in written:
            self.values[tag] = number
        for known in self.sessions:
            changes = [
                (item.server, row, handle)
                for row, (_, tag, _) in enumerate(written)
                for handle, item in known.items.items()
                if known.state == "ready" and item.advised and item.tag == tag
            ]
            for _, row, handle in sorted(changes):
                if self.interval:
                    known.items[handle].changed = True
                else:
                    self.tell(known, handle, written[row][2])
        for handle, _, _ in written:
            writer.events.append((COMPLETE, server, handle, 0.0))

    @rule(client=clients, pick=picks, which=picks, number=numbers)
    def write_one(self, client: int, pick: int, which: int, number: float) -> None:
        known = self.pick(pick)
        if not known:
            return
        server, handle = self.handle(known, which)
        value = pb.MxValue(double_value=number)
        fields = {"server_handle": server, "item_handle": handle, "value": value}
        if reply := self.invoke(client, known, "write", **fields):
            item = self.owned(known, server, handle)
            assert reply.protocol_status.code == (OK if item else FAILURE)
            if item:
                self.wrote(known, server, [(handle, item.tag, number)])

    @rule(client=clients)
    def scan(self, client: int) -> None:
        for known in self.sessions:
            if any(item.advised and item.changed for item in known.items.values()):
                self.read_all(client, known)
        self.loop.call_soon(self.clock.advance, self.interval)
        self.run(asyncio.sleep(0))
        for known in self.sessions:
            changed = [
                (item.server, handle)
                for handle, item in known.items.items()
                if known.state == "ready" and item.advised and item.changed
            ]
            for _, handle in sorted(changed):
                self.tell(known, handle, self.values[known.items[handle].tag])

    @rule(client=clients, pick=picks)
    def read(self, client: int, pick: int) -> None:
        if known := self.pick(pick):
            self.read_all(client, known)

    def read_all(self, client: int, known: Known) -> None:
        """Read all tags with one server handle: cached ones are as they were told."""
        for server in known.servers[:1]:
            asked = {"server_handle": server, "tag_addresses": TAGS}
            if reply := self.invoke(client, known, "read_bulk", **asked):
                cached = {
                    item.tag: item.told
                    for _, item in sorted(known.items.items())
                    if item.advised and item.server == server
                }
                for result in reply.read_bulk.results:
                    expected = {**self.values, **cached}[result.tag_address]
                    assert result.value.double_value == expected
                    assert result.was_cached == (result.tag_address in cached)

    def check_values(self, remote: Remote) -> None:
        server = self.run(remote.invoke("register")).register.server_handle
        asked = {"server_handle": server, "tag_addresses": TAGS}
        reply = self.run(remote.invoke("read_bulk", **asked))
        read = {each.tag_address: each.value.double_value for each in reply.read_bulk.results}
        assert read == self.values

    @rule(client=clients, pick=picks)
    def drain(self, client: int, pick: int) -> None:
        known = self.pick(pick)
        if known and known.state == "ready":
            self.check_events(known)
        elif known:
            self.invoke(client, known, "drain_events")

    def check_events(self, known: Known) -> None:
        # Ten at a time, because what the gateway may send is limited here.
        drained: list[Any] = []
        while events := self.run(known.remote.invoke("drain_events", max_events=10)).drain_events:
            if not events.events:
                break
            drained += events.events
        told = [
            (event.family, event.server_handle, event.item_handle, event.value.double_value)
            for event in drained
        ]
        expected = list(known.events)
        known.events.clear()
        assert told == expected
        sequences = [event.worker_sequence for event in drained]
        assert all(later == sooner + 1 for sooner, later in pairwise(sequences))

    # Nonsense

    @rule(
        client=clients, method=st.sampled_from(["OpenSession", "Invoke", "CloseSession"]), cut=picks
    )
    def send_no_message(self, client: int, method: str, cut: int) -> None:
        garbage = bytes([0xFF]) * (1 + cut % 50)
        self.refused(Code.INVALID_ARGUMENT, self.peers[client].raw(method, garbage))

    @rule(client=clients)
    def send_too_much(self, client: int) -> None:
        self.refused(Code.RESOURCE_EXHAUSTED, self.peers[client].raw("Invoke", bytes(LARGEST + 1)))

    @rule(client=clients, pick=picks, kind=st.integers(-5, 200))
    def send_a_kind_without_its_payload(self, client: int, pick: int, kind: int) -> None:
        known = self.pick(pick)
        if known and known.state == "ready":
            request = pb.MxCommandRequest(session_id=known.remote.session_id)
            request.command.kind = kind  # type: ignore[assignment]
            reply = self.run(self.seen_by(client, known).send(request))
            assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST

    @rule(client=clients, pick=picks)
    def send_a_command_without_a_key(self, client: int, pick: int) -> None:
        if known := self.pick(pick):
            peer = self.peers[client]
            kept, peer.metadata = peer.metadata, ()
            request = pb.MxCommandRequest(session_id=known.remote.session_id)
            request.command.kind = kind_of("ping")
            self.refused(Code.UNAUTHENTICATED, peer.raw("Invoke", request.SerializeToString()))
            peer.metadata = kept

    @invariant()
    def as_many_sessions_are_open_as_the_model_knows(self) -> None:
        known = sum(session.state != "closed" for session in self.sessions)
        assert self.gateway.open_sessions == known


class ScanningMachine(GatewayMachine):
    """The same where changes are told at the next scan."""

    interval = 0.1


TestGateway = GatewayMachine.TestCase
TestScanningGateway = ScanningMachine.TestCase
TestGateway.settings = TestScanningGateway.settings = settings(
    max_examples=int(os.environ.get("MXFAST_MODEL_EXAMPLES", "8")),
    stateful_step_count=100,
    deadline=None,
    # Without shrinking, which would start hundreds of gateways to shorten a failure.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
