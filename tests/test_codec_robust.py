"""Bad input: DecodeError or the protobuf runtime's own result, never a crash or a hang.

What is compared, and where the codec differs on purpose, is in :mod:`tests.judge`.
"""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from mxfast.codec import ValueKind
from tests import judge, wire
from tests.checkout import ROOT

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
WIRE_TYPE = {
    FieldDescriptor.CPPTYPE_DOUBLE: FIXED64,
    FieldDescriptor.CPPTYPE_FLOAT: FIXED32,
    FieldDescriptor.CPPTYPE_STRING: LENGTH,
    FieldDescriptor.CPPTYPE_MESSAGE: LENGTH,
}
each_decoder = pytest.mark.parametrize("name", [*judge.JUDGES])


# ---------------------------------------------------------------- bytes


def varint(value: int, size: int = 0) -> bytes:
    """A varint, of at least `size` bytes: more than it needs are no error."""
    data = bytearray()
    while value >= 0x80 or len(data) + 1 < size:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, wire_type: int, body: bytes = b"") -> bytes:
    """A field with its tag, and its length where it has one."""
    length = varint(len(body)) if wire_type == LENGTH else b""
    return varint(number << 3 | wire_type) + length + body


def named(message: type[Message], name: str, body: bytes) -> bytes:
    """A length-delimited field of the contract."""
    return field(message.DESCRIPTOR.fields_by_name[name].number, LENGTH, body)


def is_packed(member: FieldDescriptor) -> bool:
    return member.is_repeated and member.cpp_type not in (
        FieldDescriptor.CPPTYPE_STRING,
        FieldDescriptor.CPPTYPE_MESSAGE,
    )


def described(name: str) -> Descriptor:
    """What a decoder's message holds, by the contract."""
    return cast(Descriptor, judge.MESSAGES[name].DESCRIPTOR)


UNKNOWN = 1023  # a field number that nothing in the contract has
GROUP_START, GROUP_END = field(UNKNOWN, GROUP), field(UNKNOWN, END_GROUP)


# ---------------------------------------------------------------- valid messages

SCALARS: dict[int, list[Any]] = {
    FieldDescriptor.CPPTYPE_DOUBLE: [2.5, -1e300],
    FieldDescriptor.CPPTYPE_FLOAT: [0.5, -2.0],
    FieldDescriptor.CPPTYPE_BOOL: [True, False],
    FieldDescriptor.CPPTYPE_ENUM: [1, 30],
    FieldDescriptor.CPPTYPE_INT32: [300, -1],
    FieldDescriptor.CPPTYPE_INT64: [2**40, -1],
    FieldDescriptor.CPPTYPE_UINT32: [2, 1],
    FieldDescriptor.CPPTYPE_UINT64: [70_000, 2**63],
}


def fill(message: Message, arms: Iterator[int], depth: int = 0) -> None:
    """Set every field, of each oneof the arm that is next in turn."""
    if isinstance(message, Timestamp):
        message.seconds, message.nanos = 1_700_000_000, 999_999_999
        return
    chosen = {
        oneof.fields[next(arms) % len(oneof.fields)].name
        for oneof in message.DESCRIPTOR.oneofs
        if not oneof.name.startswith("_")
    }
    for member in message.DESCRIPTOR.fields:
        if member.name == "is_null":
            continue  # the arm would not count
        oneof = member.containing_oneof
        if oneof is not None and not oneof.name.startswith("_") and member.name not in chosen:
            continue
        if member.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if depth == 5:
                continue
            body = getattr(message, member.name)
            for part in [body.add(), body.add()] if member.is_repeated else [body]:
                part.SetInParent()
                fill(part, arms, depth + 1)
            continue
        values = SCALARS.get(member.cpp_type, ["Füllstand", "x"])
        if member.type == FieldDescriptor.TYPE_BYTES:
            values = [b"\x00\xff", b""]
        if member.is_repeated:
            getattr(message, member.name).extend(values)
        else:
            setattr(message, member.name, values[0])


def command_of(message: Message) -> None:
    """Let a request's kind be that of its payload, where that is a bulk write."""
    if isinstance(message, pb.MxCommandRequest):
        command = message.command
        command.kind = judge.BULK_WRITES.get(command.WhichOneof("payload"), command.kind)
    elif isinstance(message, pb.MxEvent):
        message.ClearField("replay_gap")


