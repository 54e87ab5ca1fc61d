"""Events as columns: a task drains the stream, the user takes what has gathered."""

import asyncio
import importlib
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, Protocol, Self, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import DecodeError, EventColumns, decode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MalformedReplyError, MxGatewayOverflowError, parse
from mxfast.transport import MessageStream, call_soon_from_any_thread

__all__ = ["EventBatch", "EventStream", "Overflow"]

Overflow = Literal["block", "latest", "drop_oldest", "error"]

_OPERATION = "event_batches"
_POLICIES = ("block", "latest", "drop_oldest", "error")
_COLUMNS = (
    "family",
    "server_handle",
    "item_handle",
    "worker_sequence",
    "quality",
    "source_timestamp",
    "gateway_timestamp",
    "kind",
    "value",
    "ok",
)


class EventBatch:
    """Events as columns, in the order they came. All arrays are read-only.

    Attributes
    ----------
    family : ndarray of int32, shape (n,)
        ``MxEventFamily`` of each event.
    server_handle, item_handle : ndarray of int32, shape (n,)
    worker_sequence : ndarray of uint64, shape (n,)
        Contiguous within a session.
    quality : ndarray of int32, shape (n,)
        OPC quality: 192 to 219 good, 64 to 91 uncertain, 0 to 32 bad (contract notes, Status).
    source_timestamp, gateway_timestamp : ndarray of datetime64[ns], shape (n,)
        UTC; NaT where the event has none.
    kind : ndarray of uint8, shape (n,)
        Which arm of MxValue holds the value: `mxfast.codec.ValueKind`.
    value : ndarray of float64, shape (n,)
        The value as a number; NaN where the arm holds none. An int64 beyond 2**53 is
        rounded here; ``values(ValueKind.INT64)`` has all its bits.
    ok : ndarray of bool, shape (n,)
        False where one of the event's statuses is a failure.
    dropped : int
        Events that this client dropped, by the overflow policy, since the batch before.
    gap : bool
        Whether events were lost on the gateway's side since the batch before: the sequence
        jumps, or the gateway said so when the stream began. Such a batch may be empty.
    """

    __slots__ = (
        "_columns",
        "dropped",
        "family",
        "gap",
        "gateway_timestamp",
        "item_handle",
        "kind",
        "ok",
        "quality",
        "server_handle",
        "source_timestamp",
        "value",
        "worker_sequence",
    )

    family: NDArray[np.int32]
    server_handle: NDArray[np.int32]
    item_handle: NDArray[np.int32]
    worker_sequence: NDArray[np.uint64]
    quality: NDArray[np.int32]
    source_timestamp: NDArray[np.datetime64]
    gateway_timestamp: NDArray[np.datetime64]
    kind: NDArray[np.uint8]
    value: NDArray[np.float64]
    ok: NDArray[np.bool_]

    def __init__(self, columns: EventColumns, *, dropped: int = 0, gap: bool = False) -> None:
        self._columns = columns
        self.dropped = dropped
        self.gap = gap
        self.family = columns.family
        self.server_handle = columns.server_handle
        self.item_handle = columns.item_handle
        self.worker_sequence = columns.worker_sequence
        self.quality = columns.quality
        self.source_timestamp = columns.source_timestamp
        self.gateway_timestamp = columns.gateway_timestamp
        self.kind = columns.kind
        self.value = columns.value
        self.ok = columns.ok

    def values(self, kind: int) -> NDArray[Any]:
        """Return the values of the rows of one arm, in their own dtype.

        Parameters
        ----------
        kind : int
            A `mxfast.codec.ValueKind`. ``batch.kind == kind`` are the rows.

        Returns
        -------
        ndarray, shape (m,)
            bool, int32, int64, float32, float64 or datetime64[ns]; object for strings, raw
            values and arrays, which are decoded now.
        """
        return self._columns.values(kind)

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: SupportsIndex) -> pb.MxEvent: ...
    @overload
    def __getitem__(self, index: slice) -> "EventBatch": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "pb.MxEvent | EventBatch":
        """Return an event as its MxEvent message, or a batch of some rows.

        A slice keeps ``dropped`` and ``gap`` of the batch it is cut from.
        """
        if isinstance(index, slice):
            return EventBatch(self._columns.slice(index), dropped=self.dropped, gap=self.gap)
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a batch of {len(self)} events")
        message = self._columns.messages[self._columns.message_index[row]]
        return parse(pb.MxEvent, message, _OPERATION)

    def __iter__(self) -> Iterator[pb.MxEvent]:
        return (self[row] for row in range(len(self)))

    def to_pandas(self) -> Any:
        """Return the columns as a pandas.DataFrame; needs pandas."""
        pandas = importlib.import_module("pandas")
        return pandas.DataFrame({name: getattr(self, name) for name in _COLUMNS}, copy=False)

    def to_arrow(self) -> Any:
        """Return the columns as a pyarrow.Table; needs pyarrow."""
        pyarrow = importlib.import_module("pyarrow")
        return pyarrow.table({name: pyarrow.array(getattr(self, name)) for name in _COLUMNS})

    def __repr__(self) -> str:
        lost = f", {self.dropped} dropped" if self.dropped else ""
        return f"<EventBatch of {len(self)} events{lost}{', gap' if self.gap else ''}>"


