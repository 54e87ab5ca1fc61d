"""Bulk writes: every byte is what the protobuf runtime would have written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from tests import wire


@st.composite
def writes(draw):
    dtype = draw(st.sampled_from([*wire.ELEMENTS]))
    rows = draw(st.lists(st.tuples(wire.handles, wire.ELEMENTS[dtype]), max_size=60))
    handles = [handle for handle, _ in rows]
    values = wire.array_of([value for _, value in rows], dtype)
    options = {"correlation_id": draw(st.sampled_from(["", "c-1"]))}
    if draw(st.booleans()):
        times = draw(
            st.lists(wire.timestamps_ns, min_size=len(rows), max_size=len(rows)).map(
                lambda ns: np.array(ns, "datetime64[ns]")
            )
        )
        options["timestamps"] = times
    if draw(st.booleans()):
        options["secured_by"] = draw(st.tuples(wire.int32s, wire.int32s))
    else:
        options["user_id"] = draw(wire.int32s)
    return draw(wire.session_ids), draw(wire.int32s), handles, values, options


@given(writes())
def test_bytes_equal_those_of_the_protobuf_runtime(write):
    session_id, server, handles, values, options = write
    data = codec.encode_write_bulk(session_id, server, handles, values, **options)
    expected = wire.write_request(session_id, server, handles, values, **options)
    wire.assert_written(data, expected)


@pytest.mark.parametrize("dtype", wire.ARMS)
@pytest.mark.parametrize("n", [1, 6, 7, 8, 9, 10, 11, 12, 13, 1000, 70_000])
def test_many_rows_keep_their_bytes_to_the_last(dtype, n):
    # The last rows are written another way than those with room behind them.
    rng = np.random.default_rng(n)
    handles = (2.0 ** rng.uniform(0, 31, n)).astype(np.int32) * rng.choice([1, 1, 1, -1], n)
    values = rng.integers(-(2**31), 2**31, n).astype(dtype)
    data = codec.encode_write_bulk("s", 1, handles.astype(np.int32), values, user_id=5)
    expected = wire.write_request("s", 1, handles.tolist(), values, user_id=5)
    wire.assert_written(data, expected)


EDGES = sorted(
    {sign * (1 << bits) + off for bits in range(64) for sign in (1, -1) for off in (-1, 0, 1)}
)
HANDLE_EDGES = [edge for edge in EDGES if -(2**31) <= edge < 2**31]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("options", [{}, {"secured_by": (1, 2)}, {"user_id": 1}], ids=str)
def test_integers_of_every_size_beside_handles_of_every_size(dtype, options):
    bounds = np.iinfo(dtype)
    numbers = [edge for edge in EDGES if bounds.min <= edge <= bounds.max]
    # Runs of plain handles, as most are, and then all that there are.
    for edges in ([edge for edge in HANDLE_EDGES if edge > 0], HANDLE_EDGES):
        pairs = [(handle, number) for handle in edges for number in numbers]
        handles = np.array([handle for handle, _ in pairs], np.int32)
        values = np.array([number for _, number in pairs], dtype)
        data = codec.encode_write_bulk("s", 1, handles, values, **options)
        expected = wire.write_request("s", 1, handles.tolist(), values, **options)
        wire.assert_written(data, expected)


@pytest.mark.parametrize("dtype", ["U", object, "T", "S", "bytes"])
@pytest.mark.parametrize("options", [{}, {"secured_by": (1, 2)}, {"user_id": 1}], ids=str)
def test_texts_of_every_length_beside_handles_of_every_size(dtype, options):
    # Up to lengths that take two bytes; what follows a row would overwrite what it wrote too far.
    texts = [("abcdefghijklmnopqrstuvwxyz"[size % 26 :] * 12)[:size] for size in range(180)]
    texts += [text[: len(text) // 2] + "é日\U0001f600"[size % 3] for size, text in enumerate(texts)]
    if dtype in ("S", "bytes"):
        values = np.array([text.encode() for text in texts], object if dtype == "bytes" else dtype)
    else:
        values = np.array(texts, dtype)
    plain = [edge for edge in HANDLE_EDGES if edge > 0]
    for edges in (plain, [*plain, *plain, *HANDLE_EDGES]):
        handles = np.resize(edges, len(values))
        data = codec.encode_write_bulk("s", 1, handles, values, **options)
        wire.assert_written(data, wire.write_request("s", 1, handles.tolist(), values, **options))


@pytest.mark.parametrize("handle", [1, 127, 128, 2**14, 2**21, 2**28, 2**31 - 1, -1, 0])
def test_texts_at_the_end_of_lengths_of_one_byte(handle):
    for size in range(90, 135):
        values = np.array(["x" * size] * 9, object)
        data = codec.encode_write_bulk("s", 1, [handle] * 9, values)
        wire.assert_written(data, wire.write_request("s", 1, [handle] * 9, values))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=40))
def test_ascii_up_to_any_place_in_a_text(texts):
    values = np.array([f"{text.ljust(7, 'a')}{text}" for text in texts])
    handles = [*range(1, len(values) + 1)]
    data = codec.encode_write_bulk("s", 1, handles, values)
    wire.assert_written(data, wire.write_request("s", 1, handles, values))


@pytest.mark.parametrize(
    ("given_dtype", "wire_dtype"),
    [
        ("int8", "int32"),
        ("int16", "int32"),
        ("uint8", "int32"),
        ("uint16", "int32"),
        ("uint32", "int64"),
        ("uint64", "int64"),
        ("float16", "float32"),
        (">f8", "float64"),
        (">i4", "int32"),
        (">f4", "float32"),
    ],
)
def test_other_dtypes_travel_in_the_arm_that_holds_them(given_dtype, wire_dtype):
    values = np.array([0, 1, 100, 7], given_dtype)
    data = codec.encode_write_bulk("s", 1, [1, 2, 3, 4], values)
    expected = wire.write_request("s", 1, [1, 2, 3, 4], values.astype(wire_dtype))
    wire.assert_written(data, expected)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["Tank", "", "Füll", "日本\0語", "\U0001f600", "x" * 100_000]),
        np.array(["Tank", "", "Füll", "日本\0語", "\U0001f600"]).astype(">U9"),
        np.array(["Tank", "", "Füll", "日本\0語", "\U0001f600", "y" * 100_000], object),
        np.array(["Tank", "", "Füll", "日本\0語"], np.dtypes.StringDType()),
        np.array(["", ""]),
        np.array([b"\x00\x01", b"", b"\xff\x00\xfe"]),
        np.array([b"\x00\x01\x00", b"", b"\xff\x00"], object),
        np.array([b"\x00\x01\x00", b"\xff\x00\x00"], "V3"),
        np.array(["ab", "cdé"] * 3)[::-2],
        np.array([b"ab", b"cd"] * 3)[::2],
    ],
    ids=lambda values: values.dtype.str[:4],
)
def test_text_and_bytes(values):
    handles = [*range(1, len(values) + 1)]
    data = codec.encode_write_bulk("s", 1, handles, values)
    wire.assert_written(data, wire.write_request("s", 1, handles, values))


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns", "ps"])
def test_values_that_are_times(unit):
    values = np.array(["1961-04-12", "1970-01-01", "2026-11-21"], f"datetime64[{unit}]")
    data = codec.encode_write_bulk("s", 1, [1, 2, 3], values)
    expected = wire.write_request("s", 1, [1, 2, 3], values.astype("datetime64[ns]"))
    wire.assert_written(data, expected)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.array(["a", "\ud800"]), codec.EncodeError, "values[1] is '\\ud800'"),
        (np.array(["a", "\ud800"], object), codec.EncodeError, "lone surrogate"),
        (
            np.array([0x61, 0, 0x61, 0x110000], np.uint32).view("U2"),
            codec.EncodeError,
            "values[1] holds the code point 0x110000",
        ),
        (np.array([0x61, 2**32 - 1], np.uint32).view("U1"), codec.EncodeError, "0xffffffff"),
        (np.array(["a", b"b"], object), TypeError, "values[1] is a bytes"),
        (np.array(["a", None], object), TypeError, "values[1] is a NoneType"),
        (np.array([1.5, "a"], object), TypeError, "object all must be str, or all bytes"),
        (np.array(["2020", "NaT"], "datetime64[s]"), codec.EncodeError, "values[1] is NaT"),
        (np.array([1, 2], "timedelta64[s]"), TypeError, "timedelta64[s]"),
    ],
)
def test_text_and_times_that_cannot_be_written(values, error, words):
    with pytest.raises(error) as caught:
        codec.encode_write_bulk("s", 1, [1, 2], values)
    assert words in str(caught.value)


@pytest.mark.parametrize("layout", ["strided", "reversed", "readonly", "lists", "int64 handles"])
def test_layout_of_memory_does_not_matter(layout):
    values = np.linspace(-1, 1, 10)
    handles = np.arange(1, 11, dtype=np.int32)
    expected = wire.write_request("s", 1, handles.tolist(), values)
    if layout == "strided":
        values = np.repeat(values, 3)[::3]
        handles = np.repeat(handles, 2)[::2]
    elif layout == "reversed":
        values = values[::-1].copy()[::-1]
        handles = handles[::-1].copy()[::-1]
    elif layout == "readonly":
        values.setflags(write=False)
        handles.setflags(write=False)
    elif layout == "lists":
        data = codec.encode_write_bulk("s", 1, handles.tolist(), values.tolist())
        wire.assert_written(data, expected)
    else:
        handles = handles.astype(np.int64)
    wire.assert_written(codec.encode_write_bulk("s", 1, handles, values), expected)


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "25ms"])
def test_timestamps_of_any_unit(unit):
    times = np.array(["1961-04-12", "1970-01-01", "2026-11-21"], f"datetime64[{unit}]")
    times = times + np.arange(3).astype(f"timedelta64[{unit}]")
    values = np.zeros(3)
    data = codec.encode_write_bulk("s", 1, [1, 2, 3], values, timestamps=times)
    fine = times.astype("datetime64[ns]")
    expected = wire.write_request("s", 1, [1, 2, 3], values, timestamps=fine)
    wire.assert_written(data, expected)


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00", "9999-12-31T23:59:59", "1969-12-31T23:59:59"]
)
def test_timestamps_up_to_the_ends_of_what_protobuf_holds(time):
    times = np.array([time], "datetime64[s]")
    data = codec.encode_write_bulk("s", 1, [1], [0.5], timestamps=times)
    expected = wire.write_request("s", 1, [1], np.array([0.5]), timestamps=times)
    wire.assert_written(data, expected)


def test_no_rows_is_a_command_without_entries():
    data = codec.encode_write_bulk("s", 4, [], [])
    request = pb.MxCommandRequest.FromString(data)
    assert request.command.write_bulk.server_handle == 4
    assert len(request.command.write_bulk.entries) == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 63, 64, 99])
def test_a_value_that_is_not_finite_is_named(dtype, bad, index):
    values = np.ones(100, dtype)
    values[index] = bad
    with pytest.raises(codec.EncodeError) as caught:
        codec.encode_write_bulk("s", 1, np.arange(1000, 1100), values)
    assert caught.value.index == index
    assert str(caught.value.value) == str(values[index])
    assert f"values[{index}] is {bad}" in str(caught.value)
    assert f"item handle {1000 + index}" in str(caught.value)


@pytest.mark.parametrize(
    ("handles", "values", "error", "words"),
    [
        ([1, 2], [1.0], ValueError, "2 item handles but 1 values"),
        ([1], [[1.0]], ValueError, "one-dimensional"),
        ([[1]], [1.0], ValueError, "one-dimensional"),
        ([1.5], [1.0], TypeError, "float64"),
        (["a"], [1.0], TypeError, "integers"),
        ([None], [1.0], TypeError, "item_handles[0] is a NoneType"),
        ([True], [1.0], TypeError, "bool"),
        ([2**31], [1.0], codec.EncodeError, "2147483648"),
        ([-(2**31) - 1], [1.0], codec.EncodeError, "item_handles[0]"),
        (np.array([2**63], np.uint64), [1.0], codec.EncodeError, "9223372036854775808"),
        ([1], np.array([1j]), TypeError, "complex128"),
        ([1], np.array([1], "timedelta64[s]"), TypeError, "timedelta64"),
        ([1], np.array([object()]), TypeError, "object"),
        ([1], np.ma.masked_array([1.0], [True]), TypeError, "masked"),
        ([1], np.zeros(1, [("a", "f8")]), TypeError, "a"),
        ([1], np.array([2**63], np.uint64), codec.EncodeError, "values[0]"),
    ],
)
def test_bad_input_is_named(handles, values, error, words):
    with pytest.raises(error) as caught:
        codec.encode_write_bulk("s", 1, handles, values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timestamps": [1.0]}, TypeError, "datetime64"),
        ({"timestamps": np.array(["NaT"], "M8[ns]")}, codec.EncodeError, "NaT"),
        ({"timestamps": np.array(["2000"] * 2, "M8[s]")}, ValueError, "2 timestamps"),
        ({"timestamps": np.array(["10000"], "M8[Y]")}, codec.EncodeError, "9999"),
        ({"timestamps": np.array([10**17], "M8[Y]")}, codec.EncodeError, "years 1 to 9999"),
        ({"timestamps": np.array(["0000-12-31T23"], "M8[h]")}, codec.EncodeError, "years 1"),
        ({"user_id": 2**31}, ValueError, "32 bits"),
        ({"user_id": 1.0}, TypeError, "user_id"),
        ({"secured_by": 3}, TypeError, "secured_by"),
        ({"secured_by": (1, 2), "user_id": 3}, ValueError, "user_id"),
        ({"correlation_id": 5}, TypeError, "correlation_id"),
    ],
)
def test_bad_options_are_named(options, error, words):
    with pytest.raises(error) as caught:
        codec.encode_write_bulk("s", 1, [1], [1.0], **options)
    assert words in str(caught.value)


@given(st.lists(st.one_of(wire.finite64, st.just(np.nan), st.just(np.inf)), max_size=200))
def test_first_non_finite_finds_what_numpy_finds(numbers):
    for dtype in (np.float64, np.float32, np.float16):
        with np.errstate(over="ignore"):
            array = np.array(numbers, dtype)
        finite = np.isfinite(array)
        expected = -1 if finite.all() else int(np.argmin(finite))
        assert codec.first_non_finite(array) == expected
        assert codec.all_finite(array) is bool(finite.all())
        assert codec.first_non_finite(array[::-1]) == (
            -1 if finite.all() else int(np.argmin(finite[::-1]))
        )


@given(
    st.sampled_from([np.float16, np.float32, np.float64, np.dtype(">f8")]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
    st.data(),
)
def test_finiteness_of_arrays_that_lie_anyhow(dtype, shape, data):
    array = np.ones(shape, dtype)
    for axis in range(array.ndim):
        step = data.draw(st.sampled_from([1, 1, 2, -1, -3]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    array = data.draw(st.sampled_from([array, array.T]))
    if array.size:
        for index in data.draw(st.sets(st.integers(0, array.size - 1), max_size=2)):
            array[np.unravel_index(index, array.shape)] = data.draw(
                st.sampled_from([np.nan, np.inf, -np.inf])
            )
    bad = np.flatnonzero(~np.isfinite(array))
    assert codec.first_non_finite(array) == (bad[0] if len(bad) else -1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_largest_numbers_are_finite(dtype):
    limits = np.finfo(dtype)
    array = np.array([limits.max, limits.min, limits.tiny, -0.0] * 1000, dtype)
    assert codec.all_finite(array)
    for index in (0, 255, 256, 2047, 3999):
        array[index] = -np.inf
        assert codec.first_non_finite(array) == index
        array[index] = 0


def test_finiteness_of_what_cannot_be_otherwise():
    assert codec.all_finite(np.arange(3))
    assert codec.all_finite([])
    with pytest.raises(TypeError, match="complex128"):
        codec.all_finite(np.array([1j]))
