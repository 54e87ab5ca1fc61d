"""Checks of arguments, whose errors name the argument, what was given and what is wanted."""

import math
import operator
import os
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def shown(value: object) -> str:
    """Return a value as errors quote it: 40 characters at most."""
    try:
        said = repr(value)
    except ValueError:  # Python writes no int of more than 4,300 digits
        said = f"an {type(value).__name__} too long to be written"
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


def seconds(value: Any, name: str) -> float:
    """Return a number of seconds, more than none.

    Raises
    ------
    TypeError
        No number; a bool is none.
    ValueError
        Not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {shown(value)}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {shown(value)}")
    return value


def message(value: Any, name: str, message_type: type[T]) -> T:
    """Return a protobuf message of a type.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(value, message_type):
        raise TypeError(
            f"{name} must be a {message_type.__name__}, not {type(value).__name__}: {shown(value)}"
        )
    return value


def path_text(value: Any, name: str) -> str:
    """Return the path of a file as a str.

    Raises
    ------
    TypeError
        It is neither a str nor a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    return os.fspath(value)
