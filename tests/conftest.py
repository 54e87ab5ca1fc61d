"""Gateways to test against: the simulated one, and one that answers by script."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
import hypothesis
import pytest

from mxfast import GatewayClient, Session, from_mx_value
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, VirtualClock
from tests.feed import Feed

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Stream = Callable[[bytes, Context], AsyncIterator[bytes]]
OpenLimited = Callable[..., Awaitable[Session]]

SESSION_ID = "session-scripted"
# A busy machine is no failure: nothing is timed here. In CI a commit passes or does not:
# other runs look for new inputs.
hypothesis.settings.register_profile(
    "mxfast",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
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


class Writes:
    """Answers bulk writes and keeps what was written, request by request."""

    def __init__(self) -> None:
        self.requests: list[pb.MxCommand] = []
        self.sizes: list[int] = []
        self.under_way = 0
        self.most_under_way = 0
        self.before_answer: Callable[[int, Context], Any] | None = None

    async def invoke(self, request: bytes, context: Context) -> bytes:
        message = pb.MxCommandRequest.FromString(request)
        number = len(self.requests)
        self.requests.append(message.command)
        self.sizes.append(len(request))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.before_answer is not None:
                await self.before_answer(number, context)
        finally:
            self.under_way -= 1
        return self.answer(message).SerializeToString()

    def answer(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        name = request.command.WhichOneof("payload")
        assert name is not None
        reply = pb.MxCommandReply(protocol_status=ok(), kind=request.command.kind)
        results = getattr(reply, name).results
        getattr(reply, name).SetInParent()
        for entry in getattr(request.command, name).entries:
            results.add(item_handle=entry.item_handle, was_successful=True)
        return reply

    def handles(self) -> list[list[int]]:
        return [[e.item_handle for e in command.write_bulk.entries] for command in self.requests]

    def written(self) -> list[tuple[int, Any]]:
        return [
            (entry.item_handle, from_mx_value(entry.value))
            for command in self.requests
            for entry in command.write_bulk.entries
        ]


@pytest.fixture
def clock() -> VirtualClock:
    """The time of a simulated gateway, which stands until a test moves it."""
    return VirtualClock()


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
def writes(scripted: ScriptedGateway) -> Writes:
    answers = Writes()
    scripted.unary["Invoke"] = answers.invoke
    return answers


@pytest.fixture
async def open_limited(scripted: ScriptedGateway) -> AsyncIterator[OpenLimited]:
    async with AsyncExitStack() as opened:

        async def open_session(**fields: Any) -> Session:
            client = await opened.enter_async_context(await scripted.connect(**fields))
            return await client.open_session()

        yield open_session


@pytest.fixture
def feed(scripted: ScriptedGateway) -> Feed:
    """What the scripted gateway's event stream sends."""
    made = Feed()
    scripted.stream["StreamEvents"] = made.stream
    return made
