"""A session's events: the sequence, the replay ring and the subscribers' queues.

Events are kept as columns and become messages only when a stream, a replay or
DrainEvents takes them, so that events nobody reads cost next to nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.clock import Clock
from mxfast.simulator.event_blocks import OK_STATUS, Block, EventBlock, MessageBlock
from mxfast.simulator.values import Values, timestamp

REPLAY_EVENTS = 1024
REPLAY_SECONDS = 300.0
"""How many events a session can replay, and how old ones (contract notes, Events)."""

# A stream encodes this many events in one call: enough to make the call's own cost
# small, few enough not to hold up the event loop.
_ENCODE_EVENTS = 512


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
        self.sent = 0
        self.ended = asyncio.Event()
        self.refusal: status.Refusal | None = None

    @property
    def room(self) -> int:
        """How many more events the queue takes."""
        return max(self._capacity - self._queued, 0)

    @property
    def is_empty(self) -> bool:
        """Whether the reader has taken everything."""
        return not self._blocks

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
        self.sent += 1


@dataclass(frozen=True, kw_only=True)
class EventRules:
    """What a gateway does with events.

    Attributes
    ----------
    capacity : int
        Events a subscriber's queue holds.
    most_subscribers : int
        Event streams a session may have.
    fail_fast : bool
        Whether an overflow faults a session that may have one stream only.
    replays : bool
        Whether there is a replay ring. Without one, what nobody reads waits in the
        queue, and where that is full the session is faulted.
    """

    capacity: int
    most_subscribers: int
    fail_fast: bool
    replays: bool


class EventLog:
    """All events of a session, in the order of their worker sequence.

    Parameters
    ----------
    session_id : str
        The session.
    rules : EventRules
        The gateway's.
    clock : Clock
        The gateway's time.
    """

    def __init__(self, session_id: str, rules: EventRules, clock: Clock) -> None:
        self._session_id = session_id
        self._rules = rules
        self._clock = clock
        self._next_sequence = 1
        self._drained = 0
        # Blocks with the time they came at. Without replay this is what nobody has read.
        self._ring: deque[tuple[float, Block]] = deque()
        self._ring_events = 0
        self.subscribers: list[Subscriber] = []
        self.overflowed = False

    @property
    def room(self) -> int | None:
        """How many more events every subscriber's queue takes; None where there is none."""
        return min((subscriber.room for subscriber in self.subscribers), default=None)

    @property
    def is_read(self) -> bool:
        """Whether every subscriber has taken everything."""
        return all(subscriber.is_empty for subscriber in self.subscribers)

    def publish(
        self,
        family: int,
        server_handle: int,
        item_handles: NDArray[np.int32],
        values: Values | None = None,
        *,
        outcome: bytes = OK_STATUS,
    ) -> None:
        """Append events of one family and server handle, with one serialised status.

        A subscriber without room for them is disconnected; see :meth:`overflow`.
        """
        now = self._clock.time_ns()
        self._append(
            EventBlock(
                family, server_handle, item_handles, self._next_sequence, now, values, outcome
            )
        )

    def publish_messages(self, events: Iterable[pb.MxEvent]) -> None:
        """Append events of any kind; their session, sequence and times are filled in."""
        first = self._next_sequence
        now = timestamp(self._clock.time_ns())
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
        for subscriber in tuple(self.subscribers):
            if len(block) > subscriber.room:
                self.overflow(subscriber)
            else:
                subscriber.add(block)
        if not self._rules.replays:
            if not self.subscribers:
                self._keep_unread(block)
            return
        now = self._clock.monotonic()
        if len(block) > REPLAY_EVENTS:
            block = block.rows(len(block) - REPLAY_EVENTS, len(block))
        self._ring.append((now, block))
        self._ring_events += len(block)
        while self._ring_events - len(self._ring[0][1]) >= REPLAY_EVENTS:
            self._drop_oldest()

    def _keep_unread(self, block: Block) -> None:
        self._ring.append((0.0, block))
        self._ring_events += len(block)
        if self._ring_events > self._rules.capacity:
            self._forget()
            self.overflowed = True

    def _drop_oldest(self) -> None:
        _, block = self._ring.popleft()
        self._ring_events -= len(block)

    def _forget(self) -> None:
        self._ring.clear()
        self._ring_events = 0

    def overflow(self, subscriber: Subscriber) -> None:
        """Disconnect a subscriber that does not keep up.

        With FailFast, and where a session may have one subscriber only, the session is
        faulted (contract notes, Events).
        """
        faulted = self._rules.fail_fast and self._rules.most_subscribers == 1
        self.overflowed = self.overflowed or faulted
        self.unsubscribe(subscriber)
        subscriber.end(
            status.event_queue_overflow(self._session_id, self._rules.capacity, faulted=faulted)
        )

    def overflow_unread(self) -> None:
        """Disconnect all subscribers that have not taken everything."""
        for subscriber in tuple(self.subscribers):
            if not subscriber.is_empty:
                self.overflow(subscriber)

    def end(self, refusal: status.Refusal | None) -> None:
        """End all streams, with a status where there is one."""
        for subscriber in tuple(self.subscribers):
            self.unsubscribe(subscriber)
            subscriber.end(refusal)

    def subscribe(
        self,
        after_worker_sequence: int,
        on_empty: Callable[[], None],
        lost_at_resume: Callable[[], int],
    ) -> tuple[Subscriber, bytes | None]:
        """Attach a subscriber.

        Parameters
        ----------
        after_worker_sequence : int
            0 for events from now on, else the last sequence the client has: newer events
            are replayed as far as the ring reaches back.
        on_empty : callable
            See :class:`Subscriber`.
        lost_at_resume : callable returning int
            Asked where a stream resumes: above 0 it finds nothing to replay, and at least so
            many events lost.

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
            There are as many subscribers as there may be.
        """
        if len(self.subscribers) >= self._rules.most_subscribers:
            if self._rules.most_subscribers == 1:
                raise status.subscriber_active(self._session_id)
            raise status.subscriber_limit(self._session_id, self._rules.most_subscribers)
        subscriber = Subscriber(self._session_id, self._rules.capacity, on_empty)
        self.subscribers.append(subscriber)
        if not self._rules.replays:
            for block in self._since(after_worker_sequence):
                subscriber.add(block)
            self._forget()
            return subscriber, None
        if after_worker_sequence == 0:
            return subscriber, None
        if lost := lost_at_resume():
            self._forget()
            self._next_sequence = max(self._next_sequence, after_worker_sequence + 1 + lost)
        replayed = self._since(after_worker_sequence)
        for block in replayed:
            subscriber.add(block)
        oldest = replayed[0].first_sequence if replayed else self._next_sequence
        if oldest <= after_worker_sequence + 1:
            return subscriber, None
        sentinel = pb.MxEvent(session_id=self._session_id)
        sentinel.replay_gap.requested_after_sequence = after_worker_sequence
        sentinel.replay_gap.oldest_available_sequence = oldest
        return subscriber, sentinel.SerializeToString()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Detach a subscriber; one that is not attached stays so."""
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)

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
        first = sequence + 1
        if self._rules.replays:
            first = max(first, self._next_sequence - REPLAY_EVENTS)
            oldest = self._clock.monotonic() - REPLAY_SECONDS
            while self._ring and self._ring[0][0] < oldest:
                self._drop_oldest()
        return [
            block.rows(max(first - block.first_sequence, 0), len(block))
            for _, block in self._ring
            if block.next_sequence > first
        ]
