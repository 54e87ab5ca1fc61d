"""Which writes of a session have completed, told from the events of its stream."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import DecodeError, EventColumns, decode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.event_queue import readable_part
from mxfast.slots import Slots, grown

__all__ = ["Completions", "Writes"]

# Decoding this many events at a time costs some 50 ns an event, a thousandth of what it
# costs to receive one.
_EVENTS_AT_A_TIME = 256

# A quarter of what the queue of an event stream holds at the gateway, which ends the stream or
# the session when it overflows (contract notes, Events): each may have a data change beside
# it, and there are the changes that others make.
UNDER_WAY = 2_500
# Where so long no complete comes, none is waited for: a gateway that sends none, a stream
# whose user takes nothing, completes lost in a gap.
PATIENCE = 1.0


class Writes(NamedTuple):
    """Writes that were accepted, and which completion of their item is each one's own."""

    slots: NDArray[np.int64]
    numbers: NDArray[np.int64]


class Completions:
    """Counts the writes and the write-completes of each item, while one event stream lives.

    A write-complete carries no correlation id: an item's completes come in the order of its
    writes (contract notes, Commands), so the n-th is that of the n-th write that MXAccess
    took. It hears the stream as a `mxfast.event_queue.Listener`. Nothing is looked at before
    the session's first array write.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._counting = False
        self._slots = Slots()
        self._taken = np.zeros(0, np.int64)  # writes of each item that were sent, not rejected
        self._completed = np.zeros(0, np.int64)
        self._unread: list[bytes] = []
        self._read_at = _EVENTS_AT_A_TIME
        self._read_so_far = 0  # write-completes
        self._under_way = 0  # writes that were sent, not rejected, and have not completed
        self._confirming = 0
        self._failed: dict[int, bytes] = {}  # events of failures, while anybody confirms
        self._waiters: dict[asyncio.Future[None], int] = {}  # and when to look again
        self.on_urgent: Callable[[], None] = lambda: None

    # ------------------------------------------------------------ the events

    @property
    def most_rows(self) -> int:
        """Most rows of a request: with more its own completes would overflow the queue."""
        return UNDER_WAY

    @property
    def urgent(self) -> bool:
        """Whether a write waits for its completes."""
        return self._confirming > 0

    def hear(self, messages: list[bytes]) -> None:
        """Count the write-completes among messages, not necessarily now."""
        if self._counting:
            self._unread += messages
            if len(self._unread) >= self._read_at:
                self._read()

    def ended(self) -> None:
        """Count what has come, and let nobody wait any longer."""
        self._read()
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _read(self) -> None:
        if not self._unread:
            return
        messages, self._unread = self._unread, []
        try:
            self._count(decode_events(messages))
        except DecodeError:
            # Of a stream with an unreadable event the user gets no more either.
            self._count(readable_part(messages)[0])
            self._end()

    def _count(self, columns: EventColumns) -> None:
        rows = np.flatnonzero(columns.family == pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE)
        if not len(rows):
            return
        slots = self._slots_of(columns.server_handle[rows], columns.item_handle[rows])
        if self._confirming and not columns.ok[rows].all():
            self._keep_failures(columns, rows, slots)
        self._completed += np.bincount(slots, minlength=len(self._completed))
        self._count_others(slots)
        self._read_so_far += len(rows)
        self._under_way = max(0, self._under_way - len(rows))
        for waiter, until in self._waiters.items():
            if self._read_so_far >= until and not waiter.done():
                waiter.set_result(None)
        self._set_read_at()

    def _keep_failures(
        self, columns: EventColumns, rows: NDArray[np.intp], slots: NDArray[np.int64]
    ) -> None:
        numbers = self._completed[slots] + _ranks(slots)
        for row in np.flatnonzero(~columns.ok[rows]).tolist():
            key = int(slots[row]) << 32 | int(numbers[row])
            self._failed[key] = columns.messages[columns.message_index[rows[row]]]

    def _set_read_at(self) -> None:
        soonest = min(self._waiters.values(), default=self._read_so_far + _EVENTS_AT_A_TIME)
        self._read_at = max(1, min(soonest - self._read_so_far, _EVENTS_AT_A_TIME))

    def _slots_of(
        self, server: int | NDArray[np.int32], items: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        servers = np.asarray(server).astype(np.int64)
        slots = self._slots.of(servers << 32 | items.astype(np.int64) & 0xFFFFFFFF)
        self._taken = grown(self._taken, len(self._slots))
        self._completed = grown(self._completed, len(self._slots))
        return slots

    # ------------------------------------------------------------ the writes

    def begin(self) -> None:
        """Prepare for a write that is about to be sent."""
        self._counting = True
        self._read()

    async def room(self, rows: int) -> None:
        """Wait until the completes of so many more writes will not overflow the gateway's queue.

        It takes a client some 50 us to receive an event, and a gateway much less to make one:
        without this a fast writer with an open stream ends its own session.
        """
        loop = asyncio.get_running_loop()
        while self._under_way and self._under_way + rows > UNDER_WAY and not self.has_ended:
            count = min(self._under_way, self._under_way + rows - UNDER_WAY)
            before = self._read_so_far
            in_time = await self._more(count, loop.time() + PATIENCE)
            if not in_time and self._read_so_far == before:
                self._under_way = 0

    def sent(self, server: int, items: NDArray[np.int32]) -> None:
        """Count writes that are being sent."""
        self._under_way += len(items)
        slots = self._slots_of(server, items)
        self._taken += np.bincount(slots, minlength=len(self._taken))

    def answered(
        self, server: int, items: NDArray[np.int32], accepted: NDArray[np.bool_]
    ) -> Writes:
        """Take back those of one request that were rejected, and number the others."""
        slots = self._slots_of(server, items)
        if not accepted.all():
            self._taken -= np.bincount(slots[~accepted], minlength=len(self._taken))
            self._count_others(slots[~accepted])
            self._under_way = max(0, self._under_way - int(np.count_nonzero(~accepted)))
            slots = slots[accepted]
        before = self._taken - np.bincount(slots, minlength=len(self._taken))
        return Writes(slots, before[slots] + _ranks(slots))

    def _count_others(self, slots: NDArray[np.int64]) -> None:
        """Count writes of other commands: they complete without having been counted."""
        self._taken[slots] = np.maximum(self._taken[slots], self._completed[slots])

    @contextmanager
    def confirming(self) -> Iterator[None]:
        """Have the stream read on, and failures kept, while a write is under way."""
        self._confirming += 1
        self.on_urgent()
        try:
            yield
        finally:
            self._confirming -= 1
            if not self._confirming:
                self._failed.clear()

    async def wait(self, writes: Writes, seconds: float) -> None:
        """Wait until all of these are completed, or time is up, or the stream ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        slots, numbers = writes
        while True:
            self._read()
            missing = self._completed[slots] < numbers
            slots, numbers = slots[missing], numbers[missing]
            if not len(slots) or self.has_ended:
                return
            # Not sooner than so many completes have come: each look costs linear time.
            if not await self._more(len(slots), deadline):
                return

    async def _more(self, count: int, deadline: float) -> bool:
        """Wait until so many more completes were read, or the stream ends; False if time is up."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = self._read_so_far + count
        self._set_read_at()
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            self._read()
            return False
        finally:
            del self._waiters[waiter]
            self._set_read_at()
        return True

    def completed(self, writes: Writes) -> NDArray[np.bool_]:
        """Tell which of the writes are completed."""
        return self._completed[writes.slots] >= writes.numbers

    def failures(self, writes: Writes) -> dict[int, bytes]:
        """Return the events of those that failed, by their place among the writes."""
        if not self._failed:
            return {}
        keys = writes.slots << 32 | writes.numbers
        failed = np.flatnonzero(np.isin(keys, np.fromiter(self._failed, np.int64)))
        return {int(place): self._failed[int(keys[place])] for place in failed}


def _ranks(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 1 for the first of equal elements, 2 for the second, and so on."""
    order = np.argsort(slots, kind="stable")
    places = np.arange(len(slots))
    first = np.ones(len(slots), np.bool_)
    first[1:] = np.diff(slots[order]) != 0
    ranks = np.empty(len(slots), np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(first, places, 0)) + 1
    return ranks
