"""Events as columns: a task drains the stream, the user takes what has gathered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Self

import numpy as np

from mxfast.batch import EventBatch
from mxfast.codec import DecodeError, EventColumns, decode_events
from mxfast.event_queue import (
    EventQueue,
    Listener,
    Overflow,
    count_sequences,
    readable_part,
    repeated,
)
from mxfast.handles import HandleChanges
from mxfast.reader import EventReader
from mxfast.transport import call_soon_from_any_thread

__all__ = ["EventStream"]


class EventStream(AsyncIterator[EventBatch]):
    """Batches of events, from `Session.event_batches`: an async iterator.

    The stream is opened before this is made, and the session's later commands wait until
    the gateway has attached it, so events of items advised afterwards are not missed. It
    ends with `aclose` (or ``async with``), when a task that waits for a batch is
    cancelled, on an error, and when nothing refers to it any more. A timeout around the
    iteration is a cancellation and ends it. With the last of its consumers the gateway's
    stream ends too.
    """

    def __init__(self, reader: EventReader, queue: EventQueue, after_worker_sequence: int) -> None:
        self._reader = reader
        self._queue = queue
        self._last_sequence = after_worker_sequence or None
        self._loop = asyncio.get_running_loop()
        self._closed = False
        reader.join(queue)

    def consumer(
        self,
        *,
        max_events: int = 10_000,
        max_delay: float = 0.01,
        overflow: Overflow = "error",
    ) -> "EventStream":
        """Return another consumer of the same stream: it sees the events from now on.

        A gateway gives a session one stream by default (contract notes, Events), so this is
        how several tasks watch it. Each has a queue and a policy of its own and takes or
        leaves without the others; each must take all its batches or be closed. Parameters
        are those of `Session.event_batches`.

        Returns
        -------
        EventStream

        Raises
        ------
        ValueError
            An argument out of range; or this or another consumer has ``"block"``, which
            would hold up all the others.
        """
        return EventStream(self._reader, EventQueue(max_events, max_delay, overflow), 0)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have a listener hear all that is read from now on.

        Returns
        -------
        callable
            To be called when the listener has become urgent.
        """
        return self._reader.listen(listener)

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
            changes = queue.take_changes()
            messages = self._take()
            if messages or queue.gap or changes is not None:
                batch = self._batch(messages, changes)
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
            self._leave()
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

    def _batch(self, messages: list[bytes], changes: HandleChanges | None) -> EventBatch:
        queue = self._queue
        try:
            columns = decode_events(messages)
        except DecodeError:
            columns, error = readable_part(messages)
            queue.messages = []
            self._reader.leave(queue)
            queue.error = error
        if changes is not None:
            self._last_sequence = None  # it starts anew with the session
        again = repeated(columns, self._last_sequence or 0)
        if len(again):
            columns = decode_events(np.delete(np.array(columns.messages, object), again).tolist())
        gap = self._sequence_jumps(columns) or queue.gap or bool(columns.gaps)
        gap = gap or changes is not None
        batch = EventBatch(columns, dropped=queue.dropped, gap=gap, rebuilt=changes)
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
        # What was dropped may lie behind all that was kept: other events behind a value.
        self._last_sequence = max(int(numbered[-1]), queue.dropped_last)
        queue.dropped_sequences, queue.dropped_first, queue.dropped_last = 0, None, 0
        return self._last_sequence - before > came

    def _leave(self) -> None:
        self._closed = True
        self._reader.leave(self._queue)

    async def aclose(self) -> None:
        """End this consumer; what it has not taken is discarded."""
        self._leave()
        if self._reader.task.cancelling():
            await asyncio.wait([self._reader.task])
        self._queue.call()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            call_soon_from_any_thread(self._loop, partial(self._reader.leave, self._queue))
