"""The tag database: one value a tag, shared by all sessions, in numpy columns."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import ValueKind
from mxfast.simulator import status
from mxfast.simulator.values import Values, kept_as_bytes

_FIRST_CAPACITY = 1024

# An object and an attribute, or a longer path; a part may hold blanks, as columns of
# recorded data do, but no part is empty.
_NAME = re.compile(r"[^.\s]([^.]*[^.\s])?(\.[^.\s]([^.]*[^.\s])?)+")

WriteListener = Callable[[NDArray[np.intp], Values], None]


class TagDatabase:
    """The current value of every tag.

    A tag begins as the double 0.0 with good quality.

    Parameters
    ----------
    names : iterable of str, or None
        The tags there are; None accepts any name of the form ``A.B`` and makes its tag
        when it is first asked for.
    security : mapping of str to int
        Level of each tag that is secured, above 0.
    now_ns : callable returning int
        The time, in nanoseconds since 1970 (UTC), that a new tag's value has.
    """

    def __init__(
        self, names: Iterable[str] | None, security: Mapping[str, int], now_ns: Callable[[], int]
    ) -> None:
        self._now_ns = now_ns
        self._security_of = security
        self.has_secured = bool(security)
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self._kind = np.empty(_FIRST_CAPACITY, np.uint8)
        self._payload = np.empty(_FIRST_CAPACITY, np.int64)
        self._quality = np.empty(_FIRST_CAPACITY, np.int32)
        self._source_timestamp = np.empty(_FIRST_CAPACITY, np.int64)
        self.security = np.empty(_FIRST_CAPACITY, np.uint8)
        # The bytes of strings, arrays and raw values. An entry stays when a number
        # replaces it: the kind says whether it counts.
        self._encoded: dict[int, bytes] = {}
        # Grows by one a write; `version` holds the last one that touched a tag.
        self.clock = 0
        self.version = np.empty(_FIRST_CAPACITY, np.int64)
        self.listeners: list[WriteListener] = []
        self._open = names is None
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
        if self._open and _NAME.fullmatch(name):
            return self._make(name)
        raise status.unresolved_reference(name)

    def array(self, name: str) -> int | None:
        """Return the number of the array tag that a bare name stands for, or None.

        That is the tag ``name[]``, where no tag has the name itself.
        """
        return None if name in self._index else self._index.get(f"{name}[]")

    def name(self, tag: int) -> str:
        """Return a tag's name."""
        return self._names[tag]

    def store(self, tags: NDArray[np.intp], values: Values) -> None:
        """Set the values of tags; of several rows for one tag the last one stays."""
        self.clock += 1
        where = _run(tags)
        self._kind[where] = values.kind
        self._payload[where] = values.payload
        self._quality[where] = values.quality
        self._source_timestamp[where] = values.source_timestamp
        self.version[where] = self.clock
        for row, encoded in values.encoded.items():
            self._encoded[int(tags[row])] = encoded
        for listener in self.listeners:
            listener(tags, values)

    def values(self, tags: NDArray[np.intp]) -> Values:
        """Return a copy of the values of tags."""
        kind = self._kind[tags]
        encoded = {}
        if self._encoded:
            encoded = {
                row: self._encoded[int(tags[row])]
                for row in np.flatnonzero(kept_as_bytes(kind)).tolist()
            }
        return Values(
            kind, self._payload[tags], self._quality[tags], self._source_timestamp[tags], encoded
        )

    def _make(self, name: str) -> int:
        tag = len(self._names)
        if tag == len(self._kind):
            self._grow()
        self._names.append(name)
        self._index[name] = tag
        self._kind[tag] = ValueKind.DOUBLE
        self._payload[tag] = 0
        self._quality[tag] = status.QUALITY_GOOD
        self._source_timestamp[tag] = self._now_ns()
        self.security[tag] = self._security_of.get(name, 0)
        self.version[tag] = 0
        return tag

    def _grow(self) -> None:
        capacity = 2 * len(self._kind)
        self._kind = np.resize(self._kind, capacity)
        self._payload = np.resize(self._payload, capacity)
        self._quality = np.resize(self._quality, capacity)
        self._source_timestamp = np.resize(self._source_timestamp, capacity)
        self.security = np.resize(self.security, capacity)
        self.version = np.resize(self.version, capacity)


def _run(tags: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return tags that follow one another as a slice, which is stored to ten times faster."""
    last = len(tags) - 1
    if last < 0 or tags[last] - tags[0] != last or not (tags[1:] - tags[:-1] == 1).all():
        return tags
    return slice(int(tags[0]), int(tags[0]) + last + 1)