# The payloads that each decoder of replies is for.
PAYLOADS = {
    "write_reply": [*judge.BULK_WRITES],
    "subscribe_reply": sorted(judge.BULK_SUBSCRIBES),
    "read_reply": ["read_bulk"],
}


def replies(name: str, count: int) -> list[Message]:
    """Replies with every field set and a payload that the decoder is for."""
    messages: list[Message] = []
    for first in range(count if name in PAYLOADS else 0):
        message = pb.MxCommandReply()
        fill(message, itertools.count(first))
        payload = getattr(message, PAYLOADS[name][first % len(PAYLOADS[name])])
        payload.SetInParent()
        fill(payload, itertools.count(first), 1)
        messages.append(message)
    return messages


def buffered_events() -> list[bytes]:
    """Buffered data changes of every type of array, some with qualities and times that fit."""
    events = []
    for arm in range(len(pb.MxArray.DESCRIPTOR.oneofs[0].fields)):
        event = pb.MxEvent(item_handle=300, quality=64)
        fill(event.value.array_value, itertools.repeat(arm))
        body = event.on_buffered_data_change
        # Integers of either size, or what is no quality; times, or what is none.
        fill(body.quality_values, itertools.repeat((1, 2, 4)[arm % 3]))
        fill(body.timestamp_values, itertools.repeat((6, 6, 6, 5)[arm % 4]))
        events.append(event.SerializeToString())
    return events


def filled_messages(name: str, count: int) -> list[bytes]:
    """Messages with every field set, their oneofs' arms in turn."""
    messages = buffered_events() if name == "event" else []
    messages += [reply.SerializeToString() for reply in replies(name, 16)]
    for first in range(count):
        message = judge.MESSAGES[name]()
        fill(message, itertools.count(first))
        if first % 8:
            command_of(message)
        messages.append(message.SerializeToString())
    return messages


def small_messages(name: str, count: int) -> list[bytes]:
    """Messages with a few fields each, chosen by lot."""
    rng = random.Random(name)
    messages = buffered_events() if name == "event" else []
    for reply in replies(name, 16):
        thin_out(reply, rng)
        messages.append(reply.SerializeToString())
    for first in range(count):
        message = judge.MESSAGES[name]()
        fill(message, itertools.count(first))
        thin_out(message, rng)
        command_of(message)
        messages.append(message.SerializeToString())
    return messages


def thin_out(message: Message, rng: random.Random) -> None:
    for member, value in message.ListFields():
        if rng.random() < (0.1 if member.containing_oneof else 0.4):
            message.ClearField(member.name)
        elif member.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if member.is_repeated:
                del value[1:]
            for part in value if member.is_repeated else [value]:
                thin_out(part, rng)


@each_decoder
def test_every_arm_of_every_message_is_read_and_cut_at_every_byte(name):
    decide = judge.JUDGES[name]
    assert UNKNOWN not in described(name).fields_by_number
    for data in filled_messages(name, 64):
        assert decide(data)
        for cut in range(0, len(data), 1 if len(data) < 600 else 7):
            decide(data[:cut])


@each_decoder
def test_a_few_hundred_messages_with_every_bit_flipped(name):
    decide = judge.JUDGES[name]
    for data in small_messages(name, 40):
        assert decide(data)
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            decide(bytes(flipped))


def test_every_bit_flipped_in_an_event_that_follows_the_sound_one():
    # What was learned of the first must not be taken for true of the second.
    for data in small_messages("event", 16):
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            judge.judge_events([data, bytes(flipped), data])


# ---------------------------------------------------------------- any wire data


@st.composite
def bodies(draw: st.DrawFn, message: Descriptor, depth: int = 0) -> bytes:
    """A message's body: its fields in any order and any of the ways that protobuf allows.

    Fields come again, packed and unpacked, with the wire type of others, with varints longer
    than they need be, beside fields and groups that nobody knows; some strings are no UTF-8.
    """
    parts = []
    for _ in range(draw(st.integers(0, 6 if depth < 2 else 3))):
        if not message.fields or draw(st.integers(0, 7)) == 0:
            parts.append(draw(unknown_fields(message)))
            continue
        member = draw(st.sampled_from(list(message.fields)))
        if member.message_type is not None:
            body = draw(bodies(member.message_type, depth + 1)) if depth < 7 else b""
            parts.append(field(member.number, LENGTH, body))
        elif member.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            parts.append(field(member.number, LENGTH, draw(texts)))
        else:
            scalars = scalar_bytes[WIRE_TYPE.get(member.cpp_type, VARINT)]
            if is_packed(member) and draw(st.booleans()):
                packed = b"".join(draw(st.lists(scalars, max_size=4)))
                parts.append(field(member.number, LENGTH, packed))
            else:
                wire_type = WIRE_TYPE.get(member.cpp_type, VARINT)
                parts.append(field(member.number, wire_type, draw(scalars)))
    return b"".join(parts)


