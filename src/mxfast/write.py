"""Arrays of values to the gateway: sent with a small window, and every outcome kept."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mxfast.checks import shown
from mxfast.codec import DecodeError, WriteReply, decode_write_reply
from mxfast.commands import CommandSender
from mxfast.confirm import Completions, Writes
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewayError,
    MxGatewaySessionError,
    check_mxaccess,
    check_protocol,
    parse,
    was_not_begun,
)
from mxfast.events import EventStream
from mxfast.outcomes import Outcome, WriteResult
from mxfast.requests import (
    ArrayRequests,
    Request,
    Target,
    as_column,
    as_handles,
)
from mxfast.threads import rows_of, run_by_size

__all__ = ["ArrayWriter", "Progress"]

# A session runs one command after another: the second request waits at the gateway while
# the first is worked on, and more would only wait there too.
_IN_FLIGHT = 2

_INVOKE = GATEWAY_METHODS["Invoke"]

Progress = Callable[[int, int], None]


class ArrayWriter:
    """Sends the array writes of one session.

    Parameters
    ----------
    commands : CommandSender
        The session's.
    """

    def __init__(self, commands: CommandSender) -> None:
        self.commands = commands
        self._listening: list[Completions] = []  # one a stream; each may have ended since

    @property
    def completions(self) -> Completions | None:
        """Those of the session's open event stream, the oldest of several."""
        for completions in self._listening:
            if not completions.has_ended:
                return completions
        return None

    @property
    def most_rows(self) -> int:
        """Most rows of a request, as things are now."""
        rows, completions = self.commands.options.max_bulk_items, self.completions
        return rows if completions is None else min(rows, completions.most_rows)

    def listen_to(self, stream: EventStream) -> None:
        """Confirm writes by this stream, from when no older one is open."""
        completions = Completions()
        completions.on_urgent = stream.listen(completions)
        self._listening = [each for each in self._listening if not each.has_ended] + [completions]

    async def write(
        self,
        server_handle: int,
        item_handles: ArrayLike,
        values: ArrayLike,
        *,
        timestamps: ArrayLike | None = None,
        user_id: int = 0,
        secured_by: tuple[int, int] | None = None,
        confirm: float | None = None,
        on_progress: Progress | None = None,
        operation: str = "write_array",
    ) -> WriteResult:
        """Write an array; see `Session.write_array`."""
        self.commands.require_open(operation)
        target = self.target(server_handle, user_id, secured_by)

        def checked() -> tuple[NDArray[np.int32], ArrayRequests, int]:
            handles = as_handles(item_handles)
            column = as_column(values, "values", len(handles))
            times = (
                None if timestamps is None else as_column(timestamps, "timestamps", len(handles))
            )
            requests = ArrayRequests(target, handles, column, times)
            return handles, requests, rows_of(column) // max(len(column), 1)

        rows = max(map(rows_of, (item_handles, values, timestamps)))
        handles, requests, row_work = await run_by_size(rows, checked)
        return await self.send(
            server_handle,
            handles,
            requests,
            confirm=confirm,
            on_progress=on_progress,
            operation=operation,
            row_work=row_work,
        )

    def require_session(self, session_id: str, operation: str) -> None:
        """Raise where handles of a session no longer hold.

        Raises
        ------
        MxGatewaySessionError
            It is closed, or was rebuilt since.
        """
        self.commands.require_open(operation)
        if self.commands.session_id != session_id:
            raise MxGatewaySessionError(
                f"session {session_id} was rebuilt and its handles are others: start "
                f"this {operation} anew with the new ones",
                operation=operation,
            )

    def target(
        self, server_handle: int, user_id: int = 0, secured_by: tuple[int, int] | None = None
    ) -> Target:
        """Return what the requests to a server handle have in common."""
        commands = self.commands
        return Target(
            commands.session_id,
            server_handle,
            commands.next_correlation_id,
            self.most_rows,
            commands.options.max_message_bytes,
            user_id,
            secured_by,
        )

    async def send(
        self,
        server_handle: int,
        handles: NDArray[np.int32],
        requests: Iterator[Request],
        *,
        operation: str,
        confirm: float | None = None,
        on_progress: Progress | None = None,
        row_work: int = 1,
    ) -> WriteResult:
        """Send the requests that write these items, and return the outcomes.

        ``row_work`` is how long it takes to encode a row; a row of numbers takes 1.
        """
        completions = self.completions
        seconds = None if confirm is None else _seconds(confirm)
        run = _Run(
            self.commands,
            completions,
            server_handle=server_handle,
            handles=handles,
            requests=requests,
            most_rows=self.most_rows,
            operation=operation,
            seconds=seconds,
            row_work=row_work,
        )
        if seconds is None:
            return await run.send(on_progress)
        if completions is None:
            raise RuntimeError(
                "confirm needs an open event stream of this session: call event_batches() "
                "first, and keep what it returns"
            )
        with completions.confirming():
            return await run.send(on_progress)


