"""The protobuf runtime as judge: same bytes in, the same acceptance and the same meaning out.

Where the codec differs from the runtime on purpose:

- `decode_value` refuses a sparse array, which a gateway never sends.
- A value that is null has no arm, whatever it says beside that.
- A timestamp outside datetime64[ns], or with nanoseconds that are none, is NaT.
- An array whose ``dimensions`` numpy cannot give it is flat.
- `decode_write_request` returns None for a request that is no bulk write.
- A buffered data change is one row a sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError as RuntimeRefusal
from google.protobuf.message import Message

from mxfast import codec
from mxfast._codec import CommandReply, ItemReply
from mxfast._generated import mxaccess_gateway_pb2 as pb
from mxfast.codec import ValueKind
from tests import wire

KIND_OF_ARM = {
    None: ValueKind.NONE,
    "bool_value": ValueKind.BOOL,
    "int32_value": ValueKind.INT32,
    "int64_value": ValueKind.INT64,
    "float_value": ValueKind.FLOAT,
    "double_value": ValueKind.DOUBLE,
    "string_value": ValueKind.STRING,
    "timestamp_value": ValueKind.TIMESTAMP,
    "array_value": ValueKind.ARRAY,
    "raw_value": ValueKind.RAW,
    "sparse_array_value": ValueKind.SPARSE_ARRAY,
}
DTYPE_OF_ARM = {
    "bool_value": np.bool_,
    "int32_value": np.int32,
    "int64_value": np.int64,
    "float_value": np.float32,
    "double_value": np.float64,
}
NUMBERS = tuple(DTYPE_OF_ARM.values())
KIND_OF_DTYPE: dict[np.dtype[Any], ValueKind] = {
    np.dtype(dtype): KIND_OF_ARM[arm] for arm, dtype in DTYPE_OF_ARM.items()
}
KIND_OF_DTYPE[np.dtype("datetime64[ns]")] = ValueKind.TIMESTAMP
NAT = np.datetime64("NaT", "ns")
DTYPE_OF_ARRAY = {name.replace("_value", "_values"): dtype for name, dtype in DTYPE_OF_ARM.items()}
HARMLESS = {
    pb.MX_STATUS_CATEGORY_UNSPECIFIED,
    pb.MX_STATUS_CATEGORY_UNKNOWN,
    pb.MX_STATUS_CATEGORY_OK,
    pb.MX_STATUS_CATEGORY_PENDING,
}
BULK_WRITES = {
    "write_bulk": pb.MX_COMMAND_KIND_WRITE_BULK,
    "write2_bulk": pb.MX_COMMAND_KIND_WRITE2_BULK,
    "write_secured_bulk": pb.MX_COMMAND_KIND_WRITE_SECURED_BULK,
    "write_secured2_bulk": pb.MX_COMMAND_KIND_WRITE_SECURED2_BULK,
}
BULK_SUBSCRIBES = {
    "subscribe_bulk",
    "unsubscribe_bulk",
    "add_item_bulk",
    "advise_item_bulk",
    "un_advise_item_bulk",
    "remove_item_bulk",
}
FINE = pb.MxCommandReply(
    protocol_status=pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_OK)
).SerializeToString()
# The replies' payloads that hold a handle, and the handles in them.
HANDLES = [
    (payload, member)
    for payload in pb.MxCommandReply.DESCRIPTOR.oneofs_by_name["payload"].fields
    if payload.message_type is not None
    for member in payload.message_type.fields
    if member.name in {"server_handle", "item_handle"}
]


def arm_of(value: pb.MxValue) -> str | None:
    """The arm that counts: a null has none, whatever else it says."""
    return None if value.is_null else value.WhichOneof("kind")


def runtime_reads(message_type: type[Message], data: bytes) -> Any:
    """The message as the runtime reads it, or None where it refuses it."""
    try:
        return message_type.FromString(data)
    except RuntimeRefusal:
        return None


def refusal(decode: Callable[[Any], object], data: object) -> codec.DecodeError:
    """The DecodeError that `decode` must raise."""
    try:
        decode(data)
    except codec.DecodeError as error:
        return error
    raise AssertionError(f"the runtime refuses what {decode.__name__} accepts")


def assert_offset(error: codec.DecodeError, data: bytes) -> None:
    assert 0 <= error.offset <= len(data)
    assert re.fullmatch(r"\w+(\.\w+| field \d+)?", error.field), error.field


def assert_same_bytes(data: bytes, message: Message) -> None:
    # Not ==, by which a message that holds NaN differs from itself.
    assert type(message).FromString(data).SerializeToString() == message.SerializeToString()


def assert_scalar(value: Any, expected: np.generic) -> None:
    """Assert that a value is the expected one and of its dtype; a NaN is like another."""
    # What numpy.testing says of two scalars, in a tenth of its time.
    assert value.dtype == expected.dtype
    assert repr(value) == repr(expected)


def expected_array(array: pb.MxArray) -> np.ndarray:
    arm = array.WhichOneof("values")
    if arm is None:
        flat: np.ndarray = np.empty(0)
    elif arm == "timestamp_values":
        times = [wire.nanoseconds(time) for time in array.timestamp_values.values]
        flat = np.array(times, "datetime64[ns]")
    elif arm in DTYPE_OF_ARRAY:
        flat = np.array(getattr(array, arm).values, DTYPE_OF_ARRAY[arm])
    else:
        flat = wire.array_of(list(getattr(array, arm).values), "str")
    # More than numpy's most dimensions, or their product too large though one of them is 0.
    if not 1 <= len(array.dimensions) <= 64:
        return flat
    try:
        return flat.reshape(tuple(array.dimensions))
    except ValueError:
        return flat


def assert_value(value: Any, message: pb.MxValue) -> None:
    """Assert that a decoded value is what the message holds."""
    arm = arm_of(message)
    if arm is None:
        assert value is None
    elif arm == "array_value":
        expected = expected_array(message.array_value)
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(value, expected)
    elif arm == "timestamp_value":
        assert_scalar(value, wire.nanoseconds(message.timestamp_value))
    elif arm in DTYPE_OF_ARM:
        assert_scalar(value, DTYPE_OF_ARM[arm](getattr(message, arm)))
    else:
        assert type(value) is type(getattr(message, arm))
        assert value == getattr(message, arm)


class Row(NamedTuple):
    """What a row must hold: a message's value, or one sample of a buffered data change's."""

    value: pb.MxValue
    sample: np.generic | str | bytes | None = None

    @property
    def kind(self) -> ValueKind:
        if isinstance(self.sample, str):
            return ValueKind.STRING
        if isinstance(self.sample, bytes):
            return ValueKind.RAW
        if self.sample is not None:
            return KIND_OF_DTYPE[self.sample.dtype]
        return KIND_OF_ARM[arm_of(self.value)]

    @property
    def number(self) -> Any:
        if self.sample is not None:
            return self.sample if isinstance(self.sample, NUMBERS) else np.nan
        arm = arm_of(self.value)
        return getattr(self.value, arm) if arm in DTYPE_OF_ARM else np.nan


def assert_rows(columns: codec.ValueColumns, rows: Sequence[Row]) -> None:
    """Assert what the columns hold of the rows' values, and what is decoded on demand."""
    kinds = [row.kind for row in rows]
    assert columns.kind.tolist() == kinds
    for index, row in enumerate(rows):
        assert_scalar(columns.value[index], np.float64(row.number))
        assert_same_bytes(columns.value_bytes(index), row.value)
    for kind in set(kinds):
        expected = [row for row in rows if row.kind == kind]
        found = columns.values(kind)
        assert len(found) == len(expected)
        for value, row in zip(found, expected, strict=True):
            if isinstance(row.sample, np.generic):
                assert_scalar(value, row.sample)
            elif row.sample is not None:
                assert (type(value), value) == (type(row.sample), row.sample)
            elif kind == ValueKind.SPARSE_ARRAY:
                assert_same_bytes(value, row.value)
            else:
                assert_value(value, row.value)