varints = st.builds(
    varint,
    st.one_of(
        st.integers(0, 40),
        st.integers(0, 2**64 - 1),
        st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1, 2**70 - 1]),
    ),
    st.sampled_from([0, 0, 0, 0, 2, 5, 10]),
)
texts = st.one_of(
    st.text(max_size=6).map(str.encode),
    st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"12345678\xc3"]),
)
scalar_bytes = {
    VARINT: varints,
    FIXED64: st.binary(min_size=8, max_size=8),
    FIXED32: st.binary(min_size=4, max_size=4),
    LENGTH: st.binary(max_size=4),
}


@st.composite
def unknown_fields(draw: st.DrawFn, message: Descriptor) -> bytes:
    numbers = [UNKNOWN, *message.fields_by_number, 2**29 - 1]
    number = draw(st.sampled_from(numbers))
    kind = draw(st.sampled_from([VARINT, FIXED64, LENGTH, GROUP, FIXED32]))
    if kind == GROUP:
        inside = draw(bodies(message, 6))
        return field(number, GROUP, inside + field(number, END_GROUP))
    return field(number, kind, draw(scalar_bytes[kind]))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes, a few of them inserted, deleted or replaced; most often none."""
    changed = bytearray(data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(changed)))
        size = draw(st.sampled_from([0, 1, 1, 3]))
        changed[at : at + size] = draw(st.binary(max_size=2))
    return bytes(changed)


@st.composite
def wire_data(draw: st.DrawFn, name: str) -> bytes:
    data = draw(bodies(described(name)))
    if name == "write_request" and draw(st.booleans()):
        # Most requests of random fields are no bulk write.
        arm = draw(st.sampled_from([*judge.BULK_WRITES]))
        member = pb.MxCommand.DESCRIPTOR.fields_by_name[arm]
        assert member.message_type is not None
        command = field(
            member.number, LENGTH, draw(bodies(cast(Descriptor, member.message_type), 1))
        )
        kind = pb.MxCommand(kind=judge.BULK_WRITES[arm]).SerializeToString()
        data += named(pb.MxCommandRequest, "command", command + kind)
    elif name in PAYLOADS and draw(st.booleans()):
        # Nor has a reply of random fields many results.
        arm = draw(st.sampled_from(PAYLOADS[name]))
        member = pb.MxCommandReply.DESCRIPTOR.fields_by_name[arm]
        assert member.message_type is not None
        results = member.message_type.fields_by_name["results"]
        assert results.message_type is not None
        rows = draw(st.lists(bodies(cast(Descriptor, results.message_type), 1), max_size=3))
        payload = b"".join(field(results.number, LENGTH, row) for row in rows)
        data += field(member.number, LENGTH, payload)
    return draw(damaged(data))


@each_decoder
@given(st.data())
@settings(max_examples=400)
def test_any_wire_data_means_what_it_means_to_the_runtime(name, data):
    decide = judge.JUDGES[name]
    decide(data.draw(wire_data(name)))


@each_decoder
@given(data=st.binary(max_size=60))
def test_random_bytes(name, data):
    decide = judge.JUDGES[name]
    decide(data)


@st.composite
def alike(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that differ in few bits, mostly not in those that say where a varint ends."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 6)) if data else 0):
        at = draw(st.integers(0, len(data) - 1))
        changed[at] ^= draw(st.one_of(st.integers(0, 0x7F), st.integers(0, 0xFF)))
    return bytes(changed)


event_samples = small_messages("event", 60)


@given(st.data())
@settings(max_examples=400)
def test_events_alike_are_each_read_as_the_runtime_reads_them(data):
    bases = [
        *data.draw(st.lists(st.sampled_from(event_samples), min_size=1, max_size=3)),
        *data.draw(st.lists(wire_data("event"), max_size=1)),
    ]
    count = data.draw(st.integers(1, 8))
    messages = [data.draw(alike(data.draw(st.sampled_from(bases)))) for _ in range(count)]
    # Of those that are refused only the first could be looked at.
    sound = [event for event in messages if judge.runtime_reads(pb.MxEvent, event) is not None]
    judge.judge_events(sound)
    judge.judge_events(messages)


def rows_alike(name: str, count: int) -> bytes:
    """A reply or a request whose rows differ in little more than their handles."""
    handles = [300 + row for row in range(count)]
    if name == "write_request":
        write = wire.write_request("s", 1, handles, wire.array_of([2.5] * count, "float64"))
        return write.SerializeToString()
    reply = pb.MxCommandReply(session_id="s")
    for handle in handles:
        if name == "write_reply":
            reply.write_bulk.results.add(
                server_handle=1, item_handle=handle, was_successful=True, hresult=0
            )
        elif name == "subscribe_reply":
            reply.subscribe_bulk.results.add(
                server_handle=1, tag_address="A.B", item_handle=handle, was_successful=True
            )
        else:
            result = reply.read_bulk.results.add(tag_address="A.B", was_successful=True)
            result.value.double_value = handle
            result.source_timestamp.seconds = handle
    return reply.SerializeToString()


ROWS = ["write_reply", "subscribe_reply", "read_reply", "write_request"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [2, 3, 9])
def test_every_bit_flipped_in_rows_that_are_alike(name, count):
    decide = judge.JUDGES[name]
    data = rows_alike(name, count)
    assert decide(data)
    for cut in range(len(data)):
        decide(data[:cut])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        decide(bytes(flipped))


@pytest.mark.parametrize("name", ROWS)
@given(st.data())
@settings(max_examples=200)
def test_rows_alike_are_each_read_as_the_runtime_reads_them(name, data):
    decide = judge.JUDGES[name]
    rows = rows_alike(name, data.draw(st.integers(1, 12)))
    other = data.draw(st.one_of(st.just(b""), st.just(rows), wire_data(name)))
    decide(data.draw(alike(data.draw(damaged(rows + other)))))


@pytest.mark.parametrize("name", [*judge.INPUTS])
def test_what_the_fuzzer_found_worth_keeping(name):
    files = sorted((ROOT / "fuzz" / "corpus" / name).iterdir())
    assert files
    for file in files:
        judge.INPUTS[name](file.read_bytes())


# ---------------------------------------------------------------- lengths

LENGTHS = [2**31 - 1, 2**31, 2**32 - 1, 2**32 + 4, 2**63 - 1, 2**63, 2**63 + 4, 2**64 - 1]


def paths(message: Descriptor, depth: int = 0) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Every way to a length-delimited field, a few messages deep."""
    for member in message.fields:
        if member.message_type is None:
            if WIRE_TYPE.get(member.cpp_type) == LENGTH or is_packed(member):
                yield (member,)
        else:
            yield (member,)
            if depth < 4:
                for rest in paths(member.message_type, depth + 1):
                    yield member, *rest


