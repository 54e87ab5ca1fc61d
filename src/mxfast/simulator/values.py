"""Columns of tag values, and the way between one row and an MxValue message."""

import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from mxfast.codec import ValueKind, WriteRequest
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status

_NANOSECONDS = 1_000_000_000
_INT64_MIN, _INT64_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max

# Rows of these kinds keep the bytes of their MxValue; ``payload`` says nothing.
_KEPT_AS_BYTES = np.zeros(256, np.bool_)
_KEPT_AS_BYTES[[ValueKind.STRING, ValueKind.ARRAY, ValueKind.RAW]] = True
# The kinds up to this one are all in the payload: nulls, integers and floats.
_LAST_IN_PAYLOAD = int(ValueKind.DOUBLE)

_INTEGER_ARMS = {
    "bool_value": ValueKind.BOOL,
    "int32_value": ValueKind.INT32,
    "int64_value": ValueKind.INT64,
}
_FLOAT_ARMS = {"float_value": ValueKind.FLOAT, "double_value": ValueKind.DOUBLE}
_TYPES: dict[int, tuple[pb.MxDataType, str]] = {
    ValueKind.NONE: (pb.MX_DATA_TYPE_NO_DATA, "VT_NULL"),
    ValueKind.BOOL: (pb.MX_DATA_TYPE_BOOLEAN, "VT_BOOL"),
    ValueKind.INT32: (pb.MX_DATA_TYPE_INTEGER, "VT_I4"),
    ValueKind.INT64: (pb.MX_DATA_TYPE_INTEGER, "VT_I8"),
    ValueKind.FLOAT: (pb.MX_DATA_TYPE_FLOAT, "VT_R4"),
    ValueKind.DOUBLE: (pb.MX_DATA_TYPE_DOUBLE, "VT_R8"),
    ValueKind.TIMESTAMP: (pb.MX_DATA_TYPE_TIME, "VT_DATE"),
}


@dataclass(frozen=True, slots=True)
class Values:
    """Values of some tags, one a row.

    Attributes
    ----------
    kind : uint8 array
        :class:`mxfast.codec.ValueKind`. A row kept as bytes may have kind RAW whatever
        its arm is.
    payload : int64 array
        Integers as they are, both float kinds as the bits of a float64, timestamps as
        nanoseconds since 1970 (UTC).
    quality : int32 array
        OPC quality.
    source_timestamp : int64 array
        Nanoseconds since 1970 (UTC).
    encoded : dict of int to bytes
        Row to its serialised MxValue, for strings, arrays and raw values.
    """

    kind: NDArray[np.uint8]
    payload: NDArray[np.int64]
    quality: NDArray[np.int32]
    source_timestamp: NDArray[np.int64]
    encoded: dict[int, bytes]

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return a copy of the given rows, in that order."""
        encoded = {}
        if self.encoded:
            encoded = {
                new: self.encoded[old]
                for new, old in enumerate(rows.tolist())
                if old in self.encoded
            }
        return type(self)(
            self.kind[rows],
            self.payload[rows],
            self.quality[rows],
            self.source_timestamp[rows],
            encoded,
        )

    def message(self, row: int) -> tuple[pb.MxValue, int, int]:
        """Return one row's value, its quality and its source timestamp in nanoseconds."""
        return (
            to_message(int(self.kind[row]), int(self.payload[row]), self.encoded.get(row)),
            int(self.quality[row]),
            int(self.source_timestamp[row]),
        )

    @classmethod
    def from_request(
        cls, request: WriteRequest, now_ns: int, *, sparse: bool
    ) -> tuple[Self, dict[int, status.MxAccessFailure]]:
        """Return the values of a bulk write, and why rows that cannot be written cannot.

        A row without a timestamp is as of ``now_ns``; ``sparse`` says whether sparse
        arrays are known.
        """
        kind = request.kind
        encoded = {}
        failures = {}
        if kind.max(initial=0) > _LAST_IN_PAYLOAD:
            is_sparse = kind == ValueKind.SPARSE_ARRAY
            # A timestamp that nanoseconds cannot hold is kept as bytes, like a raw value.
            unheld = (kind == ValueKind.TIMESTAMP) & (request.payload == _INT64_MIN)
            kind = np.where(unheld | is_sparse, np.uint8(ValueKind.RAW), kind)
            rows = np.flatnonzero(kept_as_bytes(kind)).tolist()
            encoded = {row: request.value_bytes(row) for row in rows}
            room = _SPARSE_ELEMENTS
            for row in np.flatnonzero(is_sparse).tolist():
                message = pb.MxValue.FromString(encoded[row])
                try:
                    encoded[row] = _expanded(message, sparse, room).SerializeToString()
                    room -= message.sparse_array_value.total_length
                except status.MxAccessFailure as failure:
                    failures[row] = failure
        source = request.timestamp.view(np.int64)
        values = cls(
            kind,
            request.payload,
            np.full(len(kind), status.QUALITY_GOOD, np.int32),
            np.where(source == _INT64_MIN, now_ns, source),
            encoded,
        )
        return values, failures

    @classmethod
    def from_message(cls, value: pb.MxValue, source_ns: int, *, sparse: bool) -> Self:
        """Return one row; ``sparse`` says whether sparse arrays are known.

        Raises
        ------
        MxAccessFailure
            For a sparse array that cannot be expanded.
        """
        if value.HasField("sparse_array_value"):
            value = _expanded(value, sparse, _SPARSE_ELEMENTS)
        kind, payload, encoded = from_message(value)
        return cls(
            np.array([kind], np.uint8),
            np.array([payload], np.int64),
            np.array([status.QUALITY_GOOD], np.int32),
            np.array([source_ns], np.int64),
            {} if encoded is None else {0: encoded},
        )


