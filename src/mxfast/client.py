"""The client of a gateway: sessions, commands, events and alarms."""

import asyncio
import logging
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from mxfast.checks import message, seconds, text
from mxfast.connection import Connection
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxGatewayError,
    check_mxaccess,
    check_protocol,
    without_key,
)
from mxfast.session import Session
from mxfast.streams import MessageIterator

__all__ = ["GatewayClient"]

_log = logging.getLogger("mxfast")

ReplyT = TypeVar(
    "ReplyT",
    pb.OpenSessionReply,
    pb.CloseSessionReply,
    pb.MxCommandReply,
    pb.AcknowledgeAlarmReply,
)
FilteredT = TypeVar("FilteredT", pb.StreamAlarmsRequest, pb.QueryActiveAlarmsRequest)


class GatewayClient(Connection):
    """A client of one gateway; an async context manager.

    ``await GatewayClient.connect(...)`` makes one that is connected::

        async with await GatewayClient.connect(endpoint="localhost:5120", api_key=key) as client:
            async with await client.open_session("line-4") as session:
                ...

    Parameters
    ----------
    options : ClientOptions
        What to connect to.
    channel : grpc.aio.Channel, optional
        A channel to use instead of making one; it is not closed by the client.
    stub : object, optional
        For tests: an object with a method for each RPC that is used, named as it, to call
        instead of a channel's. It takes a message and the keywords ``metadata`` and
        ``timeout``, as far as its signature has them.

    Raises
    ------
    ValueError
        Both are given.
    """

    async def open_session(
        self,
        client_session_name: str = "",
        *,
        requested_backend: str = "",
        client_correlation_id: str = "",
        command_timeout: float | None = None,
    ) -> Session:
        """Open a session: the gateway starts a worker for it, which may take seconds.

        Where this is cancelled meanwhile, the session is closed when the gateway has it.

        Parameters
        ----------
        client_session_name : str
            Shown by the gateway.
        requested_backend : str
            Empty for the gateway's default.
        client_correlation_id : str
            Sent along.
        command_timeout : float, optional
            Seconds the gateway gives a command; its default is 30.

        Returns
        -------
        Session
            Close it when done: the gateway has room for 64 (contract notes, Sessions).

        Raises
        ------
        TypeError, ValueError
            A name that is no str, or a ``command_timeout`` that is no positive number.
        MxGatewayError
            The call did not get through, the key was refused, or no session was opened.
        """
        request = pb.OpenSessionRequest(
            requested_backend=text(requested_backend, "requested_backend"),
            client_session_name=text(client_session_name, "client_session_name"),
            client_correlation_id=text(client_correlation_id, "client_correlation_id"),
        )
        if command_timeout is not None:
            whole, fraction = divmod(seconds(command_timeout, "command_timeout"), 1)
            limit = Duration(seconds=int(whole), nanos=int(fraction * 1e9))
            request.command_timeout.CopyFrom(limit)

        async def open_one() -> str:
            # In a task of its own: the gateway starts the worker, whoever waits for it.
            opening = asyncio.create_task(self.open_session_raw(request))
            try:
                reply = await asyncio.shield(opening)
            except asyncio.CancelledError:
                if not opening.cancelling():  # which it is where the loop ends
                    self._leave(self._close_when_opened(opening))
                raise
            if not reply.session_id:
                raise MalformedReplyError(
                    "the reply has no session id",
                    operation="open_session",
                    reply=without_key(reply, self._transport.redact),
                )
            return reply.session_id

        return Session(self._transport, self._options, await open_one(), open_one)

    async def _close_when_opened(self, opening: asyncio.Task[pb.OpenSessionReply]) -> None:
        """Close the session of a caller who was cancelled before he had it."""
        try:
            session_id = (await opening).session_id
            if session_id:
                await self.close_session_raw(pb.CloseSessionRequest(session_id=session_id))
        except MxGatewayError as error:
            _log.warning("a session whose open_session was cancelled may be left: %s", error)

    async def open_session_raw(self, request: pb.OpenSessionRequest) -> pb.OpenSessionReply:
        """Send an OpenSession request and return its reply.

        Only the protocol status is checked.
        """
        message(request, "request", pb.OpenSessionRequest)
        return await self._send("OpenSession", request, pb.OpenSessionReply, "open_session")

    async def close_session_raw(self, request: pb.CloseSessionRequest) -> pb.CloseSessionReply:
        """Send a CloseSession request and return its reply.

        Only the protocol status is checked.
        """
        message(request, "request", pb.CloseSessionRequest)
        return await self._send("CloseSession", request, pb.CloseSessionReply, "close_session")

    async def invoke(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        """Send a command, and raise where the gateway or MXAccess reports a failure.

        Parameters
        ----------
        request : MxCommandRequest
            With the session's id.

        Returns
        -------
        MxCommandReply

        Raises
        ------
        MxGatewayError
            Of the class that the failure stands for.
        """
        reply = await self.invoke_raw(request)
        check_mxaccess(reply, "invoke", "", self._transport.redact)
        return reply

    async def invoke_raw(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        """Send a command and return its reply as it is.

        Only the protocol status is checked: a failure of MXAccess is in the reply and does
        not raise.
        """
        message(request, "request", pb.MxCommandRequest)
        return await self._send("Invoke", request, pb.MxCommandReply, "invoke")

    def stream_events_raw(self, request: pb.StreamEventsRequest) -> MessageIterator[pb.MxEvent]:
        """Open a session's event stream and return its events as they are.

        A failure of MXAccess is in an event's statuses and does not raise.
        `Session.event_batches` is the fast form.

        Parameters
        ----------
        request : StreamEventsRequest
            With the session's id.
        """
        message(request, "request", pb.StreamEventsRequest)
        return self._messages(
            GATEWAY_METHODS["StreamEvents"], request, pb.MxEvent, "stream_events_raw"
        )

    # ------------------------------------------------------------ alarms

    def stream_alarms(
        self, alarm_filter_prefix: str | pb.StreamAlarmsRequest = ""
    ) -> MessageIterator[pb.AlarmFeedMessage]:
        """Open the stream of alarms, which needs no session.

        First come the alarms that are active (``active_alarm``), then ``snapshot_complete``,
        then every change: ``transition`` and ``provider_status`` (contract notes, Alarms).

        Parameters
        ----------
        alarm_filter_prefix : str or StreamAlarmsRequest
            How the full reference of the alarms begins; empty for all.

        Returns
        -------
        MessageIterator of AlarmFeedMessage
            ``message.WhichOneof("payload")`` says which of the four it is.
        """
        request = _filtered(pb.StreamAlarmsRequest, alarm_filter_prefix)
        return self._messages(
            GATEWAY_METHODS["StreamAlarms"], request, pb.AlarmFeedMessage, "stream_alarms"
        )

    def query_active_alarms(
        self, alarm_filter_prefix: str | pb.QueryActiveAlarmsRequest = ""
    ) -> MessageIterator[pb.ActiveAlarmSnapshot]:
        """Ask for the alarms that are active now; the stream ends with the last of them.

        Parameters
        ----------
        alarm_filter_prefix : str or QueryActiveAlarmsRequest
            How the full reference of the alarms begins; empty for all.
        """
        request = _filtered(pb.QueryActiveAlarmsRequest, alarm_filter_prefix)
        return self._messages(
            GATEWAY_METHODS["QueryActiveAlarms"],
            request,
            pb.ActiveAlarmSnapshot,
            "query_active_alarms",
        )

    async def acknowledge_alarm(
        self,
        alarm_full_reference: str | pb.AcknowledgeAlarmRequest,
        comment: str = "",
        operator_user: str = "",
    ) -> pb.AcknowledgeAlarmReply:
        """Acknowledge an alarm.

        Parameters
        ----------
        alarm_full_reference : str or AcknowledgeAlarmRequest
            Which alarm; a request has the other two in it.
        comment : str
            The operator's.
        operator_user : str
            The operator's name.

        Returns
        -------
        AcknowledgeAlarmReply

        Raises
        ------
        MxAccessError
            No such alarm is active, or MXAccess reports another failure.
        TypeError
            A comment or a name beside a request.
        """
        request = alarm_full_reference
        if isinstance(request, pb.AcknowledgeAlarmRequest):
            if comment or operator_user:
                raise TypeError("comment and operator_user go into the AcknowledgeAlarmRequest")
        else:
            request = pb.AcknowledgeAlarmRequest(
                alarm_full_reference=text(request, "alarm_full_reference"),
                comment=text(comment, "comment"),
                operator_user=text(operator_user, "operator_user"),
            )
        operation = "acknowledge_alarm"
        reply = await self._send("AcknowledgeAlarm", request, pb.AcknowledgeAlarmReply, operation)
        subject = request.alarm_full_reference
        check_mxaccess(reply, operation, subject, self._transport.redact)
        return reply

    async def _send(
        self, method: str, request: Message, reply_type: type[ReplyT], operation: str
    ) -> ReplyT:
        """Send a request whose reply has a protocol status, and check that."""
        reply = await self._unary(GATEWAY_METHODS[method], request, reply_type, operation)
        check_protocol(reply.protocol_status, operation, reply, self._transport.redact)
        return reply


def _filtered(request_type: type[FilteredT], given: FilteredT | str) -> FilteredT:
    """Return the request for alarms whose reference begins so, or the request given."""
    if isinstance(given, request_type):
        return given
    return request_type(alarm_filter_prefix=text(given, "alarm_filter_prefix"))
