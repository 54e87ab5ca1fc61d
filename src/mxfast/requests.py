"""The requests of an array write: its arrays checked, split and encoded."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mxfast.checks import shown
from mxfast.codec import EncodeError, PreparedWriteBulk, encode_write_bulk, first_non_finite
from mxfast.interop import as_array

__all__ = [
    "ArrayRequests",
    "PreparedRequests",
    "Request",
    "Target",
    "as_column",
    "as_handles",
    "as_plain_dtype",
    "as_values",
    "check_finite",
]

T = TypeVar("T")


class Request(NamedTuple):
    """One request of an array write."""

    start: int
    """Its rows in the array."""
    stop: int
    data: bytes
    shares_item: bool
    """Whether the request before it has an item in common with it."""


class Target(NamedTuple):
    """What the requests of a write have in common."""

    session_id: str
    server_handle: int
    next_correlation_id: Callable[[], str]
    most_rows: int
    """Of a request."""
    most_bytes: int
    user_id: int = 0
    secured_by: tuple[int, int] | None = None


class ArrayRequests(Iterator[Request]):
    """The requests of one array, each encoded when it is asked for.

    Making it encodes the first and finds whatever would make a later one fail.

    Parameters
    ----------
    target : Target
    handles : ndarray of int32, shape (n,)
    values, timestamps : ndarray, shape (n,)
        As for `encode_write_bulk`. Not to be changed before the last request.
    """

    def __init__(
        self,
        target: Target,
        handles: NDArray[np.int32],
        values: NDArray[Any],
        timestamps: NDArray[Any] | None = None,
    ) -> None:
        # Nothing here refers to this object: a cycle would keep requests until a collection.
        def encode(start: int, stop: int) -> bytes:
            rows = slice(start, stop)
            try:
                return encode_write_bulk(
                    target.session_id,
                    target.server_handle,
                    handles[rows],
                    values[rows],
                    timestamps=None if timestamps is None else timestamps[rows],
                    user_id=target.user_id,
                    secured_by=target.secured_by,
                    correlation_id=target.next_correlation_id(),
                )
            except EncodeError as error:
                raise _counted_from(start, error) from None

        parts = partial(_parts, handles, target, encode, len)
        self._handles = handles
        self._neighbours: _Neighbours | None = None
        self._parts = parts()
        # A request is encoded when its turn comes; what a later one would refuse is found now.
        self._next = next(self._parts, None)
        if self._next is None:
            encode(0, 0)
        elif self._next[1] < len(handles):
            if timestamps is None and values.dtype.kind == "f":
                check_finite(handles, values)
            elif timestamps is not None or not _always_fits(values.dtype):
                for _ in parts():  # encode all once, keeping nothing
                    pass
            self._neighbours = _Neighbours(handles)

    def __next__(self) -> Request:
        part = self._next or next(self._parts)
        self._next = None
        start, stop, data = part
        shares = self._neighbours is not None and self._neighbours.share(self._handles[start:stop])
        return Request(start, stop, data, shares)


def _always_fits(dtype: np.dtype[Any]) -> bool:
    """Tell whether no element of a dtype can be refused, or be too large for a message."""
    return dtype.kind in "bi" or (dtype.kind == "u" and dtype.itemsize < 8)


class _Part(NamedTuple):
    start: int
    stop: int
    prepared: PreparedWriteBulk
    shares_item: bool


class PreparedRequests:
    """Requests of the same items again and again, laid out once; only values change.

    Parameters
    ----------
    target : Target
    handles : ndarray of int32, shape (n,)
    dtype : dtype
        float64, float32 or bool: their rows have a fixed size.
    """

    def __init__(self, target: Target, handles: NDArray[np.int32], dtype: DTypeLike) -> None:
        self._handles = handles
        # The gateway files pending commands by correlation id: each request needs its own, and
        # here all of one length.
        prefix, counter = target.next_correlation_id(), itertools.count()
        self._next_correlation_id: Callable[[], str] = lambda: (
            f"{prefix}-{next(counter) & 0xFFFFFFFF:08x}"
        )
        correlation_id = self._next_correlation_id()
        zeros = np.zeros(len(handles), dtype)
        neighbours = _Neighbours(handles)

        def lay_out(start: int, stop: int) -> PreparedWriteBulk:
            return PreparedWriteBulk(
                target.session_id,
                target.server_handle,
                handles[start:stop],
                dtype,
                user_id=target.user_id,
                secured_by=target.secured_by,
                correlation_id=correlation_id,
            )

        def size(prepared: PreparedWriteBulk) -> int:
            return len(prepared.encode(zeros[: len(prepared)]))

        self._parts = [
            _Part(start, stop, prepared, neighbours.share(handles[start:stop]))
            for start, stop, prepared in _parts(handles, target, lay_out, size)
        ]

    def of(self, values: NDArray[Any]) -> Iterator[Request]:
        """Return the requests with these values, each encoded when it is asked for.

        Raises
        ------
        EncodeError
            A value is not finite.
        """
        if len(self._parts) > 1:  # one finds it by itself, and nothing is sent before
            check_finite(self._handles, values)
        return (self._request(part, values) for part in self._parts)

    def _request(self, part: _Part, values: NDArray[Any]) -> Request:
        try:
            data = part.prepared.encode(values[part.start : part.stop], self._next_correlation_id())
        except EncodeError as error:
            raise _counted_from(part.start, error) from None
        return Request(part.start, part.stop, data, part.shares_item)


class _Neighbours:
    """Tells of one request after another whether the one before has an item in common.

    Mostly their handles lie in ranges apart. Where they do not, a table says in linear time
    which items the one before has. It is indexed by the handle's low bits: handles that
    share them are taken for one.
    """

    def __init__(self, handles: NDArray[np.int32]) -> None:
        self._all = handles
        self._before: tuple[NDArray[np.int32], np.int32, np.int32] | None = None
        self._table: NDArray[np.int32] | None = None
        self._number = 0

    def share(self, handles: NDArray[np.int32]) -> bool:
        before, self._before = self._before, (handles, handles.min(), handles.max())
        if before is None or self._before[1] > before[2] or self._before[2] < before[1]:
            return False
        if self._table is None:
            span = int(self._all.max()) - int(self._all.min()) + 1
            self._table = np.zeros(1 << min((span - 1).bit_length(), 22), np.int32)
        self._number += 1
        mask = len(self._table) - 1
        self._table[before[0] & mask] = self._number
        return bool((self._table[handles & mask] == self._number).any())


def _parts(
    handles: NDArray[np.int32],
    target: Target,
    make: Callable[[int, int], T],
    size: Callable[[T], int],
) -> Iterator[tuple[int, int, T]]:
    """Yield what is made of the rows, as many at a time as the limits permit."""
    limit = target.most_bytes
    rows = target.most_rows
    start = 0
    while start < len(handles):
        stop = min(start + rows, len(handles))
        made = make(start, stop)
        needed = size(made)
        if needed <= limit:
            yield start, stop, made
            start = stop
        elif stop - start == 1:
            raise ValueError(
                f"values[{start}] (item handle {handles[start]}) makes a request of "
                f"{needed} bytes: max_message_bytes is {limit}"
            )
        else:
            # A little less than the average row asks for, so that few need a third try.
            rows = max(1, int((stop - start) * limit / needed * 0.95))


def _counted_from(start: int, error: EncodeError) -> EncodeError:
    """The codec counts from the request's first row, the user from the array's."""
    index = start + error.index
    message = str(error).replace(f"[{error.index}]", f"[{index}]", 1)
    return type(error)(message, index, error.value)


def check_finite(handles: NDArray[np.int32], values: NDArray[Any]) -> None:
    """Raise where a value is NaN or infinite.

    Raises
    ------
    EncodeError
        In the codec's words.
    """
    bad = first_non_finite(values)
    if bad >= 0:
        try:
            encode_write_bulk("", 0, handles[bad : bad + 1], values[bad : bad + 1])
        except EncodeError as error:
            raise _counted_from(bad, error) from None


def as_plain_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of values that are written again and again.

    Raises
    ------
    TypeError
        Not one of float64, float32, int32, int64 and bool.
    """
    plain = np.dtype(dtype)
    if plain not in _PLAIN:
        raise TypeError(f"dtype must be float64, float32, int32, int64 or bool, not {plain}")
    return plain


