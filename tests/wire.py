"""Messages as the protobuf runtime builds and reads them: the oracle for the codec's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from mxfast._generated import mxaccess_gateway_pb2 as pb

ARM_OF_DTYPE = {
    "bool": ("bool_value", pb.MX_DATA_TYPE_BOOLEAN, "VT_BOOL"),
    "int32": ("int32_value", pb.MX_DATA_TYPE_INTEGER, "VT_I4"),
    "int64": ("int64_value", pb.MX_DATA_TYPE_INTEGER, "VT_I8"),
    "float32": ("float_value", pb.MX_DATA_TYPE_FLOAT, "VT_R4"),
    "float64": ("double_value", pb.MX_DATA_TYPE_DOUBLE, "VT_R8"),
}
ARMS = [*ARM_OF_DTYPE]
# Others than numbers, by the name of numpy's kind.
OTHER_ARMS = {
    "str": ("string_value", pb.MX_DATA_TYPE_STRING, "VT_BSTR"),
    "datetime64[ns]": ("timestamp_value", pb.MX_DATA_TYPE_TIME, "VT_DATE"),
    "bytes": ("raw_value", pb.MX_DATA_TYPE_UNKNOWN, "VT_RECORD"),
}

int32s = st.integers(-(2**31), 2**31 - 1)
handles = st.one_of(st.integers(0, 300), int32s)
session_ids = st.one_of(st.just("session-" + "0f" * 16), st.text(max_size=20))


def dtype_name(array: np.ndarray) -> str:
    """The name under which the tables above know an array's dtype."""
    if array.dtype.kind == "O":
        return "bytes" if array.size and isinstance(array.flat[0], bytes) else "str"
    names = {"U": "str", "T": "str", "S": "bytes", "V": "bytes"}
    return names.get(array.dtype.kind, array.dtype.name)


def mx_value(value: object, dtype: str) -> pb.MxValue:
    arm, data_type, variant_type = (ARM_OF_DTYPE | OTHER_ARMS)[dtype]
    message = pb.MxValue(data_type=data_type, variant_type=variant_type)
    if dtype == "datetime64[ns]":
        assert isinstance(value, int)
        set_timestamp(message.timestamp_value, np.datetime64(value, "ns"))
    else:
        setattr(message, arm, value)
    return message


FIELD_OF_DTYPE = {
    "bool": "bool_values",
    "int32": "int32_values",
    "int64": "int64_values",
    "float32": "float_values",
    "float64": "double_values",
    "str": "string_values",
    "datetime64[ns]": "timestamp_values",
    "bytes": "raw_values",
}


def array_message(array: np.ndarray) -> pb.MxValue:
    """One MxValue that holds an array, of a dtype of the tables."""
    dtype = dtype_name(array)
    _, data_type, variant_type = (ARM_OF_DTYPE | OTHER_ARMS)[dtype]
    message = pb.MxValue(data_type=data_type, variant_type=f"VT_ARRAY|{variant_type}")
    message.array_value.element_data_type = data_type
    message.array_value.variant_type = message.variant_type
    message.array_value.dimensions.extend(array.shape)
    values = getattr(message.array_value, FIELD_OF_DTYPE[dtype])
    values.SetInParent()
    for element in array.ravel():
        if dtype == "datetime64[ns]":
            set_timestamp(values.values.add(), element)
        else:
            values.values.append(item(element))
    return message


def item(scalar: object) -> object:
    """A numpy scalar's Python value; a time's nanoseconds."""
    return scalar.item() if isinstance(scalar, np.generic) else scalar


def time_value(time: np.datetime64) -> pb.MxValue:
    message = pb.MxValue(data_type=pb.MX_DATA_TYPE_TIME, variant_type="VT_DATE")
    set_timestamp(message.timestamp_value, time)
    return message


def set_timestamp(message: Timestamp, time: np.datetime64) -> None:
    """Set a Timestamp from datetime64[s] or [ns], its nanoseconds counted forward."""
    per_second = {"s": 1, "ns": 10**9}[np.datetime_data(time.dtype)[0]]
    message.SetInParent()
    message.seconds, rest = divmod(int(time.astype(np.int64)), per_second)
    message.nanos = rest * (10**9 // per_second)


def write_request(
    session_id: str,
    server_handle: int,
    item_handles: Sequence[int],
    values: np.ndarray,
    *,
    timestamps: np.ndarray | None = None,
    user_id: int = 0,
    secured_by: tuple[int, int] | None = None,
    correlation_id: str = "",
) -> pb.MxCommandRequest:
    request = pb.MxCommandRequest(session_id=session_id, client_correlation_id=correlation_id)
    name = "write" + ("_secured" if secured_by else "") + ("2" if timestamps is not None else "")
    command = getattr(request.command, f"{name}_bulk")
    request.command.kind = getattr(pb, f"MX_COMMAND_KIND_{name.upper()}_BULK")
    command.SetInParent()
    command.server_handle = server_handle
    for row, handle in enumerate(item_handles):
        entry = command.entries.add(item_handle=handle)
        entry.value.CopyFrom(mx_value(item(values[row]), dtype_name(values)))
        if timestamps is not None:
            entry.timestamp_value.CopyFrom(time_value(timestamps[row]))
        if secured_by:
            entry.current_user_id, entry.verifier_user_id = secured_by
        else:
            entry.user_id = user_id
    return request


def nanoseconds(timestamp: Timestamp) -> np.datetime64:
    """A Timestamp as datetime64[ns]; NaT where that cannot hold it."""
    total = timestamp.seconds * 10**9 + timestamp.nanos
    fits = -(2**63) < total < 2**63 and 0 <= timestamp.nanos < 10**9
    return np.datetime64(total, "ns") if fits else np.datetime64("NaT", "ns")


timestamps_ns = st.integers(-(2**63) + 1, 2**63 - 1)
finite64 = st.floats(allow_nan=False, allow_infinity=False)
finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
ELEMENTS = {
    "bool": st.booleans(),
    "int32": int32s,
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": finite32,
    "float64": finite64,
    "str": st.text(max_size=12),
    "datetime64[ns]": timestamps_ns,
    "bytes": st.binary(max_size=12),
}


def array_of(elements: Sequence[object], dtype: str, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    """An array of one of the tables' dtypes; text and bytes as objects, which keep NULs."""
    array = np.empty(len(elements), object if dtype in ("str", "bytes") else dtype)
    array[:] = elements
    return array.reshape(shape)


def tag(message: type[Message], field: str, wire_type: int) -> bytes:
    """The tag of a field as it stands on the wire."""
    value = message.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


IN_ORDER = all(
    [field.number for field in message.fields] == sorted(field.number for field in message.fields)
    for message in pb.DESCRIPTOR.message_types_by_name.values()
)


def assert_written(data: bytes, message: Message) -> None:
    """Assert that `data` says what `message` does, in the very bytes of the runtime.

    The runtime writes fields by number, the codec in the order in which proto/ lists them.
    For a contract that lists them in another order only the meaning can be equal.
    """
    assert type(message).FromString(data) == message
    if IN_ORDER:
        assert data == message.SerializeToString()
