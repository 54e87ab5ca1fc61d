"""A session: its handles, its writes and its state."""

import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import WriteRequest, encode_write_reply
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.alarms import Alarms
from mxfast.simulator.changes import DataChanges
from mxfast.simulator.clock import Clock
from mxfast.simulator.completes import WriteCompletes
from mxfast.simulator.events import EventLog, EventRules, Subscriber
from mxfast.simulator.fault_control import Faults
from mxfast.simulator.items import ItemTable
from mxfast.simulator.tags import TagDatabase
from mxfast.simulator.users import Users
from mxfast.simulator.values import Values
from mxfast.simulator.worker import Worker

# A session's handles, of servers and of items, count from 1, 10,000,001, 20,000,001 and so
# on, so that those of another session are refused. 200 times as many are in an int32.
_HANDLES_A_SESSION = 10_000_000
_SESSIONS = 200

_SECURED_BULK_WRITES = frozenset(
    {pb.MX_COMMAND_KIND_WRITE_SECURED_BULK, pb.MX_COMMAND_KIND_WRITE_SECURED2_BULK}
)


@dataclass(frozen=True, kw_only=True)
class SessionRules:
    """What a gateway's options mean for each of its sessions.

    Attributes
    ----------
    era : int
        1, 2 or 3.
    per_write : bool
        Whether every write is a data change of its own, instead of the newest value at
        each scan.
    strict_writes : bool
        Whether an item takes no write before its first data change.
    pending_limit : int
        Commands that may be pending.
    events : EventRules
        See there.
    """

    era: int
    per_write: bool
    strict_writes: bool
    pending_limit: int
    events: EventRules


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What the sessions of a gateway share.

    Attributes
    ----------
    database : TagDatabase
        The tags.
    users : Users
        The galaxy's users.
    alarms : Alarms
        The alarms.
    faults : Faults
        What goes wrong.
    clock : Clock
        The time.
    """

    database: TagDatabase
    users: Users
    alarms: Alarms
    faults: Faults
    clock: Clock


class Session:
    """One open session.

    Parameters
    ----------
    plant : Plant
        What is shared with all other sessions.
    rules : SessionRules
        The gateway's.
    number : int
        How many sessions the gateway opened, this one included.
    command_timeout : float
        Seconds that a command may take.
    """

    def __init__(
        self, plant: Plant, rules: SessionRules, number: int, command_timeout: float
    ) -> None:
        self.session_id = f"session-{uuid.uuid4().hex}"
        self.plant = plant
        self.rules = rules
        self.command_timeout = command_timeout
        self.events = EventLog(self.session_id, rules.events, plant.clock)
        self.worker = Worker(self.session_id, plant.clock, rules.pending_limit, self.end_worker)
        self.worker_gone = False
        self.used_at = plant.clock.monotonic()
        self.detached_at: float | None = None
        self.authenticated: set[int] = set()
        self._database = plant.database
        self._servers: set[int] = set()
        handles_before = (number - 1) % _SESSIONS * _HANDLES_A_SESSION
        self._last_server = handles_before
        self._items = ItemTable(handles_before + 1)
        self.changes = DataChanges(
            self._items,
            plant.database,
            self.events,
            plant.faults,
            plant.clock,
            per_write=rules.per_write,
            is_ready=lambda: self.state == pb.SESSION_STATE_READY,
        )
        self._completes = WriteCompletes(self.events, plant.clock)

    @property
    def state(self) -> "pb.SessionState":
        """READY, or FAULTED after an event queue overflowed or the worker ended."""
        faulted = self.events.overflowed or self.worker_gone
        return pb.SESSION_STATE_FAULTED if faulted else pb.SESSION_STATE_READY

    def end_worker(self) -> None:
        """End the worker: commands are refused, the event stream ends with an error."""
        self.worker_gone = True
        gone = status.WorkerGone(self.session_id)
        self.worker.end(gone)
        self.events.end(gone)

    def cut_streams(self) -> None:
        """End the event streams with UNAVAILABLE; the session goes on."""
        self.events.end(status.stream_cut())

    def overflow_queues(self) -> None:
        """Have the queues of the event streams overflow."""
        for subscriber in tuple(self.events.subscribers):
            self.events.overflow(subscriber)

    def close(self) -> None:
        """End the session, its pending commands and its event streams."""
        self.changes.close()
        self.plant.alarms.unlisten(self.events)
        self.worker.end(status.session_not_ready(self.session_id, pb.SESSION_STATE_CLOSED))
        self.events.end(None)

    # Event streams

    def subscribe(self, after_worker_sequence: int) -> tuple[Subscriber, bytes | None]:
        """Attach an event stream; see :meth:`EventLog.subscribe`."""
        attached = self.events.subscribe(
            after_worker_sequence, self.changes.catch_up, self.plant.faults.lost_at_resume
        )
        self.detached_at = None
        return attached

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Detach an event stream."""
        self.events.unsubscribe(subscriber)
        if not self.events.subscribers:
            self.detached_at = self.used_at = self.plant.clock.monotonic()

    # Handles

    def register(self) -> int:
        """Return a new server handle."""
        self._last_server += 1
        self._servers.add(self._last_server)
        return self._last_server

    def unregister(self, server_handle: int) -> None:
        """Forget a server handle and its items."""
        self.check_server(server_handle)
        self._servers.remove(server_handle)
        self._items.remove_server(server_handle)

    def add_item(self, server_handle: int, name: str, *, buffered: bool = False) -> int:
        """Return the handle of a new item for the tag of that name.

        A bare name of an array has ``[]`` appended in era 3; before, it can be read, and
        a write to it succeeds and does nothing (contract notes, Writes).
        """
        self.check_server(server_handle)
        tag, is_bare_array = self._resolve(name)
        if buffered:
            self.changes.gather_buffered()
        item = self._items.add(server_handle, tag, buffered=buffered)
        if is_bare_array and self.rules.era < 3:
            self._items.idle.add(item)
        if self.rules.strict_writes or self.plant.faults.late:
            self._items.unresolved.add(item)
        return self._items.handle(item)

    def read_tag(self, name: str) -> int:
        """Return the number of the tag that is read by a name."""
        return self._resolve(name)[0]

    def full_name(self, name: str) -> str:
        """Return a name with ``[]`` where it is one of an array without."""
        array = self._database.array(name)
        return name if array is None else self._database.name(array)

    def _resolve(self, name: str) -> tuple[int, bool]:
        """Return the number of a tag, and whether the name is one of an array without ``[]``."""
        self.plant.faults.check_tag(self.full_name(name))
        array = self._database.array(name)
        return (self._database.find(name), False) if array is None else (array, True)

    def remove_item(self, server_handle: int, item_handle: int) -> None:
        """Forget an item, advised or not."""
        item = self._items.find(server_handle, item_handle)
        self._items.remove(item)
        self.changes.forget(item)

    def advise(self, server_handle: int, item_handle: int, *, supervisory: bool = False) -> None:
        """Begin data changes for an item; they are told after the command."""
        item = self._items.find(server_handle, item_handle)
        if self._items.advise(item):
            self.changes.begin(item)
        if supervisory:
            self._items.supervisory.add(item)

    def un_advise(self, server_handle: int, item_handle: int) -> None:
        """End data changes for an item. One that has none is no failure (inferred)."""
        item = self._items.find(server_handle, item_handle)
        self._items.un_advise(item)
        self.changes.forget(item)

    def suspend(self, server_handle: int, item_handle: int, suspended: bool) -> None:
        """Hold back an item's data changes, or let them come again.

        A change that was held back is told when the item is active again (inferred).
        """
        item = self._items.find(server_handle, item_handle)
        self._items.suspend(item, suspended)
        if not suspended:
            self.changes.tell(item)

    def name(self, server_handle: int, item_handle: int) -> str:
        """Return the name of an item's tag."""
        item = self._items.find(server_handle, item_handle)
        return self._database.name(int(self._items.tag[item]))

    def check_server(self, server_handle: int) -> None:
        """Raise an MxAccessFailure unless the session registered this server handle."""
        if server_handle not in self._servers:
            raise status.invalid_server_handle(server_handle)

    def cached_items(self, server_handle: int) -> dict[int, int]:
        """Return tag and handle of each item whose value a server handle has been told."""
        items = self._items.cached
        items = items[self._items.server_handles(items) == server_handle]
        tags, handles = self._items.tag[items], self._items.handles(items)
        return dict(zip(tags.tolist(), handles.tolist(), strict=True))

    def cached(self, server_handle: int, item_handle: int) -> tuple[pb.MxValue, int, int]:
        """Return value, quality and source timestamp in nanoseconds, as an item told them."""
        item = self._items.find(server_handle, item_handle)
        return self._items.cached_values.take(np.array([item], np.intp)).message(0)

    def read(self, tag: int) -> tuple[pb.MxValue, int, int]:
        """Return a tag's value, quality and source timestamp in nanoseconds."""
        return self.changes.values(np.array([tag], np.intp)).message(0)

    # Writes

    def write(self, request: WriteRequest) -> bytes:
        """Carry out a bulk write and return the serialised reply.

        Entries that fail do not hold up the others (contract notes, Commands).
        """
        server = request.server_handle
        items = self._items.rows(request.item_handle)
        values, failures = Values.from_request(
            request, self.plant.clock.time_ns(), sparse=self.rules.era >= 3
        )
        owned = self._items.owned(server, items)
        self._refuse(request, items, owned, failures)
        handles = request.item_handle
        if not owned.all():
            for row in np.flatnonzero(~owned).tolist():
                failures[row] = status.invalid_item_handle(server, int(handles[row]))
        values, misfits = self._database.fit(self._items.tag.take(items, mode="clip"), values)
        failures = misfits | failures  # rights come first
        users = request.user_id
        failed: dict[int, bytes] | None = None
        if failures:
            failed = {
                row: failure.write_result(server, int(handles[row]))
                for row, failure in failures.items()
            }
            rows = np.delete(np.arange(len(items)), list(failures))
            items, values, users = items[rows], values.take(rows), users[rows]
        secured = request.command_kind in _SECURED_BULK_WRITES
        self._store(server, items, values, users, secured=secured)
        return encode_write_reply(
            request.session_id,
            request.correlation_id,
            request.command_kind,
            server,
            handles,
            rows=failed,
        )

    def _refuse(
        self,
        request: WriteRequest,
        items: NDArray[np.intp],
        owned: NDArray[np.bool_],
        failures: dict[int, status.MxAccessFailure],
    ) -> None:
        """Add the failures of rows that the session owns and may not write.

        Rows are looked at one by one only where something could be wrong with them.
        """
        secured = request.command_kind in _SECURED_BULK_WRITES
        any_may_fail = (
            self._items.unresolved
            or self.plant.faults.refused_tags
            or (secured and not self.plant.users.free_access)
        )
        if not any_may_fail and not self._database.has_secured:
            return
        rows = np.flatnonzero(owned)
        if not any_may_fail:
            level = self._database.security[self._items.tag[items[rows]]]
            rows = rows[level > 0]
        for row in rows.tolist():
            by = None
            if secured:
                by = (int(request.user_id[row]), int(request.verifier_user_id[row]))
            failure = self._refusal(int(items[row]), by)
            if failure is not None:
                failures[row] = failure

    def _refusal(self, item: int, by: tuple[int, int] | None) -> status.MxAccessFailure | None:
        """Return why a write to an item is refused, or None where it is not."""
        tag = int(self._items.tag[item])
        faults = self.plant.faults
        if faults.refused_tags and (refusal := faults.refusal(self._database.name(tag))):
            return refusal
        if item in self._items.unresolved:
            return status.unresolved_type(self._database.name(tag))
        security = int(self._database.security[tag])
        return self.plant.users.refusal(security, by=by, authenticated=self.authenticated)

    def write_item(
        self,
        server_handle: int,
        item_handle: int,
        value: pb.MxValue,
        source_ns: int,
        *,
        user: int = 0,
        by: tuple[int, int] | None = None,
    ) -> None:
        """Write one value, as of ``source_ns`` (nanoseconds since 1970, UTC).

        ``by`` are current user and verifier of a secured write, ``user`` is the one of a
        plain write.
        """
        item = self._items.find(server_handle, item_handle)
        failure = self._refusal(item, by)
        if failure is not None:
            raise failure
        values = Values.from_message(value, source_ns, sparse=self.rules.era >= 3)
        values, misfits = self._database.fit(self._items.tag[[item]], values)
        if misfits:
            raise misfits[0]
        users = np.array([user if by is None else by[0]], np.int32)
        self._store(server_handle, np.array([item], np.intp), values, users, secured=by is not None)

    def _store(
        self,
        server_handle: int,
        items: NDArray[np.intp],
        values: Values,
        users: NDArray[np.int32],
        *,
        secured: bool,
    ) -> None:
        if len(items) == 0:
            return
        if self._items.idle:
            kept = np.array([item not in self._items.idle for item in items.tolist()], np.bool_)
            items, values, users = items[kept], values.take(np.flatnonzero(kept)), users[kept]
        done, failing = items, {}
        if self.plant.faults.failed_writes:
            names = map(self._database.name, self._items.tag[items].tolist())
            failing = self.plant.faults.failing(names)
            rows = np.delete(np.arange(len(items)), list(failing))
            done, values, users = items[rows], values.take(rows), users[rows]
        if len(done) > 0:
            self._database.store(self._items.tag[done], values)
            self._record_users(done, users, secured=secured)
        self._completes.tell(server_handle, self._items.handles(items), failing)

    def _record_users(
        self, items: NDArray[np.intp], users: NDArray[np.int32], *, secured: bool
    ) -> None:
        """Record who wrote: of plain writes, where the item has a supervisory advise."""
        recorded = self.plant.users.recorded
        if not (secured or self._items.supervisory or recorded):
            return
        for item, user in zip(items.tolist(), users.tolist(), strict=True):
            name = self._database.name(int(self._items.tag[item]))
            recorded.pop(name, None)
            if user and (secured or item in self._items.supervisory):
                recorded[name] = user
