"""What reviews of the existing client found: findings that concern all clients alike.

Which finding has its test where is listed in test_surface.
"""

import asyncio
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Self

import grpc
import pytest
from google.protobuf.message import Message

import mxfast
from mxfast import (
    ClientOptions,
    GalaxyRepositoryClient,
    GatewayClient,
    MxAccessError,
    MxGatewayError,
    MxGatewayTransportError,
    Session,
)
from mxfast.contract import galaxy_repository as galaxy_pb
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import is_mxaccess_failure
from tests.conftest import KEY, SECRET, SESSION_ID, Context, ScriptedGateway, ok

OPTIONS = ClientOptions("localhost:5120", KEY, plaintext=True, stream_timeout=7.5, call_timeout=2.5)

STREAMS: dict[str, tuple[str, type[Message], Callable[[Any], Any]]] = {
    "events": ("StreamEvents", pb.MxEvent, lambda opened: opened.session.stream_events()),
    "event batches": ("StreamEvents", pb.MxEvent, lambda opened: opened.session.event_batches()),
    "raw events": (
        "StreamEvents",
        pb.MxEvent,
        lambda opened: opened.client.stream_events_raw(pb.StreamEventsRequest()),
    ),
    "alarms": ("StreamAlarms", pb.AlarmFeedMessage, lambda opened: opened.client.stream_alarms()),
    "active alarms": (
        "QueryActiveAlarms",
        pb.ActiveAlarmSnapshot,
        lambda opened: opened.client.query_active_alarms(),
    ),
    "deploys": (
        "WatchDeployEvents",
        galaxy_pb.DeployEvent,
        lambda opened: opened.galaxy.watch_deploy_events(),
    ),
}


class Call:
    """A stream as gRPC's calls are: iterated over, and cancelled."""

    def __init__(self, messages: list[Message], end: BaseException | None) -> None:
        self._messages = messages
        self._end = end
        self.cancelled = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        if self._end is None:
            await asyncio.Event().wait()
        assert self._end is not None
        raise self._end

    def cancel(self) -> bool:
        self.cancelled += 1
        return True


class Stub:
    """Stands for a gateway; ``take_timeout=False`` has streams without that keyword."""

    def __init__(self, *, take_timeout: bool = True, end: BaseException | None = None) -> None:
        self.keywords: list[dict[str, Any]] = []
        self.opened: list[Call] = []
        for name, message_type, _ in STREAMS.values():
            setattr(self, name, self._stream(message_type, take_timeout, end))

    def _stream(
        self, message_type: type[Message], take_timeout: bool, end: BaseException | None
    ) -> Callable[..., Call]:
        def opened(**keywords: Any) -> Call:
            self.keywords.append(keywords)
            messages = [message_type(), message_type()]
            for number, message in enumerate(messages):
                if isinstance(message, galaxy_pb.DeployEvent):
                    message.sequence = 1 + number
            self.opened.append(Call(messages, end))
            return self.opened[-1]

        def with_timeout(request: Message, *, timeout: float, metadata: Any) -> Call:
            return opened(timeout=timeout, metadata=metadata)

        def without_timeout(request: Message, *, metadata: Any) -> Call:
            return opened(metadata=metadata)

        return with_timeout if take_timeout else without_timeout

    async def OpenSession(self, request: pb.OpenSessionRequest, **keywords: Any) -> Message:
        self.keywords.append(keywords)
        return pb.OpenSessionReply(session_id=SESSION_ID, protocol_status=ok())

    async def CloseSession(self, request: pb.CloseSessionRequest) -> Message:
        return pb.CloseSessionReply(protocol_status=ok())

    async def Invoke(
        self,
        request: pb.MxCommandRequest,
        timeout: float,  # noqa: ASYNC109 - as gRPC names it
    ) -> Message:
        self.keywords.append({"timeout": timeout})
        reply = pb.MxCommandReply(protocol_status=ok(), kind=request.command.kind)
        if request.command.HasField("register"):
            reply.register.server_handle = len(request.command.register.client_name)
        return reply

    async def TestConnection(self, request: galaxy_pb.TestConnectionRequest) -> Message:
        raise grpc.RpcError(f"no {KEY}")


