"""Python lists and scalars: what arrives is equal to what went in, or it is refused."""

import pickle
import tracemalloc
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import Session, codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from tests import wire
from tests.conftest import ScriptedGateway

ZONES: st.SearchStrategy[Any] = st.sampled_from(
    [None, UTC, timezone(timedelta(hours=-5, minutes=30))]
)
TEXT = st.text(max_size=6) | st.sampled_from(["\0", "a\0", "\0\0b\0"])
BYTES = st.binary(max_size=6) | st.sampled_from([b"\0", b"\x01\0", b"\0\0"])
EXACT = st.integers(-(2**53), 2**53)
FAMILIES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**63), 2**63 - 1),
    "float": wire.finite64,
    "str": TEXT,
    "bytes": BYTES,
    # A day from the ends: in UTC it must still be in the years 1 to 9999.
    "datetime": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES),
}


def message(element: Any, among: list[Any]) -> pb.MxValue:
    """Return what the runtime makes of one element of a list."""
    if isinstance(element, datetime):
        value = pb.MxValue(data_type=pb.MX_DATA_TYPE_TIME, variant_type="VT_DATE")
        value.timestamp_value.FromDatetime(element)
        return value
    if isinstance(element, bool):
        return wire.mx_value(element, "bool")
    if any(isinstance(each, float) for each in among):
        return wire.mx_value(float(element), "float64")
    if isinstance(element, int):
        narrow = all(-(2**31) <= each < 2**31 for each in among)
        return wire.mx_value(element, "int32" if narrow else "int64")
    return wire.mx_value(element, "str" if isinstance(element, str) else "bytes")


one_family = st.sampled_from([*FAMILIES]).flatmap(
    lambda family: st.lists(FAMILIES[family], min_size=1, max_size=8)
) | st.lists(wire.finite64 | EXACT, min_size=1, max_size=8)


@given(one_family)
def test_a_list_has_the_runtimes_bytes(elements: list[Any]) -> None:
    expected = [message(element, elements) for element in elements]
    for made in (elements, tuple(elements), deque(elements)):
        for data, each in zip(codec.encode_values(made), expected, strict=True):
            wire.assert_written(data, each)
    handles = [*range(1, len(elements) + 1)]
    request = pb.MxCommandRequest.FromString(codec.encode_write_bulk("s", 1, handles, elements))
    assert [entry.value for entry in request.command.write_bulk.entries] == expected


@given(one_family)
def test_a_list_as_one_value_holds_the_same_elements(elements: list[Any]) -> None:
    value = pb.MxValue.FromString(codec.encode_value([elements, elements]))
    expected = [message(element, elements) for element in elements] * 2
    assert value.variant_type == f"VT_ARRAY|{expected[0].variant_type}"
    assert list(value.array_value.dimensions) == [2, len(elements)]
    arm = value.array_value.WhichOneof("values")
    assert arm == f"{expected[0].WhichOneof('kind').removesuffix('_value')}_values"
    held = getattr(value.array_value, arm).values
    assert list(held) == [getattr(each, each.WhichOneof("kind")) for each in expected]


@given(st.one_of(*FAMILIES.values()))
def test_a_scalar_has_the_runtimes_bytes(element: Any) -> None:
    wire.assert_written(codec.encode_value(element), message(element, [element]))


def test_none_is_the_null() -> None:
    expected = pb.MxValue(data_type=pb.MX_DATA_TYPE_NO_DATA, variant_type="VT_NULL", is_null=True)
    wire.assert_written(codec.encode_value(None), expected)


@pytest.mark.parametrize(
    ("elements", "index"),
    [
        ([1.5, "abc"], 1),
        (["abc", "d", 1.5], 2),
        ([True, "x"], 1),
        ([True, 1], 1),
        ([1, True], 1),
        ([1, b"\x01"], 1),
        (["a", b"a"], 1),
        ([1.0, None], 1),
        ([1, 1j], 1),
        ([[1, 2], [3, "x"]], 3),
        ([1.0, Decimal(1)], 1),
        ([datetime(2026, 1, 1), 1], 1),
        ([datetime(2026, 1, 1).date()], 0),
        ([1, np.timedelta64(1, "s")], 1),
        ([np.array([1]), 1], 0),
        (deque([1.5, "abc"]), 1),
        (np.array(["a", 1.5], object), 1),
        (np.array([b"a", "b"], object), 1),
    ],
)
def test_an_element_of_another_type_is_named(elements: Any, index: int) -> None:
    with pytest.raises(TypeError, match=rf"array\[{index}\] is a ") as caught:
        codec.encode_value(elements)
    assert isinstance(caught.value, codec.EncodeError)
    assert caught.value.index == index
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("elements", "index"),
    [
        ([2**53 + 1, 2**63], 1),
        ([0, -(2**63) - 1], 1),
        ([0, 10**400], 1),
        ([np.int64(1), np.uint64(2**63)], 1),
        ([1.5, 2**53 + 1], 1),
        ([np.int64(2**53 + 1), 1.5], 0),
        ([1.5, 10**400], 1),
        ([datetime(2026, 1, 1), np.datetime64("NaT")], 1),
        ([datetime(2026, 1, 1), datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))], 1),
        ([datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))], 0),
        ([np.datetime64(1, "ns"), datetime.max], 1),
        (["a", "\ud800"], 1),
        (10**19, 0),
    ],
)
def test_an_element_that_cannot_be_held_is_named(elements: Any, index: int) -> None:
    with pytest.raises(codec.EncodeError, match=rf"array\[{index}\] is ") as caught:
        codec.encode_value(elements)
    assert caught.value.index == index
    assert not isinstance(caught.value, TypeError)
    assert len(str(caught.value)) < 200


