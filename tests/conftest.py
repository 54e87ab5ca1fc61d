"""Gateways to test against: the simulated one, and one that answers by script."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
import hypothesis
import pytest

from mxfast import GatewayClient, Session
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.feed import Feed

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Stream = Callable[[bytes, Context], AsyncIterator[bytes]]

SESSION_ID = "session-scripted"
# A busy machine is no failure: nothing is timed here.
hypothesis.settings.register_profile(
    "mxfast", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("mxfast")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process
# that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

KEY = "mxgw_test_d0ntShowThis"
SECRET = "d0ntShowThis"


def ok() -> pb.ProtocolStatus:
    return pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_OK)


class ScriptedGateway:
    """A real gRPC server whose methods are what a test sets.

    ``unary["Invoke"] = answer`` and ``stream["StreamEvents"] = generator``; sessions open
    and close by themselves. ``calls`` has the name of every call that arrived.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.unary: dict[str, Unary] = {"OpenSession": self._open, "CloseSession": self._close}
        self.stream: dict[str, Stream] = {}
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers([self._Handler(self)])
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    class _Handler(grpc.GenericRpcHandler):
        def __init__(self, gateway: "ScriptedGateway") -> None:
            self._gateway = gateway

        def service(self, details: grpc.HandlerCallDetails) -> Any:
            name = details.method.rpartition("/")[2]
            self._gateway.calls.append(name)
            self._gateway.metadata.append(dict(details.invocation_metadata))
            if name in self._gateway.unary:
                return grpc.unary_unary_rpc_method_handler(self._gateway.unary[name])
            if name in self._gateway.stream:
                return grpc.unary_stream_rpc_method_handler(self._gateway.stream[name])
            return None

    async def _open(self, request: bytes, context: Context) -> bytes:
        return pb.OpenSessionReply(session_id=SESSION_ID, protocol_status=ok()).SerializeToString()

    async def _close(self, request: bytes, context: Context) -> bytes:
        return pb.CloseSessionReply(
            session_id=SESSION_ID,
            final_state=pb.SESSION_STATE_CLOSED,
            protocol_status=ok(),
        ).SerializeToString()

    def connect(self, **fields: Any) -> Awaitable[GatewayClient]:
        return GatewayClient.connect(endpoint=self.endpoint, api_key=KEY, plaintext=True, **fields)

    def reply_with(self, reply: pb.MxCommandReply) -> None:
        """Answer every command with this."""

        async def answer(request: bytes, context: Context) -> bytes:
            return reply.SerializeToString()

        self.unary["Invoke"] = answer

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.stop(None)


@pytest.fixture
async def gateway() -> AsyncIterator[SimulatedGateway]:
    async with SimulatedGateway(update_interval=0) as running:
        yield running


@pytest.fixture
async def client(gateway: SimulatedGateway) -> AsyncIterator[GatewayClient]:
    async with await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
    ) as connected:
        yield connected


@pytest.fixture
async def session(client: GatewayClient) -> AsyncIterator[Session]:
    async with await client.open_session("test") as opened:
        yield opened


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway() as running:
        yield running


@pytest.fixture
async def scripted_session(scripted: ScriptedGateway) -> AsyncIterator[Session]:
    async with await scripted.connect() as connected, await connected.open_session() as opened:
        yield opened


@pytest.fixture
def feed(scripted: ScriptedGateway) -> Feed:
    """What the scripted gateway's event stream sends."""
    made = Feed()
    scripted.stream["StreamEvents"] = made.stream
    return made
