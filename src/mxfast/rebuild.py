"""Doing again in a new session what a session that died had registered, added and advised."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator

from mxfast.commands import CommandSender
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MxAccessError,
    MxGatewayCommandError,
    MxGatewayError,
    MxGatewaySessionError,
)
from mxfast.handles import HandleChanges, Key
from mxfast.mxaccess import MxAccessCommands

__all__ = ["Attach", "Rebuilder"]

Attach = Callable[[CommandSender, bool], None]
"""Opens the event stream of a session, before its items are advised, or after (True)."""


class Rebuilder:
    """Opens and fills another session in the place of one that died.

    Parameters
    ----------
    sender : CommandSender
        The session's.
    open_another : callable or None
        Opens another session of the same kind and returns its id.
    close : callable
        Closes the session of an id.
    """

    def __init__(
        self,
        sender: CommandSender,
        open_another: Callable[[], Awaitable[str]] | None,
        close: Callable[[str], Awaitable[None]],
    ) -> None:
        self._sender = sender
        self._open_another = open_another
        self._close = close
        self._lock = asyncio.Lock()
        self._changes = HandleChanges()

    async def rebuild(self, dead: str, attach: Attach) -> HandleChanges:
        """Rebuild, unless it was done since session ``dead`` was the one.

        ``attach`` opens an event stream of the new session, or not; see `Session.rebuild`.
        """
        sender = self._sender
        sender.require_open("rebuild")
        async with self._lock:
            if sender.session_id != dead:
                attach(sender, True)
                return self._changes
            if self._open_another is None:
                raise MxGatewaySessionError(
                    "this session was not opened by GatewayClient.open_session and cannot be "
                    "opened again",
                    operation="rebuild",
                )
            with contextlib.suppress(MxGatewayError):
                await self._close(dead)
            session_id = await self._open_another()
            try:
                self._changes = await self._fill(session_id, attach)
            except BaseException:
                with contextlib.suppress(MxGatewayError):
                    await asyncio.shield(self._close(session_id))
                raise
        for each in list(sender.rebindables):
            each.rebind(self._changes)
        return self._changes

    async def _fill(self, session_id: str, attach: Attach) -> HandleChanges:
        """Do in a new session what was done in the old one, and have it take its place."""
        sender = CommandSender(self._sender.transport, self._sender.options, session_id)
        again = _Again(sender, self._sender)
        await again.register()
        await again.add()
        attach(sender, False)
        await again.advise()
        self._sender.require_open("rebuild")  # it may have been closed meanwhile
        again.keep_lost()
        self._sender.adopt(sender)
        return again.changes


class _Again:
    """Does in a new session what was done in the one before.

    Parameters
    ----------
    sender : CommandSender
        The new session's.
    old : CommandSender
        That of the one before.
    """

    def __init__(self, sender: CommandSender, old: CommandSender) -> None:
        self._sender = sender
        self._session = MxAccessCommands(sender)
        self._retired = old.retired
        self._old = old.handles.wanted()
        self.changes = HandleChanges()

    async def register(self) -> None:
        """Register; server handles of sessions before are none of the new ones."""
        sender, servers = self._sender, self.changes.servers
        sender.retired = dict.fromkeys(self._retired.keys() | self._old.servers, 0)
        for server, name in self._old.servers.items():
            new = servers[server] = await self._session.register(name)
            if server in self._old.intervals:
                await self._session.set_buffered_update_interval(new, self._old.intervals[server])
        sender.retired = servers | {
            server: servers.get(then, 0) for server, then in self._retired.items()
        }

    async def add(self) -> None:
        """Add the items of those server handles."""
        old, changes = self._old, self.changes
        plain = [key for key in old.tags if key not in old.added_by]
        for new, keys in self._groups(plain):
            found = await self._session.add_item_bulk(new, [old.tags[key] for key in keys])
            for key, result in zip(keys, found, strict=True):
                if result.was_successful:
                    changes.keys[key] = (new, result.item_handle)
                else:
                    self._note_failure(key, result)
        for new, keys in self._groups(old.added_by):
            for key in keys:
                command, definition, context = old.added_by[key]
                try:
                    item = await getattr(self._session, command)(new, definition, context)
                except MxAccessError as error:
                    changes.failed[old.tags[key]] = str(error)
                else:
                    changes.keys[key] = (new, item)

    async def advise(self) -> None:
        """Advise and suspend items; take out again those of which that fails."""
        old, session, now = self._old, self._session, dict(self.changes.keys)
        failed: set[Key] = set()
        plain = [key for key in now if old.advised.get(key) == "advise"]
        for new, keys in self._groups(plain):
            results = await session.advise_item_bulk(new, [now[key][1] for key in keys])
            for key, result in zip(keys, results, strict=True):
                if not result.was_successful:
                    self._note_failure(key, result)
                    failed.add(key)
        others = [each for each in old.advised.items() if each[1] != "advise"]
        for key, command in [*others, *((key, "suspend") for key in old.suspended)]:
            if key in now and key not in failed:
                try:
                    await getattr(session, command)(*now[key])
                except MxAccessError as error:
                    self.changes.failed[old.tags[key]] = str(error)
                    failed.add(key)
        for new, keys in self._groups(failed):
            for key in keys:
                del self.changes.keys[key]
                self._sender.handles.remove(now[key])
            # An item that stays is in nobody's table; why it failed is noted above.
            with contextlib.suppress(MxGatewayCommandError):
                await session.remove_item_bulk(new, [now[key][1] for key in keys])

    def keep_lost(self) -> None:
        """Leave to the next rebuild what failed in this one."""
        there, servers = self.changes.keys, self._sender.retired
        lost = {key for key in self._old.tags if key not in there and servers.get(key[0])}
        self._sender.handles.lost = self._old.part(lost)

    def _groups(self, keys: Iterable[Key]) -> Iterator[tuple[int, list[Key]]]:
        """Yield the new server handle and as many items of it as a command takes, in order."""
        servers, limit = self._sender.retired, self._sender.options.max_bulk_items
        for server, of_server in itertools.groupby(sorted(keys), key=lambda key: key[0]):
            if new := servers.get(server):
                items = list(of_server)
                for start in range(0, len(items), limit):
                    yield new, items[start : start + limit]

    def _note_failure(self, key: Key, result: pb.SubscribeResult) -> None:
        reason = self._sender.transport.redact(result.error_message)
        self.changes.failed[self._old.tags[key]] = reason or "refused without a reason"
