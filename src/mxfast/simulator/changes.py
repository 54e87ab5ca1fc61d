"""A session's data changes: which values are told, and when."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator.buffers import Buffers, Sample
from mxfast.simulator.clock import Clock, Timer
from mxfast.simulator.events import EventLog
from mxfast.simulator.fault_control import Faults
from mxfast.simulator.items import NEVER, ItemTable
from mxfast.simulator.tags import TagDatabase
from mxfast.simulator.values import Values

# Seconds a reader has to empty a queue that is full; the stream alone takes under one.
_EMPTY_WITHIN = 3.0


class DataChanges:
    """The data changes of one session's items.

    Parameters
    ----------
    items : ItemTable
        The session's items.
    database : TagDatabase
        The tags.
    events : EventLog
        Where the changes go.
    faults : Faults
        The gateway's.
    clock : Clock
        The gateway's time.
    per_write : bool
        Whether every write is a data change of its own, instead of the newest value at
        each :meth:`scan`.
    is_ready : callable returning bool
        Whether the session is.
    """

    def __init__(
        self,
        items: ItemTable,
        database: TagDatabase,
        events: EventLog,
        faults: Faults,
        clock: Clock,
        *,
        per_write: bool,
        is_ready: Callable[[], bool],
    ) -> None:
        self._items = items
        self._database = database
        self._events = events
        self._faults = faults
        self._clock = clock
        self._per_write = per_write
        self._is_ready = is_ready
        self._buffers: Buffers | None = None
        self._newly_advised: list[int] = []
        self._late: dict[int, Timer] = {}
        # The scan: the database's clock at the last one, since when changed items have
        # waited for room (None: none do), and which of them goes next.
        self._scanned_clock = 0
        self._behind_since: float | None = None
        self._resume_item = 0
        if per_write:
            database.listeners.append(self._publish_write)

    def close(self) -> None:
        """Publish nothing any more."""
        if self._per_write:
            self._database.listeners.remove(self._publish_write)
        if self._buffers is not None:
            self._database.listeners.remove(self._gather_write)
        for item in tuple(self._late):
            self.forget(item)

    def begin(self, item: int) -> None:
        """Tell an item's value with the next :meth:`publish_advised`, or later."""
        if self._faults.late:
            self.forget(item)
            self._items.expect(item, True)
            self._late[item] = self._clock.call_later(
                self._faults.first_value_after(), lambda: self._come(item)
            )
        else:
            self.tell(item)

    def tell(self, item: int) -> None:
        """Tell an item's value with the next :meth:`publish_advised`."""
        self._newly_advised.append(item)

    def forget(self, item: int) -> None:
        """Wait no longer for an item's first value."""
        if item in self._late:
            self._late.pop(item).cancel()

    def _come(self, item: int) -> None:
        del self._late[item]
        self._items.expect(item, False)
        self.tell(item)
        if self._is_ready():
            self.publish_advised()

    def set_buffered_interval(self, server_handle: int, milliseconds: int) -> None:
        """Set how often the events of a server handle's buffered items come."""
        self.gather_buffered().set_interval(server_handle, milliseconds)

    def publish_advised(self) -> None:
        """Tell the current value of the items advised or activated since the last call."""
        if self._newly_advised:
            new = np.array(sorted(set(self._newly_advised)), np.intp)
            self._newly_advised.clear()
            watched = new[np.isin(new, self._items.watched)]
            gathering = new[np.isin(new, self._items.gathering)]
            self._items.unresolved.difference_update(watched.tolist(), gathering.tolist())
            self._publish_changed(watched)
            self._gather_changed(gathering)

    def scan(self) -> None:
        """Publish the newest value of each advised item that changed since the last scan.

        No more are published than the subscriber's queue has room for; the others follow
        when it is empty. A plant's scan is slower than its stream while this one's is
        not, so that a full queue alone says nothing about the reader: it counts as
        overflowed when it is not emptied within three seconds.
        """
        if not self._is_ready():
            return
        self._flush_buffers()
        if self._behind_since is not None and not self._events.is_read:
            if self._clock.monotonic() - self._behind_since > _EMPTY_WITHIN:
                self._events.overflow_unread()
        elif self._behind_since is not None or self._scanned_clock != self._database.clock:
            self._publish_all_changed()

    def catch_up(self) -> None:
        """Go on, now that a subscriber's queue is empty."""
        if self._behind_since is not None and self._events.is_read:
            self._publish_all_changed()

    def tell_again(self, concerns: Callable[[str], bool]) -> None:
        """Publish the value of each advised item whose tag's name is concerned."""
        if not self._is_ready():
            return
        name = self._database.name
        for items, tell in (
            (self._items.watched, self._publish_changed),
            (self._items.gathering, self._gather_changed),
        ):
            concerned = [concerns(name(tag)) for tag in self._items.tag[items].tolist()]
            again = items[np.array(concerned, np.bool_)]
            self._items.told[again] = NEVER
            tell(again)

    def values(self, tags: NDArray[np.intp]) -> Values:
        """Return the values of tags, with the quality that faults give them."""
        return self._faulty(tags, self._database.values.take(tags))

    def _faulty(self, tags: NDArray[np.intp], values: Values) -> Values:
        if not self._faults.qualities:
            return values
        quality = self._faults.quality(values.quality, tags, self._database.name)
        return replace(values, quality=quality)

    def _publish_all_changed(self) -> None:
        self._behind_since = None
        self._scanned_clock = self._database.clock
        self._publish_changed(self._items.watched)

    def _publish_changed(self, items: NDArray[np.intp]) -> None:
        """Publish those of the items, in ascending order, whose value was not told yet."""
        version = self._database.version[self._items.tag[items]]
        items = items[version != self._items.told[items]]
        room = self._events.room
        if room is not None and len(items) > room:
            # Take turns, or the first items would starve the last.
            turn = int(np.searchsorted(items, self._resume_item))
            items = np.roll(items, -turn)[:room]
            if len(items) > 0:
                self._resume_item = int(items[-1]) + 1
            if self._behind_since is None:
                self._behind_since = self._clock.monotonic()
        tags = self._items.tag[items]
        self._items.told[items] = self._database.version[tags]
        self._publish_values(items, self.values(tags))

    def _publish_write(self, tags: NDArray[np.intp], values: Values) -> None:
        """Publish each row of a write for each advised item of its tag."""
        items = self._items.watched
        if len(items) == 0 or not self._is_ready():
            return
        items, rows = self._rows_of(items, tags)
        self._items.told[items] = self._database.version[tags[rows]]
        self._publish_values(items, self._faulty(tags[rows], values.take(rows)))

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

    def gather_buffered(self) -> Buffers:
        """Return what gathers the changes of buffered items, from now on."""
        if self._buffers is None:
            self._buffers = Buffers(self._clock)
            self._database.listeners.append(self._gather_write)
        return self._buffers

    def _gather_write(self, tags: NDArray[np.intp], values: Values) -> None:
        """Gather each row of a write for each buffered item of its tag."""
        items, rows = self._rows_of(self._items.gathering, tags)
        if len(items):
            self._items.told[items] = self._database.version[tags[rows]]
            self._gather(items, self._faulty(tags[rows], values.take(rows)))

    def _gather_changed(self, items: NDArray[np.intp]) -> None:
        """Gather those of the buffered items whose value was not gathered yet."""
        version = self._database.version[self._items.tag[items]]
        items = items[version != self._items.told[items]]
        if len(items):
            tags = self._items.tag[items]
            self._items.told[items] = self._database.version[tags]
            self._gather(items, self.values(tags))

    def _gather(self, items: NDArray[np.intp], values: Values) -> None:
        buffers = self.gather_buffered()
        servers = self._items.server_handles(items).tolist()
        handles = self._items.handles(items).tolist()
        for row, (server, handle) in enumerate(zip(servers, handles, strict=True)):
            buffers.add(server, handle, Sample(*values.message(row)))
        if self._per_write:
            self._flush_buffers()

    def _flush_buffers(self) -> None:
        if self._buffers is not None and self._is_ready():
            self._events.publish_messages(self._buffers.flush(at_once=self._per_write))

    def _publish_values(self, items: NDArray[np.intp], values: Values) -> None:
        self._items.cache(items, values)
        servers = self._items.server_handles(items)
        for server in np.unique(servers).tolist():
            rows = np.flatnonzero(servers == server)
            self._events.publish(
                pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
                server,
                self._items.handles(items[rows]),
                values if len(rows) == len(items) else values.take(rows),
            )
