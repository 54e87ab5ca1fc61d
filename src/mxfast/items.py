"""Items: tags that a session subscribed, with the handles that stand for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mxfast.batch import EventBatch
from mxfast.checks import shown
from mxfast.commands import CommandSender
from mxfast.errors import MxAccessError
from mxfast.handles import HandleChanges, Key
from mxfast.interop import as_array

__all__ = ["Item", "Items"]

# What `as_array` looks for.
_WAYS_OF_COLUMNS = ("__array__", "__arrow_c_stream__", "__arrow_c_array__")


class Item(NamedTuple):
    """One tag and its item handle; 0 where it is not subscribed."""

    tag: str
    item_handle: int


class Binding:
    """Which handles stand for some tags now: shared by an `Items` and all its selections."""

    def __init__(
        self,
        server_handle: int,
        tags: NDArray[np.object_],
        item_handle: NDArray[np.int32],
        failed: dict[str, str],
    ) -> None:
        self.server_handle = server_handle
        self.tags = _sealed(tags)
        self.item_handle = _sealed(item_handle)
        self.failed = failed
        self._lost: dict[int, Key] = {}  # row of what a rebuild lost, and what stood for it

    def rebind(self, changes: HandleChanges) -> None:
        """Take the handles of the session that was built in the place of the one before."""
        before = self.item_handle
        now = changes.item_handles(self.server_handle, before)
        for row in np.flatnonzero((before != 0) & (now == 0)).tolist():
            self._lost[row] = self.server_handle, int(before[row])
        for row, key in list(self._lost.items()):
            if key in changes.keys:
                now[row] = changes.keys[key][1]
                del self._lost[row]
            else:
                tag = self.tags[row]
                self.failed[tag] = changes.failed.get(tag, "not subscribed in the new session")
        self.item_handle = _sealed(now)
        self.server_handle = changes.servers.get(self.server_handle, self.server_handle)


class Items:
    """Tags and their item handles, one row a tag in the order given to `Session.subscribe`.

    A refused tag keeps its row, so that rows fit the user's own arrays; its handle is 0,
    which MXAccess never gives. ``items[items.ok]`` has the others. When a session is built
    anew the tags stay and the handles change: take arrays of handles from here each time.

    Iterating gives `Item` pairs. ``items[3]`` is one of them; a slice, a mask or an array of
    rows gives `Items`.
    """

    def __init__(self, binding: Binding, rows: NDArray[np.intp] | None = None) -> None:
        self._binding = binding
        self._rows = rows
        self._row_of_tag: dict[object, int] | None = None
        # Of the binding's handles: those looked up last, ascending, and the row of each.
        self._looked_up: NDArray[np.int32] | None = None
        self._ascending = np.empty(0, np.int32)
        self._order = np.empty(0, np.intp)

    @property
    def server_handle(self) -> int:
        """The server handle that the items belong to."""
        return self._binding.server_handle

    @property
    def tags(self) -> NDArray[np.object_]:
        """The tags: an array of str, shape (n,), read-only."""
        tags = self._binding.tags
        return tags if self._rows is None else _sealed(tags[self._rows])

    @property
    def item_handle(self) -> NDArray[np.int32]:
        """The item handles: int32, shape (n,), read-only; 0 where the tag is not subscribed."""
        handles = self._binding.item_handle
        return handles if self._rows is None else _sealed(handles[self._rows])

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which tags are subscribed: bool, shape (n,)."""
        subscribed: NDArray[np.bool_] = self.item_handle != 0
        return subscribed

    @property
    def failed(self) -> Mapping[str, str]:
        """Each tag that is not subscribed, and why."""
        return {tag: self._binding.failed[tag] for tag in self.tags[~self.ok]}

    def raise_for_failure(self) -> None:
        """Raise unless every tag is subscribed.

        Raises
        ------
        MxAccessError
            Names the first tag that is not, says why, and how many there are. Its
            ``result`` are these items.
        """
        failed = self.failed
        if not failed:
            return
        tag, reason = next(iter(failed.items()))
        row = int(np.argmin(self.ok))
        error = MxAccessError(
            f"{len(failed)} of {len(self)} tags are not subscribed; the first is index {row}, "
            f"{tag}: {reason}",
            operation="subscribe",
        )
        error.result = self
        raise error

    # ------------------------------------------------------------ tag to handle and back

    def handle_of(self, tag: str) -> int:
        """Return a tag's item handle, 0 where it is not subscribed.

        Raises
        ------
        KeyError
            No tag of these items.
        """
        return int(self.item_handle[self._row(tag)])

    def handles_of(self, tags: Iterable[str]) -> NDArray[np.int32]:
        """Return the item handles of tags: int32, one each; see `handle_of`."""
        return self.item_handle[np.array([self._row(tag) for tag in tags], np.intp)]

    def tag_of(self, item_handle: int) -> str:
        """Return the tag that an item handle stands for.

        Raises
        ------
        KeyError
            No handle of these items.
        """
        return str(self.tags_of([item_handle])[0])

    def tags_of(self, item_handles: ArrayLike) -> NDArray[np.object_]:
        """Return the tags that item handles stand for: an array of str; see `tag_of`."""
        rows = self.rows_of(item_handles)
        if (rows < 0).any():
            handle = np.asarray(item_handles)[rows.argmin()]
            raise KeyError(f"item handle {handle} is none of these items")
        return self.tags[rows]

    def rows_of(self, item_handles: ArrayLike | EventBatch) -> NDArray[np.intp]:
        """Return the rows of item handles or, safer, of a batch of events.

        Parameters
        ----------
        item_handles : array of int, or EventBatch, shape (m,)
            A batch tells its server handles too: events of a session that was built anew
            meanwhile, whose item handles stood for other tags, are then told apart.

        Returns
        -------
        ndarray of intp, shape (m,)
            -1 for what is none of these items.
        """
        if isinstance(item_handles, EventBatch):
            rows = self.rows_of(item_handles.item_handle)
            return np.where(item_handles.server_handle == self.server_handle, rows, -1)
        wanted = np.asarray(item_handles)
        if self._looked_up is not self._binding.item_handle:
            handles = self.item_handle
            order = np.argsort(handles, kind="stable")
            self._order = order[handles[order] != 0]
            self._ascending = handles[self._order]
            self._looked_up = self._binding.item_handle
        if len(self._order) == 0:
            return np.full(wanted.shape, -1, np.intp)
        at = np.searchsorted(self._ascending, wanted)
        at[at == len(self._order)] = 0
        return np.where(self._ascending[at] == wanted, self._order[at], -1)

    def _row(self, tag: str) -> int:
        row = self._rows_by_tag().get(tag)
        if row is None:
            raise KeyError(f"{shown(tag)} is no tag of these items")
        return row

    def _rows_by_tag(self) -> Mapping[object, int]:
        if self._row_of_tag is None:
            self._row_of_tag = {tag: row for row, tag in enumerate(self.tags)}
        return self._row_of_tag

    # ------------------------------------------------------------ a sequence

    def __len__(self) -> int:
        return len(self._binding.tags) if self._rows is None else len(self._rows)

    def __iter__(self) -> Iterator[Item]:
        return map(Item, self.tags.tolist(), self.item_handle.tolist())

    def __contains__(self, tag: object) -> bool:
        return tag in self._rows_by_tag()

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Item: ...
    @overload
    def __getitem__(
        self, rows: slice | NDArray[np.bool_] | NDArray[np.integer[Any]] | Sequence[int]
    ) -> "Items": ...
    def __getitem__(self, rows: Any) -> "Item | Items":
        if isinstance(rows, (int, np.integer)):
            return Item(self.tags[rows], int(self.item_handle[rows]))
        of_binding = np.arange(len(self)) if self._rows is None else self._rows
        return Items(self._binding, of_binding[rows])

    def __repr__(self) -> str:
        failed = int(np.count_nonzero(~self.ok))
        return f"<Items of {len(self)} tags{f', {failed} not subscribed' if failed else ''}>"


