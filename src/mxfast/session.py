"""A session with the gateway: MXAccess's commands, arrays of values, and events."""

import asyncio
import itertools
import operator
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewayError,
    MxGatewaySessionError,
    check_mxaccess,
    check_protocol,
    is_mxaccess_failure,
    parse,
)
from mxfast.events import EventStream, MessageIterator, Overflow
from mxfast.options import ClientOptions
from mxfast.transport import MessageStream, Transport, call
from mxfast.values import to_mx_value
from mxfast.write import ArrayWrite, Progress, WriteResult

__all__ = ["Session"]

_INVOKE = GATEWAY_METHODS["Invoke"]
_STREAM_EVENTS = GATEWAY_METHODS["StreamEvents"]
_CLOSE_SESSION = GATEWAY_METHODS["CloseSession"]

EntryT = TypeVar("EntryT", bound=Message)


class _Command(NamedTuple):
    """One command: its name is the arm of MxCommand's payload and our method's name."""

    name: str
    kind: int
    reply: str | None  # arm of MxCommandReply's payload; None where a bare OK is the answer


def _command(name: str, reply: str | None = None) -> _Command:
    return _Command(name, pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}"), reply)


_REGISTER = _command("register", "register")
_UNREGISTER = _command("unregister")
_ADD_ITEM = _command("add_item", "add_item")
_ADD_ITEM2 = _command("add_item2", "add_item2")
_REMOVE_ITEM = _command("remove_item")
_ADVISE = _command("advise")
_UN_ADVISE = _command("un_advise")
_ADVISE_SUPERVISORY = _command("advise_supervisory")
_WRITE = _command("write")
_WRITE2 = _command("write2")
_ADD_ITEM_BULK = _command("add_item_bulk", "add_item_bulk")
_ADVISE_ITEM_BULK = _command("advise_item_bulk", "advise_item_bulk")
_REMOVE_ITEM_BULK = _command("remove_item_bulk", "remove_item_bulk")
_UN_ADVISE_ITEM_BULK = _command("un_advise_item_bulk", "un_advise_item_bulk")
_SUBSCRIBE_BULK = _command("subscribe_bulk", "subscribe_bulk")
_UNSUBSCRIBE_BULK = _command("unsubscribe_bulk", "unsubscribe_bulk")
_WRITE_BULK = _command("write_bulk", "write_bulk")
_WRITE2_BULK = _command("write2_bulk", "write2_bulk")
_READ_BULK = _command("read_bulk", "read_bulk")
_PING = _command("ping")
_GET_SESSION_STATE = _command("get_session_state", "session_state")


