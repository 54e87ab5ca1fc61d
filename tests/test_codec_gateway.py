"""The gateway's directions, which the simulated gateway speaks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from mxfast.codec import ValueKind
from tests import wire
from tests.judge import KIND_OF_ARM, arm_of
from tests.test_codec_decode import values
from tests.test_codec_encode import writes


@given(writes())
def test_a_request_comes_back_as_it_was_encoded(write):
    session_id, server, handles, numbers, options = write
    data = codec.encode_write_bulk(session_id, server, handles, numbers, **options)
    request = codec.decode_write_request(data)
    assert request is not None
    assert request.session_id == session_id
    assert request.correlation_id == options["correlation_id"]
    assert request.server_handle == server
    assert request.item_handle.tolist() == handles
    arms = wire.ARM_OF_DTYPE | wire.OTHER_ARMS
    kind = KIND_OF_ARM[arms[wire.dtype_name(numbers)][0]]
    np.testing.assert_array_equal(request.values(kind), numbers)
    users = options.get("secured_by", (options.get("user_id"), 0))
    assert request.user_id.tolist() == [users[0]] * len(handles)
    assert request.verifier_user_id.tolist() == [users[1]] * len(handles)
    if "timestamps" in options:
        np.testing.assert_array_equal(request.timestamp, options["timestamps"])
    else:
        assert np.isnat(request.timestamp).all()


@given(st.lists(values(), max_size=10))
def test_a_request_of_any_values_is_read(messages):
    request = pb.MxCommandRequest(session_id="s")
    request.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
    request.command.write_bulk.SetInParent()
    for row, value in enumerate(messages):
        request.command.write_bulk.entries.add(item_handle=row).value.CopyFrom(value)
    rows = codec.decode_write_request(request.SerializeToString())
    assert rows is not None
    assert rows.kind.tolist() == [KIND_OF_ARM[arm_of(m)] for m in messages]
    for row, message in enumerate(messages):
        assert pb.MxValue.FromString(rows.value_bytes(row)) == message


ALIKE = [
    pb.WriteBulkEntry(value=pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_R8")),
    pb.WriteBulkEntry(user_id=7),
    pb.WriteBulkEntry(user_id=70_000, value=pb.MxValue(raw_diagnostic="x" * 20)),
]


@given(
    st.lists(
        st.tuples(st.sampled_from(ALIKE), wire.handles, st.floats(allow_nan=False), st.booleans()),
        max_size=40,
    )
)
def test_entries_that_are_alike_keep_what_differs(entries):
    request = pb.MxCommandRequest(session_id="s")
    request.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
    request.command.write_bulk.SetInParent()
    for shape, handle, number, is_float in entries:
        entry = request.command.write_bulk.entries.add()
        entry.CopyFrom(shape)
        entry.item_handle = handle
        entry.value.double_value = number
        if is_float and abs(number) < 1e30:
            entry.value.float_value = number
    rows = codec.decode_write_request(request.SerializeToString())
    assert rows is not None
    told = request.command.write_bulk.entries
    assert rows.item_handle.tolist() == [entry.item_handle for entry in told]
    assert rows.user_id.tolist() == [entry.user_id for entry in told]
    assert rows.kind.tolist() == [KIND_OF_ARM[entry.value.WhichOneof("kind")] for entry in told]
    numbers = [getattr(entry.value, str(entry.value.WhichOneof("kind"))) for entry in told]
    assert rows.value.tolist() == numbers
    assert rows.payload.view(np.float64).tolist() == numbers
    for row, entry in enumerate(told):
        assert pb.MxValue.FromString(rows.value_bytes(row)) == entry.value


def test_other_commands_are_not_for_this_reader():
    request = pb.MxCommandRequest(session_id="s")
    request.command.kind = pb.MX_COMMAND_KIND_REGISTER
    request.command.register.client_name = "x"
    assert codec.decode_write_request(request.SerializeToString()) is None
    write = wire.write_request("s", 1, [1], np.array([1.0]))
    write.command.kind = pb.MX_COMMAND_KIND_WRITE2_BULK
    assert codec.decode_write_request(write.SerializeToString()) is None


@given(
    st.sampled_from(["write", "write2", "write_secured", "write_secured2"]),
    st.lists(wire.handles, max_size=30),
    wire.int32s,
    st.data(),
)
def test_a_reply_has_the_runtimes_meaning(command, handles, server, data):
    kind = getattr(pb, f"MX_COMMAND_KIND_{command.upper()}_BULK")
    failed = data.draw(st.sets(st.integers(0, len(handles) - 1))) if handles else set()
    rows = {
        row: pb.BulkWriteResult(item_handle=handles[row], error_message="no").SerializeToString()
        for row in failed
    }
    reply = codec.encode_write_reply("s", "c", kind, server, np.array(handles, np.int32), rows=rows)
    expected = pb.MxCommandReply(session_id="s", correlation_id="c", kind=kind, hresult=0)
    expected.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
    bulk = getattr(expected, f"{command}_bulk")
    bulk.SetInParent()
    for row, handle in enumerate(handles):
        if row in rows:
            bulk.results.add().MergeFromString(rows[row])
        else:
            bulk.results.add(
                server_handle=server, item_handle=handle, was_successful=True, hresult=0
            )
    assert pb.MxCommandReply.FromString(reply) == expected


def test_a_reply_names_rows_that_are_not_there():
    kind = pb.MX_COMMAND_KIND_WRITE_BULK
    with pytest.raises(ValueError, match="row 1 of 1"):
        codec.encode_write_reply("s", "", kind, 1, np.ones(1, np.int32), rows={1: b""})
    with pytest.raises(ValueError, match="no bulk write"):
        codec.encode_write_reply("s", "", pb.MX_COMMAND_KIND_PING, 1, np.ones(1, np.int32))


@given(st.lists(st.tuples(wire.handles, values(), wire.int32s, wire.timestamps_ns), max_size=10))
def test_data_changes_have_the_runtimes_meaning(rows):
    # The columns of a write request are what the simulated gateway stores and publishes.
    messages = [value for _, value, _, _ in rows]
    request = pb.MxCommandRequest()
    request.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
    for value in messages:
        request.command.write_bulk.entries.add().value.CopyFrom(value)
    request.command.write_bulk.SetInParent()
    columns = codec.decode_write_request(request.SerializeToString())
    assert columns is not None
    status = pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK)
    kind = columns.kind.copy()
    lost = (kind == ValueKind.TIMESTAMP) & (columns.payload == np.iinfo(np.int64).min)
    kind[lost] = ValueKind.STRING  # no nanoseconds hold it: given as bytes
    events = codec.encode_events(
        "session-1",
        pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        3,
        np.array([handle for handle, _, _, _ in rows], np.int32),
        first_sequence=2**40,
        gateway_timestamp=-1,
        status=status.SerializeToString(),
        kind=kind,
        payload=columns.payload,
        quality=np.array([quality for _, _, quality, _ in rows], np.int32),
        source_timestamp=np.array([time for _, _, _, time in rows], np.int64),
        values={row: message.SerializeToString() for row, message in enumerate(messages)},
    )
    for row, (handle, value, quality, time) in enumerate(rows):
        event = pb.MxEvent.FromString(events[row])
        assert event.family == pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
        assert event.session_id == "session-1"
        assert (event.server_handle, event.item_handle, event.quality) == (3, handle, quality)
        assert event.worker_sequence == 2**40 + row
        assert wire.nanoseconds(event.source_timestamp) == np.datetime64(time, "ns")
        assert wire.nanoseconds(event.gateway_receive_timestamp) == np.datetime64(-1, "ns")
        assert list(event.statuses) == [status]
        assert event.WhichOneof("body") == "on_data_change"
        arm = arm_of(value)
        assert event.value.WhichOneof("kind") == arm
        if arm is None:
            assert event.value.is_null
        else:
            assert getattr(event.value, arm) == getattr(value, arm)


def test_write_completes_carry_no_value():
    (data,) = codec.encode_events(
        "s",
        pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE,
        1,
        np.array([5], np.int32),
        first_sequence=1,
        gateway_timestamp=1_700_000_000 * 10**9,
    )
    event = pb.MxEvent.FromString(data)
    assert event.WhichOneof("body") == "on_write_complete"
    assert not event.HasField("value")
    assert not event.HasField("source_timestamp")


def test_events_of_other_families_are_refused():
    with pytest.raises(ValueError, match="protobuf message"):
        codec.encode_events(
            "s",
            pb.MX_EVENT_FAMILY_ON_ALARM_TRANSITION,
            1,
            np.ones(1, np.int32),
            first_sequence=1,
            gateway_timestamp=0,
        )