def test_rows_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="row 0 has 2 elements, row 1 is "):
        codec.encode_value([[1, 2], [3]])


@pytest.mark.parametrize("dtype", ["?", "i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "M8[ms]"])
def test_a_list_of_numpy_scalars_is_as_their_array(dtype: str) -> None:
    array = np.array([0, 1, 100], "i8").astype(dtype)
    assert codec.encode_value(list(array)) == codec.encode_value(array)
    both = np.array([array, array])
    assert codec.encode_value(list(both)) == codec.encode_value(both)


def test_a_byte_array_among_bytes() -> None:
    assert codec.encode_value([bytearray(b"a\0"), b"b"]) == codec.encode_value([b"a\0", b"b"])


def test_pandas_times_keep_their_nanoseconds() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is an extra")
    times = [
        pandas.Timestamp("2026-01-01T00:00:00.123456789", tz="Europe/Berlin"),
        pandas.Timestamp("1969-12-31T23:59:59.999999999"),
    ]
    held = pb.MxValue.FromString(codec.encode_value(times)).array_value.timestamp_values.values
    assert [each.ToJsonString() for each in held] == [
        "2025-12-31T23:00:00.123456789Z",
        "1969-12-31T23:59:59.999999999Z",
    ]
    with pytest.raises(codec.EncodeError, match=r"array\[1\] is NaT"):
        codec.encode_value([*times[:1], pandas.NaT])


def test_long_text_among_short_takes_no_memory_of_its_own() -> None:
    texts = ["x" * 100_000] + ["a"] * 500
    codec.encode_values(texts)
    tracemalloc.start()
    try:
        codec.encode_values(texts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_times_of_rows_as_datetimes() -> None:
    times = [datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(1960, 1, 1, 7)]
    data = codec.encode_write_bulk("s", 1, [1, 2], [0.5, 1.5], timestamps=times)
    utc = np.array(["2025-12-31T23", "1960-01-01T07"], "M8[s]")
    expected = wire.write_request("s", 1, [1, 2], np.array([0.5, 1.5]), timestamps=utc)
    wire.assert_written(data, expected)
    empty = codec.encode_write_bulk("s", 1, [], [], timestamps=[])
    assert pb.MxCommandRequest.FromString(empty).command.HasField("write2_bulk")


WRITES: list[Callable[[Session, Any], Any]] = [
    lambda session, values: session.write_array(1, [*range(1, len(values) + 1)], values),
    lambda session, values: session.write(1, 2, values),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("values", [[1.5, "abc"], [True, "x"], [1, b"\x01"], [2**53 + 1, 2**63]])
async def test_a_session_sends_nothing_of_it(
    scripted: ScriptedGateway,
    scripted_session: Session,
    write: Callable[[Session, Any], Any],
    values: list[Any],
) -> None:
    with pytest.raises(codec.EncodeError) as caught:
        await write(scripted_session, values)
    assert caught.value.index == 1
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize("kind", [list, lambda values: np.array(values, object)])
async def test_the_index_counts_from_the_arrays_start_when_requests_are_split(
    scripted: ScriptedGateway, scripted_session: Session, kind: Callable[[list[Any]], Any]
) -> None:
    values: list[Any] = ["a"] * 2000
    values[1500] = 2.5
    with pytest.raises(TypeError, match=r"values\[1500\] is a float: 2.5") as caught:
        await scripted_session.write_array(1, np.arange(1, 2001), kind(values))
    assert isinstance(caught.value, codec.EncodeError)
    assert (caught.value.index, caught.value.value) == (1500, 2.5)
    assert "Invoke" not in scripted.calls
