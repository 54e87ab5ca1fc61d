"""Doing again in a new session what a session that died had registered, added and advised."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator

from mxfast.commands import CommandSender
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MxAccessError, MxGatewayError, MxGatewaySessionError
from mxfast.handles import HandleChanges, HandleTable, Key
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
        old, options = self._sender.handles, self._sender.options
        sender = CommandSender(self._sender.transport, options, session_id)
        sender.retired = dict.fromkeys(self._sender.retired.keys() | old.servers, 0)
        session = MxAccessCommands(sender)
        changes = await add_again(session, old, options.max_bulk_items)
        now = changes.servers
        sender.retired = now | {
            server: now.get(then, 0) for server, then in self._sender.retired.items()
        }
        attach(sender, False)
        await advise_again(session, old, changes, options.max_bulk_items)
        self._sender.require_open("rebuild")  # it may have been closed meanwhile
        self._sender.adopt(sender)
        return changes


async def add_again(session: MxAccessCommands, old: HandleTable, limit: int) -> HandleChanges:
    """Register and add again, in a new session.

    Parameters
    ----------
    session : MxAccessCommands
        The new session's commands.
    old : HandleTable
        What the session before it had.
    limit : int
        Most items of a bulk command.

    Returns
    -------
    HandleChanges
    """
    changes = HandleChanges()
    for server, name in old.servers.items():
        new = changes.servers[server] = await session.register(name)
        if server in old.intervals:
            await session.set_buffered_update_interval(new, old.intervals[server])
    registered = [key for key in old.tags if key[0] in changes.servers]
    plain = [key for key in registered if key not in old.added_by]
    for new, keys in _groups(plain, changes.servers, limit):
        found = await session.add_item_bulk(new, [old.tags[key] for key in keys])
        for key, result in zip(keys, found, strict=True):
            if result.was_successful:
                changes.keys[key] = (new, result.item_handle)
            else:
                changes.failed[old.tags[key]] = result.error_message or "refused"
    for key in old.added_by.keys() & set(registered):
        command, definition, context = old.added_by[key]
        new = changes.servers[key[0]]
        try:
            item = await getattr(session, command)(new, definition, context)
        except MxAccessError as error:
            changes.failed[old.tags[key]] = str(error)
        else:
            changes.keys[key] = (new, item)
    return changes


async def advise_again(
    session: MxAccessCommands, old: HandleTable, changes: HandleChanges, limit: int
) -> None:
    """Advise again, in a new session, what was advised; failures go to ``changes``."""
    plain = [key for key, command in old.advised.items() if command == "advise"]
    there = [key for key in plain if key in changes.keys]
    for new, keys in _groups(there, changes.servers, limit):
        results = await session.advise_item_bulk(new, [changes.keys[key][1] for key in keys])
        _note_failures(old, changes, keys, results)
    for key, command in old.advised.items():
        if command != "advise" and key in changes.keys:
            await _try(old, changes, key, getattr(session, command)(*changes.keys[key]))
    for key in old.suspended & changes.keys.keys():
        await _try(old, changes, key, session.suspend(*changes.keys[key]))


def _groups(
    keys: Iterable[Key], servers: dict[int, int], limit: int
) -> Iterator[tuple[int, list[Key]]]:
    """Yield the new server handle and at most ``limit`` items of it at a time, in order."""
    for server, of_server in itertools.groupby(sorted(keys), key=lambda key: key[0]):
        items = list(of_server)
        for start in range(0, len(items), limit):
            yield servers[server], items[start : start + limit]


def _note_failures(
    old: HandleTable,
    changes: HandleChanges,
    keys: list[Key],
    results: list[pb.SubscribeResult],
) -> None:
    for key, result in zip(keys, results, strict=True):
        if not result.was_successful:
            changes.failed[old.tags[key]] = result.error_message or "refused"


async def _try(
    old: HandleTable, changes: HandleChanges, key: Key, command: Awaitable[object]
) -> None:
    try:
        await command
    except MxAccessError as error:
        changes.failed[old.tags[key]] = str(error)