class Listener(Protocol):
    """Hears what a stream's reader reads, before the user does and without taking it."""

    @property
    def urgent(self) -> bool:
        """Whether the reader goes on although as many events wait for the user as may."""

    def hear(self, messages: list[bytes]) -> None:
        """Take note of messages that have just come."""

    def ended(self) -> None:
        """Take note that no more will come."""


class _Queue:
    """What the reader task and the user's iterator share. The task knows nothing else,
    so that an iterator nobody holds any more is collected and takes the task with it.
    """

    def __init__(
        self, stream: MessageStream, max_events: int, max_delay: float, overflow: Overflow
    ) -> None:
        self.stream = stream
        self.max_events = max_events
        self.max_delay = max_delay
        self.overflow = overflow
        self.messages: list[bytes] = []
        self.due = False  # a batch waits to be taken
        self.ended = False
        self.error: Exception | None = None
        self.dropped = 0
        self.dropped_sequences = 0  # how many of the dropped have a sequence, and the first
        self.dropped_first: int | None = None
        self.gap = False
        self.waiter: asyncio.Future[None] | None = None
        self.listener: Listener | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def drain(self) -> None:
        """Move messages from the stream to the queue until the stream ends."""
        try:
            async for arrived in self.stream:
                if self.listener is not None:
                    self.listener.hear(arrived)
                messages = self.messages
                if not messages:
                    self._start_timer()
                messages += arrived
                if len(messages) >= self.max_events:
                    self._full()
                    if self.overflow == "block":
                        await self._wait_for_room()
        except DecodeError as error:
            self.error = unreadable(error)
        except Exception as error:  # whatever it is, the user sees it
            self.error = error
        finally:
            self.end()
            await self.stream.aclose()

    def end(self) -> None:
        """Note that nothing more will come."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.call()

    def call(self) -> None:
        """Let the waiting user see what there is."""
        self.due = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def take(self) -> list[bytes]:
        """Return the messages of the next batch."""
        if self.overflow in ("latest", "drop_oldest"):
            self.trim()
        taken = self.messages[: self.max_events]
        self.messages = self.messages[self.max_events :]
        self.due = self.ended
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.messages:
            self.due = True
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
        if self.overflow == "latest":
            keep[superseded(decode_events(self.messages))] = False
            excess = int(keep.sum()) - self.max_events
        if excess > 0:
            keep[np.flatnonzero(keep)[:excess]] = False
        dropped = [self.messages[index] for index in np.flatnonzero(~keep).tolist()]
        columns = decode_events(dropped)  # before anything changes: one may be unreadable
        self.messages = [self.messages[index] for index in np.flatnonzero(keep).tolist()]
        self.gap = self.gap or bool(columns.gaps)
        self.dropped += len(dropped) - len(columns.gaps)
        self.dropped_sequences += count_sequences(columns)
        numbered = columns.worker_sequence[columns.worker_sequence > 0]
        if len(numbered) and self.dropped_first is None:
            self.dropped_first = int(numbered[0])

    def _start_timer(self) -> None:
        if self.max_delay > 0:
            self._timer = self._loop.call_later(self.max_delay, self.call)
        else:
            self.call()

    def _full(self) -> None:
        self.call()
        if self.overflow == "error":
            if len(self.messages) > self.max_events:
                raise MxGatewayOverflowError(
                    f"more than max_events = {self.max_events} events were waiting: take them "
                    "faster, or choose another overflow policy",
                    operation=_OPERATION,
                )
        elif self.overflow != "block" and len(self.messages) >= 2 * self.max_events:
            # Not at each message: dropping needs a look at them, which pays for many at once.
            self.trim()

    async def _wait_for_room(self) -> None:
        while len(self.messages) >= self.max_events:
            if self.listener is not None and self.listener.urgent:
                return
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None


class EventStream(AsyncIterator[EventBatch]):
    """Batches of events, from `Session.event_batches`: an async iterator.

    The stream is opened when this is made, so events of items advised afterwards are not
    missed. It ends, and its call is cancelled, with `aclose` (or ``async with``), when a
    task that waits for a batch is cancelled, on an error, and when nothing refers to it
    any more. A timeout around the iteration is a cancellation and ends it.
    """

    def __init__(
        self,
        open_stream: Callable[[], MessageStream],
        *,
        after_worker_sequence: int,
        max_events: int,
        max_delay: float,
        overflow: Overflow,
    ) -> None:
        if overflow not in _POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(_POLICIES)}, got {overflow!r}")
        if isinstance(max_events, bool) or operator.index(max_events) < 1:
            raise ValueError(f"max_events must be at least 1, got {max_events}")
        if not 0 <= max_delay < 3600:
            raise ValueError(f"max_delay must be 0 to 3600 seconds, got {max_delay}")
        self._last_sequence = after_worker_sequence or None
        self._queue = _Queue(open_stream(), operator.index(max_events), max_delay, overflow)
        self._task = asyncio.create_task(self._queue.drain(), name="mxfast event reader")
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have a listener hear all that is read from now on.

        Returns
        -------
        callable
            To be called when the listener has become urgent.
        """
        self._queue.listener = listener
        self._task.add_done_callback(lambda _: listener.ended())
        return self._queue.look_for_room

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def __anext__(self) -> EventBatch:
        """Return the events that have gathered: up to ``max_events``, waiting for the first.

        Raises
        ------
        MxGatewayError
            The stream failed; the events that came before were returned first.
        """
        queue = self._queue
        while not self._closed:
            if not queue.due:
                await self._wait()
                continue
            messages = self._take()
            if messages:
                batch = self._batch(messages)
                if len(batch) or batch.gap or batch.dropped:
                    return batch
            elif queue.ended:
                await self.aclose()
                if queue.error is not None:
                    error, queue.error = queue.error, None
                    raise error
            else:
                queue.due = False
        raise StopAsyncIteration

    async def _wait(self) -> None:
        if self._queue.waiter is not None:
            raise RuntimeError("another task already waits for this stream's next batch")
        self._queue.waiter = self._loop.create_future()
        try:
            await self._queue.waiter
        except asyncio.CancelledError:
            self._closed = True
            self._task.cancel()
            raise
        finally:
            self._queue.waiter = None

    def _take(self) -> list[bytes]:
        try:
            return self._queue.take()
        except DecodeError:
            # One of them cannot be read: nothing is dropped, so that those before it arrive.
            messages, self._queue.messages = self._queue.messages, []
            return messages

    def _batch(self, messages: list[bytes]) -> EventBatch:
        queue = self._queue
        try:
            columns = decode_events(messages)
        except DecodeError:
            columns, queue.error = readable_part(messages)
            queue.messages = []
            self._task.cancel()
            queue.end()
        gap = self._sequence_jumps(columns) or queue.gap or bool(columns.gaps)
        batch = EventBatch(columns, dropped=queue.dropped, gap=gap)
        queue.gap = False
        queue.dropped = 0
        return batch

    def _sequence_jumps(self, columns: EventColumns) -> bool:
        """Tell whether the sequence went further than events came or were dropped here."""
        queue = self._queue
        sequence = columns.worker_sequence
        numbered = sequence[sequence > 0]
        if not len(numbered):
            return False
        came = count_sequences(columns) + queue.dropped_sequences
        before = self._last_sequence
        if before is None:
            # Nothing is known of what was before the first event.
            first = int(numbered[0])
            before = min(first, queue.dropped_first or first) - 1
        self._last_sequence = int(numbered[-1])
        queue.dropped_sequences, queue.dropped_first = 0, None
        return self._last_sequence - before > came

    async def aclose(self) -> None:
        """End the stream; what has not been taken is discarded."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        self._queue.call()

    def __del__(self) -> None:
        task = getattr(self, "_task", None)
        if task is not None and not task.done():
            call_soon_from_any_thread(self._loop, task.cancel)


def superseded(columns: EventColumns) -> NDArray[np.int64]:
    """Return the messages whose data change a later one of the same item replaces."""
    rows = np.flatnonzero(columns.family == pb.MX_EVENT_FAMILY_ON_DATA_CHANGE)
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
    return MalformedReplyError(f"unreadable event: {error}", operation=_OPERATION)
