"""A session: its handles, its writes and its data changes."""

import uuid
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import WriteRequest, encode_write_reply
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.buffers import Buffers, Sample
from mxfast.simulator.clock import Clock
from mxfast.simulator.events import EventLog, Subscriber
from mxfast.simulator.items import ItemTable
from mxfast.simulator.tags import TagDatabase
from mxfast.simulator.users import Users
from mxfast.simulator.values import Values

_SECURED_BULK_WRITES = frozenset(
    {pb.MX_COMMAND_KIND_WRITE_SECURED_BULK, pb.MX_COMMAND_KIND_WRITE_SECURED2_BULK}
)

# Closed sessions the gateway still knows. The notes say that a close is idempotent while
# the session is known, not for how long that is.
_CLOSED_SESSIONS = 1024

# Seconds a reader has to empty a queue that is full; the stream alone takes under one.
_EMPTY_WITHIN = 3.0


class Session:
    """One open session.

    Parameters
    ----------
    database : TagDatabase
        The tags, shared with all other sessions.
    per_write : bool
        Whether every write is a data change of its own, instead of the newest value at
        each :meth:`scan`.
    event_queue_capacity : int
        Events a subscriber's queue holds.
    users : Users
        The galaxy's users.
    clock : Clock
        The gateway's time.
    """

    def __init__(
        self,
        database: TagDatabase,
        *,
        per_write: bool,
        event_queue_capacity: int,
        users: Users,
        clock: Clock,
    ) -> None:
        self.session_id = f"session-{uuid.uuid4().hex}"
        self.database = database
        self.events = EventLog(self.session_id, event_queue_capacity, clock.time_ns)
        self.users = users
        self.clock = clock
        self.worker_gone = False
        self._per_write = per_write
        self._buffers: Buffers | None = None
        self._servers: set[int] = set()
        self._last_server = 0
        self._items = ItemTable()
        self._newly_advised: list[int] = []
        # The scan: the database's clock at the last one, since when changed items have
        # waited for room (None: none do), and which of them goes next.
        self._scanned_clock = 0
        self._behind_since: float | None = None
        self._resume_item = 0
        if per_write:
            database.listeners.append(self._publish_write)

    @property
    def state(self) -> "pb.SessionState":
        """READY, or FAULTED after an event queue overflowed or the worker ended."""
        faulted = self.events.overflowed or self.worker_gone
        return pb.SESSION_STATE_FAULTED if faulted else pb.SESSION_STATE_READY

    def end_worker(self) -> None:
        """End the worker: commands are refused, the event stream ends with an error."""
        self.worker_gone = True
        if self.events.subscriber is not None:
            self.events.subscriber.end(status.WorkerGone(self.session_id))

    def close(self) -> None:
        """End the session and its event stream."""
        if self._per_write:
            self.database.listeners.remove(self._publish_write)
        if self._buffers is not None:
            self.database.listeners.remove(self._gather_write)
        if self.events.subscriber is not None:
            self.events.subscriber.end(None)

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

    def add_item(self, server_handle: int, name: str) -> int:
        """Return the handle of a new item for the tag of that name."""
        self.check_server(server_handle)
        return self._items.add(server_handle, self.database.find(name))

    def add_buffered_item(self, server_handle: int, name: str) -> int:
        """Return the handle of a new item whose changes come many in one event."""
        self.check_server(server_handle)
        self._buffers_of_session()
        return self._items.add(server_handle, self.database.find(name), buffered=True)

    def set_buffered_update_interval(self, server_handle: int, milliseconds: int) -> None:
        """Set how often the events of buffered items come."""
        self.check_server(server_handle)
        if milliseconds < 0:
            raise status.unusable_value(f"an update interval of {milliseconds} ms")
        self._buffers_of_session().set_interval(server_handle, milliseconds)

    def remove_item(self, server_handle: int, item: int) -> None:
        """Forget an item, advised or not."""
        self._items.check(server_handle, item)
        self._items.remove(item)

    def advise(self, server_handle: int, item: int) -> None:
        """Begin data changes for an item; :meth:`publish_advised` tells the first value."""
        self._items.check(server_handle, item)
        if self._items.advise(item):
            self._newly_advised.append(item)

    def un_advise(self, server_handle: int, item: int) -> None:
        """End data changes for an item. One that has none is no failure (inferred)."""
        self._items.check(server_handle, item)
        self._items.un_advise(item)

    def suspend(self, server_handle: int, item: int, suspended: bool) -> None:
        """Hold back an item's data changes, or let them come again.

        A change that was held back is told when the item is active again (inferred).
        """
        self._items.check(server_handle, item)
        self._items.suspend(item, suspended)
        if not suspended and item in self._items.watched:
            self._newly_advised.append(item)

    def name(self, server_handle: int, item: int) -> str:
        """Return the name of an item's tag."""
        self._items.check(server_handle, item)
        return self.database.name(int(self._items.tag[item]))

    def check_server(self, server_handle: int) -> None:
        """Raise an MxAccessFailure unless the session registered this server handle."""
        if server_handle not in self._servers:
            raise status.invalid_server_handle(server_handle)

    def advised_items(self, server_handle: int) -> dict[int, int]:
        """Return tag and handle of each item that a server handle has advised."""
        items = self._items.advised
        items = items[self._items.server_handles(items) == server_handle]
        return dict(zip(self._items.tag[items].tolist(), items.tolist(), strict=True))

    # Writes

    def write(self, request: WriteRequest) -> bytes:
        """Carry out a bulk write and return the serialised reply.

        Entries that fail do not hold up the others (contract notes, Commands).
        """
        server = request.server_handle
        items = request.item_handle.astype(np.intp)
        values, failures = Values.from_request(request, self.clock.time_ns())
        owned = self._items.owned(server, items)
        self._refuse_unauthorised(request, np.flatnonzero(owned), failures)
        if not owned.all():
            for row in np.flatnonzero(~owned).tolist():
                failures[row] = status.invalid_item_handle(server, int(items[row]))
        failed: dict[int, bytes] | None = None
        if failures:
            failed = {
                row: failure.write_result(server, int(items[row]))
                for row, failure in failures.items()
            }
            rows = np.delete(np.arange(len(items)), list(failures))
            items, values = items[rows], values.take(rows)
        self._store(server, items, values)
        return encode_write_reply(
            request.session_id,
            request.correlation_id,
            request.command_kind,
            server,
            request.item_handle,
            rows=failed,
        )

    def _refuse_unauthorised(
        self,
        request: WriteRequest,
        rows: NDArray[np.intp],
        failures: dict[int, status.MxAccessFailure],
    ) -> None:
        """Add the failures of rows whose tag asks for more than the command is."""
        secured = request.command_kind in _SECURED_BULK_WRITES
        level = self.database.security[self._items.tag[request.item_handle[rows]]]
        if not (secured and not self.users.free_access):
            concerned = level > 0
            rows, level = rows[concerned], level[concerned]
        for row, security in zip(rows.tolist(), level.tolist(), strict=True):
            by = None
            if secured:
                by = (int(request.user_id[row]), int(request.verifier_user_id[row]))
            failure = self.users.refusal(security, by=by)
            if failure is not None:
                failures[row] = failure

    def write_item(
        self,
        server_handle: int,
        item: int,
        value: pb.MxValue,
        source_ns: int,
        *,
        by: tuple[int, int] | None = None,
    ) -> None:
        """Write one value, as of ``source_ns`` (nanoseconds since 1970, UTC).

        ``by`` are current user and verifier of a secured write.
        """
        self._items.check(server_handle, item)
        failure = self.users.refusal(int(self.database.security[self._items.tag[item]]), by=by)
        if failure is not None:
            raise failure
        values = Values.from_message(value, source_ns)
        self._store(server_handle, np.array([item], np.intp), values)

    def _store(self, server_handle: int, items: NDArray[np.intp], values: Values) -> None:
        if len(items) == 0:
            return
        self.database.store(self._items.tag[items], values)
        self.events.publish(
            pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE, server_handle, items.astype(np.int32)
        )

    # Data changes

    def subscribe(self, after_worker_sequence: int) -> tuple[Subscriber, bytes | None]:
        """Attach the event stream; see :meth:`EventLog.subscribe`."""
        return self.events.subscribe(after_worker_sequence, self._catch_up)

    def publish_advised(self) -> None:
        """Tell the current value of the items advised since the last call."""
        if self._newly_advised:
            new = np.array(sorted(set(self._newly_advised)), np.intp)
            self._newly_advised.clear()
            buffered = np.isin(new, self._items.gathering)
            self._publish_changed(new[~buffered & np.isin(new, self._items.watched)])
            if buffered.any():
                tags = self._items.tag[new[buffered]]
                self._gather(new[buffered], self.database.values(tags))

    def scan(self) -> None:
        """Publish the newest value of each advised item that changed since the last scan.

        No more are published than the subscriber's queue has room for; the others follow
        when it is empty. A plant's scan is slower than its stream while this one's is
        not, so that a full queue alone says nothing about the reader: it counts as
        overflowed when it is not emptied within three seconds.
        """
        if self.state != pb.SESSION_STATE_READY:
            return
        self._flush_buffers()
        if self._behind_since is not None and self.events.subscriber is not None:
            if self.clock.monotonic() - self._behind_since > _EMPTY_WITHIN:
                self.events.overflow(self.events.subscriber)
        elif self._behind_since is not None or self._scanned_clock != self.database.clock:
            self._publish_all_changed()

    def _catch_up(self) -> None:
        """Go on, now that the subscriber's queue is empty."""
        if self._behind_since is not None:
            self._publish_all_changed()

    def _publish_all_changed(self) -> None:
        self._behind_since = None
        self._scanned_clock = self.database.clock
        self._publish_changed(self._items.watched)

    def _publish_changed(self, items: NDArray[np.intp]) -> None:
        """Publish those of the items, in ascending order, whose value was not told yet."""
        version = self.database.version[self._items.tag[items]]
        items = items[version != self._items.told[items]]
        subscriber = self.events.subscriber
        if subscriber is not None and len(items) > subscriber.room:
            # Take turns, or the first items would starve the last.
            turn = int(np.searchsorted(items, self._resume_item))
            items = np.roll(items, -turn)[: subscriber.room]
            if len(items) > 0:
                self._resume_item = int(items[-1]) + 1
            if self._behind_since is None:
                self._behind_since = self.clock.monotonic()
        tags = self._items.tag[items]
        self._items.told[items] = self.database.version[tags]
        self._publish_values(items, self.database.values(tags))

    def _publish_write(self, tags: NDArray[np.intp], values: Values) -> None:
        """Publish each row of a write for each advised item of its tag."""
        items = self._items.watched
        if len(items) == 0 or self.state != pb.SESSION_STATE_READY:
            return
        items, rows = self._rows_of(items, tags)
        self._items.told[items] = self.database.version[tags[rows]]
        self._publish_values(items, values.take(rows))

    def _rows_of(
        self, items: NDArray[np.intp], tags: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return each pair of an item and a row of ``tags`` that is its tag's, by row."""
        of_tag = self._items.tag[items]
        order = np.argsort(of_tag, kind="stable")
        items, of_tag = items[order], of_tag[order]
        first = np.searchsorted(of_tag, tags, "left")
        count = np.searchsorted(of_tag, tags, "right") - first
        rows = np.repeat(np.arange(len(tags)), count)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return items[np.repeat(first, count) + nth], rows

    # Buffered items

    def _buffers_of_session(self) -> Buffers:
        if self._buffers is None:
            self._buffers = Buffers(self.clock)
            self.database.listeners.append(self._gather_write)
        return self._buffers

    def _gather_write(self, tags: NDArray[np.intp], values: Values) -> None:
        """Gather each row of a write for each buffered item of its tag."""
        items, rows = self._rows_of(self._items.gathering, tags)
        if len(items):
            self._gather(items, values.take(rows))

    def _gather(self, items: NDArray[np.intp], values: Values) -> None:
        buffers = self._buffers_of_session()
        servers = self._items.server_handles(items).tolist()
        for row, (server, item) in enumerate(zip(servers, items.tolist(), strict=True)):
            buffers.add(server, item, Sample(*values.message(row)))
        if self._per_write:
            self._flush_buffers()

    def _flush_buffers(self) -> None:
        if self._buffers is not None and self.state == pb.SESSION_STATE_READY:
            self.events.publish_messages(self._buffers.flush(at_once=self._per_write))

    def _publish_values(self, items: NDArray[np.intp], values: Values) -> None:
        servers = self._items.server_handles(items)
        for server in np.unique(servers).tolist():
            rows = np.flatnonzero(servers == server)
            self.events.publish(
                pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
                server,
                items[rows].astype(np.int32),
                values if len(rows) == len(items) else values.take(rows),
            )


class SessionTable:
    """The sessions of a gateway.

    Parameters
    ----------
    make_session : callable returning Session
        Makes a session.
    limit : int
        How many may be open at once.
    """

    def __init__(self, make_session: Callable[[], Session], limit: int) -> None:
        self._make_session = make_session
        self._limit = limit
        self._open: dict[str, Session] = {}
        self._closed: dict[str, None] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    def open(self) -> Session:
        """Open a session.

        Raises
        ------
        Refusal
            RESOURCE_EXHAUSTED at the limit.
        """
        if len(self._open) >= self._limit:
            raise status.session_limit(self._limit)
        session = self._make_session()
        self._open[session.session_id] = session
        return session

    def close(self, session_id: str) -> None:
        """Close a session, also a faulted one; closing it again does nothing.

        Raises
        ------
        Refusal
            NOT_FOUND for an id that no known session has.
        """
        session = self._open.pop(session_id, None)
        if session is not None:
            session.close()
            self._closed[session_id] = None
            if len(self._closed) > _CLOSED_SESSIONS:
                del self._closed[next(iter(self._closed))]
        elif session_id not in self._closed:
            raise status.session_not_found(session_id)

    def ready(self, session_id: str) -> Session:
        """Return the session of that id.

        Raises
        ------
        Refusal
            NOT_FOUND for an unknown id, FAILED_PRECONDITION for a closed or faulted
            session; `WorkerGone` where its worker ended.
        """
        session = self._open.get(session_id)
        if session is None:
            if session_id in self._closed:
                raise status.session_not_ready(session_id, pb.SESSION_STATE_CLOSED)
            raise status.session_not_found(session_id)
        if session.worker_gone:
            raise status.WorkerGone(session_id)
        if session.state != pb.SESSION_STATE_READY:
            raise status.session_not_ready(session_id, session.state)
        return session
