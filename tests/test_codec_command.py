"""Single commands and their replies: the protobuf runtime is the judge of both."""

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from mxfast import codec, commands
from mxfast._generated import mxaccess_gateway_pb2 as pb
from mxfast.commands import Command
from mxfast.errors import is_mxaccess_failure
from mxfast.values import to_mx_value
from tests.judge import runtime_reads
from tests.wire import assert_written, handles, int32s, session_ids

COMMANDS = [each for each in vars(commands).values() if isinstance(each, Command)]
INTS = {
    FieldDescriptor.TYPE_INT32: int32s,
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 20),
}

finite = st.floats(allow_nan=False, allow_infinity=False)
int64s = st.integers(-(2**63), 2**63 - 1)


@given(session_ids, session_ids, handles, handles, finite | int64s | st.booleans(), int32s)
def test_a_write_is_what_the_runtime_makes_of_it(  # noqa: PLR0917 - as the codec has them
    session_id: str, correlation_id: str, server: int, item: int, value: Any, user: int
) -> None:
    data = codec.encode_write(session_id, correlation_id, server, item, value, user)
    expected = pb.MxCommandRequest(session_id=session_id, client_correlation_id=correlation_id)
    expected.command.kind = pb.MX_COMMAND_KIND_WRITE
    write = expected.command.write
    write.server_handle, write.item_handle, write.user_id = server, item, user
    write.value.CopyFrom(to_mx_value(value))
    assert data is not None
    assert pb.MxCommandRequest.FromString(data) == expected


OTHER_VALUES = [math.nan, math.inf, 2**63, -(2**63) - 1, "text", None, b"", np.float64(1), [1.0]]


@pytest.mark.parametrize("value", OTHER_VALUES)
def test_other_values_are_left_to_the_general_way(value: Any) -> None:
    assert codec.encode_write("s", "c", 1, 2, value, 0) is None


@pytest.mark.parametrize("wrong", [True, 2**31, -(2**31) - 1, "1", None, 1.0, np.int32(1)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_other_handles_are_left_to_the_general_way(wrong: Any, place: int) -> None:
    numbers: list[Any] = [1, 2, 3]
    numbers[place] = wrong
    server, item, user = numbers
    assert codec.encode_write("s", "c", server, item, 1.5, user) is None


def is_plain(field: FieldDescriptor) -> bool:
    return field.type in INTS or field.type == FieldDescriptor.TYPE_STRING


def contents(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one = INTS.get(field.type, st.text(max_size=12))
    return st.lists(one, max_size=4) if field.is_repeated else one


@given(st.data())
def test_every_command_of_plain_fields_is_what_the_runtime_makes_of_it(data: Any) -> None:
    command = data.draw(st.sampled_from(COMMANDS))
    described: Any = command.payload.DESCRIPTOR
    fields = {field.name: data.draw(contents(field)) for field in described.fields}
    plain = all(
        is_plain(field) and not (field.is_repeated and field.type in INTS and fields[field.name])
        for field in described.fields
    )
    payload = codec.encode_fields(command.numbers, fields) if plain else b""
    assert payload is not None
    if plain:
        assert command.payload.FromString(payload) == command.payload(**fields)
    request = pb.MxCommandRequest.FromString(
        codec.encode_command("session", "number", command.kind, command.field, payload)
    )
    expected = pb.MxCommandRequest(session_id="session", client_correlation_id="number")
    expected.command.kind = command.kind
    getattr(expected.command, command.name).MergeFromString(payload)
    getattr(expected.command, command.name).SetInParent()
    assert request == expected


@pytest.mark.parametrize("field", [1.5, True, None, bytearray(), (1,), [1], ["a", 1], pb.MxValue()])
def test_fields_that_are_not_plain_are_left_to_the_general_way(field: Any) -> None:
    assert codec.encode_fields({"field": 1}, {"field": field}) is None


def test_bytes_are_a_message() -> None:
    value = to_mx_value(2.5)
    numbers = {field.name: field.number for field in pb.WriteCommand.DESCRIPTOR.fields}
    for message in (value, pb.MxValue()):
        fields = {"item_handle": 7, "value": message.SerializeToString(), "user_id": 0}
        expected = pb.WriteCommand(item_handle=7, value=message)
        data = codec.encode_fields(numbers, fields)
        assert data is not None
        assert_written(data, expected)


statuses = st.builds(pb.MxStatusProxy, success=st.integers(-1, 1), category=st.integers(0, 12))
protocol_statuses = st.builds(
    pb.ProtocolStatus, code=st.sampled_from([0, 1, 1, 1, 2, 9]), message=st.text(max_size=3)
)
replies = st.builds(
    pb.MxCommandReply,
    session_id=session_ids,
    correlation_id=session_ids,
    protocol_status=protocol_statuses,
    hresult=st.none() | int32s,
    statuses=st.lists(statuses, max_size=2),
    diagnostic_message=st.text(max_size=3),
    return_value=st.none() | st.just(pb.MxValue(int32_value=7)),
    add_item=st.none() | st.builds(pb.AddItemReply, item_handle=int32s),
)


def is_fine(reply: pb.MxCommandReply | None) -> bool:
    return (
        reply is not None
        and reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
        and not is_mxaccess_failure(reply)
    )


@given(replies)
def test_a_reply_is_fine_where_nothing_in_it_reports_a_failure(reply: pb.MxCommandReply) -> None:
    assert codec.is_fine_reply(reply.SerializeToString()) == is_fine(reply)


@given(replies, st.data())
def test_what_the_runtime_refuses_is_no_fine_reply(reply: pb.MxCommandReply, data: Any) -> None:
    damaged = bytearray(reply.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(damaged) + data.draw(st.binary(max_size=4))
    assert codec.is_fine_reply(message) == is_fine(runtime_reads(pb.MxCommandReply, message))


@given(replies, replies)
def test_handles_are_read_as_the_runtime_reads_them(
    reply: pb.MxCommandReply, other: pb.MxCommandReply
) -> None:
    # One behind the other is one message: what the runtime merges.
    data = reply.SerializeToString() + other.SerializeToString()
    assert commands.ADD_ITEM.handle is not None
    assert commands.REGISTER.handle is not None
    handle = codec.decode_handle(data, *commands.ADD_ITEM.handle)
    assert handle == pb.MxCommandReply.FromString(data).add_item.item_handle
    assert codec.decode_handle(data, *commands.REGISTER.handle) == 0


@pytest.mark.parametrize("data", [None, "text", 5])
def test_what_is_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        codec.is_fine_reply(data)
    with pytest.raises(TypeError, match="must be bytes"):
        codec.decode_handle(data, 1, 1)
