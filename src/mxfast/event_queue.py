"""What waits between the reader of a stream and one who takes its events."""

import asyncio
import operator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mxfast.checks import shown
from mxfast.codec import DecodeError, EventColumns, decode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MalformedReplyError, MxGatewayOverflowError
from mxfast.handles import HandleChanges

__all__ = ["EventQueue", "Listener", "Overflow"]

Overflow = Literal["block", "latest", "drop_oldest", "error"]

OPERATION = "event_batches"
CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
_POLICIES = ("block", "latest", "drop_oldest", "error")


class Listener(Protocol):
    """Hears what a stream's reader reads, before the user does and without taking it."""

    @property
    def urgent(self) -> bool:
        """Whether the reader goes on although as many events wait for the user as may."""

    def hear(self, messages: list[bytes]) -> None:
        """Take note of messages that have just come."""

    def ended(self) -> None:
        """Take note that no more will come."""


class EventQueue:
    """Messages that wait for one consumer; parameters as for `Session.event_batches`.

    The reader holds this and not the consumer, so that a consumer nobody refers to any
    more is collected and leaves.

    Raises
    ------
    ValueError
        A parameter out of range.
    """

    def __init__(self, max_events: int, max_delay: float, overflow: Overflow) -> None:
        if overflow not in _POLICIES:
            raise ValueError(
                f"overflow must be one of {', '.join(_POLICIES)}, got {shown(overflow)}"
            )
        if isinstance(max_events, bool) or operator.index(max_events) < 1:
            raise ValueError(f"max_events must be at least 1, got {shown(max_events)}")
        if not 0 <= max_delay < 3600:
            raise ValueError(f"max_delay must be 0 to 3600 seconds, got {shown(max_delay)}")
        self.max_events = operator.index(max_events)
        self.max_delay = max_delay
        self.overflow = overflow
        self.messages: list[bytes] = []
        self.due = False  # a batch waits to be taken
        self.ended = False
        self.error: Exception | None = None
        self.dropped = 0
        # How many of the dropped have a sequence, the first one and the last one.
        self.dropped_sequences = 0
        self.dropped_first: int | None = None
        self.dropped_last = 0
        self.gap = False
        self.changes: HandleChanges | None = None
        self.of_old_session = 0  # how many messages come before the changes
        self.waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def put(self, arrived: list[bytes]) -> bool:
        """Add messages; tell whether that makes it full, which `make_room` sees to."""
        messages = self.messages
        if not messages:
            self._start_timer()
        messages += arrived
        return len(messages) >= self.max_events

    async def make_room(self, listener: Listener | None) -> None:
        """Do what the overflow policy asks for, now that the queue is full.

        While the listener is urgent, ``"block"`` blocks nothing.

        Raises
        ------
        MxGatewayOverflowError
            More wait than may, and the policy is ``"error"``.
        MalformedReplyError
            A message that was to be dropped cannot be read.
        """
        self.call()
        if self.overflow == "block":
            while len(self.messages) >= self.max_events and not (listener and listener.urgent):
                self._room = self._loop.create_future()
                try:
                    await self._room
                finally:
                    self._room = None
        elif self.overflow == "error":
            if len(self.messages) > self.max_events:
                raise MxGatewayOverflowError(
                    f"more than max_events = {self.max_events} events were waiting: take them "
                    "faster, or choose another overflow policy",
                    operation=OPERATION,
                )
        elif len(self.messages) >= 2 * self.max_events:
            # Not at each message: dropping needs a look at them, which pays for many at once.
            try:
                self.trim()
            except DecodeError as error:
                raise unreadable(error) from None

    def mark_gap(self) -> None:
        """Have the next batch tell that events were lost; it may have none itself."""
        self.gap = True
        self.call()

    def rebuilt(self, changes: HandleChanges) -> None:
        """Have the next batch of another session tell what the handles became."""
        if self.changes is not None:
            changes = self.changes.then(changes)
        self.changes = changes
        self.of_old_session = len(self.messages)
        self.mark_gap()

    def take_changes(self) -> HandleChanges | None:
        """Return the handles' changes, once, when all before them was taken."""
        if self.of_old_session:
            return None
        changes, self.changes = self.changes, None
        return changes

    def end(self, error: Exception | None) -> None:
        """Note that nothing more will come, and why; only the first end counts."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        self._stop_timer()
        self.call()

    def call(self) -> None:
        """Let the waiting consumer see what there is."""
        self.due = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def take(self) -> list[bytes]:
        """Return the messages of the next batch."""
        if self.overflow in ("latest", "drop_oldest"):
            self.trim()
        count = min(self.of_old_session or self.max_events, self.max_events)
        taken, self.messages = self.messages[:count], self.messages[count:]
        self.of_old_session = max(self.of_old_session - count, 0)
        self.due = self.ended or bool(self.messages)
        self._stop_timer()
        self.look_for_room()
        return taken

    def look_for_room(self) -> None:
        """Let a reader that waits for room see whether it may go on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def trim(self) -> None:
        """Drop what is more than ``max_events``, and count it."""
        excess = len(self.messages) - self.max_events
        if excess <= 0:
            return
        keep = np.ones(len(self.messages), np.bool_)
        rank = np.zeros(len(self.messages), np.int8)
        if self.overflow == "latest":
            waiting = decode_events(self.messages)
            keep[superseded(waiting)] = False
            excess = int(keep.sum()) - self.max_events
            # The newest values stay longest: nothing else that comes, write-completes say,
            # may drive them out.
            rank[waiting.message_index[waiting.family == CHANGE]] = 1
        if excess > 0:
            kept = np.flatnonzero(keep)
            keep[kept[np.argsort(rank[kept], kind="stable")[:excess]]] = False
        dropped = [self.messages[index] for index in np.flatnonzero(~keep).tolist()]
        columns = decode_events(dropped)  # before anything changes: one may be unreadable
        self.messages = [self.messages[index] for index in np.flatnonzero(keep).tolist()]
        self.of_old_session = int(keep[: self.of_old_session].sum())
        self.gap = self.gap or bool(columns.gaps)
        self.dropped += len(dropped) - len(columns.gaps)
        self.dropped_sequences += count_sequences(columns)
        numbered = columns.worker_sequence[columns.worker_sequence > 0]
        if len(numbered):
            if self.dropped_first is None:
                self.dropped_first = int(numbered[0])
            self.dropped_last = int(numbered[-1])

    def _start_timer(self) -> None:
        if self.max_delay > 0:
            self._timer = self._loop.call_later(self.max_delay, self.call)
        else:
            self.call()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def superseded(columns: EventColumns) -> NDArray[np.int64]:
    """Return the messages whose data change a later one of the same item replaces."""
    rows = np.flatnonzero(columns.family == CHANGE)
    server = columns.server_handle[rows].astype(np.int64)
    item = columns.item_handle[rows].astype(np.int64)
    # Reversed, as unique() keeps the first of equal elements.
    newest = np.unique((server << 32 | item & 0xFFFFFFFF)[::-1], return_index=True)[1]
    replaced = np.ones(len(rows), np.bool_)
    replaced[len(rows) - 1 - newest] = False
    return columns.message_index[rows[replaced]]


