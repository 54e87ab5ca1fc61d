"""One MxValue from an array and back, with the protobuf runtime as judge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from tests import wire


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from([*wire.ELEMENTS]))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
    size = int(np.prod(shape))
    elements = draw(st.lists(wire.ELEMENTS[dtype], min_size=size, max_size=size))
    array = wire.array_of(elements, dtype, shape)
    # An empty array of objects is taken for text: there is nothing to tell it by.
    return array if array.size or dtype != "bytes" else array.astype("S1")


@given(arrays())
def test_an_array_has_the_runtimes_bytes_and_comes_back(array):
    data = codec.encode_value(array)
    wire.assert_written(data, wire.array_message(array))
    back = codec.decode_value(data)
    assert back.dtype == (array.dtype if array.dtype.kind != "S" else np.dtype(object))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_packed_integers_of_every_size(dtype):
    bounds = np.iinfo(dtype)
    edges = {sign * (1 << bits) + off for bits in range(64) for sign in (1, -1) for off in (-1, 0)}
    for number in sorted(edge for edge in edges if bounds.min <= edge <= bounds.max):
        # Small ones are written eight at a time: another at each place among them.
        for at in range(20):
            array = np.full(20 + at % 9, 99, dtype)
            array[at] = number
            wire.assert_written(codec.encode_value(array), wire.array_message(array))


@given(st.sampled_from([*wire.ELEMENTS]).flatmap(lambda d: st.tuples(st.just(d), wire.ELEMENTS[d])))
def test_a_scalar_has_the_runtimes_bytes_and_comes_back(case):
    dtype, element = case
    array = wire.array_of([element], dtype)
    data = codec.encode_value(array.reshape(()))
    wire.assert_written(data, wire.mx_value(element, dtype))
    back = codec.decode_value(data)
    assert type(back) is type(array[0])
    assert back == array[0]


@given(
    st.sampled_from([*wire.ELEMENTS]).flatmap(
        lambda d: st.tuples(st.just(d), st.lists(wire.ELEMENTS[d], min_size=1, max_size=9))
    )
)
def test_one_message_an_element(case):
    dtype, elements = case
    array = wire.array_of(elements, dtype)
    messages = codec.encode_values(array)
    for data, element in zip(messages, elements, strict=True):
        wire.assert_written(data, wire.mx_value(element, dtype))
    back = codec.decode_values(messages)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_messages_of_different_kinds_become_objects():
    messages = [codec.encode_value(np.int32(4)), codec.encode_value("four"), b""]
    assert codec.decode_values(messages).tolist() == [np.int32(4), "four", None]
    assert codec.decode_values([]).tolist() == []
    with pytest.raises(codec.EncodeError, match=r"array\[1\] is nan"):
        codec.encode_values([0, np.nan])
    with pytest.raises(ValueError, match="one-dimensional"):
        codec.encode_values([[1.0]])


@pytest.mark.parametrize("order", ["F", "strided", "transposed", "big-endian"])
def test_elements_travel_with_the_last_index_fastest(order):
    array = np.arange(12.0).reshape(3, 4)
    expected = codec.encode_value(array)
    other = {
        "F": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "transposed": array.T.copy().T,
        "big-endian": array.astype(">f8"),
    }[order]
    assert codec.encode_value(other) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (pb.MxValue(string_value="Füllstand\0"), "Füllstand\0"),
        (pb.MxValue(raw_value=b"\x00\xff"), b"\x00\xff"),
        (pb.MxValue(is_null=True), None),
        (pb.MxValue(is_null=True, double_value=0.0), None),
        (pb.MxValue(is_null=True, string_value="x"), None),
        (pb.MxValue(is_null=True, array_value={}), None),
        (pb.MxValue(is_null=True, sparse_array_value={}), None),
        (pb.MxValue(string_value=""), ""),
    ],
)
def test_scalars_that_are_no_numbers(message, expected):
    back = codec.decode_value(message.SerializeToString())
    assert type(back) is type(expected)
    assert back == expected


@given(wire.timestamps_ns)
def test_a_timestamp_comes_back_to_the_nanosecond(ns):
    time = np.datetime64(ns, "ns")
    assert codec.decode_value(wire.time_value(time).SerializeToString()) == time


def test_a_timestamp_that_nanoseconds_cannot_hold_is_not_a_time():
    message = pb.MxValue()
    message.timestamp_value.FromJsonString("9999-12-31T00:00:00Z")
    assert np.isnat(codec.decode_value(message.SerializeToString()))


@given(st.lists(st.text(max_size=8), max_size=8), st.lists(st.binary(max_size=8), max_size=8))
def test_arrays_of_strings_and_of_raw_values(texts, raws):
    message = pb.MxValue()
    message.array_value.string_values.SetInParent()
    message.array_value.string_values.values.extend(texts)
    assert codec.decode_value(message.SerializeToString()).tolist() == texts
    message.array_value.raw_values.SetInParent()
    message.array_value.raw_values.values.extend(raws)
    assert codec.decode_value(message.SerializeToString()).tolist() == raws


@given(st.lists(wire.timestamps_ns, max_size=8))
def test_an_array_of_timestamps(times):
    message = pb.MxValue()
    message.array_value.timestamp_values.SetInParent()
    for ns in times:
        wire.set_timestamp(
            message.array_value.timestamp_values.values.add(), np.datetime64(ns, "ns")
        )
    back = codec.decode_value(message.SerializeToString())
    assert back.dtype == np.dtype("datetime64[ns]")
    assert back.astype(np.int64).tolist() == times


def test_dimensions_that_do_not_fit_leave_the_array_flat():
    message = wire.array_message(np.arange(6.0))
    message.array_value.dimensions[:] = [4, 4]
    assert codec.decode_value(message.SerializeToString()).tolist() == list(range(6))


def test_two_halves_of_an_array_merge_as_in_protobuf():
    first = pb.MxValue()
    first.array_value.double_values.values.extend([1.0, 2.0])
    second = pb.MxValue()
    second.array_value.double_values.values.extend([3.0])
    data = first.SerializeToString() + second.SerializeToString()
    expected = pb.MxValue.FromString(data).array_value.double_values.values
    assert codec.decode_value(data).tolist() == list(expected) == [1.0, 2.0, 3.0]


def test_a_later_arm_replaces_an_earlier_one():
    array = wire.array_message(np.arange(3.0)).SerializeToString()
    number = wire.mx_value(4, "int32").SerializeToString()
    assert codec.decode_value(array + number) == 4
    assert codec.decode_value(number + array).tolist() == [0, 1, 2]


def test_refused_values():
    with pytest.raises(codec.EncodeError, match=r"array\[4\] is nan"):
        codec.encode_value(np.array([[0, 1, 2], [3, np.nan, 5]]))
    with pytest.raises(TypeError, match="complex128"):
        codec.encode_value(np.array([1j]))
    with pytest.raises(TypeError, match="bytes, not str"):
        codec.decode_value("text")  # type: ignore[arg-type]


def test_a_broken_value_says_where():
    data = wire.tag(pb.MxValue, "double_value", 1) + b"1234567"
    with pytest.raises(codec.DecodeError, match="is cut off") as caught:
        codec.decode_value(data)
    assert caught.value.field == "MxValue.double_value"
    assert caught.value.offset == len(data) - 7
    with pytest.raises(codec.DecodeError, match="UTF-8") as caught:
        codec.decode_value(wire.tag(pb.MxValue, "string_value", 2) + b"\x02\xff\xfe")
    assert caught.value.field == "MxValue.string_value"
