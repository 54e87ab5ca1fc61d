"""Events and replies into columns: what the protobuf runtime reads, the codec reads."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError as RuntimeRefusal
from hypothesis import given
from hypothesis import strategies as st

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from mxfast.codec import ValueKind
from tests import judge, wire
from tests.judge import KIND_OF_ARM, arm_of

statuses = st.builds(
    pb.MxStatusProxy,
    success=st.sampled_from([0, 1, -1]),
    category=st.integers(0, 12),
    detail=wire.int32s,
    diagnostic_text=st.text(max_size=5),
)


@st.composite
def timestamps(draw):
    message = pb.OnAlarmProviderModeChangedEvent().at
    message.seconds = draw(st.integers(-(2**40), 2**40))
    message.nanos = draw(st.integers(0, 999_999_999))
    return message


@st.composite
def values(draw):
    message = pb.MxValue(variant_type=draw(st.text(max_size=6)), data_type=draw(st.integers(0, 30)))
    arm = draw(st.sampled_from([*KIND_OF_ARM]))
    message.is_null = draw(st.booleans() if arm is None else st.sampled_from([False] * 5 + [True]))
    if arm is None:
        return message
    if arm == "string_value":
        message.string_value = draw(st.text(max_size=20))
    elif arm == "raw_value":
        message.raw_value = draw(st.binary(max_size=20))
    elif arm == "timestamp_value":
        message.timestamp_value.CopyFrom(draw(timestamps()))
    elif arm == "array_value":
        message.array_value.double_values.values.extend(draw(st.lists(wire.finite64, max_size=5)))
    elif arm == "sparse_array_value":
        message.sparse_array_value.total_length = draw(st.integers(0, 9))
    else:
        dtype = next(d for d, (a, _, _) in wire.ARM_OF_DTYPE.items() if a == arm)
        setattr(message, arm, draw(wire.ELEMENTS[dtype]))
    return message


@st.composite
def events(draw):
    event = pb.MxEvent(
        family=draw(st.integers(0, 8)),
        session_id=draw(wire.session_ids),
        server_handle=draw(wire.int32s),
        item_handle=draw(wire.handles),
        quality=draw(wire.int32s),
        statuses=draw(st.lists(statuses, max_size=3)),
        worker_sequence=draw(st.integers(0, 2**64 - 1)),
        raw_status=draw(st.text(max_size=5)),
    )
    if draw(st.booleans()):
        event.value.CopyFrom(draw(values()))
    if draw(st.booleans()):
        event.source_timestamp.CopyFrom(draw(timestamps()))
    if draw(st.booleans()):
        event.gateway_receive_timestamp.CopyFrom(draw(timestamps()))
    if draw(st.booleans()):
        event.on_data_change.SetInParent()
    return event


@given(st.lists(events(), max_size=12))
def test_columns_hold_what_the_runtime_reads(messages):
    columns = codec.decode_events([message.SerializeToString() for message in messages])
    assert len(columns) == len(messages)
    for row, event in enumerate(messages):
        assert columns.family[row] == event.family
        assert columns.server_handle[row] == event.server_handle
        assert columns.item_handle[row] == event.item_handle
        assert columns.quality[row] == event.quality
        assert columns.worker_sequence[row] == event.worker_sequence
        for name, column in [
            ("source_timestamp", columns.source_timestamp),
            ("gateway_receive_timestamp", columns.gateway_timestamp),
        ]:
            if event.HasField(name):
                np.testing.assert_equal(column[row], wire.nanoseconds(getattr(event, name)))
            else:
                assert np.isnat(column[row])
        assert columns.ok[row] == (not judge.failed(event.statuses))
        arm = arm_of(event.value)
        assert columns.kind[row] == KIND_OF_ARM[arm]
        numeric = [name for name, _, _ in wire.ARM_OF_DTYPE.values()]
        expected = float(getattr(event.value, arm)) if arm in numeric else np.nan
        np.testing.assert_equal(columns.value[row], expected)
        assert pb.MxValue.FromString(columns.value_bytes(row)) == event.value


@given(st.lists(events(), max_size=12))
def test_rows_of_one_arm_come_in_its_own_dtype(messages):
    columns = codec.decode_events([message.SerializeToString() for message in messages])
    for arm, kind in KIND_OF_ARM.items():
        rows = [event.value for event in messages if arm_of(event.value) == arm]
        found = columns.values(kind)
        assert len(found) == len(rows)
        if arm in ("string_value", "raw_value"):
            assert found.tolist() == [getattr(value, arm) for value in rows]
        elif arm == "timestamp_value":
            expected = [wire.nanoseconds(value.timestamp_value) for value in rows]
            np.testing.assert_array_equal(found, np.array(expected, "datetime64[ns]"))
        elif arm == "array_value":
            for array, value in zip(found, rows, strict=True):
                assert array.tolist() == list(value.array_value.double_values.values)
        elif arm in [name for name, _, _ in wire.ARM_OF_DTYPE.values()]:
            dtype = next(d for d, (a, _, _) in wire.ARM_OF_DTYPE.items() if a == arm)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, np.array([getattr(v, arm) for v in rows], dtype))


def data_change(sequence=1, handle=7, value=2.5):
    event = pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        session_id="session-1",
        server_handle=1,
        item_handle=handle,
        value=wire.mx_value(value, "float64"),
        quality=192,
        worker_sequence=sequence,
        statuses=[pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK)],
    )
    event.source_timestamp.seconds = 1_700_000_000
    event.on_data_change.SetInParent()
    return event


def buffered(values, qualities, times, sequence=1):
    event = pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_BUFFERED_DATA_CHANGE,
        item_handle=5,
        quality=64,
        worker_sequence=sequence,
    )
    event.value.MergeFromString(codec.encode_value(values))
    body = event.on_buffered_data_change
    body.quality_values.int32_values.values.extend(qualities)
    for time in times:
        wire.set_timestamp(body.timestamp_values.timestamp_values.values.add(), time)
    event.source_timestamp.seconds = 7
    return event


COLUMNS = (
    "kind",
    "payload",
    "value",
    "family",
    "server_handle",
    "item_handle",
    "worker_sequence",
    "quality",
    "source_timestamp",
    "gateway_timestamp",
    "ok",
    "message_index",
)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([1.5, 2.5, 3.5]), ValueKind.DOUBLE),
        (np.array([1.5, 2.5, 3.5], np.float32), ValueKind.FLOAT),
        (np.array([1, -2, 3], np.int32), ValueKind.INT32),
        (np.array([2**60 + 1, 2, 3]), ValueKind.INT64),
        (np.array([True, False, True]), ValueKind.BOOL),
        (np.array(["2020", "2021", "2022"], "datetime64[ns]"), ValueKind.TIMESTAMP),
        (np.array(["Füllstand", "", "x\0"], object), ValueKind.STRING),
        (np.array([b"\x00\xff", b"", b"x"], object), ValueKind.RAW),
    ],
)
def test_a_buffered_change_is_one_row_a_sample(values, kind):
    times = np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[ns]")
    sentinel = pb.MxEvent()
    sentinel.replay_gap.oldest_available_sequence = 9
    messages = [data_change(1), buffered(values, [192, 0, 64], times, 2), sentinel, data_change(9)]
    columns = codec.decode_events([message.SerializeToString() for message in messages])
    assert columns.kind.tolist() == [ValueKind.DOUBLE, kind, kind, kind, ValueKind.DOUBLE]
    np.testing.assert_array_equal(columns.slice(slice(1, 4)).values(kind), values)
    np.testing.assert_array_equal(columns.slice(slice(3, 0, -1)).values(kind), values[::-1])
    assert columns.quality.tolist() == [192, 192, 0, 64, 192]
    np.testing.assert_array_equal(columns.source_timestamp[1:4], times)
    assert columns.item_handle.tolist() == [7, 5, 5, 5, 7]
    assert columns.worker_sequence.tolist() == [1, 2, 2, 2, 9]
    assert columns.message_index.tolist() == [0, 1, 1, 1, 3]
    assert columns.gaps == [(4, 0, 9)]
    assert columns.value[[0, 4]].tolist() == [2.5, 2.5]
    for name in COLUMNS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(columns, name)[1] = 0


def test_samples_without_a_quality_or_time_have_the_events():
    event = buffered(np.arange(3.0), [0], [np.datetime64(5, "s")])
    columns = codec.decode_events([event.SerializeToString()])
    assert columns.quality.tolist() == [0, 64, 64]
    assert columns.source_timestamp.astype("datetime64[s]").astype(int).tolist() == [5, 7, 7]


@pytest.mark.parametrize("values", [np.empty(0), np.empty(0, "U1"), np.empty(0, "M8[ns]")])
def test_a_buffered_change_without_samples_stays_one_row(values):
    event = buffered(values, [192, 192], [])
    columns = codec.decode_events([event.SerializeToString()] * 2)
    assert columns.kind.tolist() == [ValueKind.ARRAY] * 2
    assert columns.quality.tolist() == [64] * 2
    assert columns.values(ValueKind.ARRAY)[1].tolist() == []


ARRAYS = [
    pb.MxArray(string_values={"values": ["a", "", "Füllstand"]}),
    pb.MxArray(raw_values={"values": [b"\xff", b""]}),
    pb.MxArray(timestamp_values={"values": [{"seconds": 5}, {"nanos": 7}]}),
    pb.MxArray(bool_values={"values": [True, False, True]}),
    pb.MxArray(int32_values={"values": [-1, 300]}),
    pb.MxArray(int64_values={"values": [2**60 + 1]}),
    pb.MxArray(float_values={"values": [0.5, -0.0]}),
    pb.MxArray(double_values={"values": [float("nan")] * 3}),
    pb.MxArray(dimensions=[2, 1]),
]
PARTS = [
    *(pb.MxValue(array_value=array) for array in ARRAYS),
    pb.MxValue(double_value=1.5),
    pb.MxValue(variant_type="VT_ARRAY"),
]


@given(
    st.lists(st.lists(st.sampled_from(PARTS), max_size=3), max_size=4),
    st.lists(st.sampled_from(ARRAYS), max_size=2),
    st.lists(st.sampled_from(ARRAYS), max_size=2),
)
def test_samples_of_values_in_parts_are_those_of_the_whole(values, qualities, times):
    # Occurrences of a field merge, and another arm of a oneof replaces what came before.
    data = pb.MxEvent(quality=64).SerializeToString()
    for parts in values:
        value = b"".join(part.SerializeToString() for part in parts)
        data += wire.tag(pb.MxEvent, "value", 2) + bytes([len(value)]) + value
    for quality in qualities:
        data += pb.MxEvent(on_buffered_data_change={"quality_values": quality}).SerializeToString()
    for time in times:
        data += pb.MxEvent(on_buffered_data_change={"timestamp_values": time}).SerializeToString()
    data += pb.MxEvent(on_buffered_data_change={}).SerializeToString()
    assert judge.judge_events([data, data_change().SerializeToString(), data])


def test_int64_keeps_all_its_bits():
    event = pb.MxEvent(value=wire.mx_value(2**63 - 1, "int64"))
    columns = codec.decode_events([event.SerializeToString()])
    assert columns.values(ValueKind.INT64).tolist() == [2**63 - 1]


def test_a_replay_gap_is_no_row_but_is_kept_in_its_place():
    sentinel = pb.MxEvent()
    sentinel.replay_gap.requested_after_sequence = 5
    sentinel.replay_gap.oldest_available_sequence = 90
    messages = [data_change(1), sentinel, data_change(90)]
    columns = codec.decode_events([message.SerializeToString() for message in messages])
    assert columns.worker_sequence.tolist() == [1, 90]
    assert columns.gaps == [(1, 5, 90)]
    assert columns.message_index.tolist() == [0, 2]
    assert columns.slice(slice(1, None)).gaps == [(0, 5, 90)]
    assert columns.slice(slice(0, 1)).gaps == []
    columns = codec.decode_events(
        [data_change(1).SerializeToString(), sentinel.SerializeToString()]
    )
    assert columns.gaps == columns.slice(slice(None)).gaps == [(1, 5, 90)]


def test_columns_are_read_only_and_own_their_memory():
    messages = [data_change(i, handle=i).SerializeToString() for i in range(1, 50)]
    columns = codec.decode_events(messages)
    messages.clear()
    assert columns.item_handle.tolist() == list(range(1, 50))
    with pytest.raises(ValueError, match="read-only"):
        columns.value[0] = 1


def test_a_slice_shares_memory():
    columns = codec.decode_events([data_change(i).SerializeToString() for i in range(10)])
    part = columns.slice(slice(2, 8, 2))
    assert part.worker_sequence.tolist() == [2, 4, 6]
    assert np.shares_memory(part.value, columns.value)
    assert part.value_bytes(-1) == columns.value_bytes(6)


def test_no_messages_is_no_rows():
    columns = codec.decode_events([])
    assert len(columns) == 0
    assert columns.source_timestamp.dtype == np.dtype("datetime64[ns]")


def test_unknown_fields_are_skipped_and_repeated_scalars_take_the_last():
    unknown = bytes.fromhex(
        "f83f01 fa3f03616263 f93f0000000000000000 fd3f00000000".replace(" ", "")
    )
    group = bytes.fromhex("fb3f 0801 fb3f fc3f fc3f".replace(" ", ""))
    last = pb.MxEvent(item_handle=9, quality=-1).SerializeToString()
    data = unknown + data_change().SerializeToString() + group + last
    expected = pb.MxEvent.FromString(data)
    columns = codec.decode_events([data])
    assert columns.item_handle[0] == expected.item_handle == 9
    assert columns.quality[0] == expected.quality == -1
    assert columns.value[0] == 2.5


def test_a_number_of_the_wrong_wire_type_is_an_unknown_field():
    data = data_change().SerializeToString() + wire.tag(pb.MxEvent, "quality", 5) + b"1234"
    assert codec.decode_events([data]).quality[0] == pb.MxEvent.FromString(data).quality == 192


def refused_by_runtime(message_type, data):
    try:
        message_type.FromString(data)
    except RuntimeRefusal:
        return True
    return False


def test_an_event_cut_anywhere_is_refused_where_the_runtime_refuses_it():
    data = data_change().SerializeToString()
    for cut in range(len(data)):
        if refused_by_runtime(pb.MxEvent, data[:cut]):
            with pytest.raises(codec.DecodeError, match=r"messages\[1\]"):
                codec.decode_events([data, data[:cut]])
        else:
            assert len(codec.decode_events([data[:cut]])) == 1


@given(st.binary(max_size=40))
def test_random_bytes_never_do_more_than_raise(data):
    for decode in (codec.decode_value, codec.decode_write_reply, codec.decode_write_request):
        try:
            decode(data)
        except codec.DecodeError as error:
            assert 0 <= error.offset <= len(data)  # noqa: PT017 - most inputs are refused
    try:
        codec.decode_events([data])
    except codec.DecodeError:
        assert refused_by_runtime(pb.MxEvent, data)


@pytest.mark.parametrize("depth", [10, 10_000])
def test_deep_nesting_ends_in_an_error_or_a_result(depth):
    data = b"\xfb\x3f" * depth + b"\xfc\x3f" * depth
    if depth > 100:
        with pytest.raises(codec.DecodeError, match="too deep"):
            codec.decode_events([data])
    else:
        assert len(codec.decode_events([data])) == 1


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_length_past_the_end_is_refused(length):
    varint = bytearray()
    while length >= 0x80:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    tag = wire.tag(pb.MxEvent, "value", 2)
    with pytest.raises(codec.DecodeError, match=r"MxEvent\.value"):
        codec.decode_events([tag + bytes(varint) + b"12345"])


def test_events_that_are_no_bytes():
    with pytest.raises(TypeError, match=r"messages\[1\] must be bytes, not str"):
        codec.decode_events([b"", "x"])  # type: ignore[list-item]


# ---------------------------------------------------------------- replies

results = st.builds(
    pb.BulkWriteResult,
    server_handle=wire.int32s,
    item_handle=wire.handles,
    was_successful=st.booleans(),
    hresult=st.one_of(st.none(), wire.int32s),
    statuses=st.lists(statuses, max_size=2),
    error_message=st.text(max_size=10),
)


@st.composite
def replies(draw):
    reply = pb.MxCommandReply(
        session_id=draw(wire.session_ids),
        correlation_id=draw(st.text(max_size=5)),
        kind=draw(st.integers(30, 33)),
        hresult=draw(st.one_of(st.none(), wire.int32s)),
        diagnostic_message=draw(st.text(max_size=10)),
    )
    reply.protocol_status.code = draw(st.integers(0, 12))
    reply.protocol_status.message = draw(st.text(max_size=10))
    arm = draw(st.sampled_from(["write", "write2", "write_secured", "write_secured2"]))
    bulk = getattr(reply, f"{arm}_bulk")
    bulk.SetInParent()
    bulk.results.extend(draw(st.lists(results, max_size=20)))
    return reply, bulk


@given(replies())
def test_a_reply_holds_what_the_runtime_reads(case):
    message, bulk = case
    reply = codec.decode_write_reply(message.SerializeToString())
    assert reply.session_id == message.session_id
    assert reply.correlation_id == message.correlation_id
    assert reply.command_kind == message.kind
    assert reply.status_code == message.protocol_status.code
    assert reply.status_message == message.protocol_status.message
    assert reply.hresult_of_call == (message.hresult if message.HasField("hresult") else None)
    assert reply.diagnostic_message == message.diagnostic_message
    assert reply.has_results
    assert reply.item_handle.tolist() == [r.item_handle for r in bulk.results]
    assert reply.was_successful.tolist() == [r.was_successful for r in bulk.results]
    assert reply.hresult.tolist() == [r.hresult for r in bulk.results]
    for row, result in enumerate(bulk.results):
        assert pb.BulkWriteResult.FromString(reply.result_bytes(row)) == result


def test_a_reply_without_results_says_so():
    reply = codec.decode_write_reply(pb.MxCommandReply(session_id="s").SerializeToString())
    assert not reply.has_results
    assert len(reply) == 0


def test_the_last_payload_of_a_reply_counts():
    many = pb.MxCommandReply()
    many.write_bulk.results.extend([pb.BulkWriteResult(item_handle=i) for i in range(50)])
    one = pb.MxCommandReply()
    one.write2_bulk.results.add(item_handle=77)
    other = pb.MxCommandReply()
    other.register.server_handle = 3
    reply = codec.decode_write_reply(many.SerializeToString() + one.SerializeToString())
    assert reply.item_handle.tolist() == [77]
    reply = codec.decode_write_reply(many.SerializeToString() + other.SerializeToString())
    assert not reply.has_results
    twice = codec.decode_write_reply(many.SerializeToString() * 2)
    assert twice.item_handle.tolist() == [*range(50)] * 2


def test_a_reply_cut_anywhere_is_refused_where_the_runtime_refuses_it():
    message = pb.MxCommandReply(session_id="s", correlation_id="é")
    message.protocol_status.message = "fine"
    message.write_bulk.results.add(item_handle=300, error_message="no", hresult=-5)
    data = message.SerializeToString()
    for cut in range(len(data)):
        if refused_by_runtime(pb.MxCommandReply, data[:cut]):
            with pytest.raises(codec.DecodeError):
                codec.decode_write_reply(data[:cut])
        else:
            codec.decode_write_reply(data[:cut])


# ---------------------------------------------------------------- bulk subscribes and reads


def subscribe_reply(arm="subscribe_bulk"):
    message = pb.MxCommandReply(session_id="s", correlation_id="c")
    message.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
    results = getattr(message, arm).results
    results.add(server_handle=1, tag_address="Füll.Stand", item_handle=7, was_successful=True)
    results.add(server_handle=1, tag_address="Tank9.Level", error_message="nicht gefunden é")
    return message


@pytest.mark.parametrize("arm", sorted(judge.BULK_SUBSCRIBES))
def test_every_command_about_items_is_read_into_columns(arm):
    reply = codec.decode_subscribe_reply(subscribe_reply(arm).SerializeToString())
    assert reply.has_results
    assert (reply.session_id, reply.status_code) == ("s", pb.PROTOCOL_STATUS_CODE_OK)
    assert reply.item_handle.dtype == np.int32
    assert reply.item_handle.tolist() == [7, 0]
    assert reply.was_successful.tolist() == [True, False]
    assert reply.tag_addresses() == ["Füll.Stand", "Tank9.Level"]
    assert [reply.error_message(row) for row in (0, -1)] == ["", "nicht gefunden é"]
    assert pb.SubscribeResult.FromString(reply.result_bytes(0)).item_handle == 7
    for column in (reply.item_handle, reply.was_successful):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0
    with pytest.raises(IndexError, match="row 2 of 2"):
        reply.error_message(2)


def test_a_read_of_every_kind_of_value_is_one_set_of_columns():
    message = pb.MxCommandReply()
    given_values = [2.5, 2**62 + 1, "é", b"\0", True]
    arms = ["double_value", "int64_value", "string_value", "raw_value", "bool_value"]
    for number, (arm, value) in enumerate(zip(arms, given_values, strict=True)):
        result = message.read_bulk.results.add(
            tag_address=f"T{number}.V",
            item_handle=number,
            was_successful=True,
            was_cached=number % 2 == 1,
            quality=192 + number,
        )
        setattr(result.value, arm, value)
        wire.set_timestamp(result.source_timestamp, np.datetime64(10**18 + number, "ns"))
    message.read_bulk.results.add(
        tag_address="Bad.Tag",
        error_message="no such tag",
        statuses=[
            pb.MxStatusProxy(category=pb.MX_STATUS_CATEGORY_CONFIGURATION_ERROR, detail=1003)
        ],
    )
    reply = codec.decode_read_reply(message.SerializeToString())
    assert reply.has_results
    assert reply.tag_addresses() == [*(f"T{n}.V" for n in range(5)), "Bad.Tag"]
    assert reply.item_handle.tolist() == [0, 1, 2, 3, 4, 0]
    assert reply.was_successful.tolist() == reply.ok.tolist() == [True] * 5 + [False]
    assert reply.was_cached.tolist() == [False, True, False, True, False, False]
    assert reply.quality.tolist() == [192, 193, 194, 195, 196, 0]
    assert reply.source_timestamp[:5].astype(np.int64).tolist() == [10**18 + n for n in range(5)]
    assert np.isnat(reply.source_timestamp[5])
    cells = reply.cells
    assert cells.kind.tolist() == [
        ValueKind.DOUBLE,
        ValueKind.INT64,
        ValueKind.STRING,
        ValueKind.RAW,
        ValueKind.BOOL,
        ValueKind.NONE,
    ]
    np.testing.assert_array_equal(cells.value, [2.5, 2.0**62, np.nan, np.nan, 1.0, np.nan])
    assert cells.values(ValueKind.INT64).tolist() == [2**62 + 1]
    assert cells.values(ValueKind.STRING).tolist() == ["é"]
    assert cells.values(ValueKind.RAW).tolist() == [b"\0"]
    assert pb.MxValue.FromString(cells.value_bytes(4)).bool_value
    assert reply.error_message(5) == "no such tag"


def test_each_reader_of_replies_passes_over_the_results_of_others():
    subscribed = subscribe_reply().SerializeToString()
    read = pb.MxCommandReply(read_bulk={"results": [{"item_handle": 9}]}).SerializeToString()
    written = pb.MxCommandReply(write_bulk={"results": [{"item_handle": 8}]}).SerializeToString()
    assert not codec.decode_subscribe_reply(read).has_results
    assert not codec.decode_read_reply(subscribed).has_results
    assert not codec.decode_write_reply(read).has_results
    # A oneof keeps its last arm, and results of one arm add up.
    added = subscribe_reply("add_item_bulk").SerializeToString()
    last = codec.decode_subscribe_reply(subscribed * 3 + written + added + read)
    assert not last.has_results
    assert len(last) == 0
    assert len(codec.decode_subscribe_reply(written + subscribed * 2)) == 4
    assert codec.decode_subscribe_reply(subscribed * 2 + added).item_handle.tolist() == [7, 0]
    assert codec.decode_read_reply(subscribed + read + read).item_handle.tolist() == [9, 9]