@each_decoder
def test_a_length_past_the_end_is_refused_wherever_it_stands(name):
    decide = judge.JUDGES[name]
    ways = [*paths(described(name))]
    random.Random(1).shuffle(ways)
    for way, length in zip(ways[:2000], itertools.cycle(LENGTHS)):
        *outer, last = way
        data = varint(last.number << 3 | LENGTH) + varint(length) + b"1234"
        for member in reversed(outer):
            data = field(member.number, LENGTH, data)
        assert not decide(data)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_unknown_length_past_the_end_is_refused(length):
    for name, decide in judge.JUDGES.items():
        assert not decide(varint(UNKNOWN << 3 | LENGTH) + varint(length) + b"1234"), name


@pytest.mark.parametrize("arm", [field.name for field in pb.MxArray.DESCRIPTOR.oneofs[0].fields])
def test_a_billion_elements_in_ten_bytes(arm):
    number = pb.MxArray.DESCRIPTOR.fields_by_name[arm].number
    packed = varint(1 << 3 | LENGTH) + varint(8 * 10**9) + b"\0"
    array = varint(number << 3 | LENGTH) + varint(10**9) + packed
    value = named(pb.MxValue, "array_value", array)
    with_sound_lengths = named(pb.MxValue, "array_value", field(number, LENGTH, packed))
    for data in (value, with_sound_lengths):
        assert peak_memory(judge.judge_value, data) < 100_000
        assert not judge.judge_value(data)
        assert not judge.judge_events([named(pb.MxEvent, "value", data)])


