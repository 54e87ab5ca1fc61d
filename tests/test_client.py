import asyncio
import logging
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import grpc
import pytest

import mxfast
from mxfast import (
    ClientOptions,
    GatewayClient,
    MalformedReplyError,
    MxGatewayAuthenticationError,
    MxGatewayAuthorizationError,
    MxGatewaySessionError,
    connection,
    create_channel,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.conftest import KEY, SECRET, SESSION_ID, Context, ScriptedGateway, ok


async def test_connect_with_options_fields_or_both(gateway: SimulatedGateway) -> None:
    options = ClientOptions(gateway.endpoint, gateway.api_key, plaintext=True)
    async with await GatewayClient.connect(options) as client:
        assert client.options is options
    async with await GatewayClient.connect(options, call_timeout=5) as client:
        assert client.options.call_timeout == 5
        assert client.options.endpoint == gateway.endpoint


async def test_unknown_field() -> None:
    fields: dict[str, Any] = {"endpoint": "localhost:1", "colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        await GatewayClient.connect(**fields)


@pytest.mark.parametrize("key", ["mxgw_demo_wr0ngSecret", "n0tEvenAKey", None])
async def test_wrong_key(gateway: SimulatedGateway, key: str | None) -> None:
    async with await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=key, plaintext=True
    ) as client:
        with pytest.raises(MxGatewayAuthenticationError, match="UNAUTHENTICATED") as caught:
            await client.open_session()
    assert isinstance(caught.value, PermissionError)
    assert "wr0ngSecret" not in str(caught.value)
    assert "n0tEvenAKey" not in str(caught.value)


async def test_key_without_the_scope() -> None:
    keys = {"mxgw_reader_abcd": ["session:open", "session:close", "invoke:read"]}
    async with (
        SimulatedGateway(api_keys=keys) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("reader")
        item = await session.add_item(server, "Tank1.Level")
        with pytest.raises(MxGatewayAuthorizationError, match=r"mxgw_reader_\*\*\*"):
            await session.write(server, item, 1.0)
        with pytest.raises(MxGatewayAuthorizationError) as caught:
            await session.write_array(server, [item], [1.0])
        assert caught.value.operation == "write_array"


async def test_open_session_passes_what_is_given(scripted: ScriptedGateway) -> None:
    requests = []

    async def answer(request: bytes, context: Context) -> bytes:
        requests.append(pb.OpenSessionRequest.FromString(request))
        return await open_session(request, context)

    open_session = scripted.unary["OpenSession"]
    scripted.unary["OpenSession"] = answer
    async with await scripted.connect() as client:
        session = await client.open_session(
            "line-4",
            requested_backend="mxaccess-worker",
            client_correlation_id="abc",
            command_timeout=2.5,
        )
        assert session.session_id == SESSION_ID
    request = requests[0]
    assert request.client_session_name == "line-4"
    assert request.requested_backend == "mxaccess-worker"
    assert request.client_correlation_id == "abc"
    assert request.command_timeout.ToTimedelta().total_seconds() == 2.5


@pytest.mark.parametrize("reply", [b"", b"\xff\xff\xff", b"\x0a\x00"])
async def test_garbage_instead_of_a_session(scripted: ScriptedGateway, reply: bytes) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return reply

    scripted.unary["OpenSession"] = answer
    async with await scripted.connect() as client:
        with pytest.raises(MalformedReplyError, match="open_session"):
            await client.open_session()


async def test_reply_without_session_id(scripted: ScriptedGateway) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        reply = pb.OpenSessionReply()
        reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
        reply.protocol_status.message = KEY
        return reply.SerializeToString()

    scripted.unary["OpenSession"] = answer
    async with await scripted.connect() as client:
        with pytest.raises(MalformedReplyError, match="no session id") as caught:
            await client.open_session()
        assert SECRET not in repr(caught.value.reply)


@pytest.mark.parametrize("session_id", ["", SESSION_ID])
async def test_a_session_that_mxaccess_refuses(scripted: ScriptedGateway, session_id: str) -> None:
    status = pb.ProtocolStatus(
        code=pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE, message="COM class is not registered"
    )
    reply = pb.OpenSessionReply(session_id=session_id, protocol_status=status)

    async def answer(request: bytes, context: Context) -> bytes:
        return reply.SerializeToString()

    scripted.unary["OpenSession"] = answer
    async with await scripted.connect() as client:
        with pytest.raises(mxfast.MxAccessError, match=r"^open_session: .* not registered") as one:
            await client.open_session()
        assert one.value.reply == reply


# A cancelled open_session: the gateway starts the worker all the same.


async def test_a_session_that_comes_too_late_is_closed(scripted: ScriptedGateway) -> None:
    opening, opens, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    open_session, close_session = scripted.unary["OpenSession"], scripted.unary["CloseSession"]

    async def open_late(request: bytes, context: Context) -> bytes:
        opening.set()
        await opens.wait()
        return await open_session(request, context)

    async def close(request: bytes, context: Context) -> bytes:
        assert pb.CloseSessionRequest.FromString(request).session_id == SESSION_ID
        closed.set()
        return await close_session(request, context)

    scripted.unary |= {"OpenSession": open_late, "CloseSession": close}
    async with await scripted.connect() as client:
        task = asyncio.create_task(client.open_session())
        await opening.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not closed.is_set()
        opens.set()
        async with asyncio.timeout(20):
            await closed.wait()


async def test_closing_the_client_waits_for_a_cancelled_open(scripted: ScriptedGateway) -> None:
    opening, opens = asyncio.Event(), asyncio.Event()
    open_session = scripted.unary["OpenSession"]

    async def open_late(request: bytes, context: Context) -> bytes:
        opening.set()
        await opens.wait()
        return await open_session(request, context)

    scripted.unary["OpenSession"] = open_late
    client = await scripted.connect()
    task = asyncio.create_task(client.open_session())
    await opening.wait()
    task.cancel()
    await asyncio.wait([task])
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    opens.set()
    await closing
    assert scripted.calls == ["OpenSession", "CloseSession"]


async def test_a_cancelled_open_without_an_answer_ends_with_the_client(
    scripted: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LEAVING_SECONDS", 0.01)
    opening = asyncio.Event()

    async def never(request: bytes, context: Context) -> bytes:
        opening.set()
        await asyncio.Event().wait()
        raise AssertionError

    scripted.unary["OpenSession"] = never
    # A channel of its own, which the client does not close: the call must end all the same.
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    async with create_channel(options) as channel:
        client = GatewayClient(options, channel=channel)
        task = asyncio.create_task(client.open_session())
        await opening.wait()
        task.cancel()
        await asyncio.wait([task])
        assert any("open_session_raw" in repr(each) for each in asyncio.all_tasks())
        await client.close()
        assert not any("open_session_raw" in repr(each) for each in asyncio.all_tasks())


class Counting:
    """A stub that counts its sessions, and cancels a task some steps after a reply."""

    def __init__(self, steps: int) -> None:
        self.open = 0
        self.task: asyncio.Task[Any] | None = None
        self._steps = steps

    async def OpenSession(self, request: pb.OpenSessionRequest) -> pb.OpenSessionReply:
        self.open += 1
        self._step(self._steps)
        return pb.OpenSessionReply(session_id=SESSION_ID, protocol_status=ok())

    def _step(self, left: int) -> None:
        assert self.task is not None
        if left:
            asyncio.get_running_loop().call_soon(self._step, left - 1)
        else:
            self.task.cancel()

    async def CloseSession(self, request: pb.CloseSessionRequest) -> pb.CloseSessionReply:
        self.open -= 1
        return pb.CloseSessionReply(session_id=SESSION_ID, protocol_status=ok())


async def test_no_session_is_lost_whenever_its_open_is_cancelled() -> None:
    ends = set()
    for steps in range(8):
        stub = Counting(steps)
        async with GatewayClient(ClientOptions("localhost:5120", plaintext=True), stub=stub) as one:
            task = stub.task = asyncio.create_task(one.open_session())
            await asyncio.wait([task])
            ends.add(task.cancelled())
            if not task.cancelled():
                assert stub.open == 1
                await task.result().close()
        assert stub.open == 0, f"cancelled {steps} steps after the reply"
    assert ends == {True, False}, "some were cancelled in time, and some too late"


async def test_a_cancelled_open_that_fails_is_told_of(
    scripted: ScriptedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    opening, opens = asyncio.Event(), asyncio.Event()

    async def fail(request: bytes, context: Context) -> bytes:
        opening.set()
        await opens.wait()
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"64 sessions, {KEY}")
        raise AssertionError

    scripted.unary["OpenSession"] = fail
    client = await scripted.connect()
    task = asyncio.create_task(client.open_session())
    await opening.wait()
    task.cancel()
    await asyncio.wait([task])
    opens.set()
    await client.close()
    assert "may be left: open_session: the session does not take" in caplog.text
    assert SECRET not in caplog.text


async def test_raw_calls(client: GatewayClient) -> None:
    opened = await client.open_session_raw(pb.OpenSessionRequest(client_session_name="raw"))
    request = pb.MxCommandRequest(
        session_id=opened.session_id,
        command={"kind": pb.MX_COMMAND_KIND_REGISTER, "register": {"client_name": "raw"}},
    )
    reply = await client.invoke_raw(request)
    assert reply.register.server_handle != 0
    assert (await client.invoke(request)).HasField("register")
    closed = await client.close_session_raw(pb.CloseSessionRequest(session_id=opened.session_id))
    assert closed.final_state == pb.SESSION_STATE_CLOSED


async def test_invoke_raises_for_mxaccess_and_invoke_raw_does_not(client: GatewayClient) -> None:
    opened = await client.open_session()
    request = pb.MxCommandRequest(
        session_id=opened.session_id,
        command={"kind": pb.MX_COMMAND_KIND_ADVISE, "advise": {"server_handle": 77}},
    )
    reply = await client.invoke_raw(request)
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
    with pytest.raises(mxfast.MxAccessError) as caught:
        await client.invoke(request)
    assert caught.value.reply is not None
    await opened.close()


async def test_unknown_session(client: GatewayClient) -> None:
    request = pb.MxCommandRequest(session_id="session-unknown")
    with pytest.raises(MxGatewaySessionError):
        await client.invoke_raw(request)


async def test_closed_client(gateway: SimulatedGateway) -> None:
    client = await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
    )
    session = await client.open_session()
    await asyncio.gather(client.close(), client.close())
    await client.close()
    with pytest.raises(MxGatewaySessionError, match="client is closed"):
        await client.open_session()
    with pytest.raises(MxGatewaySessionError, match="client is closed"):
        await session.ping()


async def test_injected_channel_is_used_and_left_open(gateway: SimulatedGateway) -> None:
    options = ClientOptions(gateway.endpoint, gateway.api_key, plaintext=True)
    channel = create_channel(options)
    for _ in range(2):
        async with GatewayClient(options, channel=channel) as client:
            await (await client.open_session()).close()
    await channel.close()


async def test_key_is_seen_nowhere(
    scripted: ScriptedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with await scripted.connect() as client:
        session = await client.open_session()
        things = [client, client.options, session, client._transport]
        await session.close()
    assert not any(SECRET in f"{thing!r}{thing}" for thing in things)
    assert SECRET not in caplog.text
    assert KEY not in repr(client)


def test_public_names() -> None:
    assert sorted(mxfast.__all__, key=str.lower) == sorted(set(mxfast.__all__), key=str.lower)
    for name in mxfast.__all__:
        assert getattr(mxfast, name) is not None
    assert mxfast.__version__ == version("mxfast")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = mxfast.nothing_like_it  # type: ignore[attr-defined]


def test_import_opens_nothing_and_needs_only_the_core() -> None:
    code = """
import sys, threading, asyncio
import mxfast
assert threading.active_count() == 1, threading.enumerate()
for module in ("pandas", "pyarrow", "click", "rich", "mxfast.simulator", "mxfast.cli"):
    assert module not in sys.modules, module
"""
    subprocess.run([sys.executable, "-c", code], check=True)
