from array import array
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import EncodeError, from_mx_value, to_mx_value
from mxfast.contract import mxaccess_gateway as pb
from mxfast.values import to_mx_sparse_array
from tests import wire


class Mode(IntEnum):
    AUTO = 5


class State(str, Enum):  # noqa: UP042 - a StrEnum's str() is its text; of these it is not
    MANUAL = "manual"


NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

# value, variant_type, data type, arm, what the arm holds
SCALARS: list[tuple[Any, str, int, str, Any]] = [
    (True, "VT_BOOL", pb.MX_DATA_TYPE_BOOLEAN, "bool_value", True),
    (np.False_, "VT_BOOL", pb.MX_DATA_TYPE_BOOLEAN, "bool_value", False),
    (5, "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", 5),
    (-(2**31), "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", -(2**31)),
    (Mode.AUTO, "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", 5),
    (2**31, "VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", 2**31),
    (2**63 - 1, "VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", 2**63 - 1),
    (np.int8(-3), "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", -3),
    (np.uint16(3), "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", 3),
    (np.int32(3), "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", 3),
    (np.uint32(3), "VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", 3),
    (np.int64(3), "VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", 3),
    (np.uint64(3), "VT_I8", pb.MX_DATA_TYPE_INTEGER, "int64_value", 3),
    (1.5, "VT_R8", pb.MX_DATA_TYPE_DOUBLE, "double_value", 1.5),
    (np.float64(1.5), "VT_R8", pb.MX_DATA_TYPE_DOUBLE, "double_value", 1.5),
    (np.float32(1.5), "VT_R4", pb.MX_DATA_TYPE_FLOAT, "float_value", 1.5),
    (np.float16(1.5), "VT_R4", pb.MX_DATA_TYPE_FLOAT, "float_value", 1.5),
    ("größer", "VT_BSTR", pb.MX_DATA_TYPE_STRING, "string_value", "größer"),
    (State.MANUAL, "VT_BSTR", pb.MX_DATA_TYPE_STRING, "string_value", "manual"),
    (np.str_("x"), "VT_BSTR", pb.MX_DATA_TYPE_STRING, "string_value", "x"),
    (b"\x00\xff", "VT_RECORD", pb.MX_DATA_TYPE_UNKNOWN, "raw_value", b"\x00\xff"),
    (bytearray(b"ab"), "VT_RECORD", pb.MX_DATA_TYPE_UNKNOWN, "raw_value", b"ab"),
    (np.void(b"a\x00"), "VT_RECORD", pb.MX_DATA_TYPE_UNKNOWN, "raw_value", b"a\x00"),
    (np.array(2.5), "VT_R8", pb.MX_DATA_TYPE_DOUBLE, "double_value", 2.5),
    (np.array(2, ">i2"), "VT_I4", pb.MX_DATA_TYPE_INTEGER, "int32_value", 2),
]


@pytest.mark.parametrize(("value", "variant", "data_type", "arm", "held"), SCALARS)
def test_scalar(value: Any, variant: str, data_type: int, arm: str, held: Any) -> None:
    message = to_mx_value(value)
    assert message.variant_type == variant
    assert message.data_type == data_type
    assert message.WhichOneof("kind") == arm
    assert getattr(message, arm) == held
    assert not message.is_null
    back = from_mx_value(message)
    assert back == held
    assert type(back) is type(held)


def test_a_kind_of_int_is_not_searched_for() -> None:
    class Kind(int):
        """``in range(...)`` compares one with each number of the range."""

        def __eq__(self, other: object) -> bool:
            raise AssertionError(f"compared with {other}")

        __hash__ = int.__hash__

    message = to_mx_value(Kind(7))
    assert (message.variant_type, message.int32_value) == ("VT_I4", 7)


def test_none() -> None:
    message = to_mx_value(None)
    assert message.is_null
    assert (message.variant_type, message.data_type) == ("VT_NULL", pb.MX_DATA_TYPE_NO_DATA)
    assert from_mx_value(message) is None


