"""The gRPC server of the simulated gateway: bytes in, bytes out."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError as ProtobufDecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mxfast.codec import DecodeError, decode_write_request
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.access import (
    DEFAULT_API_KEY,
    RPC_SCOPES,
    SCOPES,
    Access,
    command_scope,
    require,
)
from mxfast.simulator.commands import execute
from mxfast.simulator.events import Subscriber
from mxfast.simulator.session import Session, SessionTable
from mxfast.simulator.tags import TagDatabase

_log = logging.getLogger("mxfast.simulator")

_SERVICE = pb.DESCRIPTOR.services_by_name["MxAccessGateway"]

Context = grpc.aio.ServicerContext[bytes, bytes]
Scopes = frozenset[str]

# Inferred: the notes name the fields of OpenSessionReply, not these values.
_GATEWAY_PROTOCOL_VERSION = 1
_WORKER_PROTOCOL_VERSION = 1
_CAPABILITIES = ("bulk-commands", "event-replay")
_DEFAULT_COMMAND_TIMEOUT_S = 30


class SimulatedGateway:
    """A gateway for tests and demonstrations, as an asynchronous context manager.

    Inside the context it serves on :attr:`endpoint` in the running event loop. Each
    entry starts with an empty gateway.

    Parameters
    ----------
    host : str, default "127.0.0.1"
        Address to listen on.
    port : int, default 0
        Port to listen on; 0 lets the system choose one.
    api_keys : mapping of str to iterable of str, or None
        The keys that are accepted, each with its scopes (see :data:`SCOPES`). By default
        :data:`DEFAULT_API_KEY` with all scopes. None switches authentication off.
    update_interval : float, default 0.1
        Seconds between data changes of an advised item: of the writes in between, the
        newest value is told. 0 makes every write a data change of its own.
    tags : iterable of str, or None
        The tags there are. None, the default, accepts any name of the form ``A.B``.
    max_sessions : int, default 64
        Sessions that may be open at once.
    tls : tuple of bytes, or None
        Private key and certificate chain, both PEM; None serves plaintext.
    max_message_bytes : int, default 16 MiB
        Largest message taken or sent.
    event_queue_capacity : int, default 10,000
        Events that the queue of an event stream holds.

    Raises
    ------
    ValueError
        For a number out of range or an unknown scope.

    Examples
    --------
    >>> async with SimulatedGateway() as gateway:
    ...     print(gateway.endpoint, gateway.api_key)
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_keys: Mapping[str, Iterable[str]] | None = {DEFAULT_API_KEY: SCOPES},
        update_interval: float = 0.1,
        tags: Iterable[str] | None = None,
        max_sessions: int = 64,
        tls: tuple[bytes, bytes] | None = None,
        max_message_bytes: int = 16 * 1024 * 1024,
        event_queue_capacity: int = 10_000,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port is {port}, not 0 to 65535")
        if not 0 <= update_interval < float("inf"):
            raise ValueError(f"update_interval is {update_interval}, not a number of seconds")
        for name, number in (
            ("max_sessions", max_sessions),
            ("max_message_bytes", max_message_bytes),
            ("event_queue_capacity", event_queue_capacity),
        ):
            if number < 1:
                raise ValueError(f"{name} is {number}, not 1 or more")
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._access = Access(api_keys)
        self._api_key = next(iter(api_keys), None) if api_keys is not None else None
        self._update_interval = update_interval
        self._tags = None if tags is None else tuple(tags)
        self._max_sessions = max_sessions
        self._tls = tls
        self._max_message_bytes = max_message_bytes
        self._event_queue_capacity = event_queue_capacity
        self._endpoint: str | None = None
        self._server: grpc.aio.Server | None = None
        self._scanner: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """Where the gateway listens, as ``host:port``.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        if self._endpoint is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._endpoint

    @property
    def api_key(self) -> str | None:
        """The first key that is accepted; None without authentication."""
        return self._api_key

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("the simulated gateway is running already")
        database = TagDatabase(self._tags, time.time_ns)
        sessions = SessionTable(
            lambda: Session(
                database,
                per_write=self._update_interval == 0,
                event_queue_capacity=self._event_queue_capacity,
            ),
            self._max_sessions,
        )
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", self._max_message_bytes),
                # Clients ping idle connections: the default would cut off one that does so
                # more than once in five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Without this a second gateway on the same port would share its calls.
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers([_Service(sessions, self._access).handlers()])
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in ("", _SERVICE.full_name):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        port = self._listen(server)
        await server.start()
        self._server = server
        self._endpoint = f"{self._host}:{port}"
        if self._update_interval > 0:
            self._scanner = asyncio.create_task(_scan(sessions, self._update_interval))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server, self._server, self._endpoint = self._server, None, None
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            scanner.cancel()
        if server is not None:
            await server.stop(None)

    def _listen(self, server: grpc.aio.Server) -> int:
        address = f"{self._host}:{self._port}"
        try:
            if self._tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, grpc.ssl_server_credentials([self._tls]))
        except RuntimeError as error:
            given = "" if self._tls is None else " with the given key and certificate"
            raise OSError(
                f"the simulated gateway cannot listen on {address}{given}: {error}"
            ) from error


async def _scan(sessions: SessionTable, interval: float) -> None:
    """Publish the data changes of all sessions once an interval."""
    while True:
        await asyncio.sleep(interval)
        for session in sessions:
            try:
                session.scan()
            except Exception:
                _log.exception("the scan of %s failed", session.session_id)


class _Service:
    """The MxAccessGateway service. Its methods have the names of the RPCs."""

    def __init__(self, sessions: SessionTable, access: Access) -> None:
        self._sessions = sessions
        self._access = access

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return a handler for each RPC there is a method for; gRPC refuses the others."""
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for method in _SERVICE.methods:
            behaviour = getattr(self, method.name, None)
            if behaviour is None:
                continue
            scope = RPC_SCOPES.get(method.name)
            if method.server_streaming:
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(
                    self._guarded(behaviour, scope)
                )
            else:
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._guarded(behaviour, scope)
                )
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def _guarded(
        self, behaviour: Callable[[bytes, Scopes, Context], Awaitable[Any]], scope: str | None
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Check the key first, and turn every exception into a status."""

        async def call(data: bytes, context: Context) -> Any:
            try:
                scopes = self._access.scopes(context.invocation_metadata())
                if scope is not None:
                    require(scope, scopes)
                return await behaviour(data, scopes, context)
            except status.Refusal as error:
                refusal = error
            except (DecodeError, ProtobufDecodeError) as error:
                refusal = status.malformed(error)
            except Exception:
                _log.exception("a call failed")
                refusal = status.internal()
            return await context.abort(refusal.code, str(refusal))

        return call

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
            return self._sessions.ready(write.session_id).write(write)
        request = pb.MxCommandRequest.FromString(data)
        require(command_scope(request.command.kind), scopes)
        return execute(self._sessions.ready(request.session_id), request)

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
