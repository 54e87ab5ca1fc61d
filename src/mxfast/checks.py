"""Checks of arguments, whose errors name the argument, what was given and what is wanted."""

import operator
from typing import Any

import numpy as np


def shown(value: object) -> str:
    """Return a value as errors quote it: 40 characters at most."""
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:37]}..."


def in_range(value: Any, name: str, first: int, last: int) -> int:
    """Return an integer of a range.

    Raises
    ------
    TypeError
        No integer; a bool is none.
    ValueError
        Outside ``first`` to ``last``.
    """
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    number = operator.index(value)
    if not first <= number <= last:
        raise ValueError(f"{name} must lie in {first}..{last}, got {shown(number)}")
    return number


def integer(value: Any, name: str) -> int:
    """Return a handle, an id or another 32-bit integer.

    Raises
    ------
    TypeError
        No integer; a bool is none.
    ValueError
        More than 32 bits.
    """
    if type(value) is int and -(2**31) <= value < 2**31:
        return value  # what nearly every call has
    return in_range(value, name, -(2**31), 2**31 - 1)


def text(value: Any, name: str) -> str:
    """Return a str.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")
    return value
