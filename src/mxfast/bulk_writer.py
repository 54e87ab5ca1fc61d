"""Writes for producers that never wait: what gathers is sent, the newest value of each item."""

import asyncio
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mxfast.codec import in_dtype
from mxfast.errors import MxGatewayError
from mxfast.items import HandlesByTag, Items, resolved
from mxfast.outcomes import Outcome, WriteResult
from mxfast.requests import (
    ArrayRequests,
    as_handles,
    as_plain_dtype,
    as_values,
    check_finite,
)
from mxfast.slots import Slots, grown
from mxfast.threads import run_by_size
from mxfast.write import ArrayWriter

__all__ = ["BulkWriter", "BulkWriterCounts"]

_OPERATION = "bulk writer"


class BulkWriterCounts(NamedTuple):
    """What became of the values put so far.

    ``put == sent + conflated + pending`` and ``sent == accepted + rejected + unknown``.
    """

    put: int
    sent: int
    """Values whose request was sent and has ended."""
    conflated: int
    """Values that a newer one of their item replaced before they were sent."""
    pending: int
    """Values that wait, or whose request is under way."""
    accepted: int
    rejected: int
    """By MXAccess or the gateway; `BulkWriter.last_rejected` says why."""
    unknown: int
    """Values that were sent and of which no answer came."""


