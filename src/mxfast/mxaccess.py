"""MXAccess's own commands, under their names, as methods of a session."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from mxfast import commands
from mxfast.checks import in_range, integer, text
from mxfast.codec import encode_write
from mxfast.commands import Command, CommandSender
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MxGatewayError
from mxfast.threads import rows_of, run_by_size
from mxfast.values import mx_value_bytes, to_mx_sparse_array, to_mx_time


class MxAccessCommands:
    """The commands of a session; `mxfast.Session` is the class that has them.

    Parameters
    ----------
    sender : CommandSender
        Sends them.
    """

    def __init__(self, sender: CommandSender) -> None:
        self._commands = sender

    # ------------------------------------------------------------ items

    async def register(self, client_name: str) -> int:
        """Register a client with MXAccess.

        Parameters
        ----------
        client_name : str
            A name of your choice.

        Returns
        -------
        int
            The server handle that the other commands take.
        """
        return await self._commands.register(text(client_name, "client_name"))

    async def unregister(self, server_handle: int) -> None:
        """Unregister: the server handle and its items are gone."""
        server = self._commands.server(server_handle, "unregister")
        await self._commands.run_bare(commands.UNREGISTER, {"server_handle": server})
        self._commands.handles.unregister(server)

    async def add_item(self, server_handle: int, item_definition: str) -> int:
        """Add a tag.

        Parameters
        ----------
        server_handle : int
            From `register`.
        item_definition : str
            The tag, such as ``"Tank1.Level"``.

        Returns
        -------
        int
            The item handle.
        """
        return await self._commands.add(commands.ADD_ITEM, server_handle, item_definition)

    async def add_item2(self, server_handle: int, item_definition: str, item_context: str) -> int:
        """Add a tag relative to a context, such as ``"Level"`` in ``"Tank1"``; see `add_item`."""
        return await self._commands.add(
            commands.ADD_ITEM2, server_handle, item_definition, item_context
        )

    async def add_buffered_item(
        self, server_handle: int, item_definition: str, item_context: str = ""
    ) -> int:
        """Add a tag whose changes are gathered at the gateway and come many in one event.

        How often they come is set with `set_buffered_update_interval`; parameters and
        result are those of `add_item2`.
        """
        return await self._commands.add(
            commands.ADD_BUFFERED_ITEM, server_handle, item_definition, item_context
        )

    async def set_buffered_update_interval(
        self, server_handle: int, update_interval_milliseconds: int
    ) -> None:
        """Set how often the events of buffered items come.

        Parameters
        ----------
        server_handle : int
            From `register`.
        update_interval_milliseconds : int
            Milliseconds; MXAccess rounds up to whole 100 (contract notes, Values, quality,
            time; partly seen only).
        """
        name = "update_interval_milliseconds"
        server = self._commands.server(server_handle, "set_buffered_update_interval")
        interval = in_range(update_interval_milliseconds, name, 0, 2**31 - 1)
        fields = {"server_handle": server, name: interval}
        await self._commands.run_bare(commands.SET_BUFFERED_UPDATE_INTERVAL, fields)
        self._commands.handles.intervals[server] = interval

    async def remove_item(self, server_handle: int, item_handle: int) -> None:
        """Remove an item; not before the write-complete event of its last write."""
        await self._commands.run_on_item(commands.REMOVE_ITEM, server_handle, item_handle)
        self._commands.handles.remove(_key(server_handle, item_handle))

    async def advise(self, server_handle: int, item_handle: int) -> None:
        """Ask for data-change events of an item. Open the event stream first: values
        published before it are lost (contract notes, Events).
        """
        await self._commands.run_on_item(commands.ADVISE, server_handle, item_handle)
        self._commands.handles.advised[_key(server_handle, item_handle)] = "advise"

    async def un_advise(self, server_handle: int, item_handle: int) -> None:
        """Stop data-change events; not before the write-complete event of the last write."""
        await self._commands.run_on_item(commands.UN_ADVISE, server_handle, item_handle)
        self._commands.handles.advised.pop(_key(server_handle, item_handle), None)

    async def advise_supervisory(self, server_handle: int, item_handle: int) -> None:
        """Advise as a supervisor: only then a plain write records its ``user_id``."""
        await self._commands.run_on_item(commands.ADVISE_SUPERVISORY, server_handle, item_handle)
        self._commands.handles.advised[_key(server_handle, item_handle)] = "advise_supervisory"

    async def suspend(self, server_handle: int, item_handle: int) -> pb.MxStatusProxy:
        """Hold back an item's data changes until `activate`; return MXAccess's status."""
        data = await self._commands.run_on_item(commands.SUSPEND, server_handle, item_handle)
        self._commands.handles.suspended.add(_key(server_handle, item_handle))
        return self._commands.read(commands.SUSPEND, data).suspend.status

    async def activate(self, server_handle: int, item_handle: int) -> pb.MxStatusProxy:
        """Let a suspended item's data changes come again; return MXAccess's status."""
        data = await self._commands.run_on_item(commands.ACTIVATE, server_handle, item_handle)
        self._commands.handles.suspended.discard(_key(server_handle, item_handle))
        return self._commands.read(commands.ACTIVATE, data).activate.status

    # ------------------------------------------------------------ users

    async def authenticate_user(
        self, server_handle: int, verify_user: str, verify_user_password: str
    ) -> int:
        """Log a user in, for secured writes.

        Parameters
        ----------
        server_handle : int
            From `register`.
        verify_user : str
            The user's name.
        verify_user_password : str
            Sent to the gateway and shown nowhere, not in an error either.

        Returns
        -------
        int
            The user's id, or 0 where name or password is wrong; on a galaxy without
            security never 0 (contract notes, Writes).
        """
        server = self._commands.server(server_handle, "authenticate_user")
        user = text(verify_user, "verify_user")
        # Neither of the two may be quoted, so the usual checks do not do.
        if not isinstance(verify_user_password, str):
            kind = type(verify_user_password).__name__
            raise TypeError(f"verify_user_password must be a str, not {kind}")
        if any("\ud800" <= character <= "\udfff" for character in verify_user_password):
            raise ValueError("verify_user_password holds half a character (a lone surrogate)")
        fields = {
            "server_handle": server,
            "verify_user": user,
            "verify_user_password": verify_user_password,
        }
        try:
            reply = await self._commands.run(commands.AUTHENTICATE_USER, fields)
        except MxGatewayError as error:
            _take_out(verify_user_password, error)
            raise
        return reply.authenticate_user.user_id

    async def archestra_user_to_id(self, server_handle: int, user_id_guid: str) -> int:
        """Return the id, for secured writes, of a user known by GUID.

        Parameters
        ----------
        server_handle : int
            From `register`.
        user_id_guid : str
            The user's GUID in ArchestrA.

        Returns
        -------
        int
            The user's id. That 0 stands for an unknown user, as it does for
            `authenticate_user`, is inferred.
        """
        fields = {
            "server_handle": self._commands.server(server_handle, "archestra_user_to_id"),
            "user_id_guid": text(user_id_guid, "user_id_guid"),
        }
        reply = await self._commands.run(commands.ARCHESTRA_USER_TO_ID, fields)
        return reply.archestra_user_to_id.user_id

    # ------------------------------------------------------------ single writes

    async def write(
        self, server_handle: int, item_handle: int, value: Any, user_id: int = 0
    ) -> None:
        """Write one value.

        MXAccess has taken the call when this returns; whether the value was committed, the
        item's later write-complete event tells (contract notes, Writes).

        Parameters
        ----------
        server_handle, item_handle : int
            From `register` and `add_item`.
        value : object
            As `to_mx_value` takes it.
        user_id : int, default 0
            Recorded only while the item has a supervisory advise.

        Raises
        ------
        TypeError, ValueError
            The value cannot be written; nothing was sent.
        """
        sender = self._commands
        server = sender.server(server_handle, "write")
        request = encode_write(
            sender.session_id,
            sender.next_correlation_id(),
            server,
            item_handle,
            value,
            user_id,
        )
        if request is not None:
            await sender.exchange(commands.WRITE, request, item=(server, item_handle))
            return
        fields = {"value": await _encoded(value), "user_id": integer(user_id, "user_id")}
        await sender.run_on_item(commands.WRITE, server, item_handle, fields)

    async def write2(
        self,
        server_handle: int,
        item_handle: int,
        value: Any,
        timestamp_value: Any,
        user_id: int = 0,
    ) -> None:
        """Write one value with its own timestamp, a datetime or datetime64; see `write`.

        A naive datetime means UTC.
        """
        fields = {
            "value": await _encoded(value),
            "timestamp_value": to_mx_time(timestamp_value, "timestamp_value").SerializeToString(),
            "user_id": integer(user_id, "user_id"),
        }
        await self._commands.run_on_item(commands.WRITE2, server_handle, item_handle, fields)

    async def write_secured(
        self,
        server_handle: int,
        item_handle: int,
        current_user_id: int,
        verifier_user_id: int,
        value: Any,
    ) -> None:
        """Write one value to a secured attribute.

        Parameters
        ----------
        server_handle, item_handle : int
            From `register` and `add_item`.
        current_user_id : int
            Who writes: from `authenticate_user` or `archestra_user_to_id`.
        verifier_user_id : int
            Who verifies. For an attribute that one user may write, the same id again
            (contract notes, Writes).
        value : object
            As `to_mx_value` takes it.

        Raises
        ------
        TypeError, ValueError
            The value cannot be written; nothing was sent.
        """
        fields = _by_users(current_user_id, verifier_user_id, await _encoded(value))
        await self._commands.run_on_item(commands.WRITE_SECURED, server_handle, item_handle, fields)

    async def write_secured2(  # noqa: PLR0917 - as MXAccess has them
        self,
        server_handle: int,
        item_handle: int,
        current_user_id: int,
        verifier_user_id: int,
        value: Any,
        timestamp_value: Any,
    ) -> None:
        """Write one value with its own timestamp to a secured attribute.

        See `write_secured` and `write2`.
        """
        fields = _by_users(current_user_id, verifier_user_id, await _encoded(value))
        time = to_mx_time(timestamp_value, "timestamp_value")
        fields["timestamp_value"] = time.SerializeToString()
        await self._commands.run_on_item(
            commands.WRITE_SECURED2, server_handle, item_handle, fields
        )

    async def write_array_elements(  # noqa: PLR0917 - as the existing client has them
        self,
        server_handle: int,
        item_handle: int,
        element_data_type: int,
        total_length: int,
        elements: Mapping[int, Any] | Iterable[tuple[int, Any]],
        user_id: int = 0,
    ) -> None:
        """Write some elements of an array attribute; **the others are reset**.

        The gateway makes a whole array of them, in which each index that is not mentioned
        has its type's default: false, 0, the empty string, 1970-01-01. What the attribute
        held before is not kept (contract notes, Writes).

        Parameters
        ----------
        server_handle, item_handle : int
            From `register` and `add_item`.
        element_data_type : int
            ``MxDataType`` of the elements.
        total_length : int
            Elements of the whole array. It must be the attribute's: on a real plant an
            array that is too short blocks the session's worker (contract notes, Writes).
        elements : mapping of int to object, or iterable of (int, object)
            Values by their index, which counts from 0.
        user_id : int, default 0
            As for `write`.

        Raises
        ------
        TypeError, ValueError
            An element that cannot be written, an index out of range or given twice;
            nothing was sent.
        """
        fields = {
            "value": to_mx_sparse_array(element_data_type, total_length, elements),
            "user_id": integer(user_id, "user_id"),
        }
        await self._commands.run_on_item(commands.WRITE, server_handle, item_handle, fields)

    # ------------------------------------------------------------ bulk commands

    async def add_item_bulk(
        self, server_handle: int, tag_addresses: Iterable[str]
    ) -> list[pb.SubscribeResult]:
        """Add tags; one result each, in order. See `subscribe_bulk`."""
        return await self._commands.add_bulk(commands.ADD_ITEM_BULK, server_handle, tag_addresses)

    async def subscribe_bulk(
        self, server_handle: int, tag_addresses: Iterable[str]
    ) -> list[pb.SubscribeResult]:
        """Add and advise tags.

        Parameters
        ----------
        server_handle : int
            From `register`.
        tag_addresses : iterable of str
            At most ``max_bulk_items`` of the options. With none, nothing is sent.

        Returns
        -------
        list of SubscribeResult
            One each, in order. A refused tag has ``was_successful`` false, a message and
            item handle 0; it raises nothing.

        Raises
        ------
        TypeError
            None, a single str, or something that is no str in the list.
        ValueError
            More than ``max_bulk_items``.
        """
        return await self._commands.add_bulk(commands.SUBSCRIBE_BULK, server_handle, tag_addresses)

    async def advise_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Advise items; one result each, in order. Limits as for `subscribe_bulk`."""
        results = await self._commands.item_bulk(
            commands.ADVISE_ITEM_BULK, server_handle, item_handles
        )
        self._commands.handles.set_advised(operator.index(server_handle), results, True)
        return results

    async def un_advise_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Un-advise items; one result each, in order. Limits as for `subscribe_bulk`."""
        results = await self._commands.item_bulk(
            commands.UN_ADVISE_ITEM_BULK, server_handle, item_handles
        )
        self._commands.handles.set_advised(operator.index(server_handle), results, False)
        return results

    async def remove_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Remove items; one result each, in order. Limits as for `subscribe_bulk`."""
        results = await self._commands.item_bulk(
            commands.REMOVE_ITEM_BULK, server_handle, item_handles
        )
        return self._commands.forget(results)

    async def unsubscribe_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Un-advise and remove items; one result each, in order. See `subscribe_bulk`."""
        results = await self._commands.item_bulk(
            commands.UNSUBSCRIBE_BULK, server_handle, item_handles
        )
        return self._commands.forget(results)

    async def write_bulk(
        self,
        server_handle: int,
        entries: Iterable[pb.WriteBulkEntry],
        *,
        correlation_id: str = "",
    ) -> list[pb.BulkWriteResult]:
        """Write values given as messages; `write_array` is the fast form.

        Parameters
        ----------
        server_handle : int
            From `register`.
        entries : iterable of WriteBulkEntry
            From `mxfast.contract.mxaccess_gateway`; at most ``max_bulk_items``. They go
            as they are: nothing in them is checked.
        correlation_id : str
            Sent along; one is made up where it is empty.

        Returns
        -------
        list of BulkWriteResult
            One each, in order; a rejected entry raises nothing.

        Raises
        ------
        TypeError, ValueError
            As for `subscribe_bulk`.
        """
        return await self._write_bulk(commands.WRITE_BULK, server_handle, entries, correlation_id)

    async def write2_bulk(
        self,
        server_handle: int,
        entries: Iterable[pb.Write2BulkEntry],
        *,
        correlation_id: str = "",
    ) -> list[pb.BulkWriteResult]:
        """Write values with timestamps given as messages; see `write_bulk`."""
        return await self._write_bulk(commands.WRITE2_BULK, server_handle, entries, correlation_id)

    async def write_secured_bulk(
        self,
        server_handle: int,
        entries: Iterable[pb.WriteSecuredBulkEntry],
        *,
        correlation_id: str = "",
    ) -> list[pb.BulkWriteResult]:
        """Write to secured attributes, values given as messages; see `write_bulk`."""
        return await self._write_bulk(
            commands.WRITE_SECURED_BULK, server_handle, entries, correlation_id
        )

    async def write_secured2_bulk(
        self,
        server_handle: int,
        entries: Iterable[pb.WriteSecured2BulkEntry],
        *,
        correlation_id: str = "",
    ) -> list[pb.BulkWriteResult]:
        """Write to secured attributes, values and timestamps given as messages.

        See `write_bulk`.
        """
        return await self._write_bulk(
            commands.WRITE_SECURED2_BULK, server_handle, entries, correlation_id
        )

    async def _write_bulk(
        self, command: Command, server_handle: int, entries: Iterable[Message], correlation_id: str
    ) -> list[pb.BulkWriteResult]:
        entry_type: Any = command.payload.DESCRIPTOR.fields_by_name["entries"].message_type

        def checked(entry: Any, name: str) -> Message:
            if not isinstance(entry, Message) or entry.DESCRIPTOR is not entry_type:
                raise TypeError(f"{name} must be a {entry_type.name}, not {type(entry).__name__}")
            return entry

        messages = self._commands.limited(entries, "entries", checked)
        return await self._commands.run_bulk(
            command,
            server_handle,
            {"entries": messages},
            count=len(messages),
            correlation_id=correlation_id,
        )

    async def read_bulk(
        self,
        server_handle: int,
        tag_addresses: Iterable[str],
        *,
        timeout_ms: int = 0,
        correlation_id: str = "",
    ) -> list[pb.BulkReadResult]:
        """Read tags: the cached value where a tag is advised, else a fresh one.

        Parameters
        ----------
        server_handle : int
            From `register`.
        tag_addresses : iterable of str
            At most ``max_bulk_items``.
        timeout_ms : int, default 0
            Milliseconds a tag that is not advised may take; 0 for the worker's default. That
            it counts for each tag anew is inferred. The call's deadline is ``call_timeout``
            and this for each tag.
        correlation_id : str
            Sent along; one is made up where it is empty.

        Returns
        -------
        list of BulkReadResult
            One each, in order; a tag that cannot be read raises nothing.

        Raises
        ------
        TypeError, ValueError
            As for `subscribe_bulk`.
        """
        tags = self._commands.limited(tag_addresses, "tag_addresses", text)
        wait = in_range(timeout_ms, "timeout_ms", 0, 2**32 - 1)
        return await self._commands.run_bulk(
            commands.READ_BULK,
            server_handle,
            {"tag_addresses": tags, "timeout_ms": wait},
            count=len(tags),
            correlation_id=correlation_id,
            call_timeout=self._commands.options.call_timeout + len(tags) * wait / 1000,
        )


def _key(server_handle: int, item_handle: int) -> tuple[int, int]:
    return operator.index(server_handle), operator.index(item_handle)


async def _encoded(value: Any) -> bytes:
    """Return the bytes of a value's message, made in a thread where it is a large array."""
    return await run_by_size(rows_of(value), mx_value_bytes, value)


def _by_users(current_user_id: int, verifier_user_id: int, value: bytes) -> dict[str, Any]:
    """Return the fields of a secured write, each checked."""
    return {
        "current_user_id": integer(current_user_id, "current_user_id"),
        "verifier_user_id": integer(verifier_user_id, "verifier_user_id"),
        "value": value,
    }


def _take_out(password: str, error: MxGatewayError) -> None:
    """Mask a password that a gateway quotes in its refusal."""
    if not password:
        return
    error.args = tuple(str(said).replace(password, "***") for said in error.args)
    if error.reply is not None and password.encode() in error.reply.SerializeToString():
        error.reply = None