_PLAIN = frozenset(map(np.dtype, ("float64", "float32", "int32", "int64", "bool")))


def as_handles(item_handles: ArrayLike) -> NDArray[np.int32]:
    """Return a copy of the handles, which the result keeps.

    Raises
    ------
    TypeError, ValueError
        No one-dimensional array of integers of 32 bits.
    """
    array = as_array(item_handles, "item_handles")
    if array.ndim != 1:
        raise ValueError(f"item_handles must be one-dimensional, not of shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int32)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("item_handles is a masked array: drop what is masked first")
    if array.dtype.kind not in "iu":
        elements = array.tolist() if isinstance(item_handles, np.ndarray) else list(item_handles)  # type: ignore[arg-type]
        for index, element in enumerate(elements):
            if isinstance(element, bool) or not isinstance(element, (int, np.integer)):
                raise TypeError(
                    f"item_handles[{index}] is {shown(element)}: an item handle is an integer"
                )
        raise TypeError(f"item_handles must be integers, not dtype {array.dtype}")
    if not np.can_cast(array.dtype, np.int32):
        outside = (array < -(2**31)) | (array >= 2**31)
        if outside.any():
            index = int(outside.argmax())
            raise ValueError(f"item_handles[{index}] is {array[index]}: an item handle has 32 bits")
    return array.astype(np.int32)


def as_column(data: ArrayLike, name: str, length: int) -> NDArray[Any]:
    """Return an array of that length.

    Raises
    ------
    ValueError
        Another shape.
    """
    array = as_array(data, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if len(array) != length:
        raise ValueError(f"{length} item handles but {len(array)} {name}: give one an item")
    return array


def as_values(data: ArrayLike, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a column of values for `in_dtype`; those of a list are of that dtype already.

    What numpy makes of a list says nothing of what the user means by it: ``[1]`` is int64.
    So its numbers count, and not their dtype. A float becomes the nearest float32.

    Raises
    ------
    ValueError
        Another shape, or a list with a number that the dtype does not hold.
    """
    column = as_column(data, "values", length)
    if not isinstance(data, (list, tuple)):
        return column
    if not length:
        return column.astype(dtype)
    if column.dtype.kind == "f" and dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = column.astype(dtype)
        bad = np.isinf(cast) & np.isfinite(column)
    elif column.dtype.kind in "iu" and dtype.kind != "b":
        cast = column.astype(dtype)
        back = cast
        if dtype.kind == "f":
            # What was rounded up to 2**63, say, has no way back to int64.
            back = np.where(cast < float(int(np.iinfo(column.dtype).max) + 1), cast, 0)
        # uint64 and negative integers turn into each other and back.
        bad = (back.astype(column.dtype) != column) | ((cast < 0) != (column < 0))
    else:
        return column
    if bad.any():
        index = int(bad.argmax())
        raise ValueError(
            f"values[{index}] is {shown(data[index])}, which {dtype} does not hold exactly: "
            "give another value, or a dtype that holds it"
        )
    return cast