def test_a_message_of_more_than_two_gigabytes_is_refused():
    # Zeros are never written, so they take no memory.
    data = bytes(2**31)
    for decode in (
        codec.decode_value,
        codec.decode_write_reply,
        codec.decode_subscribe_reply,
        codec.decode_read_reply,
        codec.decode_write_request,
    ):
        with pytest.raises(codec.DecodeError, match="2 GiB"):
            decode(data)
    with pytest.raises(codec.DecodeError, match=r"messages\[1\].* 2 GiB"):
        codec.decode_events([b"", data])


# ---------------------------------------------------------------- varints


@each_decoder
@pytest.mark.parametrize("size", range(1, 13))
def test_varints_longer_than_they_need_be(name, size):
    decide = judge.JUDGES[name]
    for member in described(name).fields:
        if WIRE_TYPE.get(member.cpp_type, VARINT) == VARINT:
            decide(field(member.number, VARINT, varint(1, size)))
            decide(varint(member.number << 3, size) + b"\1")
        elif WIRE_TYPE[member.cpp_type] == LENGTH:
            decide(varint(member.number << 3 | LENGTH, size) + b"\0")
            decide(varint(member.number << 3 | LENGTH) + varint(0, size))
    for wire_type in range(8):
        decide(varint(UNKNOWN << 3 | wire_type, size) + bytes(9))
        decide(varint(wire_type, size) + bytes(9))


@each_decoder
@pytest.mark.parametrize("last", [0, 1, 2, 0x40, 0x7F, 0x80, 0xFF])
def test_a_varints_tenth_byte(name, last):
    decide = judge.JUDGES[name]
    long = b"\x81" * 9 + bytes([last])
    for member in [*described(name).fields, None]:
        number = member.number if member else UNKNOWN
        decide(field(number, VARINT, long))
        decide(varint(number << 3 | LENGTH) + long + b"1")
        decide(long + b"1")
    decide(GROUP_START + field(UNKNOWN, VARINT, long) + GROUP_END)


def test_elements_whose_varints_are_too_long():
    for arm in ("bool_values", "int32_values", "int64_values"):
        for elements in (b"\xff" * 9 + b"\x7f", b"\x80" * 9 + b"\x02", b"\xff" * 10, b"\x01\x80"):
            array = named(pb.MxArray, arm, field(1, LENGTH, elements) + field(1, VARINT, b"\1"))
            judge.judge_value(named(pb.MxValue, "array_value", array))


# ---------------------------------------------------------------- nesting


def nested_sparse_arrays(depth: int) -> bytes:
    """An MxValue in an element of a sparse array, that in another MxValue, and so on."""
    tags = [
        pb.MxSparseElement.DESCRIPTOR.fields_by_name["value"].number << 3 | LENGTH,
        pb.MxSparseArray.DESCRIPTOR.fields_by_name["elements"].number << 3 | LENGTH,
        pb.MxValue.DESCRIPTOR.fields_by_name["sparse_array_value"].number << 3 | LENGTH,
    ]
    heads = []  # from the innermost
    size = 0
    for _ in range(depth):
        for tag in tags:
            head = varint(tag) + varint(size)
            heads.append(head)
            size += len(head)
    return b"".join(reversed(heads))


@each_decoder
@pytest.mark.parametrize("depth", [1, 98, 99, 100, 101, 10_000])
def test_groups_nested_deep(name, depth):
    decide = judge.JUDGES[name]
    groups = GROUP_START * depth + GROUP_END * depth
    assert decide(groups) == (depth <= 100)
    decide(GROUP_START * depth)
    decide(GROUP_END * depth)
    # In a message the runtime counts groups and messages together.
    for way in list(paths(described(name)))[:400]:
        data = groups
        for member in reversed([member for member in way if member.message_type]):
            data = field(member.number, LENGTH, data)
        decide(data)


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 34, 35, 3_334, 10_000])
def test_messages_nested_deep(depth):
    value = nested_sparse_arrays(depth)
    judge.judge_value(value)
    judge.judge_events([named(pb.MxEvent, "value", value)])
    entry = named(pb.WriteBulkEntry, "value", value)
    for kind in (pb.MX_COMMAND_KIND_WRITE_BULK, pb.MX_COMMAND_KIND_PING):
        command = pb.MxCommand(kind=kind).SerializeToString() + named(
            pb.MxCommand, "write_bulk", named(pb.WriteBulkCommand, "entries", entry)
        )
        judge.judge_write_request(named(pb.MxCommandRequest, "command", command))
    judge.judge_write_reply(named(pb.MxCommandReply, "return_value", value))
    result = named(pb.BulkReadResult, "value", value)
    read = named(pb.MxCommandReply, "read_bulk", named(pb.BulkReadReply, "results", result))
    judge.judge_read_reply(read)
    judge.judge_subscribe_reply(read)
    # The last message that may lie there is empty, and so is one too many.
    for extra in (b"", GROUP_START + GROUP_END, named(pb.MxValue, "array_value", b"")):
        judge.judge_value(nested_sparse_arrays(33) + extra)


