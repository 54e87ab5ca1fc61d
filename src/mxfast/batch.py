"""A batch of events: columns, and what else is told of them."""

import importlib
import operator
from collections.abc import Iterator
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import EventColumns
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import parse
from mxfast.handles import HandleChanges

__all__ = ["EventBatch"]

_OPERATION = "event_batches"
_COLUMNS = (
    "family",
    "server_handle",
    "item_handle",
    "worker_sequence",
    "quality",
    "source_timestamp",
    "gateway_timestamp",
    "kind",
    "value",
    "ok",
    "reread",
)


class EventBatch:
    """Events as columns, in the order they came. All arrays are read-only.

    One row is one event, but for a buffered data change (``add_buffered_item``): that is one
    row a sample, with the sample's own quality and source timestamp, where it has them. For
    each of its rows ``batch[i]`` is the message of the whole event.

    Attributes
    ----------
    family : ndarray of int32, shape (n,)
        ``MxEventFamily`` of each event.
    server_handle, item_handle : ndarray of int32, shape (n,)
    worker_sequence : ndarray of uint64, shape (n,)
        Contiguous within a session; the samples of one event share its number.
    quality : ndarray of int32, shape (n,)
        OPC quality: 192 to 219 good, 64 to 91 uncertain, 0 to 32 bad (contract notes, Status).
    source_timestamp, gateway_timestamp : ndarray of datetime64[ns], shape (n,)
        UTC; NaT where the event has none.
    kind : ndarray of uint8, shape (n,)
        Which arm of MxValue holds the value: `mxfast.codec.ValueKind`.
    value : ndarray of float64, shape (n,)
        The value as a number; NaN where the arm holds none. An int64 beyond 2**53 is
        rounded here; ``values(ValueKind.INT64)`` has all its bits.
    ok : ndarray of bool, shape (n,)
        False where one of the event's statuses is a failure.
    dropped : int
        Events that this client dropped, by the overflow policy, since the batch before.
    gap : bool
        Whether events were lost on the gateway's side since the batch before: the sequence
        jumps, the gateway said so when the stream was resumed, or there was nothing to
        resume from. Such a batch may be empty. One loss may be told twice: with the values
        that are read again, and with the first event after it.
    rebuilt : HandleChanges or None
        From this batch on the events are of a new session, with other handles: see
        ``rebuild`` of `Session.event_batches`. None in all other batches.
    """

    __slots__ = (
        "_columns",
        "dropped",
        "family",
        "gap",
        "gateway_timestamp",
        "item_handle",
        "kind",
        "ok",
        "quality",
        "rebuilt",
        "server_handle",
        "source_timestamp",
        "value",
        "worker_sequence",
    )

    family: NDArray[np.int32]
    server_handle: NDArray[np.int32]
    item_handle: NDArray[np.int32]
    worker_sequence: NDArray[np.uint64]
    quality: NDArray[np.int32]
    source_timestamp: NDArray[np.datetime64]
    gateway_timestamp: NDArray[np.datetime64]
    kind: NDArray[np.uint8]
    value: NDArray[np.float64]
    ok: NDArray[np.bool_]

    def __init__(
        self,
        columns: EventColumns,
        *,
        dropped: int = 0,
        gap: bool = False,
        rebuilt: HandleChanges | None = None,
    ) -> None:
        self._columns = columns
        self.dropped = dropped
        self.gap = gap
        self.rebuilt = rebuilt
        self.family = columns.family
        self.server_handle = columns.server_handle
        self.item_handle = columns.item_handle
        self.worker_sequence = columns.worker_sequence
        self.quality = columns.quality
        self.source_timestamp = columns.source_timestamp
        self.gateway_timestamp = columns.gateway_timestamp
        self.kind = columns.kind
        self.value = columns.value
        self.ok = columns.ok

    @property
    def reread(self) -> NDArray[np.bool_]:
        """Which rows are no events, but current values read after a gap; shape (n,).

        They have the family of a data change and, unlike all events, the worker sequence 0.
        """
        changes = self.family == pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
        return np.asarray(changes & (self.worker_sequence == 0))

    def values(self, kind: int) -> NDArray[Any]:
        """Return the values of the rows of one arm, in their own dtype.

        Parameters
        ----------
        kind : int
            A `mxfast.codec.ValueKind`. ``batch.kind == kind`` are the rows.

        Returns
        -------
        ndarray, shape (m,)
            bool, int32, int64, float32, float64 or datetime64[ns]; object for strings, raw
            values and arrays, which are decoded now.
        """
        return self._columns.values(kind)

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: SupportsIndex) -> pb.MxEvent: ...
    @overload
    def __getitem__(self, index: slice) -> "EventBatch": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "pb.MxEvent | EventBatch":
        """Return an event as its MxEvent message, or a batch of some rows.

        A slice keeps ``dropped``, ``gap`` and ``rebuilt`` of the batch it is cut from.
        """
        if isinstance(index, slice):
            return EventBatch(
                self._columns.slice(index), dropped=self.dropped, gap=self.gap, rebuilt=self.rebuilt
            )
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a batch of {len(self)} events")
        message = self._columns.messages[self._columns.message_index[row]]
        return parse(pb.MxEvent, message, _OPERATION)

    def __iter__(self) -> Iterator[pb.MxEvent]:
        return (self[row] for row in range(len(self)))

    def to_pandas(self) -> Any:
        """Return the columns as a pandas.DataFrame, without a copy; needs pandas.

        Times are UTC and have no zone, as in the batch.
        """
        pandas = importlib.import_module("pandas")
        return pandas.DataFrame({name: getattr(self, name) for name in _COLUMNS}, copy=False)

    def to_arrow(self) -> Any:
        """Return the columns as a pyarrow.Table; needs pyarrow.

        Only the columns of bool are copied, since Arrow packs them to bits. Times are UTC
        and have no zone, as in the batch; NaT is null. ``value`` stays NaN where it is.
        """
        pyarrow = importlib.import_module("pyarrow")
        return pyarrow.table(
            {
                name: pyarrow.array(column, from_pandas=column.dtype.kind == "M")
                for name in _COLUMNS
                for column in [getattr(self, name)]
            }
        )

    def __repr__(self) -> str:
        lost = f", {self.dropped} dropped" if self.dropped else ""
        return f"<EventBatch of {len(self)} events{lost}{', gap' if self.gap else ''}>"
