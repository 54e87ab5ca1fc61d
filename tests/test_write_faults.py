"""Array writes that are interrupted at any step, or are large."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from mxfast import (
    BulkWriter,
    EncodeError,
    MxGatewayConnectionError,
    Outcome,
    Session,
    WriteResult,
    requests,
    threads,
    write,
)
from mxfast.codec import (
    decode_write_reply,
    decode_write_request,
    encode_write_bulk,
    encode_write_reply,
)
from tests.conftest import Context, OpenLimited, ScriptedGateway, Writes

Way = Callable[[Session, Any, Any], Awaitable[WriteResult]]


def array(session: Session, handles: Any, values: Any) -> Awaitable[WriteResult]:
    return session.write_array(1, handles, values)


def prepared(session: Session, handles: Any, values: Any) -> Awaitable[WriteResult]:
    return session.prepare_write(1, handles).write(values)


WAYS = pytest.mark.parametrize("way", [array, prepared])


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all work done in threads, so that there are more steps to be cancelled at."""
    monkeypatch.setattr(threads, "LARGE", 1)


class Columns:
    """Answers bulk writes as columns: for arrays that messages would take minutes for."""

    def __init__(self, scripted: ScriptedGateway) -> None:
        self.values: list[np.ndarray[Any, Any]] = []
        self.handles: list[np.ndarray[Any, Any]] = []
        scripted.unary["Invoke"] = self.invoke

    async def invoke(self, request: bytes, context: Context) -> bytes:
        write = decode_write_request(request)
        assert write is not None
        self.handles.append(write.item_handle)
        self.values.append(write.value)
        return encode_write_reply(
            write.session_id,
            write.correlation_id,
            write.command_kind,
            write.server_handle,
            write.item_handle,
        )