class _InFlight(NamedTuple):
    start: int
    stop: int
    answer: asyncio.Task[bytes]


class _Run:
    """One array write: its requests go out, its outcomes come in."""

    def __init__(
        self,
        commands: CommandSender,
        completions: Completions | None,
        *,
        server_handle: int,
        handles: NDArray[np.int32],
        requests: Iterator[Request],
        most_rows: int,
        operation: str,
        seconds: float | None,
        row_work: int,
    ) -> None:
        self._seconds = seconds
        self._row_work = row_work
        self._commands = commands
        self._transport = commands.transport
        self._completions = completions
        self._server = server_handle
        self._handles = handles
        self._requests = requests
        self._most_rows = most_rows
        self._operation = operation
        tags = commands.tags
        self._result = WriteResult(
            handles,
            lambda item: tags.get((server_handle, item)),
            self._transport.redact,
            operation,
        )
        self._accepted: list[tuple[NDArray[np.intp], Writes]] = []

    async def send(self, on_progress: Progress | None) -> WriteResult:
        """Send what there is to send, and wait for completes where that is asked for."""
        if self._completions is not None:
            self._completions.begin()
        waiting: deque[_InFlight] = deque()
        try:
            await self._commands.attached()
            request = await self._encoded_next(0)
            if request is not None and request.stop == len(self._handles):
                # No task of its own: most writes are one request, and a task costs as much
                # as encoding it.
                await self._room(request)
                try:
                    await self._take(request.start, request.stop, await self._call(request))
                except MxGatewayError as error:
                    self._fail(request.start, request.stop, error)
                    raise
                if on_progress is not None:
                    on_progress(request.stop, request.stop)
            else:
                await self._send_in_turn(request, waiting, on_progress)
            if self._completions is not None and self._seconds is not None:
                await self._confirm(self._completions, self._seconds)
        except BaseException as error:
            final = await self._give_up(error, waiting)
            if final is error:
                raise
            raise final from None
        return self._result

    async def _send_in_turn(
        self, request: Request | None, waiting: deque[_InFlight], on_progress: Progress | None
    ) -> None:
        while request is not None or waiting:
            # Calls in flight may overtake each other: two of them never share an item.
            while request is not None and not (
                waiting and (len(waiting) == _IN_FLIGHT or request.shares_item)
            ):
                await self._room(request)
                answer = asyncio.ensure_future(self._call(request))
                waiting.append(_InFlight(request.start, request.stop, answer))
                # Encoded while the gateway works on those before it.
                request = await self._encoded_next(request.stop)
            start, stop, answer = waiting[0]
            await self._take(start, stop, await answer)
            waiting.popleft()
            if on_progress is not None:
                on_progress(stop, len(self._handles))

    async def _encoded_next(self, start: int) -> Request | None:
        """Encode the next request, of about as many rows as the limits permit."""
        rows = min(self._most_rows, len(self._handles) - start)
        return await run_by_size(rows * self._row_work, next, self._requests, None)

    async def _room(self, request: Request) -> None:
        if self._completions is not None:
            await self._completions.room(request.stop - request.start)

    def _call(self, request: Request) -> Coroutine[Any, Any, bytes]:
        """Note that a request is being sent, and return its call."""
        rows = slice(request.start, request.stop)
        self._result.requests += 1
        self._result.request_bytes += len(request.data)
        # Until a reply is understood, or an error that says that nothing was begun.
        self._result.outcome[rows] = Outcome.UNKNOWN
        if self._completions is not None:
            self._completions.sent(self._server, self._handles[rows])
        return self._transport.unary(
            _INVOKE,
            request.data,
            timeout=self._commands.options.call_timeout,
            operation=self._operation,
        )

    async def _take(self, start: int, stop: int, data: bytes) -> None:
        """Enter the reply to the request of these rows."""
        self._enter(start, stop, await run_by_size(stop - start, self._decode, start, stop, data))

    def _decode(self, start: int, stop: int, data: bytes) -> WriteReply:
        """Return the reply to the request of these rows; it must fit them."""
        try:
            reply = decode_write_reply(data)
        except DecodeError as error:
            raise MalformedReplyError(
                f"unreadable reply: {error}", operation=self._operation
            ) from None
        problem = None
        if not reply.has_results:
            message = parse(pb.MxCommandReply, data, self._operation)
            check_protocol(
                message.protocol_status, self._operation, message, self._transport.redact
            )
            check_mxaccess(message, self._operation, "", self._transport.redact)
            problem = "the reply has no results"
        elif len(reply) != stop - start:
            problem = f"{stop - start} values were sent and {len(reply)} results came back"
        else:
            sent = self._handles[start:stop]
            same = reply.item_handle == sent
            if not same.all():
                row = int(same.argmin())
                problem = (
                    f"result {start + row} is for item {reply.item_handle[row]}, "
                    f"item {sent[row]} was written"
                )
        if problem is not None:
            raise MalformedReplyError(
                f"{problem}; the outcome of indices {start} to {stop - 1} is unknown",
                operation=self._operation,
            )
        return reply

    def _enter(self, start: int, stop: int, reply: WriteReply) -> None:
        self._result._enter(start, stop, reply)
        if self._completions is None or (self._seconds is None and reply.was_successful.all()):
            return
        writes = self._completions.answered(
            self._server, self._handles[start:stop], reply.was_successful
        )
        if self._seconds is not None:
            self._accepted.append((start + np.flatnonzero(reply.was_successful), writes))

    def _fail(self, start: int, stop: int, error: MxGatewayError) -> None:
        """Enter why the request of these rows failed, where that says what became of them."""
        if not was_not_begun(error):
            return
        self._result._refuse(start, stop, error)
        if self._completions is not None:
            self._completions.answered(
                self._server, self._handles[start:stop], np.zeros(stop - start, np.bool_)
            )

    async def _confirm(self, completions: Completions, seconds: float) -> None:
        if not self._accepted:
            return
        indices = np.concatenate([rows for rows, _ in self._accepted])
        writes = Writes(
            np.concatenate([writes.slots for _, writes in self._accepted]),
            np.concatenate([writes.numbers for _, writes in self._accepted]),
        )
        try:
            await completions.wait(writes, seconds)
        finally:  # also for who is cancelled: the result says what is known
            failed = completions.failures(writes)
            self._result._confirm(
                indices[completions.completed(writes)],
                {int(indices[place]): event for place, event in failed.items()},
            )

    async def _give_up(self, error: BaseException, waiting: deque[_InFlight]) -> BaseException:
        """Send nothing more, learn what can be learned, and return what to raise."""
        answers = [each.answer for each in waiting]
        if not isinstance(error, Exception):
            for answer in answers:
                answer.cancel()
        try:
            if answers:
                # After a failure, what else is under way is waited for: it has an outcome too.
                await asyncio.wait(answers)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            for answer in answers:
                answer.cancel()
        for start, stop, answer in waiting:
            with contextlib.suppress(asyncio.CancelledError, asyncio.InvalidStateError):
                try:
                    self._enter(start, stop, self._decode(start, stop, answer.result()))
                except MxGatewayError as failure:
                    self._fail(start, stop, failure)
        error.result = self._result  # type: ignore[attr-defined]  # also on a CancelledError
        return error


def _seconds(confirm: Any) -> float:
    """Return how long to wait for completes."""
    if isinstance(confirm, bool) or not isinstance(confirm, (int, float)):
        raise TypeError(f"confirm must be seconds, got {shown(confirm)}")
    if not (confirm > 0 and math.isfinite(confirm)):
        raise ValueError(f"confirm must be a positive number of seconds, got {shown(confirm)}")
    return float(confirm)
