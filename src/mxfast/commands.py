"""How a session's commands are sent, and what each is answered with."""

import asyncio
import itertools
import operator
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mxfast.checks import integer, text
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewaySessionError,
    check_mxaccess,
    check_protocol,
    is_mxaccess_failure,
    parse,
)
from mxfast.handles import HandleTable
from mxfast.options import ClientOptions
from mxfast.transport import MessageStream, Transport, attached

_INVOKE = GATEWAY_METHODS["Invoke"]


class Command(NamedTuple):
    """One command: its name is the arm of MxCommand's payload and our method's name."""

    name: str
    kind: int
    reply: str | None  # arm of MxCommandReply's payload; None where a bare OK is the answer


def _command(name: str, reply: str | None = None) -> Command:
    return Command(name, pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}"), reply)


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
        # The gateway files pending commands by correlation id: each needs its own
        # (contract notes, Process model).
        prefix = secrets.token_hex(4)
        counter = itertools.count(1)
        self.next_correlation_id: Callable[[], str] = lambda: f"{prefix}-{next(counter)}"
        self._attaching: asyncio.Task[None] | None = None

    @property
    def tags(self) -> dict[tuple[int, int], str]:
        """Tag of each item by server and item handle, for the words of errors."""
        return self.handles.tags

    def adopt(self, other: "CommandSender") -> None:
        """Go on as the sender of another session: the one that was built in this one's place."""
        self.session_id = other.session_id
        self.handles = other.handles
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
        self,
        command: pb.MxCommand | dict[str, Any],
        operation: str,
        correlation_id: str,
        call_timeout: float,
    ) -> pb.MxCommandReply:
        """Send a command, a message or its fields, and return the reply.

        Only the protocol status is checked.
        """
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
        item: tuple[int, int] | None = None,
        tag: str = "",
        correlation_id: str = "",
        call_timeout: float | None = None,
    ) -> pb.MxCommandReply:
        """Send a command; its reply has the payload the command promises.

        ``item`` (server and item handle) and ``tag`` are for the error's message.
        """
        reply = await self.send(
            {"kind": command.kind, command.name: fields},
            command.name,
            correlation_id,
            call_timeout or self.options.call_timeout,
        )
        if is_mxaccess_failure(reply):
            subject = tag
            if item is not None:
                tag = self.tags.get(item, "")
                subject = f"item {item[1]} ({tag})" if tag else f"item {item[1]}"
            check_mxaccess(reply, command.name, subject, self.transport.redact)
        if command.reply is not None and not reply.HasField(command.reply):
            raise MalformedReplyError(
                f"the reply has no {command.reply}", operation=command.name, reply=reply
            )
        return reply

    async def run_on_item(
        self,
        command: Command,
        server_handle: int,
        item_handle: int,
        fields: dict[str, Any] | None = None,
    ) -> pb.MxCommandReply:
        """Send a command about one item."""
        server = integer(server_handle, "server_handle")
        item = integer(item_handle, "item_handle")
        fields = fields or {}
        fields["server_handle"] = server
        fields["item_handle"] = item
        return await self.run(command, fields, item=(server, item))

    async def add(
        self, command: Command, server_handle: int, item_definition: str, **context: str
    ) -> int:
        """Add an item and return its handle; ``context`` is its ``item_context``, if it has one."""
        server = integer(server_handle, "server_handle")
        names = [text(given, name) for name, given in context.items()]
        names.append(text(item_definition, "item_definition"))
        fields = {"server_handle": server, "item_definition": item_definition, **context}
        tag = ".".join(filter(None, names))
        reply = await self.run(command, fields, tag=tag)
        item = self.handle_in(reply, getattr(reply, command.name).item_handle, command)
        self.tags[server, item] = tag
        if command is not ADD_ITEM:
            self.handles.added_by[server, item] = (command.name, item_definition, names[0])
        return item

    def handle_in(self, reply: pb.MxCommandReply, handle: int, command: Command) -> int:
        """Return the handle of a reply.

        Raises
        ------
        MalformedReplyError
            It is 0, which MXAccess never gives: it is what a field not sent reads as.
        """
        if handle == 0:
            raise MalformedReplyError(
                "the reply has no handle", operation=command.name, reply=reply
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
        server = integer(server_handle, "server_handle")
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
                reply=reply,
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
        if items is None or isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise TypeError(f"{name} must be a list, not {type(items).__name__}")
        listed = items if isinstance(items, Sequence) else list(items)
        if len(listed) > self.options.max_bulk_items:
            raise ValueError(
                f"{len(listed)} {name}: at most max_bulk_items = {self.options.max_bulk_items} "
                "go into one bulk command; split the list"
            )
        return [check(item, f"{name}[{index}]") for index, item in enumerate(listed)]

    def forget(self, results: list[pb.SubscribeResult]) -> list[pb.SubscribeResult]:
        """Forget the items that a command removed; return its results."""
        for result in results:
            if result.was_successful:
                self.handles.remove((result.server_handle, result.item_handle))
        return results