def samples_of(event: pb.MxEvent) -> list[Any]:
    """The samples that become rows of their own; none where the event is one row."""
    if event.WhichOneof("body") != "on_buffered_data_change":
        return []
    if arm_of(event.value) != "array_value":
        return []
    return [*expected_array(event.value.array_value).reshape(-1)]


def failed(statuses: Iterable[pb.MxStatusProxy]) -> bool:
    """Whether one of the statuses is a failure."""
    return any(status.success == 0 and status.category not in HARMLESS for status in statuses)


def time_of(message: Message, field: str) -> int:
    """A message's timestamp as the bits of datetime64[ns]."""
    time = wire.nanoseconds(getattr(message, field)) if message.HasField(field) else NAT
    return int(time.astype(np.int64))


def judge_events(messages: Sequence[bytes]) -> bool:
    """Whether the messages are accepted, by both and with the same meaning."""
    read = [runtime_reads(pb.MxEvent, data) for data in messages]
    refused = [index for index, event in enumerate(read) if event is None]
    if refused:
        error = refusal(codec.decode_events, list(messages))
        assert str(error).startswith(f"messages[{refused[0]}]: ")
        assert_offset(error, messages[refused[0]])
        return False
    columns = codec.decode_events(list(messages))
    rows: list[Row] = []
    told: list[tuple[int | bool, ...]] = []
    gaps: list[tuple[int, int, int]] = []
    for index, event in enumerate(read):
        if event.HasField("replay_gap"):
            gap = event.replay_gap
            gaps.append((len(rows), gap.requested_after_sequence, gap.oldest_available_sequence))
            continue
        samples = samples_of(event)
        source = time_of(event, "source_timestamp")
        about = (
            index,
            event.family,
            event.server_handle,
            event.item_handle,
            event.worker_sequence,
            time_of(event, "gateway_receive_timestamp"),
            not failed(event.statuses),
        )
        if not samples:
            rows.append(Row(event.value))
            told.append((*about, event.quality, source))
            continue
        body = event.on_buffered_data_change
        qualities = expected_array(body.quality_values).reshape(-1)
        times = expected_array(body.timestamp_values).reshape(-1)
        for at, sample in enumerate(samples):
            rows.append(Row(event.value, sample))
            # A sample without a quality or time of its own has the event's.
            own_quality = at < len(qualities) and qualities.dtype.kind == "i"
            own_time = at < len(times) and times.dtype.kind == "M"
            told.append(
                (
                    *about,
                    int(qualities[at].astype(np.int32)) if own_quality else event.quality,
                    int(times[at].astype(np.int64)) if own_time else source,
                )
            )
    assert told == [
        *zip(
            columns.message_index.tolist(),
            columns.family.tolist(),
            columns.server_handle.tolist(),
            columns.item_handle.tolist(),
            columns.worker_sequence.tolist(),
            columns.gateway_timestamp.view(np.int64).tolist(),
            columns.ok.tolist(),
            columns.quality.tolist(),
            columns.source_timestamp.view(np.int64).tolist(),
            strict=True,
        )
    ]
    assert len(columns) == len(rows)
    assert columns.gaps == gaps
    assert_rows(columns, rows)
    return True


