"""Large pieces of work that must not hold the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["LARGE", "run_by_size"]

LARGE = 100_000
"""Rows from which on a piece of work goes to a thread; measured, see docs/performance.md."""

P = ParamSpec("P")
T = TypeVar("T")


async def run_by_size(
    rows: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function: at once where it has few rows to work on, else in a thread.

    The codec releases the GIL for arrays of that size, so the loop goes on meanwhile.
    Whoever is cancelled while the thread works leaves it to finish by itself.
    """
    if rows < LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
