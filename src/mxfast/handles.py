"""The handles of a session: what they stand for, and what they became in a new session."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mxfast.contract import mxaccess_gateway as pb

__all__ = ["HandleChanges", "HandleTable", "Rebindable"]

Key = tuple[int, int]
"""Server handle and item handle."""


@dataclass(slots=True)
class HandleTable:
    """What a session has registered, added and advised by its own methods.

    It gives errors the tags' names, tells which items to read again after a gap, and what
    to do again in a new session. Commands sent with ``invoke`` are not in it.

    Attributes
    ----------
    servers : dict of int to str
        Client name of each server handle.
    tags : dict of (int, int) to str
        Tag of each item.
    added_by : dict of (int, int) to (str, str, str)
        Command, definition and context of items that were not added by tag alone.
    advised : dict of (int, int) to str
        Command that advised each item that is advised.
    suspended : set of (int, int)
    intervals : dict of int to int
        Update interval of buffered items, in milliseconds, by server handle.
    lost : HandleTable or None
        Items that a rebuild could not have again, with the handles that they had last. They
        are tried again in the next one.
    """

    servers: dict[int, str] = field(default_factory=dict)
    tags: dict[Key, str] = field(default_factory=dict)
    added_by: dict[Key, tuple[str, str, str]] = field(default_factory=dict)
    advised: dict[Key, str] = field(default_factory=dict)
    suspended: set[Key] = field(default_factory=set)
    intervals: dict[int, int] = field(default_factory=dict)
    lost: "HandleTable | None" = None

    def wanted(self) -> "HandleTable":
        """Return all that is to be done again in a new session."""
        if self.lost is None:
            return self
        return HandleTable(
            self.servers,
            self.lost.tags | self.tags,
            self.lost.added_by | self.added_by,
            self.lost.advised | self.advised,
            self.lost.suspended | self.suspended,
            self.intervals,
        )

    def part(self, keys: set[Key]) -> "HandleTable":
        """Return some of the items."""
        return HandleTable(
            tags={key: self.tags[key] for key in keys},
            added_by={key: self.added_by[key] for key in keys & self.added_by.keys()},
            advised={key: self.advised[key] for key in keys & self.advised.keys()},
            suspended=self.suspended & keys,
        )

    def subscribed(self, server: int, items: Iterable[int], tags: Iterable[str]) -> None:
        """Note items that were added and advised by tag."""
        keys = [(server, item) for item in items]
        self.tags.update(zip(keys, tags, strict=True))
        self.advised.update(dict.fromkeys(keys, "advise"))

    def set_advised(
        self, server: int, results: Iterable[pb.SubscribeResult], advised: bool
    ) -> None:
        """Note the items of a bulk command that began or ended their data changes."""
        for result in results:
            if result.was_successful and advised:
                self.advised[server, result.item_handle] = "advise"
            elif result.was_successful:
                self.advised.pop((server, result.item_handle), None)

    def remove(self, key: Key) -> None:
        """Forget an item."""
        self.tags.pop(key, None)
        self.added_by.pop(key, None)
        self.advised.pop(key, None)
        self.suspended.discard(key)

    def unregister(self, server: int) -> None:
        """Forget a server handle and its items."""
        self.servers.pop(server, None)
        self.intervals.pop(server, None)
        for key in [key for key in self.tags if key[0] == server]:
            self.remove(key)

    def advised_by_server(self) -> Iterator[tuple[int, list[int]]]:
        """Yield each server handle with its advised items."""
        by_server: dict[int, list[int]] = {}
        for server, item in self.advised:
            by_server.setdefault(server, []).append(item)
        yield from by_server.items()


class HandleChanges:
    """What the handles of a session that died became in the one that took its place.

    No new server handle is one that the session ever had before, so the pair of server and
    item handle stays unambiguous: a pair of a dead session is refused, never taken for
    another item.

    Attributes
    ----------
    servers : dict of int to int
        New server handle by old.
    keys : dict of (int, int) to (int, int)
        New (server handle, item handle) by old, of the items that could be had again.
    failed : dict of str to str
        Tags that could not be added or advised again, and why. Each later rebuild tries them
        again, and what they become then is by the pair that they had last.
    """

    def __init__(self) -> None:
        self.servers: dict[int, int] = {}
        self.keys: dict[Key, Key] = {}
        self.failed: dict[str, str] = {}

    def item_handles(self, server_handle: int, item_handles: ArrayLike) -> NDArray[np.int32]:
        """Return the new handles of items.

        Parameters
        ----------
        server_handle : int
            The old one; ``servers[server_handle]`` is the new one.
        item_handles : array of int, shape (n,)
            The old ones.

        Returns
        -------
        ndarray of int32, shape (n,)
            0, which MXAccess never gives, for an item that could not be added again.
        """
        new = [
            self.keys.get((server_handle, item), (0, 0))[1]
            for item in np.asarray(item_handles).tolist()
        ]
        return np.array(new, np.int32)

    def then(self, later: "HandleChanges") -> "HandleChanges":
        """Return both changes as one; what was unregistered or removed between is not in it."""
        both = HandleChanges()
        servers, keys = later.servers, later.keys
        both.servers = {old: servers[new] for old, new in self.servers.items() if new in servers}
        both.keys = {old: keys[new] for old, new in self.keys.items() if new in keys}
        # Also of what came between the two, and of what failed in the first: no handle is twice.
        both.servers |= servers
        both.keys |= keys
        both.failed = later.failed
        return both

    def __repr__(self) -> str:
        return f"<HandleChanges of {len(set(self.keys.values()))} items, {len(self.failed)} failed>"


class Rebindable(Protocol):
    """What holds handles of a session and wants the new ones, such as `Items`."""

    def rebind(self, changes: HandleChanges) -> None:
        """Take the new handles."""
