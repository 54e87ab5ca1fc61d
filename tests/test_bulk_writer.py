"""A bulk writer never waits, sends the newest value of each item, and counts every value."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxfast import (
    BulkWriter,
    EncodeError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    Session,
    from_mx_value,
)
from tests.conftest import Context, OpenLimited, ScriptedGateway, Writes


class Gate:
    """Holds a gateway's answers back until a test lets them go."""

    def __init__(self, writes: Writes) -> None:
        self.arrived = asyncio.Event()
        self.open = asyncio.Event()
        writes.before_answer = self.pass_through

    async def pass_through(self, number: int, context: Context) -> None:
        self.arrived.set()
        await self.open.wait()


async def within(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)


async def test_values_arrive(session: Session) -> None:
    server = await session.register("x")
    tags = [f"T{n}.V" for n in range(100)]
    handles = np.array([r.item_handle for r in await session.add_item_bulk(server, tags)])
    async with session.bulk_writer(server) as writer:
        for cycle in range(50):
            writer.put(handles, np.arange(100.0) + cycle)
            if cycle % 7 == 0:
                await asyncio.sleep(0)
        await writer.flush()
        read = await session.read_bulk(server, tags)
        assert [from_mx_value(r.value) for r in read] == (np.arange(100.0) + 49).tolist()
    counts = writer.counts
    assert counts.put == 5000
    assert counts.accepted == counts.sent == 5000 - counts.conflated
    assert (counts.pending, counts.rejected, counts.unknown) == (0, 0, 0)


@pytest.mark.parametrize("dtype", ["f4", "i4", "i8", "?"])
async def test_dtypes(session: Session, dtype: str) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    async with session.bulk_writer(server, dtype) as writer:
        writer.put([item], np.ones(1, dtype))
    (read,) = await session.read_bulk(server, ["A.B"])
    assert from_mx_value(read.value) == 1
    with pytest.raises(TypeError, match="not uint64"):
        session.bulk_writer(server, "u8")


async def test_items_and_tags(session: Session) -> None:
    server = await session.register("x")
    items = await session.subscribe(server, ["A.B", "A.C"])
    async with session.bulk_writer(server) as writer:
        writer.put(items, [1.0, 2.0])
        writer.put(["A.C"], [3.0])
        with pytest.raises(ValueError, match=f"not {server + 1}: give items.server_handle"):
            session.bulk_writer(server + 1).put(items, [1.0, 2.0])
    assert (await session.read_array(server, items)).value.tolist() == [1.0, 3.0]


async def test_the_newest_value_of_each_item_is_sent(
    scripted_session: Session, writes: Writes
) -> None:
    gate = Gate(writes)
    async with scripted_session.bulk_writer(1) as writer:
        writer.put([1, 2], [0.0, 0.0])
        await gate.arrived.wait()
        for n in range(1, 101):
            writer.put([2, 3, 2, -5], [n, n, n + 0.5, n])
        assert writer.counts == (402, 0, 397, 5, 0, 0, 0)
        gate.open.set()
        await writer.flush()
        assert writer.counts == (402, 5, 397, 0, 5, 0, 0)
    assert writes.written() == [(1, 0), (2, 0), (2, 100.5), (3, 100), (-5, 100)]


async def test_memory_is_bounded_by_the_items(scripted_session: Session, writes: Writes) -> None:
    gate = Gate(writes)
    handles = np.arange(1, 501)
    async with scripted_session.bulk_writer(1) as writer:
        writer.put(handles, np.zeros(500))
        await gate.arrived.wait()
        for n in range(300):
            writer.put(handles, np.full(500, n))
        held = [value for value in vars(writer).values() if isinstance(value, np.ndarray)]
        assert max(map(len, held)) == 500
        assert writer.counts.pending == 1000
        gate.open.set()
    assert len(writes.requests) == 2
    assert writer.counts.conflated == 299 * 500


async def test_items_that_come_one_at_a_time_are_not_copied_each_time(
    scripted_session: Session, writes: Writes
) -> None:
    count = 3000
    writer = scripted_session.bulk_writer(1)
    held: dict[str, Any] = {}
    copied = 0
    for item in np.random.default_rng(1).permutation(count).tolist():
        writer.put([item + 1], [float(item)])
        for name, array in vars(writer).items():
            if isinstance(array, np.ndarray) and array is not held.get(name):
                held[name] = array
                copied += len(array)
    assert len(held) >= 4
    assert copied < 6 * len(held) * count
    assert writer.counts.pending == count
    await writer.close()
    assert writer.counts.accepted == count


