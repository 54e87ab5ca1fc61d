"""The simulated gateway: its options, its server and its scan."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mxfast.simulator import galaxy_service, gateway_service
from mxfast.simulator.access import DEFAULT_API_KEY, SCOPES, Access
from mxfast.simulator.alarms import Alarms
from mxfast.simulator.galaxy import Galaxy
from mxfast.simulator.galaxy_service import GalaxyService
from mxfast.simulator.gateway_service import GatewayService
from mxfast.simulator.session import Session, SessionTable
from mxfast.simulator.tags import TagDatabase
from mxfast.simulator.users import SECURITY_LEVELS, Security, Users

_log = logging.getLogger("mxfast.simulator")


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
    secured_tags : mapping of str to {"secured", "verified"}, optional
        Tags that refuse a plain write: a ``"secured"`` one takes a secured write, a
        ``"verified"`` one only where a second user verifies it.
    users : mapping of str to str, optional
        Passwords of the galaxy's users by name. Their ids count from 1, and a user's GUID
        is ``uuid.uuid5(uuid.NAMESPACE_OID, name)``. None, the default, is a galaxy without
        security, which takes any name, password and id.
    galaxy_objects : int, default 100
        Objects of the generated galaxy, areas included.
    galaxy_seed : int, default 0
        Seed of the galaxy: the same seed and size give the same one.

    Raises
    ------
    ValueError
        For a number out of range, an unknown scope or another kind of security.

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
        secured_tags: Mapping[str, Security] | None = None,
        users: Mapping[str, str] | None = None,
        galaxy_objects: int = 100,
        galaxy_seed: int = 0,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port is {port}, not 0 to 65535")
        if not 0 <= update_interval < float("inf"):
            raise ValueError(f"update_interval is {update_interval}, not a number of seconds")
        for name, number in (
            ("max_sessions", max_sessions),
            ("max_message_bytes", max_message_bytes),
            ("event_queue_capacity", event_queue_capacity),
            ("galaxy_objects", galaxy_objects),
        ):
            if number < 1:
                raise ValueError(f"{name} is {number}, not 1 or more")
        wrong = sorted(set((secured_tags or {}).values()) - set(SECURITY_LEVELS))
        if wrong:
            raise ValueError(
                f"secured_tags: {wrong[0]!r} is none of {', '.join(map(repr, SECURITY_LEVELS))}"
            )
        self._security = {tag: SECURITY_LEVELS[kind] for tag, kind in (secured_tags or {}).items()}
        self._users = Users(users)
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
        self._galaxy_objects = galaxy_objects
        self._galaxy_seed = galaxy_seed
        self._alarms: Alarms | None = None
        self._galaxy: Galaxy | None = None
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
        alarms = Alarms(self._event_queue_capacity, time.time_ns)
        galaxy = Galaxy(self._galaxy_objects, self._galaxy_seed, time.time_ns)
        database = TagDatabase(self._tags, self._security, time.time_ns)
        sessions = SessionTable(
            lambda: Session(
                database,
                per_write=self._update_interval == 0,
                event_queue_capacity=self._event_queue_capacity,
                users=self._users,
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
        self._alarms, self._galaxy = None, None
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
