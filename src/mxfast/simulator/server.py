"""The simulated gateway: its options, its server and its scan."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mxfast.simulator.access import Access
from mxfast.simulator.alarms import Alarms
from mxfast.simulator.clock import Clock, Timer
from mxfast.simulator.connections import drop_connections
from mxfast.simulator.events import EventRules
from mxfast.simulator.fault_control import FaultFile, Faults, Target
from mxfast.simulator.faults import Action, fault_from_text
from mxfast.simulator.galaxy import Galaxy
from mxfast.simulator.galaxy_file import read_galaxy
from mxfast.simulator.galaxy_generator import generate
from mxfast.simulator.galaxy_service import GalaxyService
from mxfast.simulator.gateway_service import GatewayService
from mxfast.simulator.options import GatewayOptions
from mxfast.simulator.player import Player
from mxfast.simulator.service import Service
from mxfast.simulator.session import Plant, Session, SessionRules
from mxfast.simulator.sessions import SWEEP_SECONDS, SessionTable
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
        self._faults = Faults()
        given = [fault_from_text(text) for text in self.initial_faults]
        self._strikes = [fault for fault in given if isinstance(fault, Action)]
        for fault in given:
            if not isinstance(fault, Action):
                self._faults.add(fault)
        self._running: _Running | None = None

    @property
    def endpoint(self) -> str:
        """Where the gateway listens, as ``host:port``.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return self._run.endpoint

    @property
    def alarms(self) -> Alarms:
        """The alarms, to be raised, acknowledged and cleared.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return self._run.plant.alarms

    @property
    def galaxy(self) -> Galaxy:
        """The galaxy, to be deployed and disconnected.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return self._run.galaxy

    @property
    def faults(self) -> Faults:
        """The faults, to be added and removed."""
        return self._faults

    @property
    def open_sessions(self) -> int:
        """How many sessions are open, faulted ones included.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return len(list(self._run.sessions))

    @property
    def event_streams(self) -> int:
        """How many event streams are attached.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return sum(len(session.events.subscribers) for session in self._run.sessions)

    def recorded_user(self, tag: str) -> int:
        """Return the id of the user whom the last write to a tag recorded, 0 for none.

        A plain write records its user only where the item has a supervisory advise
        (contract notes, Writes).

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        return self._run.plant.users.recorded.get(tag, 0)

    @property
    def _run(self) -> "_Running":
        if self._running is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._running

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("the simulated gateway is running already")
        clock = self._clock
        galaxy = self._make_galaxy()
        plant = self._plant(galaxy)
        rules = self._session_rules()
        sessions = SessionTable(
            partial(Session, plant, rules),
            clock,
            limit=self.max_sessions,
            lease=self.lease,
            detach_grace=self.detach_grace if self.era > 1 else 0.0,
        )
        player = Player(self.signals, plant.database, clock)
        server = await self._make_server(
            GatewayService(sessions, plant, self._access, self.command_timeout),
            GalaxyService(galaxy, self._access, self._faults, clock),
        )
        fault_file = None
        if self.fault_file is not None:
            fault_file = FaultFile(os.fspath(self.fault_file), self._faults)
        port = self._listen(server)
        await server.start()
        self._faults.attach(
            Target(clock, sessions, plant.alarms, galaxy, lambda: drop_connections(port))
        )
        for fault in self._strikes:
            self._faults.add(fault)
        if fault_file is not None:
            fault_file.begin()
        player.start()
        timers = [clock.every(SWEEP_SECONDS, sessions.sweep)]
        if self.update_interval > 0:
            timers.append(clock.every(self.update_interval, lambda: _scan(sessions)))
        self._running = _Running(
            server, f"{self._address}:{port}", sessions, plant, galaxy, player, timers, fault_file
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.player.stop()
        for timer in running.timers:
            timer.cancel()
        self._faults.detach()
        if running.fault_file is not None:
            running.fault_file.close()
        await running.server.stop(None)
        running.sessions.close_all()

    def _make_galaxy(self) -> Galaxy:
        objects = (
            generate(self.galaxy_objects, self.galaxy_seed)
            if self.galaxy_file is None
            else read_galaxy(os.fspath(self.galaxy_file))
        )
        return Galaxy(objects, self._clock.time_ns)

    def _plant(self, galaxy: Galaxy) -> Plant:
        security = {tag: SECURITY_LEVELS[kind] for tag, kind in (self.secured_tags or {}).items()}
        names = () if self.tags is None and self.galaxy_file is not None else self.tags
        return Plant(
            database=TagDatabase(names, galaxy.attribute, security, self._clock.time_ns),
            users=Users(self.users),
            alarms=Alarms(self.event_queue_capacity, self._clock.time_ns),
            faults=self._faults,
            clock=self._clock,
        )

    def _session_rules(self) -> SessionRules:
        return SessionRules(
            era=self.era,
            per_write=self.update_interval == 0,
            strict_writes=self.strict_writes,
            pending_limit=self.max_pending_commands,
            events=EventRules(
                capacity=self.event_queue_capacity,
                most_subscribers=self.max_event_subscribers if self.era > 1 else 1,
                fail_fast=self.overflow_policy == "FailFast",
                replays=self.era > 1,
            ),
        )

    async def _make_server(self, *services: Service) -> grpc.aio.Server:
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
        server.add_generic_rpc_handlers([service.handlers() for service in services])
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names = [service.name for service in services]
        for name in ("", *names):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        names += [health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
        return server

    def _listen(self, server: grpc.aio.Server) -> int:
        address = f"{self._address}:{self.port}"
        if self.identity is None:
            return _bind(server.add_insecure_port, address)
        credentials = grpc.ssl_server_credentials([self.identity])

        def add(address: str) -> int:
            return server.add_secure_port(address, credentials)

        try:
            return _bind(add, address)
        except OSError:
            # gRPC says the same of a port and of a certificate. A port that is free tells
            # them apart; nothing is served on it.
            try:
                add("127.0.0.1:0")
            except RuntimeError as error:
                raise OSError(
                    "the simulated gateway cannot serve TLS with the given key and certificate "
                    "chain: they must be PEM, and belong to each other"
                ) from error
            raise


def _bind(add: Callable[[str], int], address: str) -> int:
    try:
        return add(address)
    except RuntimeError as error:
        raise OSError(
            f"the simulated gateway cannot listen on {address}: the port is taken or reserved, or "
            f"the address is not this machine's ({error})"
        ) from error


@dataclass(frozen=True)
class _Running:
    """What a gateway has while it runs."""

    server: grpc.aio.Server
    endpoint: str
    sessions: SessionTable
    plant: Plant
    galaxy: Galaxy
    player: Player
    timers: list[Timer]
    fault_file: FaultFile | None


def _scan(sessions: SessionTable) -> None:
    """Publish the data changes of all sessions."""
    for session in sessions:
        try:
            session.changes.scan()
        except Exception:
            _log.exception("the scan of %s failed", session.session_id)
