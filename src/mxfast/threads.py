"""Large pieces of work that must not hold the event loop."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["LARGE", "rows_of", "run_by_size"]

LARGE = 100_000
"""Rows from which on a piece of work goes to a thread; measured, see docs/performance.md."""

# Measured likewise: what takes about as long as a row of a numpy array.
_BYTES_A_ROW = 10
_ROWS_AN_OBJECT = 10

P = ParamSpec("P")
T = TypeVar("T")


async def run_by_size(
    rows: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function: at once where it has few rows to work on, else in a thread.

    The codec releases the GIL for arrays of that size, and now and then while it takes a
    list, so the loop goes on meanwhile.
    Whoever is cancelled while the thread works leaves it to finish by itself.
    """
    if rows < LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def rows_of(data: Any) -> int:
    """Return of how many rows of a numpy array something is the work.

    Python objects take longer than numbers do, and text takes as long as it is.
    """
    if isinstance(data, (str, bytes, bytearray)):
        return len(data) // _BYTES_A_ROW
    dtype = getattr(data, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "OT":
        return max(int(data.size), int(data.nbytes) // _BYTES_A_ROW)
    try:
        rows = len(data)
    except TypeError:  # a scalar, or an array of one
        return 1
    if not rows or not isinstance(data, (list, tuple, np.ndarray)):
        return rows * _ROWS_AN_OBJECT
    if isinstance(data[0], (list, tuple, np.ndarray)):
        return rows * rows_of(data[0])
    size = 0
    if isinstance(data[0], (str, bytes)) and rows < LARGE:
        size = sum(len(each) for each in data if isinstance(each, (str, bytes)))
    return max(rows * _ROWS_AN_OBJECT, size // _BYTES_A_ROW)
