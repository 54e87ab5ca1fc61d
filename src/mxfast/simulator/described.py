"""Things told in one line of text: ``name:field=value,field=value``."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from mxfast.checks import shown

T = TypeVar("T")


def from_text(noun: str, kinds: Mapping[str, type[T]], text: str) -> T:
    """Return what a text describes, such as ``"sine:period=10,amplitude=5"``.

    Parameters
    ----------
    noun : str
        What errors call it.
    kinds : mapping of str to dataclass
        What there is, by name. Each field of a dataclass has the type of its default.
    text : str
        The name of a kind, and its fields that differ from their defaults.

    Raises
    ------
    ValueError
        No such kind or field, or a value that it cannot have.
    """
    name, _, rest = text.partition(":")
    given = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{noun} {name}: {shown(pair)} is not of the form field=value")
        given[key.strip()] = value.strip()
    return from_fields(noun, kinds, name.strip(), given)


def from_fields(noun: str, kinds: Mapping[str, type[T]], name: str, given: Mapping[str, Any]) -> T:
    """Return what a name and fields describe, the fields as text or as what they are.

    Raises
    ------
    ValueError
        As :func:`from_text`.
    """
    kind = kinds.get(name)
    if kind is None:
        raise ValueError(f"no {noun} is called {shown(name)}; there are {', '.join(kinds)}")
    types = {
        each.name: type(each.default)
        for each in fields(kind)  # type: ignore[arg-type] # a dataclass, as documented
        if each.default is not MISSING
    }
    made = {}
    for key, value in given.items():
        if key not in types:
            raise ValueError(
                f"{noun} {name} has no field {shown(key)}; it has {', '.join(types) or 'none'}"
            )
        try:
            made[key] = _converted(types[key], value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{noun} {name}: {key} is {shown(value)}: {error}") from error
    return kind(**made)


def _converted(wanted: type, value: Any) -> Any:
    if wanted is not bool or isinstance(value, bool):
        return wanted(value)
    if value not in ("yes", "no"):  # bool("no") would be True
        raise ValueError("not yes or no")
    return value == "yes"