async def test_flush_waits_for_what_was_put_before_only(
    scripted_session: Session, writes: Writes
) -> None:
    async with scripted_session.bulk_writer(1) as writer:
        await writer.flush()
        assert writes.requests == []
        writer.put([1], [1.0])

        async def keep_putting() -> None:
            for n in range(10_000):
                writer.put([1], [float(n)])
                await asyncio.sleep(0)

        producer = asyncio.create_task(keep_putting())
        async with asyncio.timeout(10):
            await writer.flush()
        assert not producer.done()
        assert writes.written()[0][0] == 1
        producer.cancel()


@pytest.mark.parametrize(
    ("handles", "values", "error", "named"),
    [
        ([1, 2], [1.0], ValueError, "2 item handles but 1 values"),
        ([1, 2], [1.0, np.nan], EncodeError, r"values\[1\] is nan \(item handle 2\)"),
        ([1], [1j], TypeError, r"values\[0\] is a complex: 1j"),
        ([1], [2**53 + 1], ValueError, r"values\[0\] is 9007199254740993, which float64"),
        (["A.B"], [1.0], ValueError, "A.B'?, which is no item of server handle 1"),
        ([1.5], [1.0], TypeError, r"item_handles\[0\] is 1.5"),
        ([2**31], [1.0], ValueError, r"item_handles\[0\]"),
        (1, 1.0, ValueError, "one-dimensional"),
        ([1], np.ma.array([1.0], mask=[True]), TypeError, "masked"),
    ],
)
async def test_bad_input_is_refused_whole(  # noqa: PLR0917 - fixtures and parameters
    scripted: ScriptedGateway,
    scripted_session: Session,
    handles: Any,
    values: Any,
    error: type[Exception],
    named: str,
) -> None:
    async with scripted_session.bulk_writer(1) as writer:
        with pytest.raises(error, match=named):
            writer.put(handles, values)
        writer.put([], [])
        await writer.flush()
        assert writer.counts.put == 0
    assert "Invoke" not in scripted.calls


