"""The MxAccessGateway service: sessions, commands, events and alarms."""

import asyncio

from mxfast.codec import decode_write_request
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.access import Access, command_scope, require
from mxfast.simulator.alarms import Alarms
from mxfast.simulator.commands import execute, worker_gone
from mxfast.simulator.events import Subscriber
from mxfast.simulator.service import Context, Scopes, Service
from mxfast.simulator.session import SessionTable

SERVICE = pb.DESCRIPTOR.services_by_name["MxAccessGateway"]

# Inferred: the notes name the fields of OpenSessionReply, not these values.
_GATEWAY_PROTOCOL_VERSION = 1
_WORKER_PROTOCOL_VERSION = 1
_CAPABILITIES = ("bulk-commands", "event-replay")
_DEFAULT_COMMAND_TIMEOUT_S = 30


class GatewayService(Service):
    """The MxAccessGateway service. Its methods have the names of the RPCs."""

    def __init__(self, sessions: SessionTable, alarms: Alarms, access: Access) -> None:
        super().__init__(SERVICE, access)
        self._sessions = sessions
        self._alarms = alarms

    async def OpenSession(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Open a session."""
        pb.OpenSessionRequest.FromString(data)
        session = self._sessions.open()
        reply = pb.OpenSessionReply(
            session_id=session.session_id,
            backend_name="mxaccess-worker",
            worker_protocol_version=_WORKER_PROTOCOL_VERSION,
            gateway_protocol_version=_GATEWAY_PROTOCOL_VERSION,
            capabilities=_CAPABILITIES,
        )
        reply.default_command_timeout.seconds = _DEFAULT_COMMAND_TIMEOUT_S
        reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
        return reply.SerializeToString()

    async def CloseSession(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Close a session; a closed one again too."""
        request = pb.CloseSessionRequest.FromString(data)
        self._sessions.close(request.session_id)
        reply = pb.CloseSessionReply(
            session_id=request.session_id, final_state=pb.SESSION_STATE_CLOSED
        )
        reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
        return reply.SerializeToString()

    async def Invoke(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Carry out a command: bulk writes by the codec, the others by messages."""
        write = decode_write_request(data)
        if write is not None:
            require(command_scope(write.command_kind), scopes)
            try:
                return self._sessions.ready(write.session_id).write(write)
            except status.WorkerGone as gone:
                return worker_gone(write.session_id, write.correlation_id, write.command_kind, gone)
        request = pb.MxCommandRequest.FromString(data)
        kind = request.command.kind
        require(command_scope(kind), scopes)
        try:
            return execute(self._sessions.ready(request.session_id), request)
        except status.WorkerGone as gone:
            return worker_gone(request.session_id, request.client_correlation_id, kind, gone)

    async def StreamEvents(self, data: bytes, scopes: Scopes, context: Context) -> None:
        """Stream a session's events until the client or the session ends it."""
        request = pb.StreamEventsRequest.FromString(data)
        session = self._sessions.ready(request.session_id)
        subscriber, sentinel = session.subscribe(request.after_worker_sequence)
        # Two tasks, because a write waits as long as the client does not read, and an
        # overflow must end the stream just then.
        sending = asyncio.create_task(_send(subscriber, sentinel, context))
        ending = asyncio.create_task(subscriber.ended.wait())
        try:
            await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            session.events.unsubscribe()
            ending.cancel()
            sending.cancel()
        if subscriber.refusal is not None:
            raise subscriber.refusal
        if sending.done():
            sending.result()

    async def AcknowledgeAlarm(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Acknowledge an alarm; how one that is not active is refused is inferred."""
        request = pb.AcknowledgeAlarmRequest.FromString(data)
        reply = pb.AcknowledgeAlarmReply(correlation_id=request.client_correlation_id)
        if self._alarms.is_active(request.alarm_full_reference):
            self._alarms.acknowledge_alarm(
                request.alarm_full_reference, user=request.operator_user, comment=request.comment
            )
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
            reply.hresult = 0
            reply.status.CopyFrom(status.ok_status())
        else:
            failure = status.unresolved_reference(request.alarm_full_reference)
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
            reply.hresult = failure.hresult
            reply.status.CopyFrom(failure.status())
            reply.diagnostic_message = str(failure)
        return reply.SerializeToString()

    async def QueryActiveAlarms(self, data: bytes, scopes: Scopes, context: Context) -> None:
        """Stream the alarms that are active now."""
        request = pb.QueryActiveAlarmsRequest.FromString(data)
        for alarm in self._alarms.active(request.alarm_filter_prefix):
            await context.write(alarm.SerializeToString())

    async def StreamAlarms(self, data: bytes, scopes: Scopes, context: Context) -> None:
        """Stream the active alarms, then every change, until the client ends it."""
        request = pb.StreamAlarmsRequest.FromString(data)
        subscriber = self._alarms.subscribe(request.alarm_filter_prefix)
        try:
            while True:
                message = await subscriber.take()
                await context.write(message.SerializeToString())
        finally:
            self._alarms.unsubscribe(subscriber)


async def _send(subscriber: Subscriber, sentinel: bytes | None, context: Context) -> None:
    # Tells the client that it is attached. Whether a gateway does so is not known: a
    # client that waits for it must not wait for ever.
    await context.send_initial_metadata(())
    if sentinel is not None:
        await context.write(sentinel)
    while True:
        for message in await subscriber.take():
            await context.write(message)
            subscriber.wrote()
