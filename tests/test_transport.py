import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from mxfast import ClientOptions, GatewayClient, MxGatewayConnectionError, MxGatewaySessionError
from mxfast.channel import create_channel
from mxfast.contract import GATEWAY_METHODS
from mxfast.transport import GrpcTransport
from tests.conftest import KEY, Context, ScriptedGateway

INVOKE = GATEWAY_METHODS["Invoke"]
EVENTS = GATEWAY_METHODS["StreamEvents"]


class Ended:
    """A method that never answers, and tells when the client has gone away."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def unary(self, request: bytes, context: Context) -> bytes:
        await self._hold(context)
        return b""

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await self._hold(context)

    async def _hold(self, context: Context) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@pytest.fixture
async def transport(scripted: ScriptedGateway) -> AsyncIterator[GrpcTransport]:
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    opened = GrpcTransport(create_channel(options), options)
    yield opened
    await opened.close()


async def test_bytes_arrive_as_they_are(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    async def echo(request: bytes, context: Context) -> bytes:
        return request

    scripted.unary["Invoke"] = echo
    for request in (b"", b"\x00\xff", bytes(range(256)) * 1000):
        reply = await transport.unary(INVOKE, request, timeout=10)
        assert type(reply) is bytes
        assert reply == request
    assert {call["authorization"] for call in scripted.metadata} == {f"Bearer {KEY}"}


async def test_no_key_no_authorization(scripted: ScriptedGateway) -> None:
    options = ClientOptions(scripted.endpoint, plaintext=True)
    transport = GrpcTransport(create_channel(options), options)
    await transport.unary(GATEWAY_METHODS["OpenSession"], b"", timeout=10)
    assert "authorization" not in scripted.metadata[0]
    await transport.close()


async def test_stream_gives_every_message_then_ends(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    async def count(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(100):
            yield str(number).encode()

    scripted.stream["StreamEvents"] = count
    stream = transport.stream(EVENTS, b"", timeout=None)
    assert [m async for batch in stream for m in batch] == [str(n).encode() for n in range(100)]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_stream_error_comes_after_the_messages(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    async def break_off(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"gone {KEY}")

    scripted.stream["StreamEvents"] = break_off
    stream = transport.stream(EVENTS, b"", timeout=None)
    assert await anext(stream) == [b"1"]
    with pytest.raises(MxGatewayConnectionError, match=r"StreamEvents: .*gone mxgw_test_\*\*\*"):
        await anext(stream)


async def test_stream_timeout_is_passed(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    scripted.stream["StreamEvents"] = Ended().stream
    stream = transport.stream(EVENTS, b"", timeout=0.1)
    with pytest.raises(TimeoutError, match="stream's time"):
        async for _ in stream:
            pass


async def test_cancelled_task_cancels_its_call(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    call = Ended()
    scripted.unary["Invoke"] = call.unary
    task = asyncio.create_task(transport.unary(INVOKE, b"", timeout=None))
    await call.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await call.cancelled.wait()


@pytest.mark.parametrize("how", ["close", "cancel", "forget"])
async def test_stream_that_is_left_is_cancelled(
    scripted: ScriptedGateway, transport: GrpcTransport, how: str
) -> None:
    call = Ended()
    scripted.stream["StreamEvents"] = call.stream
    stream = transport.stream(EVENTS, b"", timeout=None)
    assert await anext(stream) == [b"first"]
    # Before that the method stands at its yield, where a cancelled call leaves it for good.
    await call.begun.wait()
    if how == "close":
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    elif how == "cancel":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    else:
        del stream
    await call.cancelled.wait()


async def test_closing_the_stream_ends_a_loop_in_another_task(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    call = Ended()
    scripted.stream["StreamEvents"] = call.stream
    stream = transport.stream(EVENTS, b"", timeout=None)

    async def read_on() -> list[list[bytes]]:
        return [batch async for batch in stream]

    assert await anext(stream) == [b"first"]
    reader = asyncio.create_task(read_on())
    await asyncio.sleep(0)
    await stream.aclose()
    assert await reader == []


async def test_closed_client_fails_what_is_under_way_without_cancelling_the_task(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    unary, stream = Ended(), Ended()
    scripted.unary["Invoke"] = unary.unary
    scripted.stream["StreamEvents"] = stream.stream
    opened = transport.stream(EVENTS, b"", timeout=None)
    await anext(opened)
    waiting = [
        asyncio.create_task(transport.unary(INVOKE, b"", timeout=None)),
        asyncio.create_task(opened.__anext__()),
    ]
    await unary.begun.wait()
    await transport.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [MxGatewaySessionError] * 2
    assert all("the client is closed" in str(result) for result in results)


async def test_closed_client_takes_no_call(
    scripted: ScriptedGateway, transport: GrpcTransport
) -> None:
    await transport.close()
    with pytest.raises(MxGatewaySessionError, match="Invoke: the client is closed"):
        await transport.unary(INVOKE, b"", timeout=None)
    with pytest.raises(MxGatewaySessionError, match="StreamEvents: the client is closed"):
        transport.stream(EVENTS, b"", timeout=None)
    assert scripted.calls == []


async def test_channel_closed_by_its_owner(scripted: ScriptedGateway) -> None:
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    channel = create_channel(options)
    client = GatewayClient(options, channel=channel)
    session = await client.open_session()
    await channel.close()
    with pytest.raises(MxGatewaySessionError, match="closed"):
        await session.ping()
    with pytest.raises(MxGatewaySessionError, match="closed"):
        await anext(session.stream_events())


async def test_cancelled_close_still_closes_for_the_others(scripted: ScriptedGateway) -> None:
    call = Ended()
    scripted.unary["Invoke"] = call.unary
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    transport = GrpcTransport(create_channel(options), options)
    waiting = asyncio.create_task(transport.unary(INVOKE, b"", timeout=None))
    await call.begun.wait()
    first = asyncio.create_task(transport.close())
    second = asyncio.create_task(transport.close())
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(MxGatewaySessionError):
        await waiting


@pytest.mark.parametrize("times", [1, 5])
async def test_concurrent_close_is_one_close(scripted: ScriptedGateway, times: int) -> None:
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    channel = create_channel(options)
    closed = 0
    close: Callable[[], object] = channel.close

    async def counted(grace: float | None = None) -> None:
        nonlocal closed
        closed += 1
        await asyncio.sleep(0)
        await close()  # type: ignore[misc]

    channel.close = counted  # type: ignore[method-assign]
    transport = GrpcTransport(channel, options)
    await asyncio.gather(*(transport.close() for _ in range(times)))
    await transport.close()
    assert closed == 1