@pytest.mark.parametrize(
    "time",
    [
        NOON,
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=-5))),
        np.datetime64(NOON.replace(tzinfo=None)),
        np.datetime64(NOON.replace(tzinfo=None), "ns"),
    ],
)
def test_time(time: Any) -> None:
    message = to_mx_value(time)
    assert (message.variant_type, message.data_type) == ("VT_DATE", pb.MX_DATA_TYPE_TIME)
    assert from_mx_value(message) == NOON
    assert from_mx_value(message).tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_comes_back(time: datetime) -> None:
    assert from_mx_value(to_mx_value(time)) == time


@given(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.none()
)
def test_every_scalar_comes_back(value: Any) -> None:
    back = from_mx_value(to_mx_value(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("dtype", "wire_dtype"),
    [
        ("?", "?"),
        ("i1", "i4"),
        ("i2", "i4"),
        ("i4", "i4"),
        ("i8", "i8"),
        ("u1", "i4"),
        ("u4", "i8"),
        ("f2", "f4"),
        ("f4", "f4"),
        ("f8", "f8"),
        (">f8", "f8"),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (2, 0), (1, 2, 2)])
def test_arrays(dtype: str, wire_dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    message = to_mx_value(values)
    assert message == wire.array_message(values.astype(wire_dtype))
    back = from_mx_value(message)
    assert back.shape == shape
    assert np.array_equal(back, values)


def test_fortran_order_is_kept_by_index() -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(from_mx_value(to_mx_value(values)), values)


@pytest.mark.parametrize(
    ("value", "variant", "arm", "expected"),
    [
        ([1, 2], "VT_I4", "int32_values", [1, 2]),
        ((1, 2**40), "VT_I8", "int64_values", [1, 2**40]),
        ([1, 2.5], "VT_R8", "double_values", [1.0, 2.5]),
        ([np.float32(1), 2], "VT_R8", "double_values", [1.0, 2.0]),
        ([True, False], "VT_BOOL", "bool_values", [True, False]),
        (["a", "b"], "VT_BSTR", "string_values", ["a", "b"]),
        ([State.MANUAL, "auto"], "VT_BSTR", "string_values", ["manual", "auto"]),
        (np.array([State.MANUAL], object), "VT_BSTR", "string_values", ["manual"]),
        ([b"a\x00"], "VT_RECORD", "raw_values", [b"a\x00"]),
        ([[1, 2], [3, 4]], "VT_I4", "int32_values", [[1, 2], [3, 4]]),
        (np.array(["a", "bc"]), "VT_BSTR", "string_values", ["a", "bc"]),
        (np.array(["a", "bc"], object), "VT_BSTR", "string_values", ["a", "bc"]),
        (np.array([b"a", b"bc"]), "VT_RECORD", "raw_values", [b"a", b"bc"]),
        (np.array([b"a\x00"], "V2"), "VT_RECORD", "raw_values", [b"a\x00"]),
        (array("d", [1.0, 2.0]), "VT_R8", "double_values", [1.0, 2.0]),
        (memoryview(b"ab"), "VT_I4", "int32_values", [97, 98]),
    ],
)
def test_sequences(value: Any, variant: str, arm: str, expected: list[Any]) -> None:
    message = to_mx_value(value)
    assert message.variant_type == f"VT_ARRAY|{variant}"
    assert message.array_value.WhichOneof("values") == arm
    assert message.data_type == message.array_value.element_data_type
    assert from_mx_value(message).tolist() == expected


def test_array_of_times() -> None:
    times = np.array(["1969-12-31T23:59:59.999999999", "2026-03-01T12:00"], "datetime64[ns]")
    back = from_mx_value(to_mx_value(times))
    assert back.dtype == "datetime64[ns]"
    assert np.array_equal(back, times)
    assert np.array_equal(
        from_mx_value(to_mx_value([NOON])), np.array([NOON.replace(tzinfo=None)], "M8[ns]")
    )


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), np.float32("-inf"), np.array("nan", "f8")]
)
def test_non_finite_scalar(value: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        to_mx_value(value)


@pytest.mark.parametrize(
    ("value", "index"),
    [
        ([1.0, float("nan")], 1),
        ([[1.0, 2.0], [float("inf"), 3.0]], 2),
        (np.array([np.nan, 1]), 0),
        (np.array([0, 1, -np.inf], "f4"), 2),
        (np.array([[0, np.nan], [1, 1]]), 1),
        ([1, 2**63], 1),
        ([0.5, 10**400], 1),
        ([10**5000, 0.5], 0),
        ([1, 10**5000], 1),
        (np.array([1, 2**63], "u8"), 1),
        (np.array(["2026-01-01", "NaT"], "M8[s]"), 1),
        (np.array([0, 10**13], "M8[s]"), 1),
        (np.array([0, 10**12], "M8[Y]"), 1),
    ],
)
def test_bad_element_is_named(value: Any, index: int) -> None:
    with pytest.raises(EncodeError, match=rf"array\[{index}\] is ") as caught:
        to_mx_value(value)
    assert caught.value.index == index


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, np.uint64(2**64 - 1)])
def test_integer_beyond_64_bits(value: Any) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        to_mx_value(value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (1j, "complex"),
        (object(), "object"),
        ({"a": 1}, "dict"),
        ({1, 2}, "set"),
        (Decimal(1), "Decimal"),
        (timedelta(1), "timedelta"),
        (NOON.date(), "date"),
        (np.timedelta64(1, "s"), "timedelta64"),
        (np.array([1j]), "complex128"),
        (np.array([1], "m8[s]"), "timedelta64"),
        (np.zeros(1, [("a", "i4")]), "a"),
        (np.ma.array([1.0], mask=[True]), "masked"),
        (np.ma.array([1.0, 2.0], mask=[False, True])[1], "masked"),
        (np.ma.array(3, mask=True), "masked"),
        (np.array([1, "a"], object), "str"),
        ([1, "a"], r"array\[1\] is a str"),
        ([True, 1], r"array\[1\] is a int"),
        ([None, 1.0], r"array\[0\] is a NoneType"),
        ([1, np.timedelta64(1, "s")], r"array\[1\] is a timedelta64"),
        ([1.0, None], r"array\[1\] is a NoneType"),
        ([object()], r"array\[0\] is a object"),
        ([], "empty list"),
    ],
)
def test_what_has_no_type(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        to_mx_value(value)


@pytest.mark.parametrize(
    "time",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_a_time_that_is_in_another_year_in_utc(time: datetime) -> None:
    with pytest.raises(EncodeError, match="years 1 to 9999"):
        to_mx_value(time)


def test_ragged_list() -> None:
    with pytest.raises(ValueError, match="row 1"):
        to_mx_value([[1, 2], [3]])


def test_errors_quote_at_most_40_characters() -> None:
    with pytest.raises(TypeError) as caught:
        to_mx_value([1, "x" * 1000])
    assert len(str(caught.value)) < 200


def test_data_type_is_declared_and_nothing_converted() -> None:
    message = to_mx_value(5, data_type=pb.MX_DATA_TYPE_ELAPSED_TIME)
    assert message.data_type == pb.MX_DATA_TYPE_ELAPSED_TIME
    assert message.int32_value == 5
    message = to_mx_value([5], data_type=pb.MX_DATA_TYPE_ENUM)
    assert message.array_value.element_data_type == pb.MX_DATA_TYPE_ENUM


def test_message_goes_through_as_it_is() -> None:
    message = pb.MxValue(sparse_array_value=pb.MxSparseArray(total_length=3))
    assert to_mx_value(message) is message


@pytest.mark.parametrize(
    "message",
    [
        pb.MxValue(raw_data_type=42, raw_diagnostic="no projection"),
        pb.MxValue(sparse_array_value=pb.MxSparseArray(total_length=3)),
        pb.MxValue(timestamp_value={"seconds": 2**55}),
        pb.MxValue(array_value=pb.MxArray()),
        pb.MxValue(array_value={"timestamp_values": {"values": [{"seconds": 2**40}]}}),
        pb.MxValue(array_value={"int32_values": {"values": [1, 2]}, "dimensions": [3]}),
    ],
)
def test_what_cannot_be_converted_is_kept(message: pb.MxValue) -> None:
    assert from_mx_value(message) is message


@pytest.mark.parametrize(
    ("data_type", "value", "arm", "held"),
    [
        (pb.MX_DATA_TYPE_BOOLEAN, True, "bool_value", True),
        (pb.MX_DATA_TYPE_INTEGER, 5, "int32_value", 5),
        (pb.MX_DATA_TYPE_INTEGER, 2**40, "int64_value", 2**40),
        (pb.MX_DATA_TYPE_FLOAT, 1.5, "float_value", 1.5),
        (pb.MX_DATA_TYPE_FLOAT, 2, "float_value", 2.0),
        (pb.MX_DATA_TYPE_DOUBLE, np.float32(1.5), "double_value", 1.5),
        (pb.MX_DATA_TYPE_DOUBLE, 2, "double_value", 2.0),
        (pb.MX_DATA_TYPE_STRING, "x", "string_value", "x"),
        (pb.MX_DATA_TYPE_ELAPSED_TIME, 2.5, "double_value", 2.5),
    ],
)
def test_sparse_arrays(data_type: Any, value: Any, arm: str, held: Any) -> None:
    forms: list[Any] = [{2: value}, [(2, value)], iter([(np.int64(2), value)])]
    for elements in forms:
        message = to_mx_sparse_array(data_type, 5, elements)
        assert message.data_type == data_type
        sparse = message.sparse_array_value
        assert (sparse.element_data_type, sparse.total_length) == (data_type, 5)
        (element,) = sparse.elements
        assert element.index == 2
        assert element.value.data_type == data_type
        assert element.value.WhichOneof("kind") == arm
        assert getattr(element.value, arm) == held


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((pb.MX_DATA_TYPE_DOUBLE, 0, {}), ValueError, "total_length"),
        ((pb.MX_DATA_TYPE_DOUBLE, 2**32, {}), ValueError, "total_length"),
        ((pb.MX_DATA_TYPE_DOUBLE, 1.0, {}), TypeError, "total_length"),
        ((77, 3, {}), ValueError, "77 is no MxDataType"),
        (("double", 3, {}), ValueError, "'double' is no MxDataType"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {3: 1.0}), ValueError, r"0\.\.2, got 3"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {-1: 1.0}), ValueError, "got -1"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {"0": 1.0}), TypeError, "index"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, [(1, 1.0), (1, 2.0)]), ValueError, "index 1 is given twice"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: float("nan")}), ValueError, r"elements\[1\]: .*finite"),
        ((pb.MX_DATA_TYPE_FLOAT, 3, {1: 1e300}), ValueError, r"elements\[1\]: .*finite"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: 10**400}), ValueError, r"elements\[1\]: 1000.* large"),
        ((pb.MX_DATA_TYPE_FLOAT, 3, {1: 10**400}), ValueError, r"elements\[1\]: 1000.* large"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: "2"}), TypeError, r"elements\[1\]: '2' is no double"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: True}), TypeError, r"elements\[1\]: True is no double"),
        ((pb.MX_DATA_TYPE_INTEGER, 3, {1: 2.0}), TypeError, r"elements\[1\]: 2.0 is no integer"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: [1.0]}), TypeError, r"elements\[1\]: \[1.0\] is no"),
        ((pb.MX_DATA_TYPE_DOUBLE, 3, {1: object()}), TypeError, r"elements\[1\]: cannot write"),
    ],
)
def test_wrong_sparse_arrays(
    arguments: tuple[Any, ...], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        to_mx_sparse_array(*arguments)
