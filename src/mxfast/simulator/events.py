"""A session's events: the sequence, the replay ring and the subscriber's queue.

Events are kept as columns and become messages only when a stream, a replay or
DrainEvents takes them, so that events nobody reads cost next to nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import encode_events
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.values import Values, timestamp

REPLAY_EVENTS = 1024
"""Events a session can replay (contract notes, Events)."""

# A stream encodes this many events in one call: enough to make the call's own cost
# small, few enough not to hold up the event loop.
_ENCODE_EVENTS = 512

_STATUS = status.ok_status().SerializeToString()


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events of one family and one server handle, made at one moment.

    Attributes
    ----------
    family : int
        MxEventFamily.
    server_handle : int
        Server handle of all its items.
    item_handles : int32 array
        Item handle of each event.
    first_sequence : int
        Worker sequence of the first event; the others follow it.
    time_ns : int
        When they were made, in nanoseconds since 1970 (UTC).
    values : Values or None
        Their values; None for a family that has none.
    """

    family: int
    server_handle: int
    item_handles: NDArray[np.int32]
    first_sequence: int
    time_ns: int
    values: Values | None

    def __len__(self) -> int:
        return len(self.item_handles)

    @property
    def next_sequence(self) -> int:
        """The sequence after the last event."""
        return self.first_sequence + len(self)

    def rows(self, start: int, stop: int) -> Self:
        """Return a copy of some of the events."""
        rows = np.arange(start, min(stop, len(self)))
        return type(self)(
            self.family,
            self.server_handle,
            self.item_handles[rows],
            self.first_sequence + start,
            self.time_ns,
            None if self.values is None else self.values.take(rows),
        )

    def encode(self, session_id: str) -> list[bytes]:
        """Return the MxEvent messages."""
        if self.values is None:
            return encode_events(
                session_id,
                self.family,
                self.server_handle,
                self.item_handles,
                first_sequence=self.first_sequence,
                gateway_timestamp=self.time_ns,
                status=_STATUS,
            )
        return encode_events(
            session_id,
            self.family,
            self.server_handle,
            self.item_handles,
            first_sequence=self.first_sequence,
            gateway_timestamp=self.time_ns,
            status=_STATUS,
            kind=self.values.kind,
            payload=self.values.payload,
            quality=self.values.quality,
            source_timestamp=self.values.source_timestamp,
            values=self.values.encoded,
        )


@dataclass(frozen=True, slots=True)
class MessageBlock:
    """Events whose messages are made already.

    Attributes
    ----------
    messages : tuple of bytes
        Serialised MxEvent messages.
    first_sequence : int
        Worker sequence of the first event; the others follow it.
    """

    messages: tuple[bytes, ...]
    first_sequence: int

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def next_sequence(self) -> int:
        """The sequence after the last event."""
        return self.first_sequence + len(self)

    def rows(self, start: int, stop: int) -> Self:
        """Return some of the events."""
        return type(self)(self.messages[start:stop], self.first_sequence + start)

    def encode(self, session_id: str) -> list[bytes]:
        """Return the MxEvent messages."""
        return list(self.messages)


Block = EventBlock | MessageBlock


class Subscriber:
    """The reader of one StreamEvents call: a bounded queue of events.

    Parameters
    ----------
    session_id : str
        Goes into every event.
    capacity : int
        Events the queue holds.
    on_empty : callable
        Called when the reader has taken everything; may add more events.
    """

    def __init__(self, session_id: str, capacity: int, on_empty: Callable[[], None]) -> None:
        self._session_id = session_id
        self._capacity = capacity
        self._on_empty = on_empty
        self._blocks: deque[Block] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self.ended = asyncio.Event()
        self.refusal: status.Refusal | None = None

    @property
    def room(self) -> int:
        """How many more events the queue takes."""
        return max(self._capacity - self._queued, 0)

    def add(self, block: Block) -> None:
        """Append events to the queue, whether or not there is room."""
        self._blocks.append(block)
        self._queued += len(block)
        self._wake.set()

    def end(self, refusal: status.Refusal | None) -> None:
        """End the stream, with a status where there is one; what is queued is dropped.

        Only the first end counts.
        """
        if not self.ended.is_set():
            self.refusal = refusal
            self.ended.set()

    async def take(self) -> list[bytes]:
        """Wait for events and return some, encoded; say :meth:`wrote` of each one sent."""
        while not self._blocks:
            self._on_empty()
            if not self._blocks:
                self._wake.clear()
                await self._wake.wait()
        block = self._blocks.popleft()
        if len(block) > _ENCODE_EVENTS:
            self._blocks.appendleft(block.rows(_ENCODE_EVENTS, len(block)))
            block = block.rows(0, _ENCODE_EVENTS)
        return block.encode(self._session_id)

    def wrote(self) -> None:
        """Note that one event taken has left; until then it fills its place in the queue."""
        self._queued -= 1