def test_empty_messages_at_the_last_depth():
    number = pb.MxValue.DESCRIPTOR.fields_by_name["timestamp_value"].number
    for depth in range(30, 36):
        for inside in (b"", b"\x08\x01", GROUP_START + GROUP_END):
            data = field(number, LENGTH, inside)
            for _ in range(depth):
                data = named(pb.MxSparseElement, "value", data)
                data = named(pb.MxSparseArray, "elements", data)
                data = named(pb.MxValue, "sparse_array_value", data)
            judge.judge_value(data)
            judge.judge_events([named(pb.MxEvent, "value", data)])


# ---------------------------------------------------------------- known fields nobody reads


@each_decoder
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"12345678\xc3"])
def test_a_string_that_is_no_utf8_is_refused_wherever_it_stands(name, bad):
    decide = judge.JUDGES[name]
    strings = [way for way in paths(described(name)) if way[-1].type == FieldDescriptor.TYPE_STRING]
    random.Random(2).shuffle(strings)
    for way in strings[:1000]:
        data = bad
        for member in reversed(way):
            data = field(member.number, LENGTH, data)
        assert not decide(data), ".".join(member.name for member in way)


@each_decoder
def test_a_message_that_is_broken_is_refused_wherever_it_stands(name):
    decide = judge.JUDGES[name]
    ways = list(paths(described(name)))
    random.Random(3).shuffle(ways)
    for way in ways[:1500]:
        data = b"\x80"  # a varint cut off: also in packed elements, also of a fixed size
        for member in reversed(way):
            data = field(member.number, LENGTH, data)
        fits = way[-1].type == FieldDescriptor.TYPE_BYTES
        assert decide(data) == fits, ".".join(member.name for member in way)


# ---------------------------------------------------------------- the last one counts

ARRAY = pb.MxArray(double_values=pb.DoubleArray(values=[1.0, 2.0])).SerializeToString()
OTHER_ARRAY = pb.MxArray(double_values=pb.DoubleArray(values=[3.0])).SerializeToString()
TEXTS = pb.MxArray(string_values=pb.StringArray(values=["a"])).SerializeToString()


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (b"", [1.0, 2.0, 3.0]),
        (pb.MxValue(int32_value=5).SerializeToString(), [3.0]),
        (pb.MxValue(string_value="").SerializeToString(), [3.0]),
        (pb.MxValue(sparse_array_value={}).SerializeToString(), [3.0]),
        (pb.MxValue(raw_diagnostic="no arm").SerializeToString(), [1.0, 2.0, 3.0]),
        (field(UNKNOWN, LENGTH, b"no arm"), [1.0, 2.0, 3.0]),
        (named(pb.MxValue, "array_value", TEXTS), [3.0]),
    ],
)
def test_an_array_that_another_arm_replaced_is_gone(between, expected):
    data = (
        named(pb.MxValue, "array_value", ARRAY)
        + between
        + named(pb.MxValue, "array_value", OTHER_ARRAY)
    )
    assert judge.judge_value(data)
    assert codec.decode_value(data).tolist() == expected
    assert judge.judge_events([named(pb.MxEvent, "value", data)])


def test_an_unknown_field_beside_a_payload_replaces_nothing():
    write = wire.write_request("s", 1, [7], wire.array_of([1.5], "float64"))
    data = write.SerializeToString() + named(
        pb.MxCommandRequest, "command", field(UNKNOWN, LENGTH, b"of a later version")
    )
    assert judge.judge_write_request(data)
    request = codec.decode_write_request(data)
    assert request is not None
    assert request.item_handle.tolist() == [7]
    reply = pb.MxCommandReply(write_bulk=pb.BulkWriteReply(results=[{"item_handle": 7}]))
    data = reply.SerializeToString() + field(UNKNOWN, LENGTH, b"of a later version")
    assert judge.judge_write_reply(data)
    assert codec.decode_write_reply(data).item_handle.tolist() == [7]


