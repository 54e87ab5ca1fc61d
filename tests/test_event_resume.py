"""Event streams that outlive their connection: real gateways, and a proxy that cuts."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from mxfast import (
    EventBatch,
    GatewayClient,
    MxGatewayConnectionError,
    MxGatewaySessionError,
    MxGatewaySessionLostError,
    Session,
    reader,
    recovery,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.events import EventStream
from mxfast.simulator import SimulatedGateway
from tests.conftest import KEY, SECRET, Context, ScriptedGateway, ok
from tests.feed import CHANGE, Feed, ended, event, sentinel, sequences, settled
from tests.proxy import Proxy


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(recovery, "LONGEST_PAUSE", 0.1)


@pytest.fixture
async def proxy(gateway: SimulatedGateway) -> AsyncIterator[Proxy]:
    async with Proxy(gateway.endpoint) as running:
        yield running


@pytest.fixture
async def far(gateway: SimulatedGateway, proxy: Proxy) -> AsyncIterator[Session]:
    """A session through the proxy."""
    async with (
        await GatewayClient.connect(
            endpoint=proxy.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session("far") as opened,
    ):
        yield opened


class Writer:
    """Another session, beside the proxy, that makes events for the one behind it."""

    def __init__(self, session: Session, server: int, items: list[int]) -> None:
        self._session, self._server, self._items = session, server, items

    async def write(self, *numbers: float) -> None:
        """Write numbers to the tags in turn, one a request: each is an event."""
        for index, number in enumerate(numbers):
            item = self._items[index % len(self._items)]
            await self._session.write(self._server, item, number)


@pytest.fixture
async def writer(session: Session) -> Writer:
    server = await session.register("near")
    items = [await session.add_item(server, tag) for tag in ("A.B", "A.C")]
    return Writer(session, server, items)


async def taken(stream: EventStream, count: int) -> list[EventBatch]:
    """Take batches until they have so many rows."""
    batches: list[EventBatch] = []
    async with asyncio.timeout(20):
        while sum(map(len, batches)) < count:
            batches.append(await anext(stream))
    return batches


def values(batches: list[EventBatch]) -> list[float]:
    return [float(value) for batch in batches for value in batch.value]


# ---------------------------------------------------------------- the connection drops


@pytest.mark.parametrize("overflow", ["block", "error"])
async def test_nothing_is_lost_and_nothing_comes_twice(
    far: Session, proxy: Proxy, writer: Writer, overflow: Any
) -> None:
    server = await far.register("x")
    async with far.event_batches(overflow=overflow) as events:
        await far.subscribe_bulk(server, ["A.B", "A.C"])
        batches = await taken(events, 2)
        number = 0.0
        for _ in range(5):
            await writer.write(number + 1, number + 2, number + 3)
            proxy.cut()
            await writer.write(number + 4, number + 5)
            number += 5
            batches += await taken(events, 2 + int(number) - sum(map(len, batches)))
        await far.ping()
    assert values(batches)[2:] == [float(n) for n in range(1, 26)]
    assert sequences(batches) == list(range(1, 28))
    assert not any(batch.gap or batch.dropped or batch.reread.any() for batch in batches)
    assert proxy.connections > 1


async def test_gateway_that_cannot_be_reached_is_tried_again(
    far: Session, proxy: Proxy, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await far.register("x")
    async with far.event_batches() as events:
        await far.subscribe_bulk(server, ["A.B"])
        await taken(events, 1)
        proxy.refuses = True
        proxy.cut()
        with caplog.at_level(logging.WARNING, "mxfast"):
            async with asyncio.timeout(20):
                while len(caplog.records) < 4:  # noqa: ASYNC110 - the log tells nobody
                    await asyncio.sleep(0.01)
        assert "cannot be reached" in caplog.text
        await writer.write(7.0)
        proxy.refuses = False
        (batch,) = await taken(events, 1)
        assert (batch.value.tolist(), batch.gap) == ([7.0], False)


async def test_ring_that_does_not_reach_back_is_a_gap_and_items_are_read_again(
    far: Session, proxy: Proxy, writer: Writer, session: Session
) -> None:
    server = await far.register("x")
    async with far.event_batches() as events:
        found = await far.subscribe_bulk(server, ["A.B", "A.C", "A.Quiet"])
        await taken(events, 3)
        proxy.refuses = True
        proxy.cut()
        await writer.write(*np.arange(1500.0))  # the ring holds 1,024 events
        proxy.refuses = False
        batches = await taken(events, 3 + 1024)
    handles = [each.item_handle for each in found]
    reread = np.concatenate([batch.reread for batch in batches])
    family = np.concatenate([batch.family for batch in batches])
    item = np.concatenate([batch.item_handle for batch in batches])
    value = np.concatenate([batch.value for batch in batches])
    assert batches[0].gap
    assert np.flatnonzero(reread).tolist() == [0, 1, 2], "first what is current, then what came"
    assert item[reread].tolist() == handles
    assert value[reread].tolist() == [1498.0, 1499.0, 0.0]
    assert (family == CHANGE).all()
    assert value[~reread].tolist() == [float(n) for n in range(1500 - 1024, 1500)]
    assert (np.concatenate([b.quality for b in batches])[reread] == 192).all()


async def test_drop_before_the_first_event_is_a_gap(
    far: Session, proxy: Proxy, writer: Writer
) -> None:
    """Without an event there is no sequence to continue from."""
    server = await far.register("x")
    (found,) = await far.subscribe_bulk(server, ["A.B"])
    async with far.event_batches() as events:
        await far.ping()
        proxy.refuses = True
        proxy.cut()
        await writer.write(5.0)
        proxy.refuses = False
        batches = await taken(events, 1)
        await writer.write(6.0)
        batches += await taken(events, 1)
    assert batches[0].gap
    assert [(bool(b.reread[0]), float(b.value[0])) for b in batches if len(b)] == [
        (True, 5.0),
        (False, 6.0),
    ]
    assert {int(b.item_handle[0]) for b in batches if len(b)} == {found.item_handle}


async def test_several_consumers_all_go_on(far: Session, proxy: Proxy, writer: Writer) -> None:
    server = await far.register("x")
    first = far.event_batches(overflow="error")
    second = first.consumer(overflow="drop_oldest")
    await far.subscribe_bulk(server, ["A.B"])
    await asyncio.gather(taken(first, 1), taken(second, 1))
    proxy.cut()
    await writer.write(1.0)
    for batches in await asyncio.gather(taken(first, 1), taken(second, 1)):
        assert sequences(batches) == [2]
    await first.aclose()
    await second.aclose()


async def test_writes_are_never_sent_again(
    far: Session, proxy: Proxy, session: Session, writer: Writer
) -> None:
    """The stream survives the cut, the write under way fails and stays as it is."""
    server = await far.register("x")
    item = await far.add_item(server, "A.B")
    async with far.event_batches() as events:
        await far.write(server, item, 1.0)
        await taken(events, 1)
        proxy.refuses = True
        proxy.cut()
        with pytest.raises(MxGatewayConnectionError):
            await far.write(server, item, 2.0)
        proxy.refuses = False
        await writer.write(3.0)
        await _reaches(far)
        await far.advise(server, item)
        assert values(await taken(events, 1)) == [3.0]


async def _reaches(session: Session) -> None:
    """Wait until the session's gateway answers again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await session.ping()
            except MxGatewayConnectionError:
                await asyncio.sleep(0.01)


