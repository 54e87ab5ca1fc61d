"""One Python value to one MxValue message and back.

Whole arrays as columns, one value an item, are the codec's business; here a single value,
which may itself be an array, becomes the message that a single command carries.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from mxfast.checks import in_range, shown
from mxfast.codec import EncodeError, first_non_finite
from mxfast.contract import mxaccess_gateway as pb

__all__ = ["from_mx_value", "to_mx_sparse_array", "to_mx_value"]


class _Variant(NamedTuple):
    name: str
    data_type: int
    arm: str  # of MxValue's kind
    array_arm: str  # of MxArray's values


_BOOL = _Variant("VT_BOOL", pb.MX_DATA_TYPE_BOOLEAN, "bool_value", "bool_values")
_I4 = _Variant("VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", "int32_values")
_I8 = _Variant("VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", "int64_values")
_R4 = _Variant("VT_R4", pb.MX_DATA_TYPE_FLOAT, "float_value", "float_values")
_R8 = _Variant("VT_R8", pb.MX_DATA_TYPE_DOUBLE, "double_value", "double_values")
_BSTR = _Variant("VT_BSTR", pb.MX_DATA_TYPE_STRING, "string_value", "string_values")
_DATE = _Variant("VT_DATE", pb.MX_DATA_TYPE_TIME, "timestamp_value", "timestamp_values")
_RECORD = _Variant("VT_RECORD", pb.MX_DATA_TYPE_UNKNOWN, "raw_value", "raw_values")

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = -62135596800  # the years 1 and 9999: what a protobuf Timestamp may hold
_LAST_SECOND = 253402300799
_FINE_UNITS = {"ns", "ps", "fs", "as"}  # their int64 ends within those years
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
        message = _array(value)
    if data_type is not None:
        message.data_type = data_type  # type: ignore[assignment]
        if message.HasField("array_value"):
            message.array_value.element_data_type = data_type  # type: ignore[assignment]
    return message


def _scalar(value: Any) -> pb.MxValue | None:  # noqa: PLR0911 - one for each type
    """Return the message of a scalar, or None for what may be an array."""
    # numpy's float64, str_ and bytes_ are Python's own types too.
    if isinstance(value, float):
        return _message(_R8, _finite(value))
    if isinstance(value, (bool, np.bool_)):
        return _message(_BOOL, bool(value))
    if isinstance(value, int):
        number = int(value)  # a range looks for an IntEnum one number at a time
        return _message(_I4 if number in _INT32 else _I8, _int64(number))
    if isinstance(value, str):
        return _message(_BSTR, value)
    if value is None:
        return pb.MxValue(data_type=pb.MX_DATA_TYPE_NO_DATA, variant_type="VT_NULL", is_null=True)
    if isinstance(value, (bytes, bytearray)):
        return _message(_RECORD, bytes(value))
    if isinstance(value, datetime):
        return _message(_DATE, to_timestamp(value))
    if isinstance(value, np.generic):
        return _numpy_scalar(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return to_mx_value(value.astype(value.dtype.newbyteorder("="))[()])
    return None


def _numpy_scalar(value: np.generic) -> pb.MxValue:
    if isinstance(value, np.integer) and not isinstance(value, np.timedelta64):
        narrow = value.dtype.itemsize < 4 or value.dtype == np.int32
        return _message(_I4 if narrow else _I8, _int64(int(value)))
    if isinstance(value, (np.float16, np.float32)):
        return _message(_R4, _finite(float(value)))
    if isinstance(value, np.datetime64):
        return _message(_DATE, _timestamps(np.asarray(value).reshape(1))[0])
    if isinstance(value, np.void) and value.dtype.names is None:
        return _message(_RECORD, value.tobytes())
    raise TypeError(f"cannot write a numpy {value.dtype}: {_SUPPORTED} can be written")


def _array(value: Any) -> pb.MxValue:  # noqa: PLR0911 - one for each kind of dtype
    if isinstance(value, (list, tuple)):
        flat, shape = _flatten(value)
        return _array_of_objects(flat, shape)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("cannot write a masked array: fill or drop what is masked first")
    if not _is_array_like(value):
        raise TypeError(f"cannot write a {type(value).__name__}: {_SUPPORTED} can be written")
    array = np.asarray(value)
    if array.ndim == 0:
        return to_mx_value(array[()])
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize <= 8:
        index = first_non_finite(array)
        if index >= 0:
            raise _bad_element(index, array.reshape(-1)[index], "must be finite")
        variant = _R8 if array.dtype.itemsize == 8 else _R4
        return _array_message(variant, array.shape, array.reshape(-1).tolist())
    if kind == "b":
        return _array_message(_BOOL, array.shape, array.reshape(-1).tolist())
    if kind in "iu":
        narrow = array.dtype.itemsize < 4 or (array.dtype.itemsize == 4 and kind == "i")
        numbers = array.reshape(-1).tolist()
        if kind == "u" and array.dtype.itemsize == 8:
            _check_integers(numbers)
        return _array_message(_I4 if narrow else _I8, array.shape, numbers)
    if kind == "M":
        return _array_message(_DATE, array.shape, _timestamps(array.reshape(-1)))
    if kind == "S" or (kind == "V" and array.dtype.names is None):
        raw = [element.tobytes() for element in array.reshape(-1)]
        return _array_message(_RECORD, array.shape, raw)
    if kind in "UOT":
        return _array_of_objects(array.reshape(-1).tolist(), array.shape)
    raise TypeError(f"cannot write an array of dtype {array.dtype}: {_SUPPORTED} can be written")


def _is_array_like(value: Any) -> bool:
    if hasattr(value, "__array__"):
        return True
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _flatten(value: Sequence[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """Return the elements of nested lists and tuples in C order, and their shape."""
    flat: list[Any] = list(value)
    shape = [len(flat)]
    while flat and isinstance(flat[0], (list, tuple)):
        length = len(flat[0])
        for index, row in enumerate(flat):
            if not isinstance(row, (list, tuple)) or len(row) != length:
                raise ValueError(
                    f"the rows of a nested list must have one length: row 0 has {length} "
                    f"elements, row {index} is {shown(row)}"
                )
        flat = [element for row in flat for element in row]
        shape.append(length)
    return flat, tuple(shape)


_FAMILIES: dict[str, tuple[type, ...]] = {
    # In this order: a bool is an int, too.
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.float16, np.float32),
    "str": (str,),
    "bytes": (bytes, bytearray),
    "datetime": (datetime, np.datetime64),
}


def _array_of_objects(flat: list[Any], shape: tuple[int, ...]) -> pb.MxValue:
    if not flat:
        raise TypeError(
            "an empty list has no element type: give a numpy array with the attribute's dtype"
        )
    families = [_family(element) for element in flat]
    family = families[0]
    if set(families) == {"int", "float"}:
        family = "float"
    elif family is None or None in families or len(set(families)) > 1:
        # Named is what no array holds, else the first that differs from the first.
        odd = None if None in families else next(f for f in families if f != family)
        index = families.index(odd)
        raise TypeError(
            f"element {index} is a {type(flat[index]).__name__}: {shown(flat[index])}; an array "
            "holds one of bool, int, float, str, bytes or datetime"
        )
    if family == "int":
        numbers = [int(element) for element in flat]
        _check_integers(numbers)
        narrow = min(numbers) in _INT32 and max(numbers) in _INT32
        return _array_message(_I4 if narrow else _I8, shape, numbers)
    convert, variant = _CONVERSIONS[family]
    converted = []
    for index, element in enumerate(flat):
        try:
            converted.append(convert(element))
        except ValueError as error:
            raise _bad_element(index, element, str(error)) from None
    return _array_message(variant, shape, converted)


def _family(element: Any) -> str | None:
    """Return which of the types an array can hold an element has."""
    if isinstance(element, np.timedelta64):  # an integer to numpy
        return None
    return next((name for name, types in _FAMILIES.items() if isinstance(element, types)), None)


def _element_float(element: Any) -> float:
    number = float(element)
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


def _element_time(element: Any) -> Timestamp:
    if isinstance(element, datetime):
        return to_timestamp(element)
    return _timestamps(np.asarray(element).reshape(1))[0]


_CONVERSIONS: dict[str, tuple[Callable[[Any], Any], _Variant]] = {
    "bool": (bool, _BOOL),
    "float": (_element_float, _R8),
    "str": (str.__str__, _BSTR),  # the text itself: an enum of texts has a str() of its own
    "bytes": (bytes, _RECORD),
    "datetime": (_element_time, _DATE),
}


def _message(variant: _Variant, payload: Any) -> pb.MxValue:
    # **: the arm is known at run time only, which protobuf's types do not express.
    fields: dict[str, Any] = {variant.arm: payload}
    return pb.MxValue(
        data_type=variant.data_type,  # type: ignore[arg-type]
        variant_type=variant.name,
        **fields,
    )


def _array_message(variant: _Variant, shape: tuple[int, ...], elements: list[Any]) -> pb.MxValue:
    name = f"VT_ARRAY|{variant.name}"
    fields: dict[str, Any] = {variant.array_arm: {"values": elements}}
    array = pb.MxArray(
        element_data_type=variant.data_type,  # type: ignore[arg-type]
        variant_type=name,
        dimensions=shape,
        **fields,
    )
    return pb.MxValue(
        data_type=variant.data_type,  # type: ignore[arg-type]
        variant_type=name,
        array_value=array,
    )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written: a value must be finite")
    return value


def _int64(value: int) -> int:
    if value not in _INT64:
        raise ValueError(f"{shown(value)} cannot be written: MXAccess integers hold 64 bits")
    return value


def _check_integers(numbers: list[int]) -> None:
    if min(numbers, default=0) in _INT64 and max(numbers, default=0) in _INT64:
        return
    index = next(i for i, number in enumerate(numbers) if number not in _INT64)
    raise _bad_element(index, numbers[index], "MXAccess integers hold 64 bits")


def to_timestamp(value: datetime) -> Timestamp:
    """Return the Timestamp message of a time; a naive one means UTC.

    Raises
    ------
    ValueError
        pandas' NaT.
    """
    if value != value:  # noqa: PLR0124 - pandas' NaT is a datetime, and unequal to itself
        raise ValueError("NaT cannot be written: a timestamp must be a time")
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    since = value - _EPOCH
    # pandas' Timestamp is a datetime with nanoseconds of its own.
    nanos = since.microseconds * 1000 + int(getattr(value, "nanosecond", 0))
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=nanos)


def _timestamps(times: np.ndarray[Any, np.dtype[np.datetime64]]) -> list[Timestamp]:
    unit = np.datetime_data(times.dtype)[0]
    if unit == "generic":
        raise TypeError("datetime64 without a unit: say which, such as datetime64[ns]")
    missing = np.isnat(times)
    if missing.any():
        index = int(missing.argmax())
        raise _bad_element(index, times[index], "a timestamp must be a time")
    if unit not in _FINE_UNITS:
        # Compared in the array's own unit: converted, what lies outside would wrap around.
        first = np.datetime64(_FIRST_SECOND, "s").astype(times.dtype)
        last = np.datetime64(_LAST_SECOND, "s").astype(times.dtype)
        outside = (times < first) | (times > last)
        if outside.any():
            index = int(outside.argmax())
            raise _bad_element(index, times[index], "a timestamp lies in the years 1 to 9999")
    seconds = times.astype("datetime64[s]")
    # The rest within its second fits in nanoseconds whatever the unit.
    nanos = (times - seconds).astype("timedelta64[ns]").astype(np.int64)
    return [
        Timestamp(seconds=second, nanos=nano)
        for second, nano in zip(seconds.astype(np.int64).tolist(), nanos.tolist(), strict=True)
    ]


def _bad_element(index: int, value: Any, reason: str) -> EncodeError:
    return EncodeError(f"element {index} is {shown(value)}: {reason}", index, value)


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
    if convert is not None and _family(value) in ("int", "float"):
        with np.errstate(over="ignore"):  # the infinity it gives is refused below
            value = convert(value)
    if data_type not in _RECOGNISED:
        return to_mx_value(value, data_type=data_type)
    message = to_mx_value(value)
    if message.data_type != data_type or message.HasField("array_value"):
        name = pb.MxDataType.Name(data_type).removeprefix("MX_DATA_TYPE_").lower()
        raise TypeError(f"{shown(value)} is no {name}")
    return message