@WAYS
@pytest.mark.parametrize("in_threads", [False, True])
async def test_cancelled_at_each_step(
    open_limited: OpenLimited,
    writes: Writes,
    way: Way,
    in_threads: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if in_threads:
        monkeypatch.setattr(threads, "LARGE", 1)
    session = await open_limited(max_bulk_items=2)
    handles = [1, 2, 3, 4, 3, 5, 6]
    results: dict[int, WriteResult | None] = {}
    for step in range(2000):
        # Values of its own, as a request may reach the gateway after its write was cancelled.
        task = asyncio.ensure_future(way(session, handles, step * 10 + np.arange(7.0)))
        for _ in range(step):
            if task.done():
                break
            await asyncio.sleep(0)
        if task.done():
            assert (await task).ok
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        results[step] = getattr(caught.value, "result", None)
    else:
        pytest.fail("the write never ended")
    seen = {int(value) for _, value in writes.written()}
    outcomes = set()
    for step, result in results.items():
        # Without a result it was cancelled before it began.
        told = [Outcome.NOT_SENT] * 7 if result is None else result.outcome.tolist()
        outcomes |= set(told)
        for index, outcome in enumerate(told):
            if outcome == Outcome.ACCEPTED:
                assert step * 10 + index in seen
            elif outcome == Outcome.NOT_SENT:
                assert step * 10 + index not in seen
    assert outcomes == {Outcome.NOT_SENT, Outcome.UNKNOWN, Outcome.ACCEPTED}


async def test_a_bulk_writer_cancelled_at_each_step(
    open_limited: OpenLimited, writes: Writes
) -> None:
    session = await open_limited(max_bulk_items=2)

    async def work(made: list[BulkWriter]) -> None:
        async with session.bulk_writer(1) as writer:
            made.append(writer)
            writer.put([1, 2, 3], [0.0, 1.0, 2.0])
            await asyncio.sleep(0)
            writer.put([3, 4, 5], [3.0, 4.0, 5.0])
            await writer.flush()

    for step in range(2000):
        made: list[BulkWriter] = []
        task = asyncio.ensure_future(work(made))
        for _ in range(step):
            if task.done():
                break
            await asyncio.sleep(0)
        if task.done():
            await task
            assert made[0].counts.accepted == made[0].counts.sent
            assert made[0].counts.pending == 0
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        for writer in made:
            counts = writer.counts
            assert counts.put == counts.sent + counts.conflated + counts.pending
            told = bool(getattr(caught.value, "__notes__", []))
            assert told == bool(counts.pending or counts.unknown)
    else:
        pytest.fail("the writer never ended")
    assert step > 10


@WAYS
async def test_a_gateway_that_stops_while_it_works(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes, way: Way
) -> None:
    async def stop_at_third(number: int, context: Context) -> None:
        if number == 2:
            # In a task of its own: this call ends with the server.
            stopping.append(asyncio.create_task(scripted.__aexit__(None, None, None)))
            await asyncio.Event().wait()

    stopping: list[asyncio.Task[None]] = []
    writes.before_answer = stop_at_third
    session = await open_limited(max_bulk_items=1)
    with pytest.raises(MxGatewayConnectionError) as caught:
        await way(session, [7] * 5, np.arange(5.0))
    assert caught.value.result.outcome.tolist() == [
        Outcome.ACCEPTED,
        Outcome.ACCEPTED,
        Outcome.UNKNOWN,
        Outcome.NOT_SENT,
        Outcome.NOT_SENT,
    ]


@WAYS
async def test_two_million_tags_with_one_repeated(
    scripted: ScriptedGateway, open_limited: OpenLimited, way: Way
) -> None:
    gateway = Columns(scripted)
    session = await open_limited(max_bulk_items=100_000)
    count = 2_000_000
    handles = np.arange(1, count + 1)
    handles[-1] = handles[0]
    values = np.random.default_rng(3).standard_normal(count)
    progress: list[int] = []
    if way is array:
        result = await session.write_array(
            1, handles, values, on_progress=lambda done, _: progress.append(done)
        )
        assert progress == list(range(100_000, count + 1, 100_000))
    else:
        result = await way(session, handles, values)
    assert result.ok
    assert result.requests == 20
    sent = {int(h[0]): (h, v) for h, v in zip(gateway.handles, gateway.values, strict=True)}
    in_order = [sent[key] for key in sorted(sent)]
    assert np.array_equal(np.concatenate([h for h, _ in in_order]), handles)
    assert np.array_equal(np.concatenate([v for _, v in in_order]), values)


@pytest.mark.parametrize("dtype", ["f8", "i4", "M8[s]"])
async def test_a_large_write_lets_others_run_meanwhile(
    scripted: ScriptedGateway, open_limited: OpenLimited, monkeypatch: Any, dtype: str
) -> None:
    """The loop goes on while the codec works: it does that in a thread."""
    loop_thread = threading.get_ident()
    ran_in: dict[str, set[bool]] = {"encode": set(), "decode": set()}
    encode, decode = encode_write_bulk, decode_write_reply

    def noted_encode(*args: Any, **fields: Any) -> bytes:
        if len(args[2]) >= threads.LARGE:
            ran_in["encode"].add(threading.get_ident() == loop_thread)
        return encode(*args, **fields)

    def noted_decode(data: bytes) -> Any:
        ran_in["decode"].add(threading.get_ident() == loop_thread)
        return decode(data)

    monkeypatch.setattr(requests, "encode_write_bulk", noted_encode)
    monkeypatch.setattr(write, "decode_write_reply", noted_decode)
    Columns(scripted)
    session = await open_limited(max_bulk_items=threads.LARGE)
    values = np.zeros(threads.LARGE * 2, "i8").astype(dtype)
    assert (await session.write_array(1, np.arange(1, len(values) + 1), values)).ok
    assert ran_in == {"encode": {False}, "decode": {False}}


@pytest.mark.usefixtures("small_is_large")
@WAYS
async def test_threads_change_nothing(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes, way: Way
) -> None:
    session = await open_limited(max_bulk_items=2)
    assert (await way(session, [1, 2, 2, 3, 4], np.arange(5.0))).ok
    assert writes.written() == [(1, 0), (2, 1), (2, 2), (3, 3), (4, 4)]
    before = len(writes.requests)
    with pytest.raises(EncodeError, match=r"values\[4\] is nan \(item handle 4\)"):
        await way(session, [1, 2, 2, 3, 4], [0.0, 1.0, 2.0, 3.0, np.nan])
    assert len(writes.requests) == before


@WAYS
async def test_a_write_leaves_its_requests_to_no_collector(
    scripted_session: Session, writes: Writes, way: Way
) -> None:
    """A cycle would keep the bytes of large requests until the next collection."""
    gc.collect()
    gc.disable()
    try:
        assert (await way(scripted_session, [1, 2], [1.0, 2.0])).ok
        kept = (requests.ArrayRequests, requests.PreparedRequests, requests.Request)
        assert not [each for each in gc.get_objects() if isinstance(each, kept)]
    finally:
        gc.enable()