def test_a_request_that_is_not_for_this_reader_must_be_sound_too():
    entry = named(pb.WriteBulkEntry, "value", named(pb.MxValue, "string_value", b"\xff"))
    command = named(pb.MxCommand, "write_bulk", named(pb.WriteBulkCommand, "entries", entry))
    assert not judge.judge_write_request(named(pb.MxCommandRequest, "command", command))


IS_NULL, IS_NO_NULL = field(3, VARINT, varint(300)), field(3, VARINT, b"\0")
NUMBER = pb.MxValue(double_value=2.5).SerializeToString()
TEXT = pb.MxValue(string_value="x").SerializeToString()
TIME = pb.MxValue(timestamp_value={"seconds": 7}).SerializeToString()


ARMS = {
    "number": NUMBER,
    "text": TEXT,
    "time": TIME,
    "array": named(pb.MxValue, "array_value", ARRAY),
    "no arm": b"",
}


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
@pytest.mark.parametrize(
    ("before", "behind", "is_null"),
    [
        pytest.param(b"", IS_NULL, True, id="behind"),
        pytest.param(IS_NULL, b"", True, id="before"),
        pytest.param(IS_NULL, IS_NULL, True, id="twice"),
        pytest.param(IS_NO_NULL, IS_NULL, True, id="at last"),
        pytest.param(IS_NULL, IS_NO_NULL, False, id="no more"),
        pytest.param(IS_NULL + IS_NO_NULL, b"", False, id="no more, before"),
        pytest.param(b"", IS_NO_NULL, False, id="never"),
    ],
)
def test_a_null_has_no_arm(arm, before, behind, is_null):
    message = pb.MxValue.FromString(before + arm + behind)
    assert message.is_null == is_null
    kind = judge.KIND_OF_ARM[judge.arm_of(message)]
    assert judge.judge_value(before + arm + behind)
    # In one occurrence of the value, and in several, which are one value all the same.
    for parts in ([before + arm + behind], [before, arm, behind]):
        value = b"".join(named(pb.MxEvent, "value", part) for part in parts)
        assert codec.decode_events([value] * 3).kind.tolist() == [kind] * 3
        assert judge.judge_events([value, named(pb.MxEvent, "value", arm), value])
        # As a sample's array would be.
        assert judge.judge_events([value + named(pb.MxEvent, "on_buffered_data_change", b"")])
        result = b"".join(named(pb.BulkReadResult, "value", part) for part in parts)
        read = named(pb.BulkReadReply, "results", result)
        assert judge.judge_read_reply(named(pb.MxCommandReply, "read_bulk", read))
        for name in ("value", "timestamp_value"):
            entry = b"".join(named(pb.Write2BulkEntry, name, part) for part in parts)
            entries = named(pb.Write2BulkCommand, "entries", entry)
            command = pb.MxCommand(kind=pb.MX_COMMAND_KIND_WRITE2_BULK).SerializeToString()
            command += named(pb.MxCommand, "write2_bulk", entries * 3)
            assert judge.judge_write_request(named(pb.MxCommandRequest, "command", command))


def test_a_null_is_found_among_events_and_entries_that_are_alike():
    events = [pb.MxEvent(item_handle=300 + row, worker_sequence=row) for row in range(8)]
    sound = [
        event.SerializeToString() + named(pb.MxEvent, "value", IS_NO_NULL + NUMBER)
        for event in events
    ]
    null = [data.replace(IS_NO_NULL, field(3, VARINT, b"\1")) for data in sound]
    mixed = [pair[row % 2] for row, pair in enumerate(zip(sound, null, strict=True))]
    for messages in (sound, null, mixed):
        assert judge.judge_events(messages)


# ---------------------------------------------------------------- dimensions and memory


@pytest.mark.parametrize(
    "dimensions",
    [
        [1] * 64,
        [1] * 65,
        [1] * 10_000,
        [0],
        [0, 2**32 - 1],
        [0, 2**32 - 1, 2**32 - 1, 2**32 - 1],
        [2**32 - 1] * 3,
        [1, 2**32 - 1],
        [2**16, 2**16, 2**16, 2**16],
        # Their product has millions of digits: nobody may work it out.
        [2**32 - 1] * 1_000_000,
    ],
)
@pytest.mark.parametrize("elements", [0, 1])
def test_dimensions_that_numpy_cannot_have(dimensions, elements):
    array = pb.MxArray(dimensions=dimensions)
    array.int32_values.SetInParent()
    array.int32_values.values.extend([5] * elements)
    message = pb.MxValue(array_value=array).SerializeToString()
    assert judge.judge_value(message)
    assert codec.decode_value(message).size == elements


