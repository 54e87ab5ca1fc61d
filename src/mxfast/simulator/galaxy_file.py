"""A galaxy from a file, JSON or CSV; docs/testing.md shows both."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxfast.checks import shown
from mxfast.csv_file import read_rows
from mxfast.simulator.galaxy_model import (
    AREA,
    DATA_TYPES,
    FREE_ACCESS,
    OPERATE,
    SECURED_WRITE,
    USER_DEFINED,
    VERIFIED_WRITE,
    Attribute,
    GalaxyObject,
    Template,
)

_SECURITY = {
    "free": FREE_ACCESS,
    "operate": OPERATE,
    "secured": SECURED_WRITE,
    "verified": VERIFIED_WRITE,
}

_LONGEST_ARRAY = 1_000_000

_OBJECT_FIELDS = ("object", "parent", "contained_name", "template", "area")
_ATTRIBUTE_FIELDS = ("attribute", "type", "array", "historized", "alarm", "security")

_SPACE = re.compile(r"\s*")


def read_galaxy(path: str) -> Iterator[GalaxyObject]:
    """Read the objects of a galaxy, parents before their children.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        What is not as it must be: named by file, line, field and value.
    """
    match Path(path).suffix.lower():
        case ".json":
            rows = _json_rows(path)
        case ".csv":
            rows = _csv_rows(path)
        case suffix:
            raise ValueError(f"{path}: the file's name ends in {shown(suffix)}, not .json or .csv")
    return _objects(path, rows)


@dataclass
class _Row:
    """An object with its attributes, or one of those, as the file has it."""

    where: str
    fields: dict[str, Any]
    attributes: list["_Row"] = field(default_factory=list)

    def wrong(self, name: str, value: object, wanted: str) -> ValueError:
        """Return the error that a field's value deserves."""
        return ValueError(f"{self.where}, field {name}: {shown(value)} is not {wanted}")

    def text(self, name: str) -> str:
        """Return a field that holds text; empty where there is none."""
        value = self.fields.get(name, "")
        if not isinstance(value, str):
            raise self.wrong(name, value, "text")
        return value.strip()

    def flag(self, name: str) -> bool:
        """Return a field that holds yes or no."""
        value = self.fields.get(name, False)
        match value:
            case bool():
                return value
            case "yes":
                return True
            case "no" | "":
                return False
        raise self.wrong(name, value, "yes or no")

    def number(self, name: str, largest: int) -> int:
        """Return a field that holds a number from 0; 0 where there is none."""
        value = self.fields.get(name) or 0
        number = -1
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                number = int(value)
        if not 0 <= number <= largest:
            raise self.wrong(name, value, f"a number from 0 to {largest}")
        return number

    def check_names(self, known: tuple[str, ...]) -> None:
        """Refuse fields that there are not."""
        for name, value in self.fields.items():
            if name not in known:
                raise self.wrong(name, value, f"known; the fields are {', '.join(known)}")


def _objects(path: str, rows: Iterator[_Row]) -> Iterator[GalaxyObject]:
    """Make the objects of rows; objects that are alike share one template."""
    made: dict[str, int] = {}
    spelled: set[str] = set()
    templates: dict[Any, Template] = {}
    attributes: dict[Attribute, Attribute] = {}
    for number, row in enumerate(rows, 1):
        tag_name = row.text("object")
        if not re.fullmatch(r"[^.\s\[\]]([^.\[\]]*[^.\s\[\]])?", tag_name):
            raise row.wrong("object", tag_name, "a name without dots and brackets")
        if tag_name.lower() in spelled:
            raise row.wrong("object", tag_name, "a name of its own: it stands above")
        parent = row.text("parent")
        if parent and parent not in made:
            raise row.wrong("parent", parent, "the name of an object above")
        contained = row.text("contained_name")
        if contained and (not parent or "." in contained):
            raise row.wrong("contained_name", contained, "a name without dots in a parent")
        its_attributes: dict[str, Attribute] = {}
        for each in row.attributes:
            attribute = _attribute(each)
            if attribute.name in its_attributes:
                raise each.wrong("attribute", attribute.name, "a name of its own in the object")
            its_attributes[attribute.name] = attributes.setdefault(attribute, attribute)
        chain = tuple(filter(None, row.text("template").split("/")))
        category = AREA if row.flag("area") else USER_DEFINED
        key = (chain, category, *its_attributes.values())
        template = templates.get(key)
        if template is None:
            template = templates[key] = Template(chain, category, its_attributes.values())
        spelled.add(tag_name.lower())
        made[tag_name] = number
        yield GalaxyObject(number, tag_name, contained, made.get(parent, 0), template)
    if not made:
        raise ValueError(f"{path}: there are no objects in it")


