"""A session's worker: one thread that carries out commands one after another."""

import asyncio
from collections.abc import Callable

from mxfast.simulator import status
from mxfast.simulator.clock import Clock

STUCK_SECONDS = 75.0
"""How long one command may keep the thread (contract notes, Session life cycle)."""


class Worker:
    """The COM thread of one session.

    Commands that take no time never get here but where others wait: see :attr:`is_idle`.

    Parameters
    ----------
    session_id : str
        For messages.
    clock : Clock
        The gateway's time.
    pending_limit : int
        Commands that may be pending (contract notes, Sessions).
    on_stuck : callable
        Called when one command keeps the thread longer than :data:`STUCK_SECONDS`.
    """

    def __init__(
        self, session_id: str, clock: Clock, pending_limit: int, on_stuck: Callable[[], None]
    ) -> None:
        self._session_id = session_id
        self._clock = clock
        self._pending_limit = pending_limit
        self._on_stuck = on_stuck
        self._pending: set[asyncio.Task[bytes]] = set()
        self._last: asyncio.Task[bytes] | None = None
        self._ended: status.Refusal | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no command is pending."""
        return not self._pending

    async def run(self, seconds: float, work: Callable[[], bytes], patience: float) -> bytes:
        """Do some work that takes ``seconds``, when all before it is done.

        Neither a timeout nor a caller that gives up ends the work (contract notes,
        Commands, timeouts, errors).

        Raises
        ------
        Refusal
            Too many commands are pending, this one took longer than ``patience``, or the
            worker ended.
        """
        if len(self._pending) >= self._pending_limit:
            raise status.pending_limit(self._session_id, self._pending_limit)
        task = asyncio.create_task(self._do(self._last, seconds, work))
        self._last = task
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        waiting = asyncio.create_task(self._clock.sleep(patience))
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not task.done():
            raise status.command_timeout(self._session_id, patience)
        if task.cancelled() and self._ended is not None:
            raise self._ended
        return task.result()

    def end(self, refusal: status.Refusal) -> None:
        """End the worker: what is pending is refused, but the command that does so itself."""
        self._ended = refusal
        for task in self._pending - {asyncio.current_task()}:
            task.cancel()

    async def _do(
        self, before: "asyncio.Task[bytes] | None", seconds: float, work: Callable[[], bytes]
    ) -> bytes:
        # Not for one that is done: that would let the timeout's sleep begin before the
        # command's, and a test that moves the clock at the first sleep would hit nothing.
        if before is not None and not before.done():
            await asyncio.wait({before})
        if seconds > 0:
            await self._clock.sleep(min(seconds, STUCK_SECONDS))
        if seconds > STUCK_SECONDS:
            self._on_stuck()
            raise asyncio.CancelledError  # ends as all that is pending did
        return work()