class Session:
    """One session, made by `GatewayClient.open_session`; an async context manager.

    Handles belong to the session that made them. The gateway runs a session's commands
    one after another (contract notes, Process model).

    Every method that sends raises `MxGatewaySessionError` where the session is closed,
    before anything is sent; `MxGatewayTransportError` where the call did not get through;
    `MxGatewaySessionError`, `MxGatewayWorkerError` or `MxGatewayCommandError` where the
    gateway refuses; `MxAccessError` where MXAccess does; and `MalformedReplyError` where a
    reply lacks what it must hold.

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
        self._transport = transport
        self._options = options
        self._session_id = session_id
        # The gateway files pending commands by correlation id: each needs its own
        # (contract notes, Process model).
        prefix = secrets.token_hex(4)
        counter = itertools.count(1)
        self._next_correlation_id: Callable[[], str] = lambda: f"{prefix}-{next(counter)}"
        self._tags: dict[tuple[int, int], str] = {}
        self._closing: asyncio.Task[None] | None = None

    @property
    def session_id(self) -> str:
        """The id the gateway gave the session."""
        return self._session_id

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
        reply = await self._run(_REGISTER, {"client_name": _text(client_name, "client_name")})
        return self._handle_in(reply, reply.register.server_handle, _REGISTER)

    async def unregister(self, server_handle: int) -> None:
        """Unregister: the server handle and its items are gone."""
        server = _handle(server_handle, "server_handle")
        await self._run(_UNREGISTER, {"server_handle": server})
        self._tags = {key: tag for key, tag in self._tags.items() if key[0] != server}

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
        server = _handle(server_handle, "server_handle")
        tag = _text(item_definition, "item_definition")
        fields = {"server_handle": server, "item_definition": tag}
        reply = await self._run(_ADD_ITEM, fields, tag=tag)
        item = self._handle_in(reply, reply.add_item.item_handle, _ADD_ITEM)
        self._tags[server, item] = tag
        return item

    async def add_item2(self, server_handle: int, item_definition: str, item_context: str) -> int:
        """Add a tag relative to a context, such as ``"Level"`` in ``"Tank1"``; see `add_item`."""
        server = _handle(server_handle, "server_handle")
        tag = _text(item_definition, "item_definition")
        context = _text(item_context, "item_context")
        subject = f"{context}.{tag}" if context else tag
        fields = {"server_handle": server, "item_definition": tag, "item_context": context}
        reply = await self._run(_ADD_ITEM2, fields, tag=subject)
        item = self._handle_in(reply, reply.add_item2.item_handle, _ADD_ITEM2)
        self._tags[server, item] = subject
        return item

    async def remove_item(self, server_handle: int, item_handle: int) -> None:
        """Remove an item; not before the write-complete event of its last write."""
        await self._run_on_item(_REMOVE_ITEM, server_handle, item_handle)
        self._tags.pop((operator.index(server_handle), operator.index(item_handle)), None)

    async def advise(self, server_handle: int, item_handle: int) -> None:
        """Ask for data-change events of an item. Open the event stream first: values
        published before it are lost (contract notes, Events).
        """
        await self._run_on_item(_ADVISE, server_handle, item_handle)

    async def un_advise(self, server_handle: int, item_handle: int) -> None:
        """Stop data-change events; not before the write-complete event of the last write."""
        await self._run_on_item(_UN_ADVISE, server_handle, item_handle)

    async def advise_supervisory(self, server_handle: int, item_handle: int) -> None:
        """Advise as a supervisor: only then a plain write records its ``user_id``."""
        await self._run_on_item(_ADVISE_SUPERVISORY, server_handle, item_handle)

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
        fields = {"value": to_mx_value(value), "user_id": _handle(user_id, "user_id")}
        await self._run_on_item(_WRITE, server_handle, item_handle, fields)

    async def write2(
        self,
        server_handle: int,
        item_handle: int,
        value: Any,
        timestamp_value: Any,
        user_id: int = 0,
    ) -> None:
        """Write one value with its own timestamp, a datetime or datetime64; see `write`."""
        fields = {
            "value": to_mx_value(value),
            "timestamp_value": to_mx_value(timestamp_value),
            "user_id": _handle(user_id, "user_id"),
        }
        await self._run_on_item(_WRITE2, server_handle, item_handle, fields)

    # ------------------------------------------------------------ bulk commands

    async def add_item_bulk(
        self, server_handle: int, tag_addresses: Iterable[str]
    ) -> list[pb.SubscribeResult]:
        """Add tags; one result each, in order. See `subscribe_bulk`."""
        return await self._add_bulk(_ADD_ITEM_BULK, server_handle, tag_addresses)

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
        return await self._add_bulk(_SUBSCRIBE_BULK, server_handle, tag_addresses)

    async def advise_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Advise items; one result each, in order. Limits as for `subscribe_bulk`."""
        return await self._item_bulk(_ADVISE_ITEM_BULK, server_handle, item_handles)

    async def un_advise_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Un-advise items; one result each, in order. Limits as for `subscribe_bulk`."""
        return await self._item_bulk(_UN_ADVISE_ITEM_BULK, server_handle, item_handles)

    async def remove_item_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Remove items; one result each, in order. Limits as for `subscribe_bulk`."""
        return self._forget(await self._item_bulk(_REMOVE_ITEM_BULK, server_handle, item_handles))

    async def unsubscribe_bulk(
        self, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        """Un-advise and remove items; one result each, in order. See `subscribe_bulk`."""
        return self._forget(await self._item_bulk(_UNSUBSCRIBE_BULK, server_handle, item_handles))

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
            From `mxfast.contract.mxaccess_gateway`; at most ``max_bulk_items``.
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
        return await self._write_bulk(
            _WRITE_BULK, server_handle, entries, pb.WriteBulkEntry, correlation_id
        )

    async def write2_bulk(
        self,
        server_handle: int,
        entries: Iterable[pb.Write2BulkEntry],
        *,
        correlation_id: str = "",
    ) -> list[pb.BulkWriteResult]:
        """Write values with timestamps given as messages; see `write_bulk`."""
        return await self._write_bulk(
            _WRITE2_BULK, server_handle, entries, pb.Write2BulkEntry, correlation_id
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
            Milliseconds a tag that is not advised may take; 0 for the worker's default.
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
        tags = self._limited(tag_addresses, "tag_addresses", _text)
        wait = operator.index(timeout_ms)
        if not 0 <= wait < 2**32:
            raise ValueError(f"timeout_ms must lie in 0..{2**32 - 1}, got {timeout_ms}")
        fields = {"tag_addresses": tags, "timeout_ms": wait}
        reply = await self._run_bulk(
            _READ_BULK,
            server_handle,
            fields,
            count=len(tags),
            correlation_id=correlation_id,
            call_timeout=self._options.call_timeout + wait / 1000,
        )
        return list(reply.read_bulk.results) if reply else []

    # ------------------------------------------------------------ arrays and events

    async def write_array(
        self,
        server_handle: int,
        item_handles: ArrayLike,
        values: ArrayLike,
        *,
        timestamps: ArrayLike | None = None,
        user_id: int = 0,
        secured_by: tuple[int, int] | None = None,
        on_progress: Progress | None = None,
    ) -> WriteResult:
        """Write an array of values, one an item.

        All arguments are checked before anything is sent. Requests are split at
        ``max_bulk_items`` and ``max_message_bytes``; two are under way at a time, unless
        they share an item: writes to one item keep their order. Do not change the arrays
        before this returns: requests are encoded as their turn comes.

        Parameters
        ----------
        server_handle : int
            From `register`.
        item_handles : array of int, shape (n,)
            An item may appear more than once.
        values : array, shape (n,)
            bool, integers or finite floats.
        timestamps : array of datetime64, shape (n,), optional
            The values' own times; makes it MXAccess's Write2.
        user_id : int, default 0
            As for `write`.
        secured_by : (int, int), optional
            Current user and verifier; makes it WriteSecured.
        on_progress : callable, optional
            Called with the number of values answered so far and n after each reply.

        Returns
        -------
        WriteResult
            An outcome for each value. With n = 0 nothing is sent.

        Raises
        ------
        TypeError, ValueError
            A wrong dtype, shape or length, or an element that cannot be written, in which
            case it is an `EncodeError` with ``index`` and ``value``. Nothing was sent.
        MxGatewayError
            A request failed. Nothing more was sent, what was under way was waited for, and
            the exception's ``result`` has an outcome for every value.
        asyncio.CancelledError
            As usual, with the same ``result``; under `asyncio.timeout` it is the
            ``__context__`` of the TimeoutError.
        """
        self._require_open("write_array")
        server = _handle(server_handle, "server_handle")
        write = ArrayWrite(
            self._transport,
            self._options,
            session_id=self._session_id,
            next_correlation_id=self._next_correlation_id,
            tag_of=lambda item: self._tags.get((server, item)),
            server_handle=server,
            item_handles=item_handles,
            values=values,
            timestamps=timestamps,
            user_id=user_id,
            secured_by=secured_by,
            on_progress=on_progress,
        )
        return await write.run()

    def event_batches(
        self,
        *,
        after_worker_sequence: int = 0,
        max_events: int = 10_000,
        max_delay: float = 0.01,
        overflow: Overflow = "block",
    ) -> EventStream:
        """Open the event stream and return its events as columns, batch by batch.

        A task reads the stream as fast as it comes, however long the loop body takes. The
        stream opens now, not with the first batch: call this before advising.

        Parameters
        ----------
        after_worker_sequence : int, default 0
            Resume after this event, as far back as the gateway remembers; 0 for new events.
        max_events : int, default 10_000
            Most events of a batch, and how many may wait for the user. With ``"latest"``
            and ``"drop_oldest"`` up to twice as many wait before some are dropped.
        max_delay : float, default 0.01
            Seconds the first event of a batch may wait for others.
        overflow : {"block", "latest", "drop_oldest", "error"}
            What happens when more wait. ``"block"``: reading stops, and if that lasts the
            gateway's queue overflows and it ends the stream or the session (contract notes,
            Events). ``"latest"``: of an item's data changes only the newest is kept, then
            the oldest go. ``"drop_oldest"``: the oldest go. ``"error"``: the stream ends
            with `MxGatewayOverflowError`. What was dropped is counted in ``dropped``.

        Returns
        -------
        EventStream
            An async iterator of `EventBatch`.

        Raises
        ------
        ValueError
            An argument out of range.
        """
        self._require_open("event_batches")
        return EventStream(
            lambda: self._open_stream(after_worker_sequence, "event_batches"),
            after_worker_sequence=after_worker_sequence,
            max_events=max_events,
            max_delay=max_delay,
            overflow=overflow,
        )

    def stream_events(self, after_worker_sequence: int = 0) -> MessageIterator:
        """Open the event stream and return its events as MxEvent messages, one by one.

        The gateway's replay-gap sentinel (``replay_gap`` set, no body) comes as an event
        too. `event_batches` is the fast form.

        Parameters
        ----------
        after_worker_sequence : int, default 0
            As for `event_batches`.
        """
        self._require_open("stream_events")
        stream = self._open_stream(after_worker_sequence, "stream_events")
        return MessageIterator(stream, "stream_events")

    stream_events_raw = stream_events

    def _open_stream(self, after_worker_sequence: int, operation: str) -> MessageStream:
        after = operator.index(after_worker_sequence)
        if not 0 <= after < 2**64:
            raise ValueError(f"after_worker_sequence must not be negative, got {after}")
        request = pb.StreamEventsRequest(session_id=self._session_id, after_worker_sequence=after)
        return self._transport.stream(
            _STREAM_EVENTS,
            request.SerializeToString(),
            timeout=self._options.stream_timeout,
            operation=operation,
        )

    # ------------------------------------------------------------ the session itself

    async def ping(self, message: str = "") -> None:
        """Have the session's worker answer."""
        await self._run(_PING, {"message": _text(message, "message")})

    async def get_session_state(self) -> int:
        """Return the session's state, a ``SessionState`` number."""
        reply = await self._run(_GET_SESSION_STATE, {})
        return reply.session_state.state

    async def invoke(self, command: pb.MxCommand, *, correlation_id: str = "") -> pb.MxCommandReply:
        """Send any command, and raise where the gateway or MXAccess reports a failure.

        Parameters
        ----------
        command : MxCommand
            With its kind and payload.
        correlation_id : str
            Sent along; one is made up where it is empty.

        Returns
        -------
        MxCommandReply
        """
        reply = await self.invoke_raw(command, correlation_id=correlation_id)
        check_mxaccess(reply, "invoke", "", self._transport.redact)
        return reply

    async def invoke_raw(
        self, command: pb.MxCommand, *, correlation_id: str = ""
    ) -> pb.MxCommandReply:
        """Send any command and return its reply as it is.

        Only the protocol status is checked: a failure of MXAccess is in the reply and does
        not raise. Parameters as for `invoke`.
        """
        request = pb.MxCommandRequest(
            session_id=self._session_id,
            client_correlation_id=correlation_id or self._next_correlation_id(),
            command=command,
        )
        return await self._send(request, "invoke", self._options.call_timeout)

    async def close(self) -> None:
        """Close the session, once also under concurrent callers.

        The gateway then ends the session's worker, which may take seconds. A session the
        gateway no longer knows counts as closed.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        # A caller that is cancelled leaves the others their close.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        request = pb.CloseSessionRequest(
            session_id=self._session_id, client_correlation_id=self._next_correlation_id()
        )
        try:
            reply = await call(
                self._transport,
                _CLOSE_SESSION,
                request,
                pb.CloseSessionReply,
                timeout=self._options.call_timeout,
                operation="close",
            )
        except MxGatewaySessionError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return
        if reply.protocol_status.code != pb.PROTOCOL_STATUS_CODE_SESSION_NOT_FOUND:
            check_protocol(reply.protocol_status, "close", reply, self._transport.redact)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: object, error: BaseException | None, traceback: object
    ) -> None:
        try:
            await self.close()
        except MxGatewayError as failure:
            if error is None:
                raise
            # What went wrong first is what the user needs to see.
            error.add_note(f"closing the session failed too: {failure}")

    def __repr__(self) -> str:
        state = "open" if self._closing is None else "closed"
        return f"<Session {self._session_id} {state}>"

    # ------------------------------------------------------------ commands

    def _require_open(self, operation: str) -> None:
        if self._closing is not None:
            raise MxGatewaySessionError(
                f"session {self._session_id} is closed", operation=operation
            )

    async def _send(
        self, request: pb.MxCommandRequest, operation: str, call_timeout: float
    ) -> pb.MxCommandReply:
        self._require_open(operation)
        data = await self._transport.unary(
            _INVOKE, request.SerializeToString(), timeout=call_timeout, operation=operation
        )
        reply = parse(pb.MxCommandReply, data, operation)
        check_protocol(reply.protocol_status, operation, reply, self._transport.redact)
        return reply

    async def _run(
        self,
        command: _Command,
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
        request = pb.MxCommandRequest(
            session_id=self._session_id,
            client_correlation_id=correlation_id or self._next_correlation_id(),
            command={"kind": command.kind, command.name: fields},
        )
        reply = await self._send(request, command.name, call_timeout or self._options.call_timeout)
        if is_mxaccess_failure(reply):
            subject = tag
            if item is not None:
                tag = self._tags.get(item, "")
                subject = f"item {item[1]} ({tag})" if tag else f"item {item[1]}"
            check_mxaccess(reply, command.name, subject, self._transport.redact)
        if command.reply is not None and not reply.HasField(command.reply):
            raise MalformedReplyError(
                f"the reply has no {command.reply}", operation=command.name, reply=reply
            )
        return reply

    async def _run_on_item(
        self,
        command: _Command,
        server_handle: int,
        item_handle: int,
        fields: dict[str, Any] | None = None,
    ) -> None:
        server = _handle(server_handle, "server_handle")
        item = _handle(item_handle, "item_handle")
        fields = fields or {}
        fields["server_handle"] = server
        fields["item_handle"] = item
        await self._run(command, fields, item=(server, item))

    async def _run_bulk(
        self,
        command: _Command,
        server_handle: int,
        fields: dict[str, Any],
        *,
        count: int,
        correlation_id: str = "",
        call_timeout: float | None = None,
    ) -> pb.MxCommandReply | None:
        """Send a bulk command of `count` entries; its reply has as many results."""
        server = _handle(server_handle, "server_handle")
        self._require_open(command.name)
        if count == 0:
            return None
        reply = await self._run(
            command,
            {"server_handle": server, **fields},
            correlation_id=correlation_id,
            call_timeout=call_timeout,
        )
        results = getattr(reply, str(command.reply)).results
        if len(results) != count:
            raise MalformedReplyError(
                f"{count} entries were sent and {len(results)} results came back",
                operation=command.name,
                reply=reply,
            )
        return reply

    async def _add_bulk(
        self, command: _Command, server_handle: int, tag_addresses: Iterable[str]
    ) -> list[pb.SubscribeResult]:
        tags = self._limited(tag_addresses, "tag_addresses", _text)
        reply = await self._run_bulk(
            command, server_handle, {"tag_addresses": tags}, count=len(tags)
        )
        results = _subscribe_results(command, reply)
        server = operator.index(server_handle)
        for tag, result in zip(tags, results, strict=True):
            if result.was_successful:
                self._tags[server, result.item_handle] = tag
        return results

    async def _item_bulk(
        self, command: _Command, server_handle: int, item_handles: Iterable[int]
    ) -> list[pb.SubscribeResult]:
        items = self._limited(item_handles, "item_handles", _handle)
        reply = await self._run_bulk(
            command, server_handle, {"item_handles": items}, count=len(items)
        )
        return _subscribe_results(command, reply)

    async def _write_bulk(
        self,
        command: _Command,
        server_handle: int,
        entries: Iterable[EntryT],
        entry_type: type[EntryT],
        correlation_id: str,
    ) -> list[pb.BulkWriteResult]:
        def checked(entry: EntryT, name: str) -> EntryT:
            if not isinstance(entry, entry_type):
                raise TypeError(
                    f"{name} must be a {entry_type.DESCRIPTOR.name}, not {type(entry).__name__}"
                )
            return entry

        messages = self._limited(entries, "entries", checked)
        reply = await self._run_bulk(
            command,
            server_handle,
            {"entries": messages},
            count=len(messages),
            correlation_id=correlation_id,
        )
        return list(getattr(reply, command.name).results) if reply else []

    def _limited(
        self, items: Iterable[Any], name: str, check: Callable[[Any, str], Any]
    ) -> list[Any]:
        """Return the items of a bulk command, each checked, within the limit."""
        if items is None or isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise TypeError(f"{name} must be a list, not {type(items).__name__}")
        listed = items if isinstance(items, Sequence) else list(items)
        if len(listed) > self._options.max_bulk_items:
            raise ValueError(
                f"{len(listed)} {name}: at most max_bulk_items = {self._options.max_bulk_items} "
                "go into one bulk command; split the list"
            )
        return [check(item, f"{name}[{index}]") for index, item in enumerate(listed)]

    def _handle_in(self, reply: pb.MxCommandReply, handle: int, command: _Command) -> int:
        # MXAccess has no handle 0: it is what a field that was not sent reads as.
        if handle == 0:
            raise MalformedReplyError(
                "the reply has no handle", operation=command.name, reply=reply
            )
        return handle

    def _forget(self, results: list[pb.SubscribeResult]) -> list[pb.SubscribeResult]:
        for result in results:
            if result.was_successful:
                self._tags.pop((result.server_handle, result.item_handle), None)
        return results


def _subscribe_results(
    command: _Command, reply: pb.MxCommandReply | None
) -> list[pb.SubscribeResult]:
    return list(getattr(reply, command.name).results) if reply else []


def _handle(value: Any, name: str) -> int:
    if type(value) is int:
        number = value
    elif isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {_shown(value)}")
    else:
        number = operator.index(value)
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{name} must fit in 32 bits, got {_shown(number)}")
    return number


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
