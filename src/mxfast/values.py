"""One Python value to one MxValue message and back.

Whole arrays as columns, one value an item, are the codec's business; here a single value,
which may itself be an array, becomes the message that a single command carries.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from mxfast.checks import in_range, shown
from mxfast.codec import encode_value, exact_array
from mxfast.contract import mxaccess_gateway as pb

__all__ = ["from_mx_value", "mx_value_bytes", "to_mx_sparse_array", "to_mx_value"]


class _Variant(NamedTuple):
    name: str
    data_type: int
    arm: str  # of MxValue's kind


_BOOL = _Variant("VT_BOOL", pb.MX_DATA_TYPE_BOOLEAN, "bool_value")
_I4 = _Variant("VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value")
_I8 = _Variant("VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value")
_R4 = _Variant("VT_R4", pb.MX_DATA_TYPE_FLOAT, "float_value")
_R8 = _Variant("VT_R8", pb.MX_DATA_TYPE_DOUBLE, "double_value")
_BSTR = _Variant("VT_BSTR", pb.MX_DATA_TYPE_STRING, "string_value")
_DATE = _Variant("VT_DATE", pb.MX_DATA_TYPE_TIME, "timestamp_value")
_RECORD = _Variant("VT_RECORD", pb.MX_DATA_TYPE_UNKNOWN, "raw_value")

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = range(-62135596800, 253402300800)  # the years 1 to 9999, which a Timestamp may hold
_SUPPORTED = "bool, int, float, str, bytes, datetime, None, and lists and arrays of them"

_ARRAY_DTYPES = {
    "bool_values": np.bool_,
    "int32_values": np.int32,
    "int64_values": np.int64,
    "float_values": np.float32,
    "double_values": np.float64,
}


def to_mx_value(value: Any, *, data_type: int | None = None) -> pb.MxValue:
    """Return the MxValue message for a Python value.

    Parameters
    ----------
    value : object
        bool, int, float, str, bytes, datetime (naive means UTC), None, a numpy scalar, a
        list, tuple or n-d array of these, anything that numpy takes as an array, or an
        MxValue, which is returned as it is. An int becomes VT_I4 where it fits in 32 bits
        and VT_I8 otherwise, a list of ints likewise for all of them; numpy integers keep
        the width of their dtype. bytes become VT_RECORD.
    data_type : int, optional
        The ``MxDataType`` to declare instead of the value's own, for attributes such as
        ElapsedTime. The value itself is not converted.

    Returns
    -------
    MxValue
        A new message, unless `value` is one.

    Raises
    ------
    TypeError
        No MXAccess type for this; the message names the type or dtype.
    ValueError
        NaN, an infinity, NaT, or an integer beyond 64 bits. In an array it is an
        `EncodeError`, whose ``index`` counts the elements in C order.
    """
    if isinstance(value, pb.MxValue):
        return value
    message = _scalar(value)
    if message is None:
        message = pb.MxValue.FromString(encode_value(_array(value)))
    if data_type is not None:
        message.data_type = data_type  # type: ignore[assignment]
        if message.HasField("array_value"):
            message.array_value.element_data_type = data_type  # type: ignore[assignment]
    return message


def mx_value_bytes(value: Any) -> bytes:
    """Return the bytes of the message that `to_mx_value` makes."""
    message = value if isinstance(value, pb.MxValue) else _scalar(value)
    return encode_value(_array(value)) if message is None else message.SerializeToString()


def _scalar(value: Any) -> pb.MxValue | None:  # noqa: PLR0911 - one for each type
    """Return the message of a Python scalar, None for what the codec has to see."""
    # numpy's float64, str_ and bytes_ are Python's own types too.
    if isinstance(value, float):
        return _message(_R8, _finite(value))
    if isinstance(value, bool):
        return _message(_BOOL, value)
    if isinstance(value, int):
        number = int(value)  # a range looks for an IntEnum one number at a time
        return _message(_I4 if number in _INT32 else _I8, _int64(number))
    if isinstance(value, str):
        return _message(_BSTR, value)
    if value is None:
        return pb.MxValue(data_type=pb.MX_DATA_TYPE_NO_DATA, variant_type="VT_NULL", is_null=True)
    if isinstance(value, (bytes, bytearray)):
        return _message(_RECORD, bytes(value))
    if type(value) is datetime:
        if value.utcoffset() is None:
            value = value.replace(tzinfo=UTC)
        since = value - _EPOCH
        seconds = since.days * 86400 + since.seconds
        if seconds in _SECONDS:  # for others the codec has the words
            time = Timestamp(seconds=seconds, nanos=since.microseconds * 1000)
            return _message(_DATE, time)
    return None


def _array(value: Any) -> Any:
    """Return what is no Python scalar as the codec takes it."""
    if isinstance(value, (datetime, np.generic, np.ma.MaskedArray)):
        return value
    if not isinstance(value, (list, tuple)):
        if not _is_array_like(value):
            raise TypeError(f"cannot write a {type(value).__name__}: {_SUPPORTED} can be written")
        value = np.asarray(value)
        if value.dtype != object:
            return value
        value = value.tolist()  # may hold what a list may
        if not isinstance(value, list):
            return value
    array = exact_array(value, "array")
    if array.size == 0:
        raise TypeError(
            "an empty list has no element type: give a numpy array with the attribute's dtype"
        )
    return array


def _is_array_like(value: Any) -> bool:
    if hasattr(value, "__array__"):
        return True
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _message(variant: _Variant, payload: Any) -> pb.MxValue:
    # **: the arm is known at run time only, which protobuf's types do not express.
    fields: dict[str, Any] = {variant.arm: payload}
    return pb.MxValue(
        data_type=variant.data_type,  # type: ignore[arg-type]
        variant_type=variant.name,
        **fields,
    )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written: a value must be finite")
    return value


def _int64(value: int) -> int:
    if value not in _INT64:
        raise ValueError(f"{shown(value)} cannot be written: MXAccess integers hold 64 bits")
    return value


def to_mx_time(value: Any, name: str) -> pb.MxValue:
    """Return the MxValue message for a time.

    Raises
    ------
    TypeError
        No datetime, no datetime64 and no message that holds a time.
    ValueError
        NaT, or outside the years 1 to 9999.
    """
    if isinstance(value, (datetime, np.datetime64, np.ndarray, pb.MxValue)):
        message = to_mx_value(value)
        if message.HasField("timestamp_value"):
            return message
    raise TypeError(f"{name} must be a datetime or datetime64, got {shown(value)}")


def to_timestamp(value: datetime) -> Timestamp:
    """Return the Timestamp message of a time; a naive one means UTC.

    Raises
    ------
    EncodeError
        pandas' NaT, or in UTC outside the years 1 to 9999.
    """
    return to_mx_value(value).timestamp_value


def from_timestamp(message: Timestamp) -> datetime:
    """Return the time of a Timestamp message, in UTC and whole microseconds.

    Raises
    ------
    OverflowError
        Outside the years 1 to 9999.
    """
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def from_mx_value(message: pb.MxValue) -> Any:
    """Return the Python value of an MxValue message.

    Parameters
    ----------
    message : MxValue
        As the gateway sent it.

    Returns
    -------
    object
        bool, int, float, str, bytes, a datetime in UTC (whole microseconds), or None for a
        null. An array becomes a numpy array in its dimensions: of its own dtype for
        numbers, datetime64[ns] for timestamps, object for str and bytes. What has no such
        form is returned as the message itself: a value without an arm that is no null, a
        sparse array, a time that Python cannot hold, dimensions that do not fit.
    """
    if message.is_null:
        return None
    arm = message.WhichOneof("kind")
    if arm == "timestamp_value":
        try:
            return from_timestamp(message.timestamp_value)
        except OverflowError:
            return message
    if arm == "array_value":
        array = _from_array(message.array_value)
        return message if array is None else array
    if arm is None or arm == "sparse_array_value":
        return message
    return getattr(message, arm)


def _from_array(message: pb.MxArray) -> np.ndarray[Any, Any] | None:
    arm = message.WhichOneof("values")
    if arm is None:
        return None
    elements = getattr(message, arm).values
    array: np.ndarray[Any, Any]
    if arm == "timestamp_values":
        nanoseconds = [time.seconds * 10**9 + time.nanos for time in elements]
        # The lowest int64 is numpy's NaT.
        if nanoseconds and (min(nanoseconds) <= -(2**63) or max(nanoseconds) >= 2**63):
            return None
        array = np.array(nanoseconds, np.int64).view("datetime64[ns]")
    elif arm in ("string_values", "raw_values"):
        array = np.empty(len(elements), object)
        array[:] = list(elements)
    else:
        array = np.array(elements, _ARRAY_DTYPES[arm])
    shape = tuple(message.dimensions)
    if not shape:
        return array
    return array.reshape(shape) if math.prod(shape) == len(array) else None


# Types whose values are recognised; what others hold is taken at its word.
_RECOGNISED = {v.data_type for v in (_BOOL, _I4, _R4, _R8, _BSTR, _DATE)}
_FLOATS: dict[int, Callable[[Any], Any]] = {_R4.data_type: np.float32, _R8.data_type: float}


def to_mx_sparse_array(
    element_data_type: int,
    total_length: int,
    elements: Mapping[int, Any] | Iterable[tuple[int, Any]],
) -> pb.MxValue:
    """Return the MxValue message that sets some elements of an array and resets the others.

    Parameters
    ----------
    element_data_type : int
        ``MxDataType`` of the elements.
    total_length : int
        Elements of the whole array, at least 1.
    elements : mapping of int to object, or iterable of (int, object)
        Values by their index, which counts from 0; each as `to_mx_value` takes it. For a
        float type integers will do.

    Returns
    -------
    MxValue
        Holding an MxSparseArray, in the order of `elements`.

    Raises
    ------
    TypeError
        An element of another type, an index that is no integer.
    ValueError
        An index out of range or given twice, a value that is not finite.
    """
    length = in_range(total_length, "total_length", 1, 2**32 - 1)
    if element_data_type not in pb.MxDataType.values():
        raise ValueError(f"element_data_type {shown(element_data_type)} is no MxDataType")
    data_type: Any = int(element_data_type)
    sparse = pb.MxSparseArray(element_data_type=data_type, total_length=length)
    seen = set()
    for key, value in elements.items() if isinstance(elements, Mapping) else elements:
        index = in_range(key, "an index", 0, length - 1)
        if index in seen:
            raise ValueError(f"index {index} is given twice")
        seen.add(index)
        try:
            element = _element(value, data_type)
        except ValueError as error:
            raise ValueError(f"elements[{index}]: {error}") from None
        except TypeError as error:
            raise TypeError(f"elements[{index}]: {error}") from None
        sparse.elements.add(index=index, value=element)
    return pb.MxValue(data_type=data_type, sparse_array_value=sparse)


def _element(value: Any, data_type: int) -> pb.MxValue:
    convert = _FLOATS.get(data_type)
    if convert is not None and _is_number(value):
        with np.errstate(over="ignore"):  # the infinity it gives is refused below
            try:
                value = convert(value)
            except OverflowError:  # of an int
                raise ValueError(f"{shown(value)} is too large for a double") from None
    if data_type not in _RECOGNISED:
        return to_mx_value(value, data_type=data_type)
    message = to_mx_value(value)
    if message.data_type != data_type or message.HasField("array_value"):
        name = pb.MxDataType.Name(data_type).removeprefix("MX_DATA_TYPE_").lower()
        raise TypeError(f"{shown(value)} is no {name}")
    return message


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(
        value, (bool, np.timedelta64, np.complexfloating)
    )
