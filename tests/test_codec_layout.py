"""Messages that resemble each other are read without parsing: what they say must not change."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb
from tests import wire
from tests.test_codec_decode import refused_by_runtime

# Numbers on both sides of where a varint grows by a byte.
EDGES = [1 << 7 * k for k in range(1, 10)]
handles = st.sampled_from([0, 1, 2, 127, 128, 300, 16383, 16384, 2**31 - 1, -1, -(2**31)])
sequences = st.one_of(
    st.sampled_from([number + step for number in EDGES for step in (-1, 0)]),
    st.integers(0, 2**64 - 1),
)
seconds = st.sampled_from([0, 1, 1_700_000_000, 1_700_000_001, -1, -62135596800, 253402300799])
nanos = st.sampled_from([0, 1, 127, 128, 2**28 - 1, 2**28, 999_999_999, -1, 10**9])
NUMBERS = {
    "double_value": st.floats(),
    "float_value": st.floats(width=32),
    "int32_value": handles,
    "int64_value": st.sampled_from([0, 1, -1, 2**56 - 1, 2**56, 2**63 - 1, -(2**63)]),
    "bool_value": st.booleans(),
}


@st.composite
def alike(draw):
    """Events of a few forms, whose numbers differ."""
    forms = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*NUMBERS, None]),
                st.sampled_from([0, 192, 64]),
                st.booleans(),
                st.booleans(),
                st.sampled_from([[], [(1, 2)], [(0, 8)], [(0, 8), (1, 2)]]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    events = []
    for arm, quality, has_source, has_gateway, statuses in draw(
        st.lists(st.sampled_from(forms), min_size=1, max_size=40)
    ):
        event = pb.MxEvent(
            family=pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
            session_id="session-0f0f",
            server_handle=1,
            item_handle=draw(handles),
            quality=quality,
            worker_sequence=draw(sequences),
            statuses=[pb.MxStatusProxy(success=s, category=c) for s, c in statuses],
        )
        if arm is not None:
            setattr(event.value, arm, draw(NUMBERS[arm]))
        for wanted, stamp in [
            (has_source, event.source_timestamp),
            (has_gateway, event.gateway_receive_timestamp),
            (has_gateway, event.worker_timestamp),
        ]:
            if wanted:
                stamp.seconds, stamp.nanos = draw(seconds), draw(nanos)
        events.append(event)
    return events


def columns_of(messages):
    """The same columns, each message decoded on its own, where nothing can be alike."""
    single = [codec.decode_events([message]) for message in messages]
    return {
        name: np.concatenate([getattr(columns, name) for columns in single])
        for name in NAMES
        if name != "message_index"
    }


NAMES = [
    *("family", "server_handle", "item_handle", "worker_sequence", "quality", "ok", "kind"),
    *("source_timestamp", "gateway_timestamp", "payload", "value"),
]


@given(alike())
def test_events_alike_say_what_each_says_alone(events):
    messages = [event.SerializeToString() for event in events]
    together = codec.decode_events(messages)
    for name, column in columns_of(messages).items():
        np.testing.assert_array_equal(getattr(together, name), column)
    assert together.item_handle.tolist() == [event.item_handle for event in events]
    assert together.worker_sequence.tolist() == [event.worker_sequence for event in events]
    for row, event in enumerate(events):
        if event.HasField("source_timestamp"):
            expected = wire.nanoseconds(event.source_timestamp)
            np.testing.assert_equal(together.source_timestamp[row], expected)
        arm = event.value.WhichOneof("kind")
        expected_value = float(getattr(event.value, arm)) if arm else np.nan
        np.testing.assert_equal(together.value[row], expected_value)


@given(alike(), st.data())
def test_one_byte_that_differs_is_never_overlooked(events, data):
    messages = [event.SerializeToString() for event in events]
    row = data.draw(st.integers(0, len(messages) - 1))
    if not messages[row]:
        return
    at = data.draw(st.integers(0, len(messages[row]) - 1))
    changed = bytearray(messages[row])
    changed[at] ^= data.draw(st.integers(1, 255))
    # The message itself before it, so that its layout has been learned.
    batch = [*messages, messages[row], bytes(changed)]
    if refused_by_runtime(pb.MxEvent, bytes(changed)):
        try:
            codec.decode_events(batch)
        except codec.DecodeError as error:
            assert f"messages[{len(batch) - 1}]" in str(error)  # noqa: PT017 - it may be accepted
        return
    expected = pb.MxEvent.FromString(bytes(changed))
    columns = codec.decode_events(batch)
    if expected.HasField("replay_gap"):
        assert len(columns.gaps) == 1
        return
    last = {name: getattr(columns, name)[-1] for name in NAMES}
    alone = codec.decode_events([bytes(changed)])
    for name in NAMES:
        np.testing.assert_equal(last[name], getattr(alone, name)[0])
    assert last["item_handle"] == expected.item_handle
    assert last["quality"] == expected.quality
    assert last["worker_sequence"] == expected.worker_sequence


def test_many_layouts_do_not_get_mixed_up():
    rng = np.random.default_rng(3)
    events = []
    for number in range(3000):
        event = pb.MxEvent(item_handle=int(2 ** rng.uniform(0, 31)), worker_sequence=number)
        event.session_id = "s" * int(rng.integers(0, 60))
        event.source_timestamp.nanos = int(rng.integers(0, 10**9) >> rng.integers(0, 30))
        event.value.double_value = rng.normal()
        events.append(event)
    columns = codec.decode_events([event.SerializeToString() for event in events])
    assert columns.item_handle.tolist() == [event.item_handle for event in events]
    assert columns.value.tolist() == [event.value.double_value for event in events]
    nanoseconds = [event.source_timestamp.nanos for event in events]
    assert columns.source_timestamp.astype(np.int64).tolist() == nanoseconds


BULK_WRITES = ("write_bulk", "write2_bulk", "write_secured_bulk", "write_secured2_bulk")

results = st.builds(
    pb.BulkWriteResult,
    server_handle=st.sampled_from([0, 1, 200]),
    item_handle=handles,
    was_successful=st.sampled_from([True, True, True, False]),
    hresult=st.sampled_from([0, 0, 0, None, -5]),
    error_message=st.sampled_from(["", "", "", "no", "x" * 60, "x" * 130]),
)


@given(st.lists(results, max_size=60), st.text(max_size=3))
def test_results_alike_say_what_the_runtime_reads(rows, correlation_id):
    message = pb.MxCommandReply(correlation_id=correlation_id)
    message.write_bulk.SetInParent()
    message.write_bulk.results.extend(rows)
    reply = codec.decode_write_reply(message.SerializeToString())
    assert reply.item_handle.tolist() == [row.item_handle for row in rows]
    assert reply.was_successful.tolist() == [row.was_successful for row in rows]
    assert reply.hresult.tolist() == [row.hresult for row in rows]
    for index, row in enumerate(rows):
        assert pb.BulkWriteResult.FromString(reply.result_bytes(index)) == row


@given(st.integers(2, 12), st.data())
def test_one_byte_of_a_result_that_differs_is_never_overlooked(n, data):
    message = pb.MxCommandReply()
    for handle in range(1, n + 1):
        message.write_bulk.results.add(item_handle=handle, was_successful=True, hresult=0)
    changed = bytearray(message.SerializeToString())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    if refused_by_runtime(pb.MxCommandReply, bytes(changed)):
        return  # whether it is refused here too, the tests of broken messages tell
    message = pb.MxCommandReply.FromString(bytes(changed))
    reply = codec.decode_write_reply(bytes(changed))
    payload = message.WhichOneof("payload")
    assert reply.has_results == (payload in BULK_WRITES)
    if not reply.has_results:
        return
    expected = getattr(message, payload).results
    assert reply.item_handle.tolist() == [row.item_handle for row in expected]
    assert reply.was_successful.tolist() == [row.was_successful for row in expected]
    assert reply.hresult.tolist() == [row.hresult for row in expected]