def _attribute(row: _Row) -> Attribute:
    name = row.text("attribute")
    if not re.fullmatch(r"[^.\s\[\]]+(\.[^.\s\[\]]+)*", name):
        raise row.wrong("attribute", name, "a name without blanks and brackets")
    type_name = row.text("type")
    if type_name not in DATA_TYPES:
        raise row.wrong("type", type_name, f"one of {', '.join(DATA_TYPES)}")
    security = row.text("security") or "operate"
    if security not in _SECURITY:
        raise row.wrong("security", security, f"one of {', '.join(_SECURITY)}")
    return Attribute(
        name,
        DATA_TYPES[type_name],
        row.number("array", _LONGEST_ARRAY),
        row.flag("historized"),
        row.flag("alarm"),
        _SECURITY[security],
    )


def _json_rows(path: str) -> Iterator[_Row]:
    """Return the objects of a JSON list, one by one so that errors can tell the line."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8: {error.reason}") from error
    decoder = json.JSONDecoder()
    line, counted = 1, 0

    def skip(position: int, wanted: str) -> tuple[int, str]:
        """Return where the next character is that is no space, and which one."""
        nonlocal line, counted
        space = _SPACE.match(text, position)
        assert space is not None  # it matches nothing too
        line, counted = line + text.count("\n", counted, space.end()), space.end()
        found = text[space.end() : space.end() + 1]
        if wanted and (not found or found not in wanted):
            must = " or ".join(wanted)
            raise ValueError(f"{path}, line {line}: {found!r} where {must} must be")
        return space.end(), found

    position, _ = skip(0, "[")
    position, found = skip(position + 1, "")
    while found != "]":
        where = f"{path}, line {line}"
        try:
            entry, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
        yield _json_row(where, entry)
        position, found = skip(position, ",]")
        if found == ",":
            position, _ = skip(position + 1, "{")
    _, found = skip(position + 1, "")
    if found:
        raise ValueError(f"{path}, line {line}: {found!r} where the end must be")


def _json_row(where: str, entry: Any) -> _Row:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {shown(entry)} is not an object with fields")
    row = _Row(where, entry)
    row.check_names((*_OBJECT_FIELDS, "attributes"))
    attributes = entry.get("attributes", [])
    if not isinstance(attributes, list):
        raise row.wrong("attributes", attributes, "a list")
    for number, each in enumerate(attributes, 1):
        if not isinstance(each, dict):
            raise row.wrong("attributes", each, "an object with fields")
        row.attributes.append(_Row(f"{where}, attribute {number}", each))
        row.attributes[-1].check_names(_ATTRIBUTE_FIELDS)
    return row


def _csv_rows(path: str) -> Iterator[_Row]:
    """Return the objects of a CSV file: a line is an attribute, or an object without any."""
    rows = read_rows(path)
    _, names = next(rows, (1, []))
    header = [name.strip() for name in names]
    top = f"{path}, line 1"
    _Row(top, dict.fromkeys(header, "")).check_names((*_OBJECT_FIELDS, *_ATTRIBUTE_FIELDS))
    if "object" not in header or len(set(header)) < len(header):
        raise ValueError(f"{top}: the column object is missing, or one stands twice")
    row: _Row | None = None
    for number, cells in rows:
        if not cells:
            continue
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
        line = _Row(where, dict(zip(header, map(str.strip, cells), strict=True)))
        if row is None or line.fields["object"] != row.fields["object"]:
            if row is not None:
                yield row
            row = line
        else:
            _check_repeated(row, line)
        if any(line.fields.get(name) for name in _ATTRIBUTE_FIELDS):
            row.attributes.append(line)
    if row is not None:
        yield row


def _check_repeated(first: _Row, line: _Row) -> None:
    """Refuse a further line of an object that says another thing of it than the first."""
    for name in _OBJECT_FIELDS:
        value = line.fields.get(name)
        if value and value != first.fields[name]:
            raise line.wrong(name, value, f"the object's own, {shown(first.fields[name])}")