class Opened:
    """Both clients and a session on one stub."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.client = GatewayClient(OPTIONS, stub=stub)
        self.galaxy = GalaxyRepositoryClient(OPTIONS, stub=stub)
        self.session = Session(self.client._transport, OPTIONS, SESSION_ID)


# Stubs


async def test_a_stub_stands_for_a_gateway() -> None:
    stub = Stub()
    async with (
        GatewayClient(OPTIONS, stub=stub) as client,
        await client.open_session("line-4") as session,
    ):
        assert session.session_id == SESSION_ID
        assert await session.register("abc") == 3
    assert stub.keywords[0]["timeout"] == 2.5
    assert dict(stub.keywords[0]["metadata"])["authorization"] == f"Bearer {KEY}"
    assert stub.keywords[1] == {"timeout": 2.5}
    galaxy = GalaxyRepositoryClient(OPTIONS, stub=stub)
    with pytest.raises(MxGatewayTransportError, match=r"test_connection: .*no mxgw_test_\*\*\*"):
        await galaxy.test_connection()


def test_a_stub_and_a_channel_do_not_go_together() -> None:
    channel: Any = object()
    with pytest.raises(ValueError, match="either a channel or a stub"):
        GatewayClient(OPTIONS, stub=Stub(), channel=channel)


async def test_a_generator_may_stand_for_a_stream() -> None:
    closed = asyncio.Event()

    class Generator:
        async def StreamAlarms(self, request: Message) -> AsyncIterator[Message]:
            try:
                while True:
                    yield pb.AlarmFeedMessage(snapshot_complete=True)
            finally:
                closed.set()

    async with GatewayClient(OPTIONS, stub=Generator()).stream_alarms() as feed:
        assert (await anext(feed)).snapshot_complete
    await closed.wait()


@pytest.mark.parametrize("how", ["close", "cancel the task"])
async def test_a_generator_that_waits_is_closed_too(how: str) -> None:
    waits, closed = asyncio.Event(), asyncio.Event()

    class Generator:
        async def StreamAlarms(self, request: Message) -> AsyncIterator[Message]:
            yield pb.AlarmFeedMessage(snapshot_complete=True)
            try:
                waits.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

    feed = GatewayClient(OPTIONS, stub=Generator()).stream_alarms()
    assert (await anext(feed)).snapshot_complete

    async def read_on() -> list[Message]:
        return [message async for message in feed]

    reader = asyncio.create_task(read_on())
    await waits.wait()
    if how == "close":
        await feed.aclose()
        async with asyncio.timeout(20):
            assert await reader == []
    else:
        reader.cancel()
        await asyncio.wait([reader])
        assert await read_on() == []
    assert closed.is_set()


# Streams


@pytest.mark.parametrize("take_timeout", [True, False])
@pytest.mark.parametrize("name", STREAMS)
async def test_a_streams_timeout_is_passed_and_left_out_where_it_is_not_taken(
    name: str, take_timeout: bool
) -> None:
    stub = Stub(take_timeout=take_timeout)
    stream = STREAMS[name][2](Opened(stub))
    await anext(stream)
    assert stub.keywords[0].get("timeout") == (7.5 if take_timeout else None)
    assert dict(stub.keywords[0]["metadata"])["authorization"] == f"Bearer {KEY}"
    await stream.aclose()


@pytest.mark.parametrize("ending", ["cancelled task", "error", "end", "close"])
@pytest.mark.parametrize("name", STREAMS)
async def test_one_iterator_cancels_every_stream(name: str, ending: str) -> None:
    end = {"error": grpc.RpcError("broke off"), "end": StopAsyncIteration()}.get(ending)
    stub = Stub(end=end)
    stream = STREAMS[name][2](Opened(stub))
    await anext(stream)
    (call,) = stub.opened

    async def read_on() -> None:
        async for _ in stream:
            pass

    if ending == "close":
        await stream.aclose()
    elif ending == "cancelled task":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read_on()
        await asyncio.sleep(0.01)
    elif ending == "error":
        with pytest.raises(MxGatewayTransportError, match="broke off"):
            await read_on()
    else:
        await read_on()
    # A stream that has ended by itself has nothing left to cancel.
    assert call.cancelled == (0 if ending == "end" else 1)


# Closing


@pytest.mark.parametrize("client_type", [GatewayClient, GalaxyRepositoryClient])
async def test_concurrent_close_of_a_client_closes_its_channel_once(
    monkeypatch: pytest.MonkeyPatch, client_type: type[GatewayClient | GalaxyRepositoryClient]
) -> None:
    client = client_type(OPTIONS)
    close, closed = client._channel.close, []

    async def counted(grace: float | None = None) -> None:
        closed.append(grace)
        await asyncio.sleep(0)
        await close()

    monkeypatch.setattr(client._channel, "close", counted)
    await asyncio.gather(*(client.close() for _ in range(5)))
    async with client:
        pass
    assert len(closed) == 1


# Raw calls


def test_every_raw_method_says_that_mxaccess_failure_does_not_raise() -> None:
    raw = [
        member
        for owner in (GatewayClient, Session)
        for name, member in inspect.getmembers(owner)
        if name.endswith("_raw")
    ]
    assert len(raw) == 6
    for method in raw:
        text = " ".join((method.__doc__ or "").split())
        assert "does not raise" in text or "Only the protocol status is checked" in text, method


async def test_stream_events_raw_gives_events_that_failed(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    failed = pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE,
        statuses=[pb.MxStatusProxy(category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR)],
    )

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield failed.SerializeToString()

    scripted.stream["StreamEvents"] = stream
    async with await scripted.connect() as client:
        request = pb.StreamEventsRequest(session_id=SESSION_ID)
        assert [event async for event in client.stream_events_raw(request)] == [failed]
    assert [event async for event in scripted_session.stream_events_raw()] == [failed]


# Status


@pytest.mark.parametrize(
    "category", [*pb.MxStatusCategory.values(), 99], ids=lambda number: f"category {number}"
)
async def test_a_status_raises_only_for_warnings_and_errors(
    scripted: ScriptedGateway, scripted_session: Session, category: int
) -> None:
    reply = pb.MxCommandReply(
        protocol_status=ok(),
        statuses=[pb.MxStatusProxy(success=0, category=category)],  # type: ignore[arg-type]
    )
    scripted.reply_with(reply)
    harmless = ("UNSPECIFIED", "UNKNOWN", "OK", "PENDING")
    names = {pb.MxStatusCategory.Value(f"MX_STATUS_CATEGORY_{name}") for name in harmless}
    assert is_mxaccess_failure(reply) == (category not in names)
    if category in names:
        await scripted_session.ping()
    else:
        with pytest.raises(MxAccessError):
            await scripted_session.ping()


# The key


async def first_of(open_stream: Callable[[Any], Any], opened: Any) -> Any:
    return await anext(open_stream(opened))


async def test_the_key_is_absent_from_every_repr_log_and_error_however_nested(
    scripted: ScriptedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, f"metadata was Bearer {KEY}")
        raise AssertionError

    async def fail_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.INTERNAL, f"metadata was Bearer {KEY}")
        yield b""

    scripted.unary.update(Invoke=fail, AcknowledgeAlarm=fail, TestConnection=fail)
    scripted.unary.update(DiscoverHierarchy=fail, BrowseChildren=fail)
    for stream_name, _, _ in STREAMS.values():
        scripted.stream[stream_name] = fail_stream
    options = ClientOptions(scripted.endpoint, KEY, plaintext=True)
    async with (
        GatewayClient(options) as client,
        GalaxyRepositoryClient(options) as galaxy,
        await client.open_session() as session,
    ):
        opened: Any = type("Opened", (), {"client": client, "galaxy": galaxy, "session": session})
        calls: list[Callable[[], Any]] = [
            session.ping,
            lambda: session.write_array(1, [1], [1.0]),
            lambda: client.acknowledge_alarm("A.B"),
            galaxy.test_connection,
            galaxy.discover_hierarchy,
            galaxy.browse,
        ]
        calls += [partial(first_of, open_stream, opened) for _, _, open_stream in STREAMS.values()]
        for call in calls:
            with pytest.raises(MxGatewayError, match=r"INTERNAL.*mxgw_test_\*\*\*") as caught:
                await call()
            assert caught.value.code is grpc.StatusCode.INTERNAL
            error: BaseException | None = caught.value
            while error is not None:
                assert SECRET not in f"{error!r}{error}{error.args}{error.__dict__}"
                error = error.__cause__ or error.__context__
        things = [options, client, galaxy, session, [client], {"key": (galaxy, options)}]
        assert SECRET not in f"{things!r}{things}"
        assert repr(galaxy).startswith("<GalaxyRepositoryClient ClientOptions(")
    assert SECRET not in caplog.text


# Names and import


def test_the_names_of_the_drop_in_layer_are_there() -> None:
    names = """GatewayClient Session GalaxyRepositoryClient ClientOptions create_channel to_mx_value
        from_mx_value MAX_BULK_ITEMS MxGatewayError MxGatewayTransportError
        MxGatewayAuthenticationError MxGatewayAuthorizationError MxGatewayTimeoutError
        MxGatewaySessionError MxGatewayWorkerError MxGatewayCommandError MxAccessError
        MalformedReplyError __version__"""
    assert set(names.split()) <= set(mxfast.__all__)
    methods = {
        GatewayClient: """connect open_session open_session_raw close_session_raw invoke invoke_raw
            stream_events_raw query_active_alarms stream_alarms acknowledge_alarm close""",
        Session: """session_id register unregister add_item add_item2 remove_item advise un_advise
            advise_supervisory add_buffered_item set_buffered_update_interval suspend activate write
            write2 write_secured write_secured2 authenticate_user archestra_user_to_id
            add_item_bulk advise_item_bulk remove_item_bulk un_advise_item_bulk subscribe_bulk
            unsubscribe_bulk write_bulk write2_bulk write_secured_bulk write_secured2_bulk read_bulk
            write_array_elements ping get_session_state get_worker_info drain_events stream_events
            stream_events_raw invoke invoke_raw close""",
        GalaxyRepositoryClient: """connect test_connection get_last_deploy_time discover_hierarchy
            iter_hierarchy browse watch_deploy_events close""",
    }
    for owner, owned in methods.items():
        for name in owned.split():
            assert hasattr(owner, name), f"{owner.__name__}.{name}"


def test_importing_opens_nothing_reads_no_environment_and_starts_no_task() -> None:
    code = """
import grpc, numpy, google.protobuf.message, google.protobuf.timestamp_pb2
import google.protobuf.duration_pb2, google.protobuf.wrappers_pb2, google.protobuf.message_factory
import asyncio, os, sys, threading

class Watched(dict):
    read = set()
    def __getitem__(self, name):
        self.read.add(name)
        raise KeyError(name)
    def get(self, name, default=None):
        self.read.add(name)
        return default

events = []
def audit(event, arguments):
    if event.startswith("socket.") or event == "subprocess.Popen":
        events.append(event)
sys.addaudithook(audit)
os.environ = Watched()
threads = threading.active_count()
import mxfast, mxfast.galaxy, mxfast.contract
assert not events, events
# protobuf's own, for the generated modules
assert Watched.read <= {"TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK"}, Watched.read
assert threading.active_count() == threads
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass
else:
    raise AssertionError
"""
    environment = {**os.environ, "MXGATEWAY_API_KEY": KEY}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