def kept_as_bytes(kind: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which rows of these kinds keep the bytes of their MxValue."""
    kept: NDArray[np.bool_] = _KEPT_AS_BYTES[kind]
    return kept


class ValueColumns:
    """Values that change, one a row; the columns are those of :class:`Values`.

    Parameters
    ----------
    capacity : int
        Rows there are at first.
    """

    def __init__(self, capacity: int) -> None:
        self._kind = np.zeros(capacity, np.uint8)
        self._payload = np.zeros(capacity, np.int64)
        self._quality = np.zeros(capacity, np.int32)
        self._source_timestamp = np.zeros(capacity, np.int64)
        # An entry stays when a number replaces it: the kind says whether it counts.
        self._encoded: dict[int, bytes] = {}

    def grow(self) -> None:
        """Double the rows."""
        capacity = 2 * len(self._kind)
        self._kind = np.resize(self._kind, capacity)
        self._payload = np.resize(self._payload, capacity)
        self._quality = np.resize(self._quality, capacity)
        self._source_timestamp = np.resize(self._source_timestamp, capacity)

    def begin(self, row: int, kind: int, encoded: bytes | None, source_ns: int) -> None:
        """Set one row to the zero of a kind, or to ``encoded`` where it is kept as bytes."""
        self._kind[row] = kind
        self._payload[row] = 0
        self._quality[row] = status.QUALITY_GOOD
        self._source_timestamp[row] = source_ns
        if encoded is not None:
            self._encoded[row] = encoded

    def store(self, rows: NDArray[np.intp], values: Values) -> NDArray[np.intp] | slice:
        """Set rows; of several values for one row the last one stays.

        Returns
        -------
        intp array or slice
            The rows, as another column is indexed fastest.
        """
        where = _run(rows)
        self._kind[where] = values.kind
        self._payload[where] = values.payload
        self._quality[where] = values.quality
        self._source_timestamp[where] = values.source_timestamp
        for row, encoded in values.encoded.items():
            self._encoded[int(rows[row])] = encoded
        return where

    def take(self, rows: NDArray[np.intp]) -> Values:
        """Return a copy of the given rows, in that order."""
        kind = self._kind[rows]
        encoded = {}
        if self._encoded:
            encoded = {
                row: self._encoded[int(rows[row])]
                for row in np.flatnonzero(kept_as_bytes(kind)).tolist()
            }
        return Values(
            kind, self._payload[rows], self._quality[rows], self._source_timestamp[rows], encoded
        )

    def is_kept(
        self, rows: NDArray[np.intp], kind: NDArray[np.uint8], payload: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which rows hold just these numbers with good quality."""
        same: NDArray[np.bool_] = (
            (self._kind[rows] == kind)
            & (self._payload[rows] == payload)
            & (self._quality[rows] == status.QUALITY_GOOD)
        )
        return same


def _run(rows: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return rows that follow one another as a slice, which is stored to ten times faster."""
    last = len(rows) - 1
    if last < 0 or rows[last] - rows[0] != last or not (rows[1:] - rows[:-1] == 1).all():
        return rows
    return slice(int(rows[0]), int(rows[0]) + last + 1)


# The element of each type that nothing is said about (contract notes, Writes).
_DEFAULTS = (
    pb.MxValue(data_type=pb.MX_DATA_TYPE_BOOLEAN, variant_type="VT_BOOL", bool_value=False),
    pb.MxValue(data_type=pb.MX_DATA_TYPE_INTEGER, variant_type="VT_I4", int32_value=0),
    pb.MxValue(data_type=pb.MX_DATA_TYPE_FLOAT, variant_type="VT_R4", float_value=0.0),
    pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_R8", double_value=0.0),
    pb.MxValue(data_type=pb.MX_DATA_TYPE_STRING, variant_type="VT_BSTR", string_value=""),
    pb.MxValue(data_type=pb.MX_DATA_TYPE_TIME, variant_type="VT_DATE", timestamp_value=Timestamp()),
)
DEFAULTS: dict[int, pb.MxValue] = {each.data_type: each for each in _DEFAULTS}
"""The scalar that each data type begins with."""

# Elements that the sparse arrays of one request may have together. Inferred: the notes know
# of no limit, and a request of ten bytes an array must not cost gigabytes or minutes.
_SPARSE_ELEMENTS = 1_000_000


def _expanded(value: pb.MxValue, known: bool, room: int) -> pb.MxValue:
    """Return the whole array that a sparse one stands for.

    Raises
    ------
    MxAccessFailure
        Sparse arrays are not known; no length or one of more than ``room``, a type that has
        no default, an index out of range or given twice, an element of another type. These
        rules, and how an old gateway refuses sparse arrays, are inferred.
    """
    if not known:
        raise status.unusable_value("the gateway is too old for sparse arrays")
    sparse = value.sparse_array_value
    default = DEFAULTS.get(sparse.element_data_type)
    if default is None:
        raise status.unusable_value(f"no array of data type {sparse.element_data_type} is known")
    length = sparse.total_length
    if not 0 < length <= room:
        limit = f", and its request may have {room} more" if length else ""
        raise status.unusable_value(f"a sparse array of {length} elements{limit}")
    arm = str(default.WhichOneof("kind"))
    arms = {arm, "int64_value"} if arm == "int32_value" else {arm}
    given = {element.index: element.value for element in sparse.elements}
    if len(given) < len(sparse.elements):
        raise status.unusable_value("an index of the sparse array is given twice")
    elements = [payload_of(default)] * length
    for index, element in given.items():
        if index >= length:
            raise status.unusable_value(f"index {index} of a sparse array of {length} elements")
        if element.WhichOneof("kind") not in arms:
            raise status.unusable_value(f"element {index} is of another type than its array")
        elements[index] = payload_of(element)
    if any(element.HasField("int64_value") for element in given.values()):
        return array_value("int64_value", sparse.element_data_type, "VT_I8", elements)
    return array_value(arm, sparse.element_data_type, default.variant_type, elements)


def payload_of(value: pb.MxValue) -> Any:
    """Return what the arm holds that a scalar has."""
    return getattr(value, str(value.WhichOneof("kind")))


def array_value(arm: str, data_type: int, variant: str, elements: list[Any]) -> pb.MxValue:
    """Return an array of elements that come from one arm of MxValue."""
    fields: dict[str, Any] = {
        "element_data_type": data_type,
        "variant_type": f"VT_ARRAY|{variant}",
        "dimensions": [len(elements)],
        f"{arm}s": {"values": elements},  # int32_value goes into int32_values, and so on
    }
    return pb.MxValue(
        data_type=fields["element_data_type"],
        variant_type=fields["variant_type"],
        array_value=pb.MxArray(**fields),
    )


def from_message(value: pb.MxValue) -> tuple[ValueKind, int, bytes | None]:
    """Return a value's kind, its payload, and its bytes where they are kept instead."""
    arm = value.WhichOneof("kind")
    if arm is None or value.is_null:
        return ValueKind.NONE, 0, None
    if arm == "timestamp_value":
        ns = timestamp_ns(value.timestamp_value)
        if ns is not None:
            return ValueKind.TIMESTAMP, ns, None
    elif arm in _INTEGER_ARMS:
        return _INTEGER_ARMS[arm], int(getattr(value, arm)), None
    elif arm in _FLOAT_ARMS:
        bits: int = struct.unpack("<q", struct.pack("<d", getattr(value, arm)))[0]
        return _FLOAT_ARMS[arm], bits, None
    return ValueKind.RAW, 0, value.SerializeToString()


def to_message(kind: int, payload: int, encoded: bytes | None) -> pb.MxValue:
    """Return one row as a message."""
    if encoded is not None:
        return pb.MxValue.FromString(encoded)
    value = pb.MxValue()
    value.data_type, value.variant_type = _TYPES[kind]
    match kind:
        case ValueKind.NONE:
            value.is_null = True
        case ValueKind.BOOL:
            value.bool_value = bool(payload)
        case ValueKind.INT32:
            value.int32_value = payload
        case ValueKind.INT64:
            value.int64_value = payload
        case ValueKind.FLOAT:
            value.float_value = struct.unpack("<d", struct.pack("<q", payload))[0]
        case ValueKind.DOUBLE:
            value.double_value = struct.unpack("<d", struct.pack("<q", payload))[0]
        case ValueKind.TIMESTAMP:
            value.timestamp_value.CopyFrom(timestamp(payload))
    return value


def timestamp(ns: int) -> Timestamp:
    """Return nanoseconds since 1970 (UTC) as a message."""
    seconds, nanos = divmod(ns, _NANOSECONDS)
    return Timestamp(seconds=seconds, nanos=nanos)


def timestamp_ns(message: Timestamp) -> int | None:
    """Return a message as nanoseconds since 1970 (UTC), or None where int64 cannot hold it."""
    ns = message.seconds * _NANOSECONDS + message.nanos
    return ns if _INT64_MIN < ns <= _INT64_MAX else None