def count_sequences(columns: EventColumns) -> int:
    """Return how many messages with a sequence there are; several rows may be of one."""
    numbered = columns.message_index[columns.worker_sequence > 0]
    return int((np.diff(numbered) != 0).sum()) + 1 if len(numbered) else 0


def repeated(columns: EventColumns, last: int) -> NDArray[np.int64]:
    """Return the messages whose sequence is not beyond ``last`` and all before them."""
    rows = np.flatnonzero(columns.worker_sequence)
    sequence = columns.worker_sequence[rows]
    if not len(rows) or (int(sequence[0]) > last and (sequence[1:] > sequence[:-1]).all()):
        return np.empty(0, np.int64)
    messages, first = np.unique(columns.message_index[rows], return_index=True)
    sequence = np.concatenate([np.array([last], np.uint64), sequence[first]])
    return messages[sequence[1:] <= np.maximum.accumulate(sequence)[:-1]]


def readable_part(messages: list[bytes]) -> tuple[EventColumns, MalformedReplyError]:
    """Return the events before the first message that cannot be read, and its error."""
    for index, message in enumerate(messages):
        try:
            decode_events([message])
        except DecodeError as error:
            return decode_events(messages[:index]), unreadable(error)
    raise AssertionError("every message can be read")


def unreadable(error: DecodeError) -> MalformedReplyError:
    """Return the error for an event that cannot be read."""
    return MalformedReplyError(f"unreadable event: {error}", operation=OPERATION)
