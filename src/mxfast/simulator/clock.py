"""The time by which a simulated gateway lives: the system's, or a test's own."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

_NANOSECONDS = 1_000_000_000


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None:
        """Make it not happen."""


class Clock:
    """The system's time. Use it in the event loop that the gateway runs in."""

    def time_ns(self) -> int:
        """Return the time, in nanoseconds since 1970 (UTC)."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds since some moment; they never go back."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call something once, so many seconds from now."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    def every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call something again and again, first so many seconds from now."""
        return _Repeated(self, seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        woken = asyncio.Event()
        timer = self.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()


class _Repeated:
    def __init__(self, clock: Clock, seconds: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._callback = callback
        self._timer = clock.call_later(seconds, self._call)

    def _call(self) -> None:
        self._timer = self._clock.call_later(self._seconds, self._call)
        self._callback()

    def cancel(self) -> None:
        self._timer.cancel()


class VirtualClock(Clock):
    """A time that stands still until a test moves it.

    Parameters
    ----------
    start : float, default 1767225600
        Seconds since 1970 (UTC) at the beginning: 2026-01-01 unless told otherwise.

    Attributes
    ----------
    waiting : int
        How many calls wait for the clock.

    Examples
    --------
    >>> clock = VirtualClock()
    >>> async with SimulatedGateway(clock=clock) as gateway:
    ...     clock.advance(1800)
    """

    def __init__(self, start: float = 1_767_225_600) -> None:
        self._ns = round(start * _NANOSECONDS)
        self._due: list[tuple[int, int, _Due]] = []
        self._count = itertools.count()
        self.waiting = 0

    def time_ns(self) -> int:
        """Return the time, in nanoseconds since 1970 (UTC)."""
        return self._ns

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self._ns / _NANOSECONDS

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call something once, when the clock has been advanced so many seconds."""
        due = _Due(callback)
        at = self._ns + max(round(seconds * _NANOSECONDS), 1)
        heapq.heappush(self._due, (at, next(self._count), due))
        return due

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced so many seconds."""
        woken = asyncio.Event()

        def wake() -> None:
            self.waiting -= 1
            woken.set()

        self.waiting += 1
        timer = self.call_later(seconds, wake)
        try:
            await woken.wait()
        finally:
            if not woken.is_set():
                self.waiting -= 1
                timer.cancel()

    def advance(self, seconds: float) -> None:
        """Move the time, and do all that falls due in between, at its moment and in order.

        Call it in the gateway's event loop. A call that waits for the clock goes on when
        the loop next runs.

        Raises
        ------
        ValueError
            For less than 0 seconds.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds}, not 0 or more")
        end = self._ns + round(seconds * _NANOSECONDS)
        while self._due and self._due[0][0] <= end:
            self._ns, _, due = heapq.heappop(self._due)
            due.call()
        self._ns = end


class _Due:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def call(self) -> None:
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        self._callback = None
