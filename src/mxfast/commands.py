"""How a session's commands are sent, and what each is answered with."""

import asyncio
import itertools
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakSet

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mxfast.checks import integer, message, text
from mxfast.codec import decode_handle, encode_command, encode_fields, is_fine_reply
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewaySessionError,
    check_mxaccess,
    check_protocol,
    parse,
    without_key,
)
from mxfast.handles import HandleTable, Rebindable
from mxfast.options import ClientOptions
from mxfast.transport import MessageStream, Transport, attached

_INVOKE = GATEWAY_METHODS["Invoke"]


class Command(NamedTuple):
    """One command: its name is the arm of MxCommand's payload and our method's name."""

    name: str
    kind: int
    field: int  # number of that arm
    payload: type[Message]
    numbers: dict[str, int]  # of the payload's fields
    handle: tuple[int, int] | None  # field numbers of the reply's payload and of the handle in it
    reply: str | None  # arm of MxCommandReply's payload; None where a bare OK is the answer


def _command(name: str, reply: str | None = None) -> Command:
    kind = pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}")
    arm = pb.MxCommand.DESCRIPTOR.fields_by_name[name]
    payload: Any = arm.message_type
    numbers = {field.name: field.number for field in payload.fields}
    return Command(
        name, kind, arm.number, GetMessageClass(payload), numbers, _handle_in(reply), reply
    )


def _handle_in(reply: str | None) -> tuple[int, int] | None:
    if reply is None:
        return None
    arm = pb.MxCommandReply.DESCRIPTOR.fields_by_name[reply]
    payload: Any = arm.message_type
    for field in payload.fields:
        if field.name in {"server_handle", "item_handle"}:
            return arm.number, field.number
    return None


REGISTER = _command("register", "register")
UNREGISTER = _command("unregister")
ADD_ITEM = _command("add_item", "add_item")
ADD_ITEM2 = _command("add_item2", "add_item2")
ADD_BUFFERED_ITEM = _command("add_buffered_item", "add_buffered_item")
SET_BUFFERED_UPDATE_INTERVAL = _command("set_buffered_update_interval")
REMOVE_ITEM = _command("remove_item")
ADVISE = _command("advise")
UN_ADVISE = _command("un_advise")
ADVISE_SUPERVISORY = _command("advise_supervisory")
SUSPEND = _command("suspend", "suspend")
ACTIVATE = _command("activate", "activate")
WRITE = _command("write")
WRITE2 = _command("write2")
WRITE_SECURED = _command("write_secured")
WRITE_SECURED2 = _command("write_secured2")
AUTHENTICATE_USER = _command("authenticate_user", "authenticate_user")
ARCHESTRA_USER_TO_ID = _command("archestra_user_to_id", "archestra_user_to_id")
ADD_ITEM_BULK = _command("add_item_bulk", "add_item_bulk")
ADVISE_ITEM_BULK = _command("advise_item_bulk", "advise_item_bulk")
REMOVE_ITEM_BULK = _command("remove_item_bulk", "remove_item_bulk")
UN_ADVISE_ITEM_BULK = _command("un_advise_item_bulk", "un_advise_item_bulk")
SUBSCRIBE_BULK = _command("subscribe_bulk", "subscribe_bulk")
UNSUBSCRIBE_BULK = _command("unsubscribe_bulk", "unsubscribe_bulk")
WRITE_BULK = _command("write_bulk", "write_bulk")
WRITE2_BULK = _command("write2_bulk", "write2_bulk")
WRITE_SECURED_BULK = _command("write_secured_bulk", "write_secured_bulk")
WRITE_SECURED2_BULK = _command("write_secured2_bulk", "write_secured2_bulk")
READ_BULK = _command("read_bulk", "read_bulk")
PING = _command("ping")
GET_SESSION_STATE = _command("get_session_state", "session_state")
GET_WORKER_INFO = _command("get_worker_info", "worker_info")
DRAIN_EVENTS = _command("drain_events", "drain_events")