async def test_rejected_values_are_counted_and_explained(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    async with session.bulk_writer(server) as writer:
        writer.put([item, 999], [1.0, 2.0])
        await writer.flush()
        assert writer.last_rejected is not None
        assert writer.last_rejected.errors[1].message
        explained = writer.last_rejected
        writer.put([item], [3.0])
        await writer.flush()
        assert writer.last_rejected is explained
    assert writer.counts == (3, 3, 0, 0, 2, 1, 0)
    assert repr(writer).startswith("<BulkWriter: 3 put, 3 sent, 0 conflated, 0 pending")


async def test_a_request_that_the_gateway_did_not_begin_is_rejected(
    scripted_session: Session, writes: Writes
) -> None:
    async def refuse(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not this key")

    writes.before_answer = refuse
    writer = scripted_session.bulk_writer(1)
    writer.put([1, 2], [1.0, 2.0])
    with pytest.raises(MxGatewayError, match="not this key"):
        await writer.close()
    assert writer.counts == (2, 2, 0, 0, 0, 2, 0)
    assert writer.last_rejected is not None
    assert "not this key" in writer.last_rejected.errors[1].message


async def test_a_failure_is_raised_by_all_that_follows(
    open_limited: OpenLimited, writes: Writes
) -> None:
    gate = Gate(writes)

    async def fail_second(number: int, context: Context) -> None:
        await gate.pass_through(number, context)
        if number == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    writes.before_answer = fail_second
    session = await open_limited(max_bulk_items=2)
    writer = session.bulk_writer(1)
    writer.put([1, 2, 2, 3, 4, 5, 6, 7, 8], np.arange(9.0))
    await gate.arrived.wait()
    writer.put([8, 9], [10.0, 11.0])
    gate.open.set()
    for _ in range(2):
        with pytest.raises(MxGatewayConnectionError, match=r"bulk writer: .*broke off"):
            await writer.flush()
        with pytest.raises(MxGatewayConnectionError):
            writer.put([1], [1.0])
    with pytest.raises(MxGatewayConnectionError) as caught:
        await writer.close()
    counts = writer.counts
    assert counts.put == 11
    assert counts.unknown == 2
    assert counts.put == counts.sent + counts.conflated + counts.pending
    assert counts.pending >= 2, "the requests that were not sent"
    assert len(writes.requests) <= 3
    assert any(f"{counts.pending} values that were put have not" in n for n in notes(caught.value))


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


async def test_a_failure_while_nobody_looks_is_raised_at_the_end(
    scripted_session: Session, writes: Writes
) -> None:
    async def fail(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    writes.before_answer = fail
    writer = scripted_session.bulk_writer(1)

    async def work() -> None:
        async with writer:
            writer.put([1], [1.0])
            await within(lambda: bool(writer.counts.sent))

    with pytest.raises(MxGatewayConnectionError, match="broke off"):
        await work()
    assert writer.counts == (1, 1, 0, 0, 0, 0, 1)


async def test_a_put_that_tells_of_the_failure_ends_the_body(
    scripted_session: Session, writes: Writes
) -> None:
    async def fail(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    async def work() -> None:
        async with scripted_session.bulk_writer(1) as writer:
            while True:
                writer.put([1], [1.0])
                await asyncio.sleep(0)

    writes.before_answer = fail
    with pytest.raises(MxGatewayConnectionError, match="broke off") as caught:
        await work()
    assert any("sent without an answer" in note for note in notes(caught.value))
    assert any(entry.name == "work" for entry in caught.traceback), "where it came to light"


async def put_and_fail(writer: BulkWriter) -> None:
    async with writer:
        writer.put([1], [1.0])
        raise KeyError("mine")


async def test_a_failing_body_still_sends_what_was_put(
    scripted_session: Session, writes: Writes
) -> None:
    writer = scripted_session.bulk_writer(1)
    with pytest.raises(KeyError, match="mine"):
        await put_and_fail(writer)
    assert writes.written() == [(1, 1.0)]
    assert writer.counts.accepted == 1


async def test_a_failing_body_and_a_failing_gateway(
    scripted_session: Session, writes: Writes
) -> None:
    async def fail(number: int, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    writes.before_answer = fail
    with pytest.raises(KeyError, match="mine") as caught:
        await put_and_fail(scripted_session.bulk_writer(1))
    said = "\n".join(notes(caught.value))
    assert "broke off" in said
    assert "1 were sent without an answer" in said


@pytest.mark.parametrize("where", ["body", "flush", "close"])
async def test_cancellation_counts_and_tells_what_was_not_sent(
    open_limited: OpenLimited, writes: Writes, where: str
) -> None:
    gate = Gate(writes)
    session = await open_limited(max_bulk_items=1)
    writers: list[BulkWriter] = []

    async def work() -> None:
        async with session.bulk_writer(1) as writer:
            writers.append(writer)
            writer.put([1, 2, 3, 4], np.ones(4))
            await gate.arrived.wait()
            writer.put([4, 5], [2.0, 2.0])
            if where == "flush":
                await writer.flush()
            elif where == "body":
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await within(lambda: len(writes.requests) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        async with asyncio.timeout(10):
            await task
    (writer,) = writers
    # Four put, two of them sent and never answered; the older of item 4 was replaced.
    assert writer.counts == (6, 2, 1, 3, 0, 0, 2)
    assert notes(caught.value) == [
        "bulk writer: 3 values that were put have not been sent, 2 were sent without an answer"
    ]
    with pytest.raises(RuntimeError, match="closed"):
        writer.put([1], [1.0])


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_flush_ends_when_the_owner_is_cancelled(
    scripted_session: Session, writes: Writes, under_way: bool
) -> None:
    """In the tick of the put, too: then the writer's task has not looked at it yet."""
    gate = Gate(writes)
    writer = scripted_session.bulk_writer(1)

    async def own() -> None:
        async with writer:
            await asyncio.Event().wait()

    async def produce() -> None:
        writer.put([1], [1.0])
        await writer.flush()

    owner = asyncio.create_task(own())
    await asyncio.sleep(0.01)
    producer = asyncio.create_task(produce())
    if under_way:
        await gate.arrived.wait()
    owner.cancel()
    with pytest.raises(RuntimeError, match="stopped before all that was put was answered"):
        async with asyncio.timeout(10):
            await producer
    assert owner.cancelled()
    assert writer.counts == ((1, 1, 0, 0, 0, 0, 1) if under_way else (1, 0, 0, 1, 0, 0, 0))


async def test_a_flush_after_the_owner_was_cancelled_does_not_say_that_all_is_answered(
    open_limited: OpenLimited, writes: Writes
) -> None:
    gate = Gate(writes)
    session = await open_limited(max_bulk_items=1)
    writer = session.bulk_writer(1)

    async def own() -> None:
        async with writer:
            writer.put([1, 2, 3, 4], np.ones(4))
            await asyncio.Event().wait()

    owner = asyncio.create_task(own())
    await gate.arrived.wait()
    owner.cancel()
    await asyncio.wait([owner])
    assert writer.counts.pending
    with pytest.raises(RuntimeError, match="stopped before all that was put was answered"):
        await writer.flush()


async def test_closing_sends_what_waits_once(scripted_session: Session, writes: Writes) -> None:
    writer = scripted_session.bulk_writer(1)
    writer.put([1], [1.0])
    await asyncio.gather(writer.close(), writer.close())
    await writer.close()
    assert writes.written() == [(1, 1.0)]
    with pytest.raises(RuntimeError, match="closed"):
        writer.put([1], [1.0])


async def test_a_session_that_is_closed_before(scripted_session: Session, writes: Writes) -> None:
    writer = scripted_session.bulk_writer(1)
    writer.put([1], [1.0])
    await scripted_session.close()
    with pytest.raises(MxGatewaySessionError, match="closed"):
        writer.put([1], [2.0])
    with pytest.raises(MxGatewaySessionError, match="closed"):
        await writer.close()
    assert writer.counts == (1, 0, 0, 1, 0, 0, 0)
    with pytest.raises(MxGatewaySessionError, match="closed"):
        scripted_session.bulk_writer(1)


@settings(max_examples=40)
@given(st.data())
def test_every_value_is_counted_and_the_last_ones_arrive_in_order(data: st.DataObject) -> None:
    handles = st.lists(st.sampled_from([-7, 1, 2, 3, 2**31 - 1, -(2**31)]), max_size=8)
    puts = data.draw(st.lists(handles, max_size=12))
    pauses = data.draw(st.lists(st.integers(0, 3), min_size=len(puts), max_size=len(puts)))
    limit = data.draw(st.integers(1, 4))
    failing = data.draw(st.none() | st.integers(0, 6))

    async def run() -> None:
        writes = Writes()

        async def fail(number: int, context: Context) -> None:
            if number == failing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

        writes.before_answer = fail
        taken: list[tuple[int, float]] = []
        async with ScriptedGateway() as scripted:
            scripted.unary["Invoke"] = writes.invoke
            async with await scripted.connect(max_bulk_items=limit) as client:
                session = await client.open_session()
                writer = session.bulk_writer(1)
                try:
                    for items, pause in zip(puts, pauses, strict=True):
                        values = np.arange(len(taken), len(taken) + len(items), dtype=float)
                        writer.put(items, values)
                        taken += zip(items, values.tolist(), strict=True)
                        for _ in range(pause):
                            await asyncio.sleep(0.001)
                    await writer.close()
                except MxGatewayError:
                    assert failing is not None
                    with pytest.raises(MxGatewayError):
                        await writer.close()
        counts = writer.counts
        assert counts.put == len(taken)
        assert counts.sent == counts.accepted + counts.rejected + counts.unknown
        written = writes.written()
        assert counts.sent == len(written)
        for item in {item for item, _ in written}:
            order = [value for each, value in written if each == item]
            assert order == sorted(order), "an item's values keep their order"
        unsent = dict(taken).items() - set(written)
        assert counts.pending == len(unsent), "the newest value of each item was sent or waits"
        assert counts.conflated == counts.put - len(written) - len(unsent)
        assert not unsent or failing is not None
        assert counts.unknown == 0 or failing is not None

    asyncio.run(run())
