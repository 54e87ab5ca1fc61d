"""The items of one session: which handle stands for which tag."""

import numpy as np
from numpy.typing import NDArray

from mxfast.simulator import status
from mxfast.simulator.values import ValueColumns, Values

_FIRST_CAPACITY = 64
NEVER = -1


class ItemTable:
    """Items as rows of numpy columns, from 1 in the order in which they were added.

    Row 0 and the last row stay free, so that a row clipped into range belongs to no server.

    Parameters
    ----------
    first_handle : int
        Item handle of the first row; the others follow it.
    """

    def __init__(self, first_handle: int) -> None:
        self._offset = first_handle - 1
        self._next = 1
        self._server = np.zeros(_FIRST_CAPACITY, np.int32)
        self._advised = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._suspended = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._buffered = np.zeros(_FIRST_CAPACITY, np.bool_)
        # Advised, and the first value has not come yet.
        self._late = np.zeros(_FIRST_CAPACITY, np.bool_)
        self.supervisory: set[int] = set()
        # Items that MXAccess does not take a write to: their type is not resolved.
        self.unresolved: set[int] = set()
        # Items whose writes never commit.
        self.idle: set[int] = set()
        self._watched: NDArray[np.intp] | None = None
        self.tag = np.zeros(_FIRST_CAPACITY, np.intp)
        # The tag's version that the session's events told last.
        self.told = np.full(_FIRST_CAPACITY, NEVER, np.int64)
        # What the last data change said, where there was one since the item was advised.
        self._cached = np.zeros(_FIRST_CAPACITY, np.bool_)
        self.cached_values = ValueColumns(_FIRST_CAPACITY)

    def add(self, server_handle: int, tag: int, *, buffered: bool = False) -> int:
        """Return the row of a new item."""
        if self._next == len(self.tag) - 1:
            self._grow()
        item = self._next
        self._next += 1
        self._server[item] = server_handle
        self.tag[item] = tag
        self._buffered[item] = buffered
        return item

    def rows(self, handles: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the rows of item handles; those of no item are out of range or nobody's."""
        return handles.astype(np.intp) - self._offset

    def handles(self, items: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return the item handles of rows."""
        return (items + self._offset).astype(np.int32)

    def owned(self, server_handle: int, items: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which rows are items of that server handle."""
        if server_handle < 1:  # 0 marks a free row
            return np.zeros(len(items), np.bool_)
        owned: NDArray[np.bool_] = self._server.take(items, mode="clip") == server_handle
        return owned

    def find(self, server_handle: int, handle: int) -> int:
        """Return the row of an item handle.

        Raises
        ------
        MxAccessFailure
            It is no item of that server handle.
        """
        item = handle - self._offset
        is_item = 0 < item < self._next and server_handle > 0  # 0 marks a free row
        if not is_item or self._server[item] != server_handle:
            raise status.invalid_item_handle(server_handle, handle)
        return item

    def handle(self, item: int) -> int:
        """Return the item handle of a row."""
        return item + self._offset

    def remove(self, item: int) -> None:
        """Forget an item; its handle is not given out again."""
        self._server[item] = 0
        self.unresolved.discard(item)
        self.idle.discard(item)
        self.un_advise(item)

    def remove_server(self, server_handle: int) -> None:
        """Forget all items of a server handle."""
        for item in np.flatnonzero(self._server == server_handle).tolist():
            self.remove(item)

    def advise(self, item: int) -> bool:
        """Begin data changes for an item; return False where it had them already."""
        if self._advised[item]:
            return False
        self._advised[item] = True
        self._cached[item] = False
        self._watched = None
        self.told[item] = NEVER
        return True

    def un_advise(self, item: int) -> None:
        """End data changes for an item; one that has none stays so."""
        self._advised[item] = False
        self._late[item] = False
        self.supervisory.discard(item)
        self._watched = None

    def suspend(self, item: int, suspended: bool) -> None:
        """Hold back an item's data changes, or let them come again."""
        self._suspended[item] = suspended
        self._watched = None

    def expect(self, item: int, late: bool) -> None:
        """Note that an advised item's first value is still to come, or that it came."""
        self._late[item] = late
        self._watched = None

    def cache(self, items: NDArray[np.intp], values: Values) -> None:
        """Keep what items' data changes say, until they say something else."""
        self._cached[self.cached_values.store(items, values)] = True

    @property
    def cached(self) -> NDArray[np.intp]:
        """The advised items of which a data change was told, ascending."""
        return np.flatnonzero(self._advised & self._cached)

    @property
    def _told_of(self) -> NDArray[np.bool_]:
        told: NDArray[np.bool_] = self._advised & ~self._suspended & ~self._late
        return told

    @property
    def watched(self) -> NDArray[np.intp]:
        """The items whose changes are told one by one, ascending."""
        if self._watched is None:
            self._watched = np.flatnonzero(self._told_of & ~self._buffered)
        return self._watched

    @property
    def gathering(self) -> NDArray[np.intp]:
        """The buffered items whose changes are told, ascending."""
        return np.flatnonzero(self._told_of & self._buffered)

    def server_handles(self, items: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return the server handle of each item."""
        return self._server[items]

    def _grow(self) -> None:
        room = len(self.tag)
        self._server = np.concatenate([self._server, np.zeros(room, np.int32)])
        more = np.zeros(room, np.bool_)
        self._advised = np.concatenate([self._advised, more])
        self._suspended = np.concatenate([self._suspended, more])
        self._buffered = np.concatenate([self._buffered, more])
        self._late = np.concatenate([self._late, more])
        self.tag = np.concatenate([self.tag, np.zeros(room, np.intp)])
        self.told = np.concatenate([self.told, np.full(room, NEVER, np.int64)])
        self._cached = np.concatenate([self._cached, more])
        self.cached_values.grow()