class CommandSender:
    """Sends the commands of one session and checks their replies.

    Parameters
    ----------
    transport : Transport
        Carries the calls.
    options : ClientOptions
        Limits and timeouts.
    session_id : str
        From the gateway's OpenSession reply.
    """

    def __init__(self, transport: Transport, options: ClientOptions, session_id: str) -> None:
        self.transport = transport
        self.options = options
        self.session_id = session_id
        self.closed = False
        self.handles = HandleTable()
        # Server handles of the sessions before this one, and what each has become.
        self.retired: dict[int, int] = {}
        self.rebindables: WeakSet[Rebindable] = WeakSet()
        # The gateway files pending commands by correlation id: each needs its own
        # (contract notes, Process model).
        prefix = os.urandom(4).hex()
        counter = itertools.count(1)
        self.next_correlation_id: Callable[[], str] = lambda: f"{prefix}-{next(counter)}"
        self._attaching: asyncio.Task[None] | None = None

    @property
    def tags(self) -> dict[tuple[int, int], str]:
        """Tag of each item by server and item handle, for the words of errors."""
        return self.handles.tags

    def adopt(self, other: "CommandSender") -> None:
        """Go on as the sender of the session that was built in this one's place."""
        self.session_id = other.session_id
        self.handles = other.handles
        self.retired = other.retired
        self._attaching = other._attaching

    def require_open(self, operation: str) -> None:
        """Raise where the session is closed.

        Raises
        ------
        MxGatewaySessionError
            It is.
        """
        if self.closed:
            raise MxGatewaySessionError(f"session {self.session_id} is closed", operation=operation)

    def server(self, server_handle: int, operation: str) -> int:
        """Return a server handle that may be sent.

        Raises
        ------
        TypeError, ValueError
            No integer of 32 bits.
        MxGatewaySessionError
            It is of a session before this one. The gateway still knows it (see `register`)
            and would add items there, whose pairs of handles others still hold for other tags.
        """
        server = integer(server_handle, "server_handle")
        if server in self.retired:
            new = self.retired[server]
            raise MxGatewaySessionError(
                f"server handle {server} is of a session that was rebuilt: "
                + (f"give {new} now" if new in self.handles.servers else "it was unregistered"),
                operation=operation,
            )
        return server

    def attach(self, stream: MessageStream) -> None:
        """Note that an event stream was opened, for which later commands wait."""
        self._attaching = asyncio.create_task(
            attached(stream.opened()), name="mxfast stream attaching"
        )

    async def attached(self) -> None:
        """Wait, for a bounded time, until the event stream opened last is attached.

        The gateway works on calls of one connection side by side: without this a command
        could overtake the stream, and its events would be missed.
        """
        attaching = self._attaching
        if attaching is not None:
            await asyncio.wait([attaching])
            if self._attaching is attaching:
                self._attaching = None

    async def send(
        self, command: pb.MxCommand, operation: str, correlation_id: str, call_timeout: float
    ) -> pb.MxCommandReply:
        """Send a command given as a message and return the reply.

        Only the protocol status is checked.
        """
        message(command, "command", pb.MxCommand)
        self.require_open(operation)
        await self.attached()
        request = pb.MxCommandRequest(
            session_id=self.session_id,
            client_correlation_id=correlation_id or self.next_correlation_id(),
            command=command,
        )
        data = await self.transport.unary(
            _INVOKE, request.SerializeToString(), timeout=call_timeout, operation=operation
        )
        reply = parse(pb.MxCommandReply, data, operation)
        check_protocol(reply.protocol_status, operation, reply, self.transport.redact)
        return reply

    async def run(
        self,
        command: Command,
        fields: dict[str, Any],
        *,
        tag: str = "",
        correlation_id: str = "",
        call_timeout: float | None = None,
    ) -> pb.MxCommandReply:
        """Send a command; its reply has the payload the command promises.

        ``tag`` is for the error's message.
        """
        request = self.request(command, fields, correlation_id)
        data = await self.exchange(command, request, tag=tag, call_timeout=call_timeout)
        return self.read(command, data)

    async def run_bare(self, command: Command, fields: dict[str, Any]) -> None:
        """Send a command to which a bare OK is the answer."""
        await self.exchange(command, self.request(command, fields))

    async def run_on_item(
        self,
        command: Command,
        server_handle: int,
        item_handle: int,
        fields: dict[str, Any] | None = None,
    ) -> bytes:
        """Send a command about one item and return its reply's bytes."""
        server = self.server(server_handle, command.name)
        item = integer(item_handle, "item_handle")
        about = {"server_handle": server, "item_handle": item}
        request = self.request(command, about | fields if fields else about)
        return await self.exchange(command, request, item=(server, item))

    def request(self, command: Command, fields: dict[str, Any], correlation_id: str = "") -> bytes:
        """Return the request of a command."""
        payload = encode_fields(command.numbers, fields)
        if payload is None:
            payload = command.payload(**fields).SerializeToString()
        return encode_command(
            self.session_id,
            correlation_id or self.next_correlation_id(),
            command.kind,
            command.field,
            payload,
        )

    async def exchange(
        self,
        command: Command,
        request: bytes,
        *,
        item: tuple[int, int] | None = None,
        tag: str = "",
        call_timeout: float | None = None,
    ) -> bytes:
        """Send a request and return its reply's bytes, which report no failure.

        ``item`` (server and item handle) and ``tag`` are for the error's message.
        """
        self.require_open(command.name)
        if self._attaching is not None:
            await self.attached()
        data = await self.transport.unary(
            _INVOKE,
            request,
            timeout=call_timeout or self.options.call_timeout,
            operation=command.name,
        )
        if not is_fine_reply(data):
            reply = parse(pb.MxCommandReply, data, command.name)
            check_protocol(reply.protocol_status, command.name, reply, self.transport.redact)
            subject = tag
            if item is not None:
                tag = self.tags.get(item, "")
                subject = f"item {item[1]} ({tag})" if tag else f"item {item[1]}"
            check_mxaccess(reply, command.name, subject, self.transport.redact)
        return data

    def read(self, command: Command, data: bytes) -> pb.MxCommandReply:
        """Return a reply that has the payload its command promises.

        Raises
        ------
        MalformedReplyError
            It has none.
        """
        reply = parse(pb.MxCommandReply, data, command.name)
        if command.reply is None or not reply.HasField(command.reply):
            raise MalformedReplyError(
                f"the reply has no {command.reply}",
                operation=command.name,
                reply=without_key(reply, self.transport.redact),
            )
        return reply

    async def register(self, client_name: str) -> int:
        """Register, and return a server handle that no session before had.

        A gateway counts its handles from the start again (inferred). One that was in use before
        stays registered and is of no more use, so that the pair of a server handle and an item
        handle never comes to mean another item.
        """
        for _ in range(len(self.retired) + 1):
            server = await self.run_for_handle(REGISTER, {"client_name": client_name})
            if server not in self.retired:
                self.handles.servers[server] = client_name
                return server
        raise MxGatewaySessionError(
            f"the gateway gives no server handle but those of the dead session, such as {server}",
            operation=REGISTER.name,
        )

    async def add(
        self, command: Command, server_handle: int, item_definition: str, item_context: str = ""
    ) -> int:
        """Add an item and return its handle."""
        fields: dict[str, Any] = {
            "server_handle": self.server(server_handle, command.name),
            "item_definition": text(item_definition, "item_definition"),
        }
        tag = item_definition
        if "item_context" in command.numbers:
            fields["item_context"] = text(item_context, "item_context")
            tag = ".".join(filter(None, (item_context, item_definition)))
        item = await self.run_for_handle(command, fields, tag=tag)
        key = fields["server_handle"], item
        self.tags[key] = tag
        if command is not ADD_ITEM:
            self.handles.added_by[key] = (command.name, item_definition, item_context)
        return item

    async def run_for_handle(
        self, command: Command, fields: dict[str, Any], *, tag: str = ""
    ) -> int:
        """Send a command and return the handle that it is answered with.

        Raises
        ------
        MalformedReplyError
            The reply has no handle, or 0, which MXAccess never gives: it is what a field
            not sent reads as.
        """
        data = await self.exchange(command, self.request(command, fields), tag=tag)
        assert command.handle is not None
        handle = decode_handle(data, *command.handle)
        if handle == 0:
            raise MalformedReplyError(
                "the reply has no handle",
                operation=command.name,
                reply=without_key(self.read(command, data), self.transport.redact),
            )
        return handle

    async def run_bulk(
        self,
        command: Command,
        server_handle: int,
        fields: dict[str, Any],
        *,
        count: int,
        correlation_id: str = "",
        call_timeout: float | None = None,
    ) -> list[Any]:
        """Send a bulk command of `count` entries and return as many results.

        With none nothing is sent.
        """
        server = self.server(server_handle, command.name)
        self.require_open(command.name)
        if count == 0:
            return []
        reply = await self.run(
            command,
            {"server_handle": server, **fields},
            correlation_id=correlation_id,
            call_timeout=call_timeout,
        )
        results = list(getattr(reply, command.name).results)
        if len(results) != count:
            raise MalformedReplyError(
                f"{count} entries were sent and {len(results)} results came back",
                operation=command.name,
                reply=without_key(reply, self.transport.redact),
            )
        return results

    async def add_bulk(
        self, command: Command, server_handle: int, tag_addresses: Iterable[str]
    ) -> list[pb.SubscribeResult]:
        """Send a command that adds items by their tags."""
        tags = self.limited(tag_addresses, "tag_addresses", text)
        results: list[pb.SubscribeResult] = await self.run_bulk(
            command, server_handle, {"tag_addresses": tags}, count=len(tags)
        )
        server = operator.index(server_handle)
        for tag, result in zip(tags, results, strict=True):
            if result.was_successful:
                self.tags[server, result.item_handle] = tag
        if command is SUBSCRIBE_BULK:
            self.handles.set_advised(server, results, True)
        return results

    async def item_bulk(
        self, command: Command, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Send a command about items."""
        items = self.limited(item_handles, "item_handles", integer)
        return await self.run_bulk(
            command, server_handle, {"item_handles": items}, count=len(items)
        )

    def limited(
        self, items: Iterable[Any], name: str, check: Callable[[Any, str], Any]
    ) -> list[Any]:
        """Return the items of a bulk command, each checked, within the limit.

        Raises
        ------
        TypeError
            No list, or an item that ``check`` refuses.
        ValueError
            More than ``max_bulk_items`` of the options.
        """
        if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise TypeError(f"{name} must be a list, not {type(items).__name__}")
        listed = items if isinstance(items, (list, tuple)) else list(items)
        if len(listed) > self.options.max_bulk_items:
            raise ValueError(
                f"{len(listed)} {name}: at most max_bulk_items = {self.options.max_bulk_items} "
                "go into one bulk command; split the list"
            )
        try:
            return [check(item, name) for item in listed]
        except (TypeError, ValueError):
            # Once more for the words: a name for each would cost more than all the rest.
            return [check(item, f"{name}[{index}]") for index, item in enumerate(listed)]

    def forget(self, results: list[pb.SubscribeResult]) -> list[pb.SubscribeResult]:
        """Forget the items that a command removed; return its results."""
        for result in results:
            if result.was_successful:
                self.handles.remove((result.server_handle, result.item_handle))
        return results
