"""The MxAccessGateway service: sessions, commands, events and alarms."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from mxfast.codec import decode_write_request
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.access import Access, command_scope, require
from mxfast.simulator.commands import execute, seconds_of, worker_gone
from mxfast.simulator.events import Subscriber
from mxfast.simulator.service import Context, Scopes, Service
from mxfast.simulator.session import Plant, Session
from mxfast.simulator.sessions import SessionTable

SERVICE = pb.DESCRIPTOR.services_by_name["MxAccessGateway"]

# Inferred: the notes name the fields of OpenSessionReply, not these values.
_GATEWAY_PROTOCOL_VERSION = 1
_WORKER_PROTOCOL_VERSION = 1
_CAPABILITIES = ("bulk-commands",)
_REPLAY_CAPABILITY = "event-replay"

# What protobuf says that a Duration can be: 10,000 years.
_LONGEST_DURATION_S = 315_576_000_000


class GatewayService(Service):
    """The MxAccessGateway service. Its methods have the names of the RPCs."""

    def __init__(
        self,
        sessions: SessionTable,
        plant: Plant,
        access: Access,
        command_timeout: float,
    ) -> None:
        super().__init__(SERVICE, access, plant.faults, plant.clock)
        self._sessions = sessions
        self._alarms = plant.alarms
        self._command_timeout = command_timeout

    async def OpenSession(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Open a session."""
        request = pb.OpenSessionRequest.FromString(data)
        # That the request's own timeout takes the place of the gateway's is inferred, as is
        # how one that is no Duration is refused.
        asked = request.command_timeout.seconds + request.command_timeout.nanos / 1e9
        if abs(asked) > _LONGEST_DURATION_S:
            raise status.invalid_argument(f"command_timeout is {asked:g} s")
        timeout = asked if asked > 0 else self._command_timeout
        session = self._sessions.open(timeout)
        reply = pb.OpenSessionReply(
            session_id=session.session_id,
            backend_name="mxaccess-worker",
            worker_protocol_version=_WORKER_PROTOCOL_VERSION,
            gateway_protocol_version=_GATEWAY_PROTOCOL_VERSION,
            capabilities=_CAPABILITIES,
        )
        if session.rules.events.replays:
            reply.capabilities.append(_REPLAY_CAPABILITY)
        reply.default_command_timeout.FromTimedelta(timedelta(seconds=timeout))
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
            kind, correlation_id = write.command_kind, write.correlation_id
            require(command_scope(kind), scopes)
            try:
                session = self._sessions.ready(write.session_id)
                if session.worker.is_idle and not self._faults.slow_tags:
                    return session.write(write)
                return await self._wait_and_do(session, data, lambda: session.write(write))
            except status.WorkerGone as gone:
                return worker_gone(write.session_id, correlation_id, kind, gone)
        request = pb.MxCommandRequest.FromString(data)
        kind = request.command.kind
        require(command_scope(kind), scopes)
        try:
            session = self._sessions.ready(request.session_id)
            if session.worker.is_idle and not (self._faults.slow_tags or self._faults.late):
                return execute(session, request)
            return await self._wait_and_do(session, data, lambda: execute(session, request))
        except status.WorkerGone as gone:
            return worker_gone(request.session_id, request.client_correlation_id, kind, gone)

    async def _wait_and_do(self, session: Session, data: bytes, work: Callable[[], bytes]) -> bytes:
        """Carry out a command that takes time, or waits for one that does."""
        seconds = seconds_of(session, pb.MxCommandRequest.FromString(data))
        return await session.worker.run(seconds, work, session.command_timeout)

    async def StreamEvents(self, data: bytes, scopes: Scopes, context: Context) -> None:
        """Stream a session's events until the client or the session ends it."""
        request = pb.StreamEventsRequest.FromString(data)
        session = self._sessions.ready(request.session_id)
        subscriber, sentinel = session.subscribe(request.after_worker_sequence)
        tasks: list[asyncio.Task[object]] = []
        try:
            # Tells the client that it is attached. Whether a gateway does so is not known: a
            # client that waits for it must not wait for ever. Not in a task that an overflow
            # cancels: gRPC would send it again with the refusal, and fail.
            await context.send_initial_metadata(())
            # Two tasks, because a write waits as long as the client does not read, and an
            # overflow must end the stream just then.
            sending = asyncio.create_task(self._send(subscriber, sentinel, context))
            tasks = [sending, asyncio.create_task(subscriber.ended.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            session.unsubscribe(subscriber)
            for task in tasks:
                task.cancel()
        if subscriber.refusal is not None:
            raise subscriber.refusal
        if sending.done():
            sending.result()

    async def _send(self, subscriber: Subscriber, sentinel: bytes | None, context: Context) -> None:
        if sentinel is not None:
            await context.write(sentinel)
        faults = self._faults
        while True:
            for message in await subscriber.take():
                if not faults.streams:
                    await context.write(message)
                    subscriber.wrote()
                    continue
                for copy in faults.copies(message, subscriber.sent + 1):
                    await context.write(copy)
                subscriber.wrote()
                faults.check_cut(subscriber.sent)

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
