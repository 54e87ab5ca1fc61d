"""A session with the gateway: MXAccess's commands, arrays of values, and events."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

import grpc
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mxfast import commands
from mxfast.bulk_writer import BulkWriter
from mxfast.checks import in_range, integer, text
from mxfast.commands import CommandSender
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MxGatewayError, MxGatewaySessionError, check_mxaccess, check_protocol
from mxfast.event_queue import EventQueue, Overflow
from mxfast.events import EventStream
from mxfast.handles import HandleChanges
from mxfast.items import HandlesByTag, Items, resolved
from mxfast.mxaccess import MxAccessCommands
from mxfast.options import ClientOptions
from mxfast.outcomes import WriteResult
from mxfast.prepared_write import PreparedWrite
from mxfast.reader import EventReader
from mxfast.rebuild import Rebuilder
from mxfast.recovery import SessionLink, open_events
from mxfast.streams import MessageIterator
from mxfast.tags import ReadResult, checked_tags, read, subscribe
from mxfast.transport import Transport, call
from mxfast.write import ArrayWriter, Progress

__all__ = ["Session"]

_CLOSE_SESSION = GATEWAY_METHODS["CloseSession"]


class Session(MxAccessCommands):
    """One session, made by `GatewayClient.open_session`; an async context manager.

    Handles belong to the session that made them. The gateway runs a session's commands
    one after another (contract notes, Process model).

    Every method that sends raises `MxGatewaySessionError` where the session is closed,
    or a server handle is of before a `rebuild`, before anything is sent;
    `MxGatewayTransportError` where the call did not get through;
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
    open_another : callable, optional
        Opens another session of the same kind and returns its id, for `rebuild`.
    """

    def __init__(
        self,
        transport: Transport,
        options: ClientOptions,
        session_id: str,
        open_another: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        super().__init__(CommandSender(transport, options, session_id))
        self._transport = transport
        self._options = options
        self._writer = ArrayWriter(self._commands)
        self._closing: asyncio.Task[None] | None = None
        self._rebuilder = Rebuilder(self._commands, open_another, self._close)
        self._handles_by_tag = HandlesByTag(self._commands)

    @property
    def session_id(self) -> str:
        """The id the gateway gave the session; `rebuild` changes it."""
        return self._commands.session_id

    # ------------------------------------------------------------ arrays and events

    async def subscribe(self, server_handle: int, tags: Iterable[str]) -> Items:
        """Add and advise tags, any number of them.

        Open the event stream first: values published before it are lost (contract notes,
        Events). All tags are checked before anything is sent. Requests are split at
        ``max_bulk_items`` and ``max_message_bytes`` and go one after another.

        Parameters
        ----------
        server_handle : int
            From `register`.
        tags : iterable of str, shape (n,)
            A list, an array or a column; each tag once.

        Returns
        -------
        Items
            A row for each tag. A refused one raises nothing: it is in ``failed`` with its
            reason, its handle is 0, and `Items.raise_for_failure` raises for it. With n = 0
            nothing is sent.

        Raises
        ------
        TypeError, ValueError
            A single str, or a tag that is no str, empty, too long or there twice; names its
            index. Nothing was sent.
        MxGatewayError
            A request failed. Nothing more was sent, and the exception's ``result`` has the
            `Items` with what was subscribed until then. So has a CancelledError's.
        """
        server = integer(server_handle, "server_handle")
        checked = checked_tags(tags, self._options.max_message_bytes, unique=True)
        return await subscribe(self._commands, server, checked)

    async def read_array(
        self, server_handle: int, tags: Iterable[str] | Items, *, timeout_ms: int = 0
    ) -> ReadResult:
        """Read tags, any number of them, into columns.

        Where the server handle has a tag advised, the gateway answers with what it told last:
        a value just written is there when its data change has come. Any other tag it adds,
        advises, waits for and removes again, one after another (contract notes, Commands):
        subscribe what is read often. Requests are split as for `subscribe`.

        Parameters
        ----------
        server_handle : int
            From `register`.
        tags : iterable of str, or Items, shape (n,)
            A tag may be there more than once.
        timeout_ms : int, default 0
            As for `read_bulk`: for each tag that is not advised. A request's deadline is
            ``call_timeout`` and this for each of its tags.

        Returns
        -------
        ReadResult
            A row for each tag. One that cannot be read raises nothing: it is in ``errors``,
            and `ReadResult.raise_for_failure` raises for it. With n = 0 nothing is sent.

        Raises
        ------
        TypeError, ValueError
            As for `subscribe`, or ``timeout_ms`` out of range. Nothing was sent.
        MxGatewayError
            A request failed.
        """
        server = integer(server_handle, "server_handle")
        wait = in_range(timeout_ms, "timeout_ms", 0, 2**32 - 1)
        checked = checked_tags(tags, self._options.max_message_bytes, unique=False)
        return await read(self._commands, server, checked, wait)

    async def write_array(
        self,
        server_handle: int,
        item_handles: ArrayLike | Items,
        values: ArrayLike,
        *,
        timestamps: ArrayLike | None = None,
        user_id: int = 0,
        secured_by: tuple[int, int] | None = None,
        confirm: float | None = None,
        on_progress: Progress | None = None,
    ) -> WriteResult:
        """Write an array of values, one an item.

        All arguments are checked before anything is sent. Requests are split at
        ``max_bulk_items`` and ``max_message_bytes``; two are under way at a time, unless
        they share an item: writes to one item keep their order. Do not change the arrays
        before this returns: requests are encoded as their turn comes.

        Where this session has an open `event_batches`, a request has 2,500 values at most and
        waits while more than that would not have completed, unless for a second none does:
        their write-completes would overflow the gateway's event queue (contract notes,
        Events). Nothing listens to `stream_events`, beside which writes are not held up.

        Parameters
        ----------
        server_handle : int
            From `register`.
        item_handles : array of int, Items, or array of str, shape (n,)
            Handles, the `Items` of `subscribe`, or tags that this session has added. An item
            may appear more than once.
        values : array, shape (n,)
            bool, integers, finite floats, str, bytes, datetime64 or, in a list, datetime
            (naive means UTC): all of one type, and no None, which only a single `write` takes.
        timestamps : array of datetime64 or list of datetime, shape (n,), optional
            The values' own times; makes it MXAccess's Write2.
        user_id : int, default 0
            As for `write`.
        secured_by : (int, int), optional
            Current user and verifier; makes it WriteSecured.
        confirm : float, optional
            Seconds to wait for the items' write-completes when all is answered; a value
            becomes `COMPLETED` or `FAILED` with its own, and stays `ACCEPTED` without. Needs
            an open `event_batches` of this session, whose batches nobody has to take
            meanwhile: a ``"block"`` stream reads on beyond ``max_events``. See
            docs/architecture.md for what cannot be told apart.
        on_progress : callable, optional
            Called with the number of values answered so far and n after each reply.

        Returns
        -------
        WriteResult
            An outcome for each value. With n = 0 nothing is sent.

        Raises
        ------
        TypeError, ValueError
            A wrong dtype, shape or length, a tag or an item without a handle, or an element
            that cannot be written, in which case it is an `EncodeError` with ``index`` and
            ``value``. Nothing was sent.
        RuntimeError
            ``confirm`` without an open event stream. Nothing was sent.
        MxGatewayError
            A request failed. Nothing more was sent, what was under way was waited for, and
            the exception's ``result`` has an outcome for every value.
        asyncio.CancelledError
            As usual, with the same ``result``; under `asyncio.timeout` it is the
            ``__context__`` of the TimeoutError.
        """
        server = self._commands.server(server_handle, "write_array")
        return await self._writer.write(
            server,
            resolved(item_handles, server, self._handles_by_tag),
            values,
            timestamps=timestamps,
            user_id=user_id,
            secured_by=secured_by,
            confirm=confirm,
            on_progress=on_progress,
        )

    def prepare_write(
        self,
        server_handle: int,
        item_handles: ArrayLike | Items,
        dtype: DTypeLike = np.float64,
    ) -> PreparedWrite:
        """Prepare to write the same items again and again: cheaper, with the same outcomes.

        Parameters
        ----------
        server_handle : int
            From `register`.
        item_handles : array of int, `Items`, or sequence of str; shape (n,)
            As for `write_array`.
        dtype : dtype, default float64
            float64, float32, int32, int64 or bool.

        Returns
        -------
        PreparedWrite
            ``await prepared.write(values)`` writes.

        Raises
        ------
        TypeError, ValueError
            Another dtype, or handles that `write_array` would refuse.
        """
        self._commands.require_open("prepare_write")
        server = self._commands.server(server_handle, "prepare_write")
        handles = resolved(item_handles, server, self._handles_by_tag)
        return PreparedWrite(self._writer, server, handles, dtype)

    def bulk_writer(self, server_handle: int, dtype: DTypeLike = np.float64) -> BulkWriter:
        """Start a writer for a producer that never waits.

        Parameters
        ----------
        server_handle : int
            From `register`.
        dtype : dtype, default float64
            Of the values: float64, float32, int32, int64 or bool.

        Returns
        -------
        BulkWriter
            An async context manager; ``writer.put(item_handles, values)`` writes. Close it
            before the session.

        Raises
        ------
        TypeError
            Another dtype.
        """
        self._commands.require_open("bulk_writer")
        server = self._commands.server(server_handle, "bulk_writer")
        return BulkWriter(self._writer, server, self._handles_by_tag, dtype)

    def event_batches(
        self,
        *,
        after_worker_sequence: int = 0,
        max_events: int = 10_000,
        max_delay: float = 0.01,
        overflow: Overflow = "block",
        resume: bool = True,
        rebuild: bool = False,
    ) -> EventStream:
        """Open the event stream and return its events as columns, batch by batch.

        A task reads the stream as fast as it comes, however long the loop body takes. The
        stream opens now, not with the first batch: call this before advising. Commands sent
        after it wait until the gateway has attached the stream, half a second at most.

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
            Events). ``"latest"``: of an item's data changes only the newest is kept; where
            that is not enough, first the oldest events of other kinds go, then the oldest
            of the values. ``"drop_oldest"``: the oldest go. ``"error"``: the stream ends
            with `MxGatewayOverflowError`. What was dropped is counted in ``dropped``.
            A stream with several consumers (`EventStream.consumer`) cannot have ``"block"``.
        resume : bool, default True
            When the connection drops, open the stream again, for as long as it takes, after
            pauses of 0.5 to 30 seconds, and go on after the last event: none comes twice.
            Where the gateway no longer has the events in between, a batch has ``gap``, and
            the current values of all advised items are read and come as rows with
            ``reread``, before the events that follow. Writes are never sent again. False
            ends the stream with the error instead.
        rebuild : bool, default False
            When the session itself died, build it anew (see `rebuild`) and go on. The first
            batch of the new session has ``gap`` and ``rebuilt``, the handles' changes. By
            default the stream ends with `MxGatewaySessionLostError`. Needs ``resume``.

        Returns
        -------
        EventStream
            An async iterator of `EventBatch`.

        Raises
        ------
        ValueError
            An argument out of range, or ``rebuild`` without ``resume``.
        """
        self._commands.require_open("event_batches")
        if rebuild and not resume:
            raise ValueError("rebuild=True needs resume=True")
        after = in_range(after_worker_sequence, "after_worker_sequence", 0, 2**64 - 1)
        queue = EventQueue(max_events, max_delay, overflow)
        link = SessionLink(self._commands, self._rebuilder.rebuild)
        reader = EventReader(link, after, resume=resume, rebuild=rebuild)
        stream = EventStream(reader, queue, after)
        self._writer.listen_to(stream)
        return stream

    def stream_events(self, after_worker_sequence: int = 0) -> MessageIterator[pb.MxEvent]:
        """Open the event stream and return its events as MxEvent messages, one by one.

        The gateway's replay-gap sentinel (``replay_gap`` set, no body) comes as an event
        too. A failure of MXAccess is in an event's statuses and does not raise. Nothing is
        read ahead: a slow loop holds up the gateway, whose queue overflows
        after 10,000 events (contract notes, Events), and each value that is written makes one.
        A dropped connection ends the stream. `event_batches` is the fast form: it resumes, and
        `write_array` paces its writes by it.

        Parameters
        ----------
        after_worker_sequence : int, default 0
            As for `event_batches`.
        """
        self._commands.require_open("stream_events")
        after = in_range(after_worker_sequence, "after_worker_sequence", 0, 2**64 - 1)
        stream = open_events(self._commands, after, "stream_events")
        return MessageIterator(stream, pb.MxEvent, "stream_events")

    stream_events_raw = stream_events

    # ------------------------------------------------------------ the session itself

    async def rebuild(self) -> HandleChanges:
        """Open another session in this one's place, after this one died.

        What was registered, added, advised and suspended by methods of this class is so
        again; the old session is closed, if it can be. This object then stands for the new
        session: its `session_id` is another one, and so are all handles. A server handle of
        before is never one of the new session: every method refuses it before anything is
        sent and names the new one, so that no write goes to another item than was meant.
        `Items` have their new handles by themselves; prepared writes and bulk writers of
        before are refused, make new ones. Nothing that was written is written again.

        Returns
        -------
        HandleChanges
            New handles by old, and the tags that could not be added or advised again. The
            next rebuild tries those once more.

        Raises
        ------
        MxGatewayError
            Another session could not be opened and filled. This object is as it was.
        """
        return await self._rebuilder.rebuild(self.session_id, lambda sender, advised: None)

    async def ping(self, message: str = "") -> None:
        """Have the session's worker answer."""
        await self._commands.run_bare(commands.PING, {"message": text(message, "message")})

    async def get_session_state(self) -> int:
        """Return the session's state, a ``SessionState`` number."""
        reply = await self._commands.run(commands.GET_SESSION_STATE, {})
        return reply.session_state.state

    async def get_worker_info(self) -> pb.WorkerInfoReply:
        """Return what the session's worker says of itself: process id, version, COM class."""
        reply = await self._commands.run(commands.GET_WORKER_INFO, {})
        return reply.worker_info

    async def drain_events(self, max_events: int = 0) -> list[pb.MxEvent]:
        """Take events from the worker's own queue; not for use beside an event stream.

        Parameters
        ----------
        max_events : int, default 0
            Most events to take; 0 for all.

        Returns
        -------
        list of MxEvent
            Never with a replay-gap sentinel (contract notes, Events).
        """
        fields = {"max_events": in_range(max_events, "max_events", 0, 2**32 - 1)}
        reply = await self._commands.run(commands.DRAIN_EVENTS, fields)
        return list(reply.drain_events.events)

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
        return await self._commands.send(
            command, "invoke", correlation_id, self._options.call_timeout
        )

    async def close(self) -> None:
        """Close the session, once also under concurrent callers.

        The gateway then ends the session's worker, which may take seconds. A session the
        gateway no longer knows counts as closed. Where this fails, it may be called again.
        """
        if self._closing is None or _has_failed(self._closing):
            self._commands.closed = True
            self._closing = asyncio.ensure_future(self._close(self.session_id))
        # A caller that is cancelled leaves the others their close.
        await asyncio.shield(self._closing)

    async def _close(self, session_id: str) -> None:
        request = pb.CloseSessionRequest(
            session_id=session_id, client_correlation_id=self._commands.next_correlation_id()
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
        return f"<Session {self.session_id} {state}>"


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