class BulkWriter:
    """Writes of a control loop that must never wait, from `Session.bulk_writer`.

    `put` takes values and returns at once. A task sends what has gathered, one array write
    after another; while one is under way, of each item the newest value is kept. So memory
    is bounded by the number of distinct items, and writes to an item keep their order. An
    async context manager; for one event loop, whose thread alone may use it.

    When an array write fails, nothing more is sent: its error is raised by every later
    `put` and `flush` and by `close`. What was not sent stays ``pending``.

    Attributes
    ----------
    last_rejected : WriteResult or None
        The newest array write with a rejected value; its ``errors`` say why.
    """

    def __init__(
        self,
        writer: ArrayWriter,
        server_handle: int,
        by_tag: HandlesByTag,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self._writer = writer
        self._server_handle = server_handle
        self._by_tag = by_tag
        self._session_id = writer.commands.session_id
        self._dtype = as_plain_dtype(dtype)
        self.last_rejected: WriteResult | None = None
        # Of item handles. The arrays below are indexed by them, and may be longer.
        self._slots = Slots()
        self._handles = np.empty(0, np.int32)
        self._values = np.empty(0, self._dtype)
        self._waits = np.empty(0, np.bool_)
        self._under_way = 0
        self._put = 0
        self._outcomes = np.zeros(len(Outcome), np.int64)  # of values that were sent
        self._error: Exception | None = None
        self._closed = False
        self._rounds = 0  # array writes that have ended, but not one that was cancelled
        self._round_ended = asyncio.Event()
        self._gathered = asyncio.Event()
        self._task = asyncio.create_task(self._send_all(), name="mxfast bulk writer")
        # However it ends, also cancelled between two rounds: who waits in `flush` must hear.
        self._task.add_done_callback(lambda _: self._round_ended.set())

    @property
    def counts(self) -> BulkWriterCounts:
        """What became of the values put so far."""
        sent = int(self._outcomes.sum())
        pending = int(np.count_nonzero(self._waits)) + self._under_way
        return BulkWriterCounts(
            put=self._put,
            sent=sent,
            # Not counted by each put: what was put and is neither was replaced.
            conflated=self._put - sent - pending,
            pending=pending,
            accepted=int(self._outcomes[Outcome.ACCEPTED]),
            rejected=int(self._outcomes[Outcome.REJECTED]),
            unknown=int(self._outcomes[Outcome.UNKNOWN]),
        )

    def put(self, item_handles: ArrayLike | Items, values: ArrayLike) -> None:
        """Have values written, one an item; never waits.

        Parameters
        ----------
        item_handles : array of int, `Items`, or sequence of str; shape (n,)
            As for `Session.write_array`. Of an item that appears more than once the last
            value counts.
        values : array of the writer's dtype, shape (n,)
            Other real numbers are converted where that loses nothing; of a list, a float
            becomes the nearest float32. Copied.

        Raises
        ------
        TypeError, ValueError
            Something cannot be written, as for `Session.write_array`. None of it was taken.
        MxGatewayError
            An array write failed before, or the session is closed or was rebuilt.
        RuntimeError
            The writer is closed.
        """
        self._writer.require_session(self._session_id, _OPERATION)
        self._raise_failure()
        if self._closed or self._task.done():
            raise RuntimeError("the bulk writer is closed")
        handles = as_handles(resolved(item_handles, self._server_handle, self._by_tag))
        column = in_dtype(as_values(values, len(handles), self._dtype), self._dtype, "values")
        check_finite(handles, column)
        if not len(handles):
            return
        slots = self._slots.of(handles.astype(np.int64))
        self._handles = grown(self._handles, len(self._slots))
        self._values = grown(self._values, len(self._slots))
        self._waits = grown(self._waits, len(self._slots))
        self._handles[slots] = handles
        self._values[slots] = column  # of equal slots the last is kept
        self._waits[slots] = True
        self._put += len(handles)
        self._gathered.set()

    async def flush(self) -> None:
        """Wait until all that was put before is answered.

        Raises
        ------
        MxGatewayError
            An array write failed.
        RuntimeError
            The writer was stopped before: its owner was cancelled. `counts` says what was
            not sent.
        """
        until = self._rounds + bool(self._under_way) + bool(self._waits.any())
        while self._rounds < until and not self._task.done():
            await self._round_ended.wait()
        self._raise_failure()
        if self._rounds < until:
            raise RuntimeError("the bulk writer was stopped before all that was put was answered")

    async def close(self) -> None:
        """Send what waits, and stop; a second call waits for the first.

        When this is cancelled the task stops at once: `counts` then says what was not sent,
        and so does a note on the CancelledError.

        Raises
        ------
        MxGatewayError
            An array write failed.
        """
        if self._closed:
            await asyncio.wait([self._task])
            self._raise_failure()
            return
        self._closed = True
        try:
            await self.flush()
        except BaseException as error:
            await self._stop()
            self._note_loss(error)
            raise
        await self._stop()

    async def _stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def _note_loss(self, error: BaseException) -> None:
        counts = self.counts
        if counts.pending or counts.unknown:
            error.add_note(
                f"bulk writer: {counts.pending} values that were put have not been sent, "
                f"{counts.unknown} were sent without an answer"
            )

    def _raise_failure(self) -> None:
        if self._error is not None:
            # Each time it is raised its traceback would grow.
            raise self._error.with_traceback(None)

    async def _send_all(self) -> None:
        while self._error is None:
            await self._gathered.wait()
            self._gathered.clear()
            try:
                await self._send_gathered()
            except Exception as error:  # whatever it is, the user sees it
                self._error = error
            self._rounds += 1
            self._round_ended.set()
            self._round_ended = asyncio.Event()

    async def _send_gathered(self) -> None:
        """Write what waits as one array."""
        slots = np.flatnonzero(self._waits)
        handles, values = self._handles[slots], self._values[slots]
        self._waits[:] = False
        self._under_way = len(slots)
        result: WriteResult | None = None
        try:
            self._writer.require_session(self._session_id, _OPERATION)
            target = self._writer.target(self._server_handle)
            requests = await run_by_size(len(slots), ArrayRequests, target, handles, values)
            result = await self._writer.send(
                self._server_handle, handles, requests, operation=_OPERATION
            )
        except BaseException as error:
            result = getattr(error, "result", None)
            raise
        finally:
            outcome = np.zeros(len(slots), np.uint8) if result is None else result.outcome
            self._enter(slots, values, outcome)
            if result is not None and (outcome == Outcome.REJECTED).any():
                self.last_rejected = result

    def _enter(
        self, slots: NDArray[np.intp], values: NDArray[Any], outcome: NDArray[np.uint8]
    ) -> None:
        """Count what was sent, and have wait again what was not."""
        self._under_way = 0
        unsent = outcome == Outcome.NOT_SENT
        self._outcomes += np.bincount(outcome[~unsent], minlength=len(Outcome))
        replaced = self._waits[slots[unsent]]
        again = slots[unsent][~replaced]
        self._values[again] = values[unsent][~replaced]
        self._waits[again] = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: object, error: BaseException | None, traceback: object
    ) -> None:
        if error is None:
            await self.close()
        elif isinstance(error, Exception) and error is not self._error:
            try:
                await self.close()
            except MxGatewayError as failure:
                # What went wrong first is what the user needs to see.
                error.add_note(f"closing the bulk writer failed too: {failure}")
                self._note_loss(error)
        else:  # nothing more can be sent, or a cancellation waits for no gateway
            self._closed = True
            await self._stop()
            self._note_loss(error)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts._asdict().items())
        return f"<BulkWriter: {counts}>"