def judge_value(data: bytes) -> bool:
    message = runtime_reads(pb.MxValue, data)
    if message is None:
        assert_offset(refusal(codec.decode_value, data), data)
        return False
    if arm_of(message) == "sparse_array_value":
        assert "write only" in str(refusal(codec.decode_value, data))
        return True
    assert_value(codec.decode_value(data), message)
    return True


def assert_head(reply: CommandReply, message: pb.MxCommandReply) -> None:
    """Assert what a reply says of its call."""
    assert reply.session_id == message.session_id
    assert reply.correlation_id == message.correlation_id
    assert reply.command_kind == message.kind
    assert reply.status_code == message.protocol_status.code
    assert reply.status_message == message.protocol_status.message
    assert reply.hresult_of_call == (message.hresult if message.HasField("hresult") else None)
    assert reply.diagnostic_message == message.diagnostic_message


def judge_write_reply(data: bytes) -> bool:
    message = runtime_reads(pb.MxCommandReply, data)
    if message is None:
        assert_offset(refusal(codec.decode_write_reply, data), data)
        return False
    reply = codec.decode_write_reply(data)
    assert_head(reply, message)
    arm = message.WhichOneof("payload")
    assert reply.has_results == (arm in BULK_WRITES)
    results = getattr(message, arm).results if reply.has_results else []
    assert len(reply) == len(results)
    for row, result in enumerate(results):
        assert reply.item_handle[row] == result.item_handle
        assert reply.was_successful[row] == result.was_successful
        assert reply.hresult[row] == result.hresult
        assert_same_bytes(reply.result_bytes(row), result)
    return True


def assert_items(reply: ItemReply, results: Sequence[Any]) -> None:
    """Assert what the results of any bulk command about items or tags have."""
    assert len(reply) == len(results)
    assert reply.item_handle.tolist() == [result.item_handle for result in results]
    assert reply.was_successful.tolist() == [result.was_successful for result in results]
    assert reply.tag_addresses() == [result.tag_address for result in results]
    for row, result in enumerate(results):
        assert reply.error_message(row) == result.error_message
        assert_same_bytes(reply.result_bytes(row), result)


