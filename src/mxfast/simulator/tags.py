"""The tag database: one value a tag, shared by all sessions, in numpy columns."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import ValueKind
from mxfast.simulator import status
from mxfast.simulator.galaxy_model import Attribute
from mxfast.simulator.typed import ANY, declared_kind, first_value, fit, security_level
from mxfast.simulator.values import ValueColumns, Values

_FIRST_CAPACITY = 1024

# An object and an attribute, or a longer path; a part may hold blanks, as columns of
# recorded data do, but no part is empty.
_NAME = re.compile(r"[^.\s]([^.]*[^.\s])?(\.[^.\s]([^.]*[^.\s])?)+")

WriteListener = Callable[[NDArray[np.intp], Values], None]


class TagDatabase:
    """The current value of every tag.

    A tag begins with good quality, and as the double 0.0 or, where it is an attribute of
    the galaxy, as the 0, false, empty text, 1970 or array of those that its type has.

    Parameters
    ----------
    names : iterable of str, or None
        The tags there are; None accepts any name of the form ``A.B`` and makes its tag
        when it is first asked for.
    attribute : callable of str to Attribute or None
        The galaxy's attribute of a name; its tag is made when it is first asked for.
    security : mapping of str to int
        Level of each tag that is secured, above 0.
    now_ns : callable returning int
        The time, in nanoseconds since 1970 (UTC), that a new tag's value has.

    Attributes
    ----------
    values : ValueColumns
        The value of each tag.
    declared : uint8 array
        The kind of value that each tag takes; 0 where it takes any.
    security : uint8 array
        Level of each tag: 0, or what a secured one asks for.
    has_secured : bool
        Whether any tag asks for something.
    version : int64 array
        The database's :attr:`clock` at the last write of each tag.
    clock : int
        Counts the writes.
    listeners : list of callable
        Called with each write.
    on_new : callable or None
        Called with the number of each new tag.
    """

    def __init__(
        self,
        names: Iterable[str] | None,
        attribute: Callable[[str], Attribute | None],
        security: Mapping[str, int],
        now_ns: Callable[[], int],
    ) -> None:
        self._attribute = attribute
        self._now_ns = now_ns
        self._security_of = security
        self.has_secured = False
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self.values = ValueColumns(_FIRST_CAPACITY)
        self.declared = np.zeros(_FIRST_CAPACITY, np.uint8)
        self.security = np.empty(_FIRST_CAPACITY, np.uint8)
        self.clock = 0
        self.version = np.empty(_FIRST_CAPACITY, np.int64)
        self.listeners: list[WriteListener] = []
        self.on_new: Callable[[int], None] | None = None
        self._open = names is None
        self._typed = False  # no tag declares a kind
        for name in names or ():
            if name not in self._index:
                self._make(name)

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: str) -> int:
        """Return a tag's number, making the tag where any name is accepted.

        Raises
        ------
        MxAccessFailure
            Detail 1003, where the name is refused.
        """
        tag = self._index.get(name)
        if tag is not None:
            return tag
        if self._attribute(name) is not None or (self._open and _NAME.fullmatch(name)):
            return self._make(name)
        raise status.unresolved_reference(name)

    def array(self, name: str) -> int | None:
        """Return the number of the array tag that a bare name stands for, or None.

        That is the tag ``name[]``, where no tag has the name itself.
        """
        if name in self._index:
            return None
        array = f"{name}[]"
        if array not in self._index and self._attribute(array) is not None:
            return self._make(array)
        return self._index.get(array)

    def name(self, tag: int) -> str:
        """Return a tag's name."""
        return self._names[tag]

    def fit(
        self, tags: NDArray[np.intp], values: Values
    ) -> tuple[Values, dict[int, status.MxAccessFailure]]:
        """Return values as the types of their tags, and why rows that cannot be cannot."""
        if not self._typed:
            return values, {}

        def attribute(row: int) -> Attribute:
            found = self._attribute(self._names[tags[row]])
            assert found is not None  # else no kind would be declared
            return found

        return fit(self.declared[tags], values, attribute)

    def store(self, tags: NDArray[np.intp], values: Values) -> None:
        """Set the values of tags; of several rows for one tag the last one stays."""
        self.clock += 1
        self.version[self.values.store(tags, values)] = self.clock
        for listener in self.listeners:
            listener(tags, values)

    def _make(self, name: str) -> int:
        tag = len(self._names)
        if tag == len(self.version):
            self._grow()
        self._names.append(name)
        self._index[name] = tag
        attribute = self._attribute(name)
        if attribute is None:
            self.declared[tag] = ANY
            self.values.begin(tag, ValueKind.DOUBLE, None, self._now_ns())
        else:
            self._typed = True
            self.declared[tag] = kind = declared_kind(attribute)
            self.values.begin(tag, kind, first_value(attribute), self._now_ns())
        level = 0 if attribute is None else security_level(attribute)
        self.security[tag] = self._security_of.get(name, level)
        self.has_secured = self.has_secured or bool(self.security[tag])
        self.version[tag] = 0
        if self.on_new is not None:
            self.on_new(tag)
        return tag

    def _grow(self) -> None:
        self.values.grow()
        capacity = 2 * len(self.version)
        self.declared = np.resize(self.declared, capacity)
        self.security = np.resize(self.security, capacity)
        self.version = np.resize(self.version, capacity)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a tag's name is the pattern, or fits its ``*`` and ``?``.

    Case counts, and ``[]`` is part of a name.
    """
    return pattern == name or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