class HandlesByTag:
    """Finds the item handle of a tag that the session added, the first of several."""

    def __init__(self, sender: CommandSender) -> None:
        self._sender = sender
        self._index: dict[str, int] = {}
        self._server = 0

    def find(self, server_handle: int, tags: list[str]) -> NDArray[np.int32]:
        """Return the item handles of tags.

        Raises
        ------
        ValueError
            A tag that is no item of this server handle; names its index.
        """
        known = self._sender.tags
        handles = [self._index.get(tag, 0) for tag in tags]
        # The index is as old as the last miss: it counts where the table still says so.
        if self._server != server_handle or any(
            known.get((server_handle, handle)) != tag
            for tag, handle in zip(tags, handles, strict=True)
        ):
            self._server, self._index = server_handle, {}
            for (server, item), tag in known.items():
                if server == server_handle:
                    self._index.setdefault(tag, item)
            for index, tag in enumerate(tags):
                if tag not in self._index:
                    raise ValueError(
                        f"item_handles[{index}] is the tag {shown(tag)}, which is no item of "
                        f"server handle {server_handle}: subscribe or add it first"
                    )
            handles = [self._index[tag] for tag in tags]
        return np.array(handles, np.int32)


def resolved(given: "ArrayLike | Items", server_handle: int, by_tag: HandlesByTag) -> ArrayLike:
    """Return item handles for what `Session.write_array` takes: `Items`, tags or handles.

    What is neither `Items` nor tags is returned as it is.

    Raises
    ------
    ValueError
        Items of another server handle, an item that is not subscribed, or a tag that the
        session has not added.
    TypeError
        A single str, or no str among tags.
    """
    if isinstance(given, Items):
        return _handles_of_items(given, server_handle)
    if isinstance(given, str):
        raise TypeError(f"item_handles is one str, {shown(given)}: give a list of tags")
    if isinstance(given, (list, tuple)) and not (given and isinstance(given[0], str)):
        return given  # not listed again: there may be a million
    tags = column_of_objects(given, "item_handles")
    if not tags or not isinstance(tags[0], str):
        return given
    for index, tag in enumerate(tags):
        if not isinstance(tag, str):
            raise TypeError(f"item_handles[{index}] must be a str, as others are: {shown(tag)}")
    return by_tag.find(server_handle, tags)


def _handles_of_items(items: Items, server_handle: int) -> NDArray[np.int32]:
    if items.server_handle != server_handle:
        raise ValueError(
            f"the items belong to server handle {items.server_handle}, not {server_handle}: "
            "give items.server_handle"
        )
    handles = items.item_handle
    if not handles.all():
        row = int(handles.argmin())
        tag = items.tags[row]
        raise ValueError(
            f"item_handles[{row}], {shown(tag)}, is not subscribed: {items.failed[tag]}; "
            "items[items.ok] has those that are"
        )
    return handles


def column_of_objects(given: object, name: str) -> list[Any]:
    """Return the elements of a list or a column, as far as they may be tags.

    Those of a column of numbers are not listed, nor those of what is no column.

    Raises
    ------
    EncodeError
        A column holds a null.
    """
    if isinstance(given, (list, tuple)):
        return list(given)
    if not any(hasattr(given, way) for way in _WAYS_OF_COLUMNS):
        return []
    array = as_array(cast(ArrayLike, given), name)
    return array.tolist() if array.ndim == 1 and array.dtype.kind in "OUT" else []


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