def peak_memory(decode: Callable[[Any], object], data: object) -> int:
    """The most bytes that were allocated at a time while decoding."""
    tracemalloc.start()
    try:
        decode(data)
    except codec.DecodeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def of_array(arm: str, elements: bytes) -> bytes:
    return named(pb.MxValue, "array_value", named(pb.MxArray, arm, elements))


N = 50_000
GREEDY = {
    "bools": of_array("bool_values", field(1, LENGTH, bytes(N))),
    "integers": of_array("int64_values", field(1, LENGTH, bytes(N))),
    "one by one": of_array("int32_values", field(1, VARINT, b"\1") * N),
    "texts": of_array("string_values", field(1, LENGTH) * N),
    "raw values": of_array("raw_values", field(1, LENGTH) * N),
    "times": of_array("timestamp_values", field(1, LENGTH) * N),
    "arrays": named(pb.MxValue, "array_value", b"") * N,
    "arms": named(pb.MxValue, "array_value", named(pb.MxArray, "double_values", b"") * N),
    "dimensions": named(pb.MxValue, "array_value", named(pb.MxArray, "dimensions", bytes(N))),
}


@pytest.mark.parametrize("what", GREEDY)
def test_a_value_takes_no_more_memory_than_its_bytes_justify(what):
    data = GREEDY[what]
    codec.decode_value(data)
    assert peak_memory(codec.decode_value, data) < 40 * len(data) + 10_000


def test_rows_take_no_more_memory_than_their_bytes_justify():
    reply = named(pb.MxCommandReply, "write_bulk", named(pb.BulkWriteReply, "results", b"") * N)
    assert peak_memory(codec.decode_write_reply, reply * 2) < 40 * 2 * len(reply)
    subscribed = named(pb.BulkSubscribeReply, "results", b"") * N
    reply = named(pb.MxCommandReply, "subscribe_bulk", subscribed)
    assert peak_memory(codec.decode_subscribe_reply, reply * 2) < 40 * 2 * len(reply)
    reply = named(pb.MxCommandReply, "read_bulk", named(pb.BulkReadReply, "results", b"") * N)
    assert peak_memory(codec.decode_read_reply, reply * 2) < 40 * 2 * len(reply)
    command = named(pb.MxCommand, "write_bulk", named(pb.WriteBulkCommand, "entries", b"") * N)
    command += pb.MxCommand(kind=pb.MX_COMMAND_KIND_WRITE_BULK).SerializeToString()
    request = named(pb.MxCommandRequest, "command", command)
    assert peak_memory(codec.decode_write_request, request * 2) < 40 * 2 * len(request)
    # A sample of text takes two bytes at least and becomes a row of 66.
    change = named(pb.MxEvent, "on_buffered_data_change", b"")
    for what in ("texts", "raw values", "times"):
        event = change + named(pb.MxEvent, "value", GREEDY[what])
        assert len(codec.decode_events([event])) == N
        assert peak_memory(codec.decode_events, [event]) < 40 * len(event)
    # A number may take a single byte: no more then than its row and the number as it is read.
    for what, width in (("bools", 1), ("integers", 8)):
        event = change + named(pb.MxEvent, "value", GREEDY[what])
        assert len(codec.decode_events([event])) == N
        assert peak_memory(codec.decode_events, [event]) < (66 + width + 1) * len(event)
    sample = of_array("bool_values", field(1, VARINT, b"\1"))
    event = change + named(pb.MxEvent, "value", sample)
    assert peak_memory(codec.decode_events, [event] * N) < N * (40 * len(event) + 8 * 33)
    # A message of no bytes is still an object of 33.
    gap = named(pb.MxEvent, "replay_gap", b"")
    for event in (b"", gap, named(pb.MxEvent, "statuses", b"") * 10):
        events = [event] * N
        assert peak_memory(codec.decode_events, events) < N * (40 * len(event) + 8 * 33)


def test_columns_keep_their_messages_whatever_becomes_of_the_callers_list():
    messages = [pb.MxEvent(value={"string_value": text}).SerializeToString() for text in "abc"]
    columns = codec.decode_events(messages)
    messages[:] = [b""]
    assert columns.values(ValueKind.STRING).tolist() == ["a", "b", "c"]
    assert pb.MxValue.FromString(columns.value_bytes(2)).string_value == "c"
