"""datetime64 of every unit, up to both ends of what a protobuf Timestamp may hold."""

from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import codec, to_mx_value
from mxfast._generated import mxaccess_gateway_pb2 as pb

FIRST, END = -62135596800, 253402300800  # seconds of the years 1 and 10000
SECONDS = {
    "W": Fraction(604_800),
    "D": Fraction(86_400),
    "h": Fraction(3_600),
    "m": Fraction(60),
    "s": Fraction(1),
} | {unit: Fraction(1, 1000**n) for n, unit in enumerate(("ms", "us", "ns", "ps", "fs", "as"), 1)}
COUNTS = [1, 3, 10, 25, 1000]
INT64 = range(-(2**63) + 1, 2**63)  # the lowest is NaT


def ends(unit: str, count: int) -> tuple[int, int]:
    """Return the first and the last count whose time can be sent, by search."""

    def sent(number: int) -> bool:
        if unit in ("Y", "M"):
            return 1 <= 1970 + number * count // (12 if unit == "M" else 1) <= 9999
        return FIRST <= number * count * SECONDS[unit] < END and number * count in INT64

    low, high = INT64[0], INT64[-1]
    first, last = 0, 0
    while low < first:
        middle = (low + first) // 2
        low, first = (low, middle) if sent(middle) else (middle + 1, first)
    while last < high:
        middle = (last + high + 1) // 2
        last, high = (middle, high) if sent(middle) else (last, middle - 1)
    return first, last


def nanoseconds(number: int, unit: str, count: int) -> int:
    """Return what is sent of a time: whole nanoseconds, the rest cut off."""
    if unit not in ("Y", "M"):
        return number * count * SECONDS[unit] // Fraction(1, 10**9)
    year, month = divmod(number * count, 12) if unit == "M" else (number * count, 0)
    since = datetime(1970 + year, month + 1, 1) - datetime(1970, 1, 1)
    return since.days * 86_400 * 10**9


def of_value(array: Any) -> Any:
    return pb.MxValue.FromString(codec.encode_value(array)).array_value.timestamp_values.values[0]


def of_element(array: Any) -> Any:
    return pb.MxValue.FromString(codec.encode_values(array)[0]).timestamp_value


def of_row(array: Any) -> Any:
    data = codec.encode_write_bulk("s", 1, [1], [0.5], timestamps=array)
    (entry,) = pb.MxCommandRequest.FromString(data).command.write2_bulk.entries
    return entry.timestamp_value.timestamp_value


def of_python(array: Any) -> Any:
    return to_mx_value(array).array_value.timestamp_values.values[0]


def of_scalar(array: Any) -> Any:
    return to_mx_value(array[0]).timestamp_value


WAYS: list[Callable[[Any], Any]] = [of_value, of_element, of_row, of_python, of_scalar]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("unit", ["Y", "M", *SECONDS])
def test_both_ends(unit: str, count: int, way: Callable[[Any], Any]) -> None:
    dtype = np.dtype(f"M8[{count}{unit}]")
    first, last = ends(unit, count)
    for number in (first, last):
        sent = way(np.array([number]).astype(dtype))
        sent.ToJsonString()  # the runtime takes it for a time
        assert sent.seconds * 10**9 + sent.nanos == nanoseconds(number, unit, count)
    for number in (first - 1, last + 1):
        if number in INT64:
            with pytest.raises(codec.EncodeError, match="years 1 to 9999") as caught:
                way(np.array([number]).astype(dtype))
            assert caught.value.index == 0


@given(st.sampled_from([*SECONDS]), st.sampled_from(COUNTS), st.data())
def test_times_between(unit: str, count: int, data: Any) -> None:
    number = data.draw(st.integers(*ends(unit, count)))
    sent = of_value(np.array([number]).astype(f"M8[{count}{unit}]"))
    assert sent.seconds * 10**9 + sent.nanos == nanoseconds(number, unit, count)
    assert 0 <= sent.nanos < 10**9


@pytest.mark.parametrize("time", [datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC)])
def test_the_ends_of_pythons_times(time: datetime) -> None:
    expected = pb.MxValue(data_type=pb.MX_DATA_TYPE_TIME, variant_type="VT_DATE")
    expected.timestamp_value.FromDatetime(time)
    assert to_mx_value(time) == expected
    assert pb.MxValue.FromString(codec.encode_value(time)) == expected
