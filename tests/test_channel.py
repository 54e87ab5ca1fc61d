import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from mxfast import (
    ClientOptions,
    GalaxyRepositoryClient,
    GatewayClient,
    MxGatewayConnectionError,
    MxGatewayTransportError,
    create_channel,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.conftest import KEY, Context, ScriptedGateway, ok


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def test_nobody_there() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(MxGatewayTransportError, match=f"(?i){endpoint}.*refused") as caught:
        await GatewayClient.connect(
            endpoint=endpoint, api_key=KEY, plaintext=True, connect_timeout=0.3
        )
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.operation == "connect"
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_somebody_there_who_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(MxGatewayConnectionError, match="does not answer"):
            await GatewayClient.connect(endpoint=endpoint, plaintext=True, connect_timeout=0.2)


async def test_host_that_does_not_exist() -> None:
    with pytest.raises(MxGatewayConnectionError, match=r"no-such-host\.invalid"):
        await GatewayClient.connect(endpoint="no-such-host.invalid:5120", connect_timeout=0.2)


async def test_gateway_that_starts_later_is_waited_for() -> None:
    port = free_port()
    connecting = asyncio.ensure_future(
        GatewayClient.connect(endpoint=f"127.0.0.1:{port}", plaintext=True, connect_timeout=30)
    )
    # Long enough for the first attempts to be refused.
    await asyncio.sleep(0.3)
    assert not connecting.done()
    async with (
        SimulatedGateway(port=port, api_keys=None),
        await connecting as client,
        await client.open_session() as session,
    ):
        await session.ping()


async def test_cancelled_connect_leaves_nothing_open() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await GatewayClient.connect(endpoint=endpoint, plaintext=True)


async def test_missing_ca_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        create_channel(ClientOptions("localhost:5120", ca_file=tmp_path / "nowhere.pem"))


async def test_ca_file_without_a_certificate(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ValueError, match=r"ca\.pem holds no PEM certificate"):
        create_channel(ClientOptions("localhost:5120", ca_file=file))


async def test_closing_a_session_is_retried(scripted: ScriptedGateway) -> None:
    failures = iter([True, False])

    async def close(request: bytes, context: Context) -> bytes:
        if next(failures):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "for the moment")
        return pb.CloseSessionReply(protocol_status=ok()).SerializeToString()

    scripted.unary["CloseSession"] = close
    async with await scripted.connect() as client:
        session = await client.open_session()
        await session.close()
    assert scripted.calls.count("CloseSession") == 2


RETRIED: dict[str, Callable[[GatewayClient, GalaxyRepositoryClient], Any]] = {
    "TestConnection": lambda client, galaxy: galaxy.test_connection(),
    "GetLastDeployTime": lambda client, galaxy: galaxy.get_last_deploy_time(),
    "DiscoverHierarchy": lambda client, galaxy: galaxy.discover_hierarchy(),
    "BrowseChildren": lambda client, galaxy: galaxy.browse(),
    "QueryActiveAlarms": lambda client, galaxy: anext(client.query_active_alarms(), None),
}


@pytest.mark.parametrize("method", RETRIED)
async def test_what_only_reads_is_retried(scripted: ScriptedGateway, method: str) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        if scripted.calls.count(method) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "for the moment")
        return b""

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield await answer(request, context)

    if method == "QueryActiveAlarms":
        scripted.stream[method] = stream
    else:
        scripted.unary[method] = answer
    async with (
        await scripted.connect() as client,
        await GalaxyRepositoryClient.connect(client.options) as galaxy,
    ):
        await RETRIED[method](client, galaxy)
    assert scripted.calls == [method, method]


@pytest.mark.parametrize("method", ["OpenSession", "Invoke"])
async def test_opening_and_commands_are_never_retried(
    scripted: ScriptedGateway, method: str
) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "for the moment")
        raise AssertionError

    async with await scripted.connect() as client:
        session = await client.open_session()
        scripted.unary[method] = fail
        scripted.calls.clear()
        with pytest.raises(MxGatewayConnectionError):
            await (client.open_session() if method == "OpenSession" else session.write(1, 1, 2.0))
    assert scripted.calls.count(method) == 1


async def test_message_limit_is_raised_on_the_receiving_side(scripted: ScriptedGateway) -> None:
    # gRPC's own limit is 4 MiB.
    scripted.reply_with(
        pb.MxCommandReply(protocol_status=ok(), diagnostic_message="x" * (5 * 1024 * 1024))
    )
    async with await scripted.connect() as client:
        session = await client.open_session()
        await session.ping()


async def test_message_over_the_limit_names_the_option(scripted: ScriptedGateway) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok(), diagnostic_message="x" * 3000))
    async with await scripted.connect(max_message_bytes=2000) as client:
        session = await client.open_session()
        with pytest.raises(MxGatewayTransportError, match="max_message_bytes") as caught:
            await session.ping()
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