class EventLog:
    """All events of a session, in the order of their worker sequence.

    Parameters
    ----------
    session_id : str
        The session.
    capacity : int
        Events a subscriber's queue holds.
    now_ns : callable returning int
        The time, in nanoseconds since 1970 (UTC).
    """

    def __init__(self, session_id: str, capacity: int, now_ns: Callable[[], int]) -> None:
        self._session_id = session_id
        self._capacity = capacity
        self._now_ns = now_ns
        self._next_sequence = 1
        self._drained = 0
        self._ring: deque[Block] = deque()
        self._ring_events = 0
        self.subscriber: Subscriber | None = None
        self.overflowed = False

    def publish(
        self,
        family: int,
        server_handle: int,
        item_handles: NDArray[np.int32],
        values: Values | None = None,
    ) -> None:
        """Append events of one family and server handle.

        A subscriber without room for them is disconnected, and the session is faulted:
        the FailFast policy with one subscriber (contract notes, Events).
        """
        self._append(
            EventBlock(
                family, server_handle, item_handles, self._next_sequence, self._now_ns(), values
            )
        )

    def publish_messages(self, events: Iterable[pb.MxEvent]) -> None:
        """Append events of any kind; their session, sequence and times are filled in."""
        first = self._next_sequence
        now = timestamp(self._now_ns())
        messages = []
        for sequence, event in enumerate(events, first):
            event.session_id = self._session_id
            event.worker_sequence = sequence
            event.worker_timestamp.CopyFrom(now)
            event.gateway_receive_timestamp.CopyFrom(now)
            event.statuses.append(status.ok_status())
            messages.append(event.SerializeToString())
        if messages:
            self._append(MessageBlock(tuple(messages), first))

    def _append(self, block: Block) -> None:
        self._next_sequence = block.next_sequence
        if self.subscriber is not None:
            if len(block) > self.subscriber.room:
                self.overflow(self.subscriber)
            else:
                self.subscriber.add(block)
        if len(block) > REPLAY_EVENTS:
            block = block.rows(len(block) - REPLAY_EVENTS, len(block))
        self._ring.append(block)
        self._ring_events += len(block)
        while self._ring_events - len(self._ring[0]) >= REPLAY_EVENTS:
            self._ring_events -= len(self._ring.popleft())

    def overflow(self, subscriber: Subscriber) -> None:
        """Disconnect a subscriber that does not keep up and fault the session."""
        self.overflowed = True
        subscriber.end(status.event_queue_overflow(self._session_id, self._capacity))

    def subscribe(
        self, after_worker_sequence: int, on_empty: Callable[[], None]
    ) -> tuple[Subscriber, bytes | None]:
        """Attach the subscriber.

        Parameters
        ----------
        after_worker_sequence : int
            0 for events from now on, else the last sequence the client has: newer events
            are replayed as far as the ring reaches back.
        on_empty : callable
            See :class:`Subscriber`.

        Returns
        -------
        subscriber : Subscriber
            Its queue holds the replayed events.
        sentinel : bytes or None
            The message to send before all others where events between are lost. That
            what the ring still holds follows it is inferred.

        Raises
        ------
        Refusal
            ALREADY_EXISTS where there is a subscriber.
        """
        if self.subscriber is not None:
            raise status.subscriber_active(self._session_id)
        self.subscriber = Subscriber(self._session_id, self._capacity, on_empty)
        if after_worker_sequence == 0:
            return self.subscriber, None
        replayed = self._since(after_worker_sequence)
        for block in replayed:
            self.subscriber.add(block)
        oldest = replayed[0].first_sequence if replayed else self._next_sequence
        if oldest <= after_worker_sequence + 1:
            return self.subscriber, None
        sentinel = pb.MxEvent(session_id=self._session_id)
        sentinel.replay_gap.requested_after_sequence = after_worker_sequence
        sentinel.replay_gap.oldest_available_sequence = oldest
        return self.subscriber, sentinel.SerializeToString()

    def unsubscribe(self) -> None:
        """Detach the subscriber; events go to the ring only."""
        self.subscriber = None

    def drain(self, max_events: int) -> list[bytes]:
        """Return events in the ring that no earlier call returned, at most ``max_events``.

        0 means all. That they come from the replay ring, also while a stream reads
        them, is inferred: clients are told not to mix the two.
        """
        messages: list[bytes] = []
        for block in self._since(self._drained):
            wanted = max_events - len(messages) if max_events else len(block)
            taken = block.rows(0, wanted)
            messages += taken.encode(self._session_id)
            self._drained = taken.next_sequence - 1
            if len(messages) == max_events:
                break
        return messages

    def _since(self, sequence: int) -> list[Block]:
        """Return what the ring holds of the events after a sequence."""
        first = max(sequence + 1, self._next_sequence - REPLAY_EVENTS)
        return [
            block.rows(max(first - block.first_sequence, 0), len(block))
            for block in self._ring
            if block.next_sequence > first
        ]
