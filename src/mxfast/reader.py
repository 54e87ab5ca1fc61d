"""The task that drains an event stream into the queues of its consumers."""

import asyncio
import logging
from collections.abc import Callable

from mxfast import recovery
from mxfast.codec import DecodeError, decode_events
from mxfast.commands import CommandSender
from mxfast.errors import (
    MxGatewayError,
    MxGatewaySessionLostError,
    MxGatewayTimeoutError,
)
from mxfast.event_queue import EventQueue, Listener
from mxfast.recovery import (
    SessionLink,
    breaks_off,
    is_lost,
    is_temporary,
    open_events,
    pause_before,
)
from mxfast.transport import attached

__all__ = ["EventReader"]

_log = logging.getLogger("mxfast")


class EventReader:
    """Reads one stream for all its consumers, apart from their code.

    It ends with the stream, and when the last consumer has left.

    Parameters
    ----------
    link : SessionLink
        Opens the stream.
    after_worker_sequence : int
        The last event the user has.
    resume : bool
        Whether to go on after the connection drops.
    rebuild : bool
        Whether to go on in a new session after the session died.
    """

    def __init__(
        self, link: SessionLink, after_worker_sequence: int, *, resume: bool, rebuild: bool
    ) -> None:
        self._link = link
        self._resume = resume
        self._rebuild = rebuild
        self._queues: tuple[EventQueue, ...] = ()
        self._listener: Listener | None = None
        self._error: Exception | None = None
        self._after = after_worker_sequence
        # Until the first event with a sequence it is not known whether some are missing.
        self._continuing = resume and after_worker_sequence > 0
        self._lost_unseen = False  # nothing to continue from: something may be missing
        self._last: list[bytes] = []  # what arrived last, on this stream
        self._attempts = 0  # to open the stream since it last worked
        self._open_since: float | None = None
        self._reopened = False
        self._stream = link.open(after_worker_sequence)
        self.task = asyncio.create_task(self._run(), name="mxfast event reader")

    def join(self, queue: EventQueue) -> None:
        """Add a consumer's queue.

        Raises
        ------
        ValueError
            It or another one has the policy ``"block"``, which would hold up all others.
        """
        if self._queues and "block" in {queue.overflow, *(each.overflow for each in self._queues)}:
            raise ValueError(
                'overflow="block" is for a stream with one consumer, since it would hold up the '
                'others: give each of them "latest", "drop_oldest" or "error"'
            )
        if self.task.done():
            queue.end(self._error)
        else:
            self._queues += (queue,)

    def leave(self, queue: EventQueue) -> None:
        """Take a consumer's queue out; with the last one the stream ends."""
        queue.end(None)
        self._queues = tuple(each for each in self._queues if each is not queue)
        if not self._queues:
            self.task.cancel()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have a listener hear all that comes; see `EventStream.listen`."""
        self._listener = listener
        # The task says so itself, unless it is cancelled before it ran.
        self.task.add_done_callback(lambda _: listener.ended())
        return self._look_for_room

    def _look_for_room(self) -> None:
        for queue in self._queues:
            queue.look_for_room()

    async def _run(self) -> None:
        try:
            while (failure := await self._read_to_end()) is not None:
                await self._stream.aclose()
                await self._recover(failure)
        except Exception as error:  # whatever it is, the consumers see it
            self._error = error
        finally:
            if self._listener is not None:
                self._listener.ended()  # before a consumer can hear of it and open another stream
            for queue in self._queues:
                queue.end(self._error)
            await self._stream.aclose()

    async def _read_to_end(self) -> MxGatewayError | None:
        """Deliver what the stream brings; return why to open another, None where it is over."""
        try:
            await self._read()
        except MxGatewayError as failure:
            if not self._resume:
                raise
            return failure
        try:
            # A gateway that closes a session, since its lease has run out say, ends the stream
            # as if all were well.
            await self._link.check()
        except MxGatewayError as failure:
            if not self._link.closed and (
                is_lost(failure) or (self._resume and is_temporary(failure))
            ):
                return failure
        return None

    async def _read(self) -> None:
        """Deliver what the stream brings until it ends."""
        self._open_since = None
        if self._lost_unseen:
            await attached(self._stream.opened())
            for queue in self._queues:
                queue.mark_gap()
            await self._read_again()
            self._lost_unseen = False
        await self._stream.opened()
        self._open_since = asyncio.get_running_loop().time()
        async for arrived in self._stream:
            messages = await self._continued(arrived) if self._continuing else arrived
            self._last = arrived  # not before: reading again may fail, and then none is delivered
            if self._listener is not None:
                self._listener.hear(messages)
            await self._deliver(messages)

    async def _deliver(self, messages: list[bytes]) -> None:
        for queue in self._queues:
            if queue.put(messages):
                try:
                    await queue.make_room(self._listener)
                except MxGatewayError as error:
                    # The consumer's own matter: what is for the others goes on.
                    queue.end(error)
                    self.leave(queue)

    # ------------------------------------------------------------ after a broken connection

    async def _continued(self, arrived: list[bytes]) -> list[bytes]:
        """Return what is new of the first messages of a stream that continues another.

        Where events in between are lost, the items' current values are read first: so that
        of what comes for an item, the newest comes last.
        """
        new = []
        for message in arrived:
            try:
                columns = decode_events([message])
            except DecodeError:
                new.append(message)  # whoever takes it comes upon it
                continue
            sequence = int(columns.worker_sequence[0]) if len(columns.worker_sequence) else 0
            if self._continuing and 0 < sequence <= self._after:
                continue  # it came before
            if columns.gaps:
                await self._deliver([message])  # which tells the gap
                await self._read_again()
                self._continuing = False
                continue
            if self._continuing and sequence > self._after + 1:
                await self._read_again()  # the jump tells the gap
            self._continuing = self._continuing and not sequence
            new.append(message)
        return new

    async def _read_again(self) -> None:
        """Deliver the current values of the advised items."""
        try:
            async for values in self._link.current_values():
                await self._deliver(values)
        except MxGatewayError as error:
            if is_temporary(error):
                raise
            _log.warning("the advised items cannot be read again after a gap: %s", error)

    def _note_position(self) -> None:
        """Find the sequence of the event that came last: all have one but the sentinel."""
        try:
            numbered = decode_events(self._last).worker_sequence
        except DecodeError:
            return
        if len(numbered) and numbered[-1]:
            self._after = int(numbered[-1])

    async def _recover(self, failure: MxGatewayError) -> None:
        """Open the stream again, as often as it takes.

        Raises
        ------
        MxGatewaySessionLostError
            The session is dead, and ``rebuild`` was not asked for.
        MxGatewayError
            What leaves no hope.
        """
        had_events, seconds = bool(self._last), self._seconds_open()
        if had_events:
            self._note_position()
            self._last = []
        if had_events or seconds >= recovery.LONGEST_PAUSE:
            self._attempts = 0
        worked = had_events or seconds >= recovery.WORKING
        if not breaks_off(failure, worked=worked, reopened=self._reopened):
            if not is_lost(failure):
                raise failure
            await self._replace_session(failure)
            return
        while True:
            await self._pause(failure)
            try:
                await self._link.check()
                self._stream = self._link.open(self._after)
            except MxGatewayError as error:
                if is_lost(error):
                    await self._replace_session(error)
                elif is_temporary(error) or isinstance(error, MxGatewayTimeoutError):
                    continue
                else:
                    raise
            else:
                self._reopened = True
                self._continuing = self._after > 0
                self._lost_unseen = not self._continuing
            return

    def _seconds_open(self) -> float:
        if self._open_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._open_since

    async def _pause(self, failure: MxGatewayError) -> None:
        pause = pause_before(self._attempts)
        self._attempts += 1
        _log.warning("the event stream is tried again in %.1f s: %s", pause, failure)
        await asyncio.sleep(pause)

    # ------------------------------------------------------------ after the session's end

    async def _replace_session(self, failure: MxGatewayError) -> None:
        """Go on in a new session.

        Raises
        ------
        MxGatewaySessionLostError
            ``rebuild`` was not asked for.
        """
        if not self._rebuild:
            raise MxGatewaySessionLostError(
                f"session {self._link.session_id} is lost: {failure}",
                code=failure.code,
                operation="event_batches",
                reply=failure.reply,
            ) from failure
        while True:
            try:
                changes = await self._link.rebuild(self._attach)
                break
            except MxGatewayError as error:
                await self._stream.aclose()  # the new session's, if it got so far
                if not (
                    is_temporary(error)
                    or is_lost(error)
                    or isinstance(error, MxGatewayTimeoutError)
                ):
                    raise
                await self._pause(error)
        for queue in self._queues:
            queue.rebuilt(changes)

    def _attach(self, sender: CommandSender, advised: bool) -> None:
        """Open the stream of the new session; its sequence starts anew."""
        self._stream = open_events(sender, 0, "event_batches")
        self._after = 0
        self._continuing = False
        self._lost_unseen = advised
