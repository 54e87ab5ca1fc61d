"""Several consumers of one stream, and a stream and the commands that follow it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import mxfast.transport
from mxfast import (
    EventBatch,
    GatewayClient,
    MalformedReplyError,
    MxGatewayOverflowError,
    MxGatewaySessionError,
    Session,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.events import EventStream
from mxfast.simulator import SimulatedGateway
from tests.conftest import Context, ScriptedGateway, ok
from tests.feed import COMPLETE, Feed, ended, event, sequences, settled, waiting


async def all_of(stream: EventStream) -> list[EventBatch]:
    return [batch async for batch in stream]


# ---------------------------------------------------------------- several consumers


async def test_each_consumer_sees_every_event(scripted_session: Session, feed: Feed) -> None:
    first = scripted_session.event_batches(overflow="error")
    second, third = first.consumer(max_events=7), first.consumer(max_events=1, overflow="latest")
    feed.put(*(event(n, item=n) for n in range(1, 101)))
    feed.end()
    # All tasks take at once; the third may drop, and then counts.
    seen = await asyncio.gather(all_of(first), all_of(second), all_of(third))
    assert sequences(seen[0]) == list(range(1, 101))
    assert len(seen[2]) + sum(batch.dropped for batch in seen[2]) == 100
    if not isinstance(second._queue.error, MxGatewayOverflowError):
        assert sequences(seen[1]) == list(range(1, 101))
    assert len(feed.requests) == 1, "there is one stream at the gateway"


async def test_slow_consumer_holds_up_no_other(scripted_session: Session, feed: Feed) -> None:
    quick = scripted_session.event_batches(overflow="error")
    slow = quick.consumer(max_events=5, overflow="drop_oldest")
    strict = quick.consumer(max_events=5, overflow="error")
    feed.put(*map(event, range(1, 1001)))
    feed.end()
    await settled(slow, ended)  # it has taken nothing
    assert sequences(await all_of(quick)) == list(range(1, 1001))
    (batch,) = await all_of(slow)
    assert (sequences([batch]), batch.dropped, batch.gap) == (
        [996, 997, 998, 999, 1000],
        995,
        False,
    )
    assert sequences([await anext(strict)]) == [1, 2, 3, 4, 5]
    assert sequences([await anext(strict)]) == [6]
    with pytest.raises(MxGatewayOverflowError, match="max_events = 5"):
        await anext(strict)


async def test_consumer_sees_events_from_when_it_came(
    scripted_session: Session, feed: Feed
) -> None:
    first = scripted_session.event_batches(overflow="error")
    feed.put(event(1), event(2))
    await settled(first, waiting(2))
    second = first.consumer()
    feed.put(event(3))
    feed.end()
    (batch,) = await all_of(second)
    assert (sequences([batch]), batch.gap) == ([3], False)
    assert sequences(await all_of(first)) == [1, 2, 3]


@pytest.mark.parametrize("policies", [("block", "error"), ("error", "block"), ("block", "block")])
async def test_block_is_for_one_consumer(
    scripted_session: Session, feed: Feed, policies: tuple[Any, Any]
) -> None:
    first = scripted_session.event_batches(overflow=policies[0])
    with pytest.raises(ValueError, match="hold up the others"):
        first.consumer(overflow=policies[1])
    feed.put(event(1))
    feed.end()
    assert sequences(await all_of(first)) == [1], "the refused one changed nothing"


@pytest.mark.parametrize("how", ["aclose", "cancel", "forget"])
async def test_stream_ends_with_its_last_consumer(
    scripted_session: Session, feed: Feed, how: str
) -> None:
    first = scripted_session.event_batches(overflow="error")
    second = first.consumer()
    feed.put(event(1))
    assert sequences([await anext(first)]) == [1]
    if how == "aclose":
        await first.aclose()
    elif how == "cancel":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(first)
    del first
    feed.put(event(2))
    seen: list[int] = []
    while len(seen) < 2:
        seen += sequences([await anext(second)])
    assert seen == [1, 2]
    assert not feed.left.is_set()
    await second.aclose()
    async with asyncio.timeout(10):
        await feed.left.wait()


async def test_every_consumer_gets_the_error(scripted_session: Session, feed: Feed) -> None:
    first = scripted_session.event_batches(overflow="error")
    second = first.consumer()
    feed.put(event(1))
    feed.end(grpc.StatusCode.FAILED_PRECONDITION)
    await settled(second, ended)
    for consumer in (first, second, first.consumer()):
        if consumer in (first, second):
            assert sequences([await anext(consumer)]) == [1]
        with pytest.raises(MxGatewaySessionError, match="FAILED_PRECONDITION"):
            await anext(consumer)


async def test_event_that_one_consumer_cannot_read(scripted_session: Session, feed: Feed) -> None:
    """Dropping needs a look at the events: it ends that consumer; the other comes upon it."""
    first = scripted_session.event_batches(overflow="error")
    second = first.consumer(max_events=1, overflow="latest")
    feed.put(event(1), b"\xff\xff", *map(event, range(3, 10)))
    feed.end()
    await settled(second, ended)
    for consumer in (first, second):
        assert sequences([await anext(consumer)]) == [1]
        with pytest.raises(MalformedReplyError, match="unreadable event"):
            await anext(consumer)


async def test_consumer_of_a_stream_that_is_closed(scripted_session: Session, feed: Feed) -> None:
    first = scripted_session.event_batches(overflow="error")
    await first.aclose()
    assert await all_of(first.consumer()) == []


# ---------------------------------------------------------------- a stream, then commands


async def test_commands_wait_until_the_stream_is_attached(
    scripted: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mxfast.transport, "_ATTACH_SECONDS", 60)
    attach = asyncio.Event()

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await attach.wait()
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield b""

    scripted.stream["StreamEvents"] = stream

    async def answer(request: bytes, context: Context) -> bytes:
        name = pb.MxCommandRequest.FromString(request).command.WhichOneof("payload")
        answered = pb.MxCommandReply(protocol_status=ok())
        if name in {"write_bulk", "subscribe_bulk", "read_bulk"}:
            getattr(answered, name).results.add(item_handle=1, was_successful=True)
        return answered.SerializeToString()

    scripted.unary["Invoke"] = answer
    async with await scripted.connect() as client:
        session = await client.open_session()
        events = session.event_batches()
        sent = [
            asyncio.create_task(session.ping()),
            asyncio.create_task(session.write(1, 1, 1.0)),
            asyncio.create_task(session.write_array(1, [1], [1.0])),
            asyncio.create_task(session.subscribe(1, ["A.B"])),
            asyncio.create_task(session.read_array(1, ["A.B"])),
        ]
        # Other calls go to the gateway and back: time enough for those that do not wait.
        for _ in range(3):
            await client.close_session_raw(pb.CloseSessionRequest(session_id="other"))
        assert scripted.calls.count("Invoke") == 0
        attach.set()
        await asyncio.gather(*sent)
        assert scripted.calls.count("Invoke") == 5
        await events.aclose()


async def test_wait_for_a_gateway_that_never_says_attached_has_an_end(
    scripted: ScriptedGateway, scripted_session: Session, feed: Feed
) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok()))
    async with scripted_session.stream_events():
        async with asyncio.timeout(30):
            await scripted_session.ping()


async def test_stream_that_is_refused_holds_up_no_command(session: Session) -> None:
    async with session.event_batches() as first:
        await session.ping()
        second = session.event_batches()
        await session.ping()
        with pytest.raises(MxGatewaySessionError, match="ALREADY_EXISTS"):
            await anext(second)
        await first.aclose()


async def test_write_right_after_opening_is_never_missed(gateway: SimulatedGateway) -> None:
    """As the README has it: open the stream, then write, on one connection, many times."""
    async with await GatewayClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
    ) as client:
        for _ in range(300):
            async with await client.open_session() as session:
                server = await session.register("x")
                item = await session.add_item(server, "A.B")
                async with session.event_batches(max_delay=0) as events, asyncio.timeout(10):
                    await session.write_array(server, [item], [1.0])
                    assert (await anext(events)).family.tolist() == [COMPLETE]