async def test_without_resume_the_stream_ends(far: Session, proxy: Proxy) -> None:
    events = far.event_batches(resume=False)
    await far.ping()
    proxy.cut()
    with pytest.raises(MxGatewayConnectionError, match="event_batches: "):
        await anext(events)
    await _reaches(far)


@pytest.mark.parametrize("when", ["pausing", "checking"])
async def test_closing_while_the_gateway_is_away(
    far: Session, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "pausing":
        monkeypatch.setattr(recovery, "FIRST_PAUSE", 3600)
        monkeypatch.setattr(recovery, "LONGEST_PAUSE", 3600)
    events = far.event_batches()
    await far.ping()
    proxy.refuses = True
    proxy.cut()
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    async with asyncio.timeout(10):
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
    proxy.refuses = False
    await _reaches(far)


# ---------------------------------------------------------------- by script: what gateways may do


@pytest.fixture
def answering(scripted: ScriptedGateway) -> ScriptedGateway:
    """A gateway that says its sessions are ready."""
    reply = pb.MxCommandReply(protocol_status=ok())
    reply.session_state.state = pb.SESSION_STATE_READY
    scripted.reply_with(reply)
    return scripted


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
async def test_replay_is_asked_for_after_the_last_event(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed, code: grpc.StatusCode
) -> None:
    """A gateway that replays more than was asked for delivers nothing twice either."""
    async with scripted_session.event_batches() as events:
        feed.put(event(1), event(2))
        feed.end(code)
        feed.put(event(1), event(2), event(3))
        seen = await taken(events, 3)
        feed.end(code)
        feed.put(event(3), event(4))
        seen += await taken(events, 1)
    assert sequences(seen) == [1, 2, 3, 4]
    assert not any(batch.gap for batch in seen)
    assert [request.after_worker_sequence for request in feed.requests] == [0, 2, 3]


@pytest.mark.parametrize("said", [True, False])
async def test_gap_after_resuming(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed, said: bool
) -> None:
    """A gateway that has no replay says nothing: the sequence jumps."""
    async with scripted_session.event_batches() as events:
        feed.put(event(1), event(2))
        feed.end(grpc.StatusCode.UNAVAILABLE)
        if said:
            feed.put(sentinel(2, 100))
        feed.put(event(100), event(101))
        batches = await taken(events, 4)
    assert sequences(batches) == [1, 2, 100, 101]
    assert [batch.gap for batch in batches if 100 in batch.worker_sequence] == [True]


async def test_subscriber_that_the_gateway_still_believes_in(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    async with scripted_session.event_batches() as events:
        feed.put(event(1))
        feed.end(grpc.StatusCode.UNAVAILABLE)
        feed.end(grpc.StatusCode.ALREADY_EXISTS)
        feed.end(grpc.StatusCode.ALREADY_EXISTS)
        feed.put(event(2))
        assert sequences(await taken(events, 2)) == [1, 2]


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_fault_without_any_event_is_not_tried_for_ever(
    answering: ScriptedGateway,
    scripted_session: Session,
    feed: Feed,
    code: grpc.StatusCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "WORKING", 3600)
    feed.put(event(1))
    feed.end(code)
    feed.end(code)
    events = scripted_session.event_batches()
    assert sequences(await taken(events, 1)) == [1]
    with pytest.raises(Exception, match=code.name):
        await anext(events)
    assert len(feed.requests) == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
async def test_cut_of_a_quiet_stream_is_survived(
    answering: ScriptedGateway,
    scripted_session: Session,
    feed: Feed,
    code: grpc.StatusCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has been open for a while, though no event came."""
    monkeypatch.setattr(recovery, "WORKING", 0)
    async with scripted_session.event_batches() as events:
        feed.end(code)
        feed.end(code)
        feed.put(event(1))
        batches = await taken(events, 1)
    assert sequences(batches) == [1]
    assert batches[0].gap
    assert len(feed.requests) == 3


@pytest.mark.parametrize(("quiet", "attempts"), [(0, [0, 0, 0]), (3600, [0, 1, 2])])
async def test_pauses_begin_anew_after_a_stream_that_worked_for_long(
    answering: ScriptedGateway,
    scripted_session: Session,
    feed: Feed,
    *,
    quiet: int,
    attempts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where no event came in the meantime."""
    seen: list[int] = []

    def pause_before(attempt: int) -> float:
        seen.append(attempt)
        return 0.0

    monkeypatch.setattr(reader, "pause_before", pause_before)
    monkeypatch.setattr(recovery, "LONGEST_PAUSE", quiet)
    async with scripted_session.event_batches() as events:
        for _ in range(3):
            feed.end(grpc.StatusCode.UNAVAILABLE)
        feed.put(event(1))
        await taken(events, 1)
    assert seen == attempts


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED]
)
async def test_refused_key_is_final(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed, code: grpc.StatusCode
) -> None:
    feed.put(event(1))
    feed.end(grpc.StatusCode.UNAVAILABLE)
    feed.end(code)
    events = scripted_session.event_batches()
    await taken(events, 1)
    with pytest.raises(PermissionError):
        await anext(events)


async def test_stream_timeout_is_the_users_wish(scripted: ScriptedGateway, feed: Feed) -> None:
    async with await scripted.connect(stream_timeout=0.1) as client:
        events = (await client.open_session()).event_batches()
        with pytest.raises(TimeoutError, match="stream's time"):
            await anext(events)
    assert len(feed.requests) == 1


async def test_values_that_cannot_be_read_again(
    answering: ScriptedGateway,
    scripted_session: Session,
    feed: Feed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A gateway older than ReadBulk: the gap is told, and why no values come."""

    async def answer(request: bytes, context: Context) -> bytes:
        kind = pb.MxCommandRequest.FromString(request).command.kind
        reply = pb.MxCommandReply(protocol_status=ok())
        if kind == pb.MX_COMMAND_KIND_READ_BULK:
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST
        elif kind == pb.MX_COMMAND_KIND_SUBSCRIBE_BULK:
            reply.subscribe_bulk.results.add(server_handle=1, item_handle=5, was_successful=True)
        else:
            reply.session_state.state = pb.SESSION_STATE_READY
        return reply.SerializeToString()

    answering.unary["Invoke"] = answer
    async with scripted_session.event_batches() as events:
        await scripted_session.subscribe_bulk(1, ["A.B"])
        feed.put(event(1))
        feed.end(grpc.StatusCode.UNAVAILABLE)
        feed.put(sentinel(1, 9), event(9))
        batches = await taken(events, 2)
    assert sequences(batches) == [1, 9]
    assert batches[-1].gap
    assert "cannot be read again" in caplog.text


async def test_connection_that_drops_while_values_are_read_again(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    """The event that showed the gap was not delivered yet: it is asked for once more."""
    reads = 0

    async def answer(request: bytes, context: Context) -> bytes:
        nonlocal reads
        kind = pb.MxCommandRequest.FromString(request).command.kind
        reply = pb.MxCommandReply(protocol_status=ok())
        if kind == pb.MX_COMMAND_KIND_READ_BULK:
            reads += 1
            if reads == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "by script")
            reply.read_bulk.results.add(was_successful=True, quality=192)
        elif kind == pb.MX_COMMAND_KIND_SUBSCRIBE_BULK:
            reply.subscribe_bulk.results.add(server_handle=1, item_handle=5, was_successful=True)
        else:
            reply.session_state.state = pb.SESSION_STATE_READY
        return reply.SerializeToString()

    answering.unary["Invoke"] = answer
    async with scripted_session.event_batches() as events:
        await scripted_session.subscribe_bulk(1, ["A.B"])
        feed.put(event(1))
        feed.end(grpc.StatusCode.UNAVAILABLE)
        feed.put(event(100))
        async with asyncio.timeout(20):
            while len(feed.requests) < 3:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
        feed.put(event(100), event(101))
        batches = await taken(events, 4)
    assert [s for s in sequences(batches) if s] == [1, 100, 101]
    assert sum(int(batch.reread.sum()) for batch in batches) == 1
    assert [request.after_worker_sequence for request in feed.requests] == [0, 1, 1]


async def test_tag_that_cannot_be_read_again_is_not_ok(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        kind = pb.MxCommandRequest.FromString(request).command.kind
        reply = pb.MxCommandReply(protocol_status=ok())
        if kind == pb.MX_COMMAND_KIND_READ_BULK:
            reply.read_bulk.results.add(error_message="timed out")
        elif kind == pb.MX_COMMAND_KIND_SUBSCRIBE_BULK:
            reply.subscribe_bulk.results.add(server_handle=1, item_handle=5, was_successful=True)
        else:
            reply.session_state.state = pb.SESSION_STATE_READY
        return reply.SerializeToString()

    answering.unary["Invoke"] = answer
    async with scripted_session.event_batches() as events:
        await scripted_session.subscribe_bulk(1, ["A.B"])
        feed.put(event(1, item=5))
        feed.end(grpc.StatusCode.UNAVAILABLE)
        feed.put(sentinel(1, 9))
        batches = await taken(events, 2)
    (batch,) = [batch for batch in batches if batch.reread.any()]
    row = int(np.flatnonzero(batch.reread)[0])
    assert not batch.ok[row]
    assert np.isnan(batch.value[row])
    assert batch[row].statuses[0].diagnostic_text == "timed out"


# ---------------------------------------------------------------- pauses


def test_pauses_grow_and_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for attempt, longest in [(0, 0.5), (1, 1), (2, 2), (5, 16), (6, 30), (7, 30), (5000, 30)]:
        drawn = [recovery.pause_before(attempt) for _ in range(200)]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


# ---------------------------------------------------------------- the session dies


async def test_dead_session_is_a_typed_end(
    gateway: SimulatedGateway, far: Session, proxy: Proxy
) -> None:
    events = far.event_batches()
    await far.ping()
    async with SimulatedGateway() as other:  # a gateway that was started anew knows no session
        proxy.target = other.endpoint
        proxy.cut()
        with pytest.raises(MxGatewaySessionLostError, match="NOT_FOUND"):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        assert issubclass(MxGatewaySessionLostError, MxGatewaySessionError)
    proxy.target = gateway.endpoint  # for the session to be closed
    proxy.cut()
    await _reaches(far)


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION])
async def test_stream_that_the_session_refuses(
    scripted_session: Session, feed: Feed, code: grpc.StatusCode
) -> None:
    feed.end(code)
    events = scripted_session.event_batches()
    await settled(events, ended)
    with pytest.raises(MxGatewaySessionLostError, match=code.name) as caught:
        await anext(events)
    assert caught.value.code is code


@pytest.mark.parametrize("resume", [True, False])
async def test_session_that_is_closed_under_its_stream(
    client: GatewayClient, session: Session, resume: bool
) -> None:
    """As a gateway does whose lease has run out: the stream ends as if all were well."""
    events = session.event_batches(resume=resume)
    await session.ping()
    await client.close_session_raw(pb.CloseSessionRequest(session_id=session.session_id))
    with pytest.raises(MxGatewaySessionLostError, match="is Closed") as caught:
        await anext(events)
    assert str(caught.value).count("is lost") == 1


async def test_stream_that_ends_while_its_session_lives_is_over(
    answering: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    feed.put(event(1))
    feed.end()
    async with asyncio.timeout(20):
        assert sequences([b async for b in scripted_session.event_batches()]) == [1]
    assert len(feed.requests) == 1
    assert answering.calls.count("Invoke") == 1


@pytest.mark.parametrize("when", ["before", "while it is asked for"])
async def test_session_that_the_user_closes_is_not_lost(
    scripted: ScriptedGateway, scripted_session: Session, feed: Feed, when: str
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        await scripted_session.close()
        await context.abort(grpc.StatusCode.NOT_FOUND, "by script")
        raise AssertionError

    scripted.unary["Invoke"] = answer
    events = scripted_session.event_batches()
    if when == "before":
        await scripted_session.close()
    feed.end()
    async with asyncio.timeout(20):
        assert [b async for b in events] == []
    assert ("Invoke" in scripted.calls) == (when != "before")


@pytest.mark.parametrize("resume", [True, False])
async def test_stream_that_ends_with_the_gateway_gone(
    scripted: ScriptedGateway, scripted_session: Session, feed: Feed, resume: bool
) -> None:
    """Whether its session lives cannot be asked: it is opened again when it can."""
    asked = 0

    async def answer(request: bytes, context: Context) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "by script")
        reply = pb.MxCommandReply(protocol_status=ok())
        reply.session_state.state = pb.SESSION_STATE_READY
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    events = scripted_session.event_batches(resume=resume)
    feed.put(event(1))
    feed.end()
    assert sequences(await taken(events, 1)) == [1]
    if resume:
        feed.put(event(2))
        assert sequences(await taken(events, 1)) == [2]
        await events.aclose()
    else:
        with pytest.raises(StopAsyncIteration):
            await anext(events)


HANDSHAKING = "SessionNotReady: Session state is Ready; worker state is Handshaking."


@pytest.mark.parametrize(
    ("refused", "end"),
    [
        ("", grpc.StatusCode.FAILED_PRECONDITION),
        ("get_session_state", grpc.StatusCode.UNAVAILABLE),
        ("get_session_state", None),
        ("read_bulk", grpc.StatusCode.UNAVAILABLE),
        ("register", grpc.StatusCode.NOT_FOUND),
    ],
)
@pytest.mark.parametrize("as_reply", [True, False])
async def test_worker_that_is_handshaking_is_tried_again(
    scripted: ScriptedGateway,
    scripted_session: Session,
    feed: Feed,
    *,
    refused: str,
    end: grpc.StatusCode | None,
    as_reply: bool,
) -> None:
    """Whatever the reader is about when it hears so: the stream, a command, a rebuild."""
    left = 0

    async def answer(request: bytes, context: Context) -> bytes:
        nonlocal left
        name = pb.MxCommandRequest.FromString(request).command.WhichOneof("payload")
        reply = pb.MxCommandReply(protocol_status=ok())
        if name == refused and left:
            left -= 1
            if not as_reply:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, HANDSHAKING)
            reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_SESSION_NOT_READY
            reply.protocol_status.message = HANDSHAKING
        elif name == "get_session_state":
            reply.session_state.state = pb.SESSION_STATE_READY
        elif name == "register":
            reply.register.server_handle = len(scripted.calls)
        elif name == "subscribe_bulk":
            reply.subscribe_bulk.results.add(server_handle=1, item_handle=5, was_successful=True)
        elif name == "read_bulk":
            reply.read_bulk.results.add(was_successful=True, quality=192)
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    async with scripted_session.event_batches(rebuild=refused == "register") as events:
        await scripted_session.register("x")
        await scripted_session.subscribe(1, ["A.B"])
        left = 1
        feed.put(event(1))
        feed.end(end, "by script" if refused else HANDSHAKING)
        if refused == "read_bulk":
            feed.put(event(100))
            async with asyncio.timeout(20):
                while len(feed.requests) < 3:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
        feed.put(event(100))
        batches = await taken(events, 2)
        while 100 not in sequences(batches):
            batches += await taken(events, 1)
        assert left == (not refused)


@pytest.mark.parametrize("state", ["SESSION_STATE_FAULTED", "SESSION_STATE_CLOSED"])
async def test_worker_that_is_gone_is_found_out(
    scripted: ScriptedGateway, scripted_session: Session, feed: Feed, state: str
) -> None:
    """The stream's UNAVAILABLE alone does not tell whether the gateway or the worker is gone."""
    reply = pb.MxCommandReply(protocol_status=ok())
    reply.session_state.state = getattr(pb, state)
    reply.diagnostic_message = f"told by {KEY}"
    scripted.reply_with(reply)
    feed.put(event(1))
    feed.end(grpc.StatusCode.UNAVAILABLE)
    events = scripted_session.event_batches()
    await taken(events, 1)
    with pytest.raises(MxGatewaySessionLostError, match=state) as caught:
        await anext(events)
    assert "mxgw_test_***" in repr(caught.value.reply)
    assert SECRET not in repr(caught.value.__dict__)
