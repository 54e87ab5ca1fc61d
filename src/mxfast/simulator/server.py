"""The simulated gateway: its options, its server and its scan."""

import logging
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mxfast.simulator import galaxy_service, gateway_service
from mxfast.simulator.access import Access
from mxfast.simulator.alarms import Alarms
from mxfast.simulator.clock import Clock, Timer
from mxfast.simulator.galaxy import Galaxy
from mxfast.simulator.galaxy_service import GalaxyService
from mxfast.simulator.gateway_service import GatewayService
from mxfast.simulator.options import GatewayOptions
from mxfast.simulator.session import Session, SessionTable
from mxfast.simulator.tags import TagDatabase
from mxfast.simulator.users import SECURITY_LEVELS, Users

_log = logging.getLogger("mxfast.simulator")


class SimulatedGateway(GatewayOptions):
    """A gateway for tests and demonstrations, as an asynchronous context manager.

    Inside the context it serves on :attr:`endpoint` in the running event loop. Each
    entry starts with an empty gateway. Its options are those of :class:`GatewayOptions`.

    Examples
    --------
    >>> async with SimulatedGateway() as gateway:
    ...     print(gateway.endpoint, gateway.api_key)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._address = f"[{self.host}]" if ":" in self.host else self.host
        self._access = Access(self.api_keys)
        self._clock = self.clock or Clock()
        self._endpoint: str | None = None
        self._server: grpc.aio.Server | None = None
        self._alarms: Alarms | None = None
        self._galaxy: Galaxy | None = None
        self._scanner: Timer | None = None

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
    def alarms(self) -> Alarms:
        """The alarms, to be raised, acknowledged and cleared.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        if self._alarms is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._alarms

    @property
    def galaxy(self) -> Galaxy:
        """The galaxy, to be deployed and disconnected.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        if self._galaxy is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._galaxy

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("the simulated gateway is running already")
        clock = self._clock
        users = Users(self.users)
        alarms = Alarms(self.event_queue_capacity, clock.time_ns)
        galaxy = Galaxy(self.galaxy_objects, self.galaxy_seed, clock.time_ns)
        database = TagDatabase(
            self.tags,
            {tag: SECURITY_LEVELS[kind] for tag, kind in (self.secured_tags or {}).items()},
            clock.time_ns,
        )
        sessions = SessionTable(
            lambda: Session(
                database,
                per_write=self.update_interval == 0,
                event_queue_capacity=self.event_queue_capacity,
                users=users,
                clock=clock,
            ),
            self.max_sessions,
        )
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self.max_message_bytes),
                ("grpc.max_send_message_length", self.max_message_bytes),
                # Clients ping idle connections: the default would cut off one that does so
                # more than once in five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Without this a second gateway on the same port would share its calls.
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers(
            [
                GatewayService(sessions, alarms, self._access).handlers(),
                GalaxyService(galaxy, self._access).handlers(),
            ]
        )
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in ("", gateway_service.SERVICE.full_name, galaxy_service.SERVICE.full_name):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        port = self._listen(server)
        await server.start()
        self._server = server
        self._alarms = alarms
        self._galaxy = galaxy
        self._endpoint = f"{self._address}:{port}"
        if self.update_interval > 0:
            self._scanner = clock.every(self.update_interval, lambda: _scan(sessions))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server, self._server, self._endpoint = self._server, None, None
        self._alarms, self._galaxy = None, None
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            scanner.cancel()
        if server is not None:
            await server.stop(None)

    def _listen(self, server: grpc.aio.Server) -> int:
        address = f"{self._address}:{self.port}"
        try:
            if self.tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, grpc.ssl_server_credentials([self.tls]))
        except RuntimeError as error:
            given = "" if self.tls is None else " with the given key and certificate"
            raise OSError(
                f"the simulated gateway cannot listen on {address}{given}: {error}"
            ) from error


def _scan(sessions: SessionTable) -> None:
    """Publish the data changes of all sessions."""
    for session in sessions:
        try:
            session.scan()
        except Exception:
            _log.exception("the scan of %s failed", session.session_id)