def judge_subscribe_reply(data: bytes) -> bool:
    message = runtime_reads(pb.MxCommandReply, data)
    if message is None:
        assert_offset(refusal(codec.decode_subscribe_reply, data), data)
        return False
    reply = codec.decode_subscribe_reply(data)
    assert_head(reply, message)
    arm = message.WhichOneof("payload")
    assert reply.has_results == (arm in BULK_SUBSCRIBES)
    assert_items(reply, getattr(message, arm).results if reply.has_results else [])
    return True


def judge_read_reply(data: bytes) -> bool:
    message = runtime_reads(pb.MxCommandReply, data)
    if message is None:
        assert_offset(refusal(codec.decode_read_reply, data), data)
        return False
    reply = codec.decode_read_reply(data)
    assert_head(reply, message)
    assert reply.has_results == message.HasField("read_bulk")
    results = message.read_bulk.results
    assert_items(reply, results)
    assert reply.was_cached.tolist() == [result.was_cached for result in results]
    assert reply.quality.tolist() == [result.quality for result in results]
    times = reply.source_timestamp.view(np.int64).tolist()
    assert times == [time_of(result, "source_timestamp") for result in results]
    assert reply.ok.tolist() == [not failed(result.statuses) for result in results]
    assert_rows(reply.cells, [Row(result.value) for result in results])
    return True


def is_fine(reply: pb.MxCommandReply) -> bool:
    """Whether a reply reports no failure of any kind."""
    return (
        reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
        and reply.hresult >= 0
        and not failed(reply.statuses)
    )


def judge_command_reply(data: bytes) -> bool:
    # What stands before it makes a reply fine that says nothing to the contrary.
    data = FINE + data
    message = runtime_reads(pb.MxCommandReply, data)
    assert codec.is_fine_reply(data) is (message is not None and is_fine(message))
    if message is None:
        return False
    for payload, handle in HANDLES:
        expected = getattr(getattr(message, payload.name), handle.name)
        assert codec.decode_handle(data, payload.number, handle.number) == expected
    return True


def judge_write_request(data: bytes) -> bool:
    message = runtime_reads(pb.MxCommandRequest, data)
    if message is None:
        assert_offset(refusal(codec.decode_write_request, data), data)
        return False
    request = codec.decode_write_request(data)
    command = message.command
    arm = command.WhichOneof("payload")
    if BULK_WRITES.get(arm) != command.kind:
        assert request is None
        return True
    assert request is not None
    bulk = getattr(command, arm)
    assert request.session_id == message.session_id
    assert request.correlation_id == message.client_correlation_id
    assert request.command_kind == command.kind
    assert request.server_handle == bulk.server_handle
    assert len(request) == len(bulk.entries)
    for row, entry in enumerate(bulk.entries):
        assert request.item_handle[row] == entry.item_handle
        secured = "secured" in arm
        user = entry.current_user_id if secured else entry.user_id
        assert request.user_id[row] == user
        assert request.verifier_user_id[row] == (entry.verifier_user_id if secured else 0)
        time = getattr(entry, "timestamp_value", pb.MxValue())
        time = pb.MxValue() if time.is_null else time
        assert request.timestamp.view(np.int64)[row] == time_of(time, "timestamp_value")
    assert_rows(request, [Row(entry.value) for entry in bulk.entries])
    return True


def judge_alike(data: bytes) -> bool:
    """Events of one length, which the first byte says; of 0, one event of all that follows."""
    size, rest = data[0] if data else 0, data[1:]
    if size == 0:
        return judge_events([rest])
    return judge_events([rest[at : at + size] for at in range(0, len(rest), size)])


# One message at a time, and of what type it is.
JUDGES: dict[str, Callable[[bytes], bool]] = {
    "event": lambda data: judge_events([data]),
    "value": judge_value,
    "write_reply": judge_write_reply,
    "subscribe_reply": judge_subscribe_reply,
    "read_reply": judge_read_reply,
    "command_reply": judge_command_reply,
    "write_request": judge_write_request,
}
MESSAGES: dict[str, type[Message]] = {
    "event": pb.MxEvent,
    "value": pb.MxValue,
    "write_reply": pb.MxCommandReply,
    "subscribe_reply": pb.MxCommandReply,
    "read_reply": pb.MxCommandReply,
    "command_reply": pb.MxCommandReply,
    "write_request": pb.MxCommandRequest,
}

# What the fuzzer's inputs in fuzz/corpus are for.
INPUTS = {
    "command_reply": judge_command_reply,
    "events": judge_alike,
    "value": judge_value,
    "write_reply": judge_write_reply,
    "subscribe_reply": judge_subscribe_reply,
    "read_reply": judge_read_reply,
    "write_request": judge_write_request,
}
