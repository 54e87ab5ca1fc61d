"""What an event stream needs of its session to survive a bad network, or the session's end."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from mxfast import commands
from mxfast.commands import CommandSender
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayWorkerError,
    without_key,
)
from mxfast.handles import HandleChanges
from mxfast.rebuild import Attach
from mxfast.streams import open_stream
from mxfast.transport import MessageStream

__all__ = ["SessionLink", "breaks_off", "is_lost", "is_temporary", "pause_before"]

_STREAM_EVENTS = GATEWAY_METHODS["StreamEvents"]

# Seconds (contract notes, Events, consumer reconnect).
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
# A stream that was open so long has worked, though no event came: a quiet plant has none.
WORKING = 1.0

# A stream that was open ends with one of these when something on the way to the gateway
# cuts it, or when the gateway does and leaves the session alive.
_CUT = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
    }
)


def pause_before(attempt: int) -> float:
    """Return the seconds to wait before an attempt, the first of which is 0.

    Twice as long each time, and of random length, so that clients that lost one gateway
    together do not all come back together.
    """
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1)


def breaks_off(error: MxGatewayError, *, worked: bool, reopened: bool) -> bool:
    """Tell whether a stream's error leaves hope for another attempt.

    Parameters
    ----------
    error : MxGatewayError
        The stream's.
    worked : bool
        A message had come since it was opened, or it was open for a while: otherwise only
        what `is_temporary` is tried again, or a fault of ours would go round for ever.
    reopened : bool
        It was not the first one: a gateway that has not noticed yet that the one before is
        gone refuses another subscriber.
    """
    if is_temporary(error):
        return True
    if error.code is grpc.StatusCode.ALREADY_EXISTS:
        return reopened
    return worked and error.code in _CUT


def is_temporary(error: MxGatewayError) -> bool:
    """Tell whether an error means that the gateway cannot be reached, or the worker not yet.

    A session's worker is at times Handshaking for a moment, which the gateway says with the
    code that it has for dead sessions too (contract notes, Session life cycle).
    """
    return isinstance(error, MxGatewayConnectionError) or "worker state is Handshaking" in str(
        error
    )


def is_lost(error: MxGatewayError) -> bool:
    """Tell whether an error means that the session is dead, and not the call or the way."""
    if is_temporary(error):
        return False
    if isinstance(error, MxGatewaySessionError):
        gone = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
        return error.code in gone or error.reply is not None
    return isinstance(error, MxGatewayWorkerError)


class SessionLink:
    """One event stream's way to its session.

    Parameters
    ----------
    sender : CommandSender
        The session's.
    rebuild : callable
        `Rebuilder.rebuild`.
    """

    def __init__(
        self,
        sender: CommandSender,
        rebuild: Callable[[str, Attach], Awaitable[object]],
    ) -> None:
        self._sender = sender
        self._rebuild = rebuild
        self._changes: HandleChanges | None = None
        self.session_id = sender.session_id
        sender.rebindables.add(self)

    def open(self, after_worker_sequence: int) -> MessageStream:
        """Open the session's event stream."""
        return open_events(self._sender, after_worker_sequence, "event_batches")

    @property
    def closed(self) -> bool:
        """Whether the user closed the session."""
        return self._sender.closed

    @property
    def replaced(self) -> bool:
        """Whether another session has taken this stream's session's place."""
        return self.session_id != self._sender.session_id

    def lost(self) -> MxGatewaySessionError:
        """Return the error that says so."""
        return MxGatewaySessionError(
            f"session {self.session_id} was replaced by another one",
            code=grpc.StatusCode.NOT_FOUND,
            operation="event_batches",
        )

    async def check(self) -> None:
        """Ask for the session's state.

        Raises
        ------
        MxGatewayError
            The gateway cannot be reached, or the session is dead (`is_lost`).
        """
        if self.replaced:
            raise self.lost()
        try:
            reply = await self._sender.run(commands.GET_SESSION_STATE, {})
        except (MxGatewayAuthorizationError, MxGatewayCommandError, MalformedReplyError):
            return  # it answers, but not this: the stream will tell
        if reply.session_state.state in (
            pb.SESSION_STATE_CLOSING,
            pb.SESSION_STATE_CLOSED,
            pb.SESSION_STATE_FAULTED,
        ):
            state = pb.SessionState.Name(reply.session_state.state)
            raise MxGatewaySessionError(
                f"session {self.session_id} is {state}",
                operation="event_batches",
                reply=without_key(reply, self._sender.transport.redact),
            )

    async def current_values(self) -> AsyncIterator[list[bytes]]:
        """Read the advised items again; yield their values as events without a sequence."""
        sender = self._sender
        for server, items in list(sender.handles.advised_by_server()):
            step = sender.options.max_bulk_items
            for start in range(0, len(items), step):
                chosen = items[start : start + step]
                tags = [sender.tags.get((server, item), "") for item in chosen]
                results: list[pb.BulkReadResult] = await sender.run_bulk(
                    commands.READ_BULK, server, {"tag_addresses": tags}, count=len(tags)
                )
                yield [
                    _as_event(self.session_id, server, item, result)
                    for item, result in zip(chosen, results, strict=True)
                ]

    def rebind(self, changes: HandleChanges) -> None:
        """Note what handles became; there may be several rebuilds while the stream pauses."""
        self._changes = changes if self._changes is None else self._changes.then(changes)

    async def rebuild(self, attach: Attach) -> HandleChanges:
        """Build the session anew, unless another has; ``attach`` opens its event stream.

        Returns
        -------
        HandleChanges
            Since the session that this stream was of.
        """
        await self._rebuild(self.session_id, attach)
        changes, self._changes = self._changes, None
        assert changes is not None
        self.session_id = self._sender.session_id
        return changes


def open_events(sender: CommandSender, after_worker_sequence: int, operation: str) -> MessageStream:
    """Open the event stream of a session, for which its later commands wait."""
    request = pb.StreamEventsRequest(
        session_id=sender.session_id, after_worker_sequence=after_worker_sequence
    )
    stream = open_stream(sender.transport, sender.options, _STREAM_EVENTS, request, operation)
    sender.attach(stream)
    return stream


def _as_event(session_id: str, server: int, item: int, result: pb.BulkReadResult) -> bytes:
    """Return a value that was read as the event that would have brought it."""
    event = pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        session_id=session_id,
        server_handle=server,
        item_handle=item,
        quality=result.quality,
        statuses=result.statuses,
        on_data_change=pb.OnDataChangeEvent(),
    )
    if result.HasField("value"):
        event.value.CopyFrom(result.value)
    if result.HasField("source_timestamp"):
        event.source_timestamp.CopyFrom(result.source_timestamp)
    if not result.was_successful:
        event.statuses.add(
            category=pb.MX_STATUS_CATEGORY_OTHER_ERROR, diagnostic_text=result.error_message
        )
    return event.SerializeToString()
