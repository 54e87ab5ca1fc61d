"""The types of the galaxy's attributes, and the values that they take.

That a value of another type is refused, how, and which conversions there are, is
inferred: the contract notes say nothing about it. An Integer takes whole numbers of 32
bits, a Float or Double any number in its range, the others their own type only; an array
takes as many elements as it has.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import ValueKind
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.galaxy_model import (
    SECURED_WRITE,
    STRING,
    VERIFIED_WRITE,
    Attribute,
    DataType,
)
from mxfast.simulator.values import DEFAULTS, Values, array_value, from_message, payload_of

ANY = int(ValueKind.NONE)
"""The declared kind of a tag that takes values of all types."""

# The contract's MxDataType is MXAccess's plus two (contract notes, Status).
_CONTRACT_OFFSET = 2

_INT32 = np.iinfo(np.int32)
_LARGEST_FLOAT = float(np.finfo(np.float32).max)


def declared_kind(attribute: Attribute) -> ValueKind:
    """Return the kind of value that an attribute takes."""
    return ValueKind.ARRAY if attribute.length else attribute.type.kind


def security_level(attribute: Attribute) -> int:
    """Return what a write of an attribute asks for: nothing 0, security 1, two users 2."""
    levels = {SECURED_WRITE: 1, VERIFIED_WRITE: 2}
    return levels.get(attribute.security, 0)


def first_value(attribute: Attribute) -> bytes | None:
    """Return the serialised MxValue of an attribute that nobody has written yet.

    None where the value is one that the tag database keeps as a number.
    """
    return _first_value(attribute.type, attribute.length)


@functools.cache  # attributes of one type share it
def _first_value(data_type: DataType, length: int) -> bytes | None:
    default = _default(data_type)
    if length:
        return _array(default, [payload_of(default)] * length).SerializeToString()
    return default.SerializeToString() if data_type is STRING else None


def fit(
    declared: NDArray[np.uint8], values: Values, attribute: Callable[[int], Attribute]
) -> tuple[Values, dict[int, status.MxAccessFailure]]:
    """Return values as what is declared, and why rows that cannot be so cannot.

    Parameters
    ----------
    declared : uint8 array
        The kind that each row's tag takes, or :data:`ANY`.
    values : Values
        A row a tag.
    attribute : callable of int to Attribute
        The attribute that a row with a declared kind is for.
    """
    typed, is_array = declared != ANY, declared == ValueKind.ARRAY
    if not (typed & (is_array | (values.kind != declared))).any():
        return values, {}
    kind, payload = values.kind.copy(), values.payload.copy()
    _widen(declared, kind, payload)
    encoded = dict(values.encoded)
    failures = {}
    # Numbers of the right type are done with; the rest is text, times, arrays and misfits.
    for row in np.flatnonzero(typed & (is_array | (kind != declared))).tolist():
        try:
            fitted = _fitted(attribute(row), values.message(row)[0])
        except _Misfit as misfit:
            failures[row] = status.unusable_value(str(misfit))
            continue
        kind[row], payload[row], kept = from_message(fitted)
        if kept is not None:
            encoded[row] = kept
    return replace(values, kind=kind, payload=payload, encoded=encoded), failures


def _widen(
    declared: NDArray[np.uint8], kind: NDArray[np.uint8], payload: NDArray[np.int64]
) -> None:
    """Make numbers those of the declared kind, in place, where that loses no more than digits."""
    whole = (kind == ValueKind.INT32) | (kind == ValueKind.INT64)
    small = (payload >= _INT32.min) & (payload <= _INT32.max)
    kind[whole & small & (declared == ValueKind.INT32)] = ValueKind.INT32
    to_float, to_double = declared == ValueKind.FLOAT, declared == ValueKind.DOUBLE
    rows = whole & (to_float | to_double)
    payload[rows] = payload[rows].astype(np.float64).view(np.int64)
    floating = rows | (kind == ValueKind.FLOAT) | (kind == ValueKind.DOUBLE)
    kind[floating & to_double] = ValueKind.DOUBLE
    rows = np.flatnonzero(floating & to_float)
    numbers = payload[rows].view(np.float64)
    fits = ~(np.abs(numbers) > _LARGEST_FLOAT) | np.isinf(numbers)
    rows = rows[fits]
    payload[rows] = numbers[fits].astype(np.float32).astype(np.float64).view(np.int64)
    kind[rows] = ValueKind.FLOAT


class _Misfit(Exception):
    """A value that an attribute does not take."""


def _fitted(attribute: Attribute, value: pb.MxValue) -> pb.MxValue:
    """Return a value that is no number as an attribute takes it."""
    default = _default(attribute.type)
    wanted = str(default.WhichOneof("kind"))
    arm = value.WhichOneof("kind")
    if not attribute.length:
        if arm != wanted:
            raise _Misfit(f"{attribute.name} is of type {attribute.type.name}, not {_said(arm)}")
        return value
    given = value.array_value.WhichOneof("values")
    elements = list(getattr(value.array_value, given).values) if given else []
    if arm != "array_value" or len(elements) != attribute.length:
        count = f"{len(elements)} elements" if arm == "array_value" else _said(arm)
        raise _Misfit(f"{attribute.name} is an array of {attribute.length} elements, not {count}")
    of = str(given).removesuffix("s")
    if not _takes(wanted, of, elements):
        raise _Misfit(f"{attribute.name} is an array of {attribute.type.name}, not of {_said(of)}")
    return _array(default, elements)


def _takes(wanted: str, arm: str, elements: list[Any]) -> bool:
    """Tell whether the elements of an array in one arm can be put into another."""
    if arm == wanted:
        return True
    if wanted == "int32_value":
        return arm == "int64_value" and all(_INT32.min <= each <= _INT32.max for each in elements)
    if arm not in ("int32_value", "int64_value", "float_value", "double_value"):
        return False
    if wanted == "float_value":
        return all(abs(each) <= _LARGEST_FLOAT or each - each != 0 for each in elements)
    return wanted == "double_value"


def _default(data_type: DataType) -> pb.MxValue:
    return DEFAULTS[data_type.number + _CONTRACT_OFFSET]


def _array(default: pb.MxValue, elements: list[Any]) -> pb.MxValue:
    arm = str(default.WhichOneof("kind"))
    return array_value(arm, default.data_type, default.variant_type, elements)


def _said(arm: str | None) -> str:
    if arm is None:
        return "no value"
    name = arm.removesuffix("_value")
    return f"an {name}" if name[0] in "ai" else f"a {name}"
