"""A prepared write has the outcomes of write_array, cycle after cycle."""

import asyncio
import math
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast import (
    EncodeError,
    MxAccessError,
    MxGatewayConnectionError,
    MxGatewaySessionError,
    Outcome,
    Session,
    from_mx_value,
)
from mxfast.requests import as_values
from tests.conftest import Context, OpenLimited, ScriptedGateway, Writes

DTYPES = ["float64", "float32", "int32", "int64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
async def test_each_cycle_arrives(session: Session, dtype: str) -> None:
    server = await session.register("x")
    tags = [f"T{n}.V" for n in range(20)]
    handles = [r.item_handle for r in await session.add_item_bulk(server, tags)]
    prepared = session.prepare_write(server, handles, dtype)
    assert len(prepared) == 20
    assert prepared.dtype == dtype
    for cycle in range(3):
        values = (np.arange(20) * (cycle - 1)).astype(dtype)
        result = await prepared.write(values)
        assert result.ok
        assert result.item_handle.tolist() == handles
        assert result.requests == 1
        read = await session.read_bulk(server, tags)
        assert [from_mx_value(r.value) for r in read] == values.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limits", [{"max_bulk_items": 7}, {"max_message_bytes": 300}])
async def test_requests_keep_to_the_limits(
    open_limited: OpenLimited, writes: Writes, dtype: str, limits: dict[str, int]
) -> None:
    session = await open_limited(**limits)
    handles = np.append(np.arange(1, 300, 10), 5)
    values = (np.arange(len(handles)) % 2).astype(dtype)
    prepared = session.prepare_write(3, handles, dtype)
    for _ in range(2):
        result = await prepared.write(values)
        assert result.ok
        assert result.requests == len(writes.requests) > 2
        assert {command.write_bulk.server_handle for command in writes.requests} == {3}
        # Two requests that share no item may overtake each other.
        assert sorted(writes.written()) == sorted(zip(handles, values, strict=True))
        assert max(map(len, writes.handles())) <= limits.get("max_bulk_items", 1000)
        assert max(writes.sizes) <= limits.get("max_message_bytes", 1000)
        writes.requests.clear()


@pytest.mark.parametrize("dtype", ["float64", "int32"])
async def test_each_request_has_a_correlation_id_of_its_own(
    open_limited: OpenLimited, scripted: ScriptedGateway, writes: Writes, dtype: str
) -> None:
    seen: list[bytes] = []

    async def answer(request: bytes, context: Context) -> bytes:
        seen.append(request)
        return await writes.invoke(request, context)

    scripted.unary["Invoke"] = answer
    session = await open_limited(max_bulk_items=2)
    prepared = session.prepare_write(1, [1, 2, 3, 4], dtype)
    await prepared.write(np.zeros(4, dtype))
    await prepared.write(np.zeros(4, dtype))
    assert len(set(seen)) == 4, "equal but for the correlation id"


async def test_values_that_convert_safely(scripted_session: Session, writes: Writes) -> None:
    prepared = scripted_session.prepare_write(1, [1, 2])
    for values in ([1, 2], np.array([3, 4], "f4"), np.array([5, 6], ">f8"), (True, False)):
        assert (await prepared.write(values)).ok
    assert [value for _, value in writes.written()] == [1, 2, 3, 4, 5, 6, 1, 0]


INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.builds(
    lambda power, more: 2**power + more, st.integers(0, 62), st.integers(-1, 1)
)


@given(st.sampled_from(DTYPES[:4]), st.lists(INTEGERS, max_size=4))
def test_a_list_of_integers_becomes_a_dtype_that_holds_each(dtype: str, values: list[int]) -> None:
    def holds(value: int) -> bool:
        if dtype.startswith("int"):
            limits = np.iinfo(dtype)
            return int(limits.min) <= value <= int(limits.max)
        return int(np.dtype(dtype).type(value)) == value

    bad = [index for index, value in enumerate(values) if not holds(value)]
    if bad:
        said = rf"values\[{bad[0]}\] is {values[bad[0]]}, which {dtype} does not hold exactly"
        with pytest.raises(ValueError, match=said):
            as_values(values, len(values), np.dtype(dtype))
    else:
        column = as_values(values, len(values), np.dtype(dtype))
        assert column.dtype == dtype
        assert [int(each) for each in column] == values


@given(st.lists(st.floats(allow_nan=False), max_size=4))
def test_a_list_of_floats_becomes_the_nearest_float32(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        nearest = [float(np.float32(value)) for value in values]
    bad = [
        index
        for index, (value, near) in enumerate(zip(values, nearest, strict=True))
        if math.isinf(near) and not math.isinf(value)
    ]
    if bad:
        with pytest.raises(ValueError, match=rf"values\[{bad[0]}\] is .*float32 does not hold"):
            as_values(values, len(values), np.dtype("float32"))
    else:
        column = as_values(values, len(values), np.dtype("float32"))
        assert column.dtype == "float32"
        assert column.tolist() == nearest


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("i4", [1, -(2**31)]),
        ("f4", [1.5, 2**24]),
        ("f4", [1, 2]),
        ("i8", (1, 2**62)),
        ("?", [True, False]),
    ],
)
async def test_lists_are_written_in_the_dtype(
    scripted_session: Session, writes: Writes, dtype: str, values: Any
) -> None:
    assert (await scripted_session.prepare_write(1, [1, 2], dtype).write(values)).ok
    async with scripted_session.bulk_writer(1, dtype) as writer:
        writer.put([1, 2], values)
        await writer.flush()
        writer.put([], [])
    arm = {"i4": "int32", "i8": "int64", "f4": "float", "?": "bool"}[dtype]
    assert len(writes.requests) == 2
    for command in writes.requests:
        entries = command.write_bulk.entries
        assert {entry.value.WhichOneof("kind") for entry in entries} == {f"{arm}_value"}
        assert [from_mx_value(entry.value) for entry in entries] == list(values)


@pytest.mark.parametrize(
    ("dtype", "values", "error", "named"),
    [
        ("f8", [1.0], ValueError, "2 item handles but 1 values"),
        ("f8", [[1.0, 2.0]], ValueError, "one-dimensional"),
        ("f8", [1.0, np.nan], EncodeError, r"values\[1\] is nan \(item handle 2\)"),
        ("f4", np.array([np.inf, 1], "f4"), EncodeError, r"values\[0\] is inf"),
        ("f4", np.array([1.0, 2.0]), TypeError, "float64 do not fit in float32"),
        ("f4", [1.0, -1e39], ValueError, r"values\[1\] is -1e\+39, which float32 does not hold"),
        ("f4", [np.inf, 1.0], EncodeError, r"values\[0\] is inf"),
        ("i4", [1, 2**31], ValueError, r"values\[1\] is 2147483648, which int32 does not hold"),
        (
            "f8",
            [2**63, 2**64 - 1],
            ValueError,
            r"values\[0\] is 9223372036854775808: MXAccess integers hold 64 bits",
        ),
        ("i4", [1.5, 2.0], TypeError, "float64 do not fit in int32"),
        ("i4", np.array([1, 2], "i8"), TypeError, "int64 do not fit in int32"),
        ("?", [1, 2], TypeError, "do not fit in bool"),
        ("f8", ["a", "b"], TypeError, "do not fit"),
        ("f8", np.array([1, 2**53 + 1]), EncodeError, r"values\[1\] is 9007199254740993, which"),
        ("f8", np.ma.array([1.0, 2.0], mask=[True, False]), TypeError, "masked"),
    ],
)
async def test_bad_values_send_nothing(  # noqa: PLR0917 - fixtures and parameters
    scripted: ScriptedGateway,
    scripted_session: Session,
    dtype: str,
    values: Any,
    error: type[Exception],
    named: str,
) -> None:
    prepared = scripted_session.prepare_write(1, [1, 2], dtype)
    with pytest.raises(error, match=named):
        await prepared.write(values)
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize(
    ("handles", "dtype", "error", "named"),
    [
        ([1], "f2", TypeError, "float16"),
        ([1], "u8", TypeError, "uint64"),
        ([1], "M8[s]", TypeError, "datetime64"),
        ([1.5], "f8", TypeError, r"item_handles\[0\] is 1.5"),
        ([2**31], "f8", ValueError, r"item_handles\[0\]"),
        ([[1]], "i4", ValueError, "one-dimensional"),
    ],
)
async def test_bad_preparations(
    scripted_session: Session, handles: Any, dtype: str, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        scripted_session.prepare_write(1, handles, dtype)


async def test_a_value_that_fits_in_no_message(open_limited: OpenLimited) -> None:
    session = await open_limited(max_message_bytes=50)
    with pytest.raises(ValueError, match=r"item handle 1. .*max_message_bytes is 50"):
        session.prepare_write(1, [1, 2])


@pytest.mark.parametrize("dtype", ["f8", "f4"])
async def test_nan_in_the_last_of_30_requests_sends_nothing(
    scripted: ScriptedGateway, open_limited: OpenLimited, writes: Writes, dtype: str
) -> None:
    session = await open_limited(max_bulk_items=10)
    prepared = session.prepare_write(1, np.arange(1, 301), dtype)
    values = np.ones(300, dtype)
    values[299] = np.nan
    with pytest.raises(EncodeError, match=r"values\[299\] is nan \(item handle 300\)") as caught:
        await prepared.write(values)
    assert caught.value.index == 299
    assert "Invoke" not in scripted.calls
    values[299] = 1
    assert (await prepared.write(values)).ok


async def test_nothing_to_write(scripted: ScriptedGateway, scripted_session: Session) -> None:
    for dtype in DTYPES:
        result = await scripted_session.prepare_write(1, [], dtype).write(np.array([], dtype))
        assert result.ok
        assert len(result) == 0
    assert "Invoke" not in scripted.calls


async def test_cycles_at_the_same_time_do_not_mix(
    open_limited: OpenLimited, writes: Writes
) -> None:
    async def let_others_in(number: int, context: Context) -> None:
        await asyncio.sleep(0.001 * (number % 3))

    writes.before_answer = let_others_in
    session = await open_limited(max_bulk_items=100)
    prepared = session.prepare_write(1, np.arange(1, 251))
    results = await asyncio.gather(*(prepared.write(np.full(250, n)) for n in range(8)))
    assert all(result.ok for result in results)
    for command in writes.requests:
        assert len({entry.value.double_value for entry in command.write_bulk.entries}) == 1
    assert sorted(value for _, value in writes.written()) == sorted(np.repeat(np.arange(8), 250))


@pytest.mark.parametrize("dtype", ["f8", "i8"])
async def test_items_that_repeat_keep_their_order(
    open_limited: OpenLimited, writes: Writes, dtype: str
) -> None:
    async def take_a_while(number: int, context: Context) -> None:
        await asyncio.sleep(0.01)

    writes.before_answer = take_a_while
    session = await open_limited(max_bulk_items=2)
    handles = [1, 2, 2, 3]
    prepared = session.prepare_write(1, handles, dtype)
    assert (await prepared.write(np.arange(4).astype(dtype))).ok
    assert writes.most_under_way == 1
    assert writes.written() == list(zip(handles, range(4), strict=True))


async def test_two_requests_are_under_way_where_no_item_repeats(
    open_limited: OpenLimited, writes: Writes
) -> None:
    both = asyncio.Event()

    async def wait_for_the_other(number: int, context: Context) -> None:
        if number == 1:
            both.set()
        await both.wait()

    writes.before_answer = wait_for_the_other
    session = await open_limited(max_bulk_items=2)
    assert (await session.prepare_write(1, [1, 2, 3, 4]).write(np.arange(4.0))).ok
    assert writes.most_under_way == 2


async def test_failure_on_the_way(open_limited: OpenLimited, writes: Writes) -> None:
    async def fail_second(number: int, context: Context) -> None:
        if number == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    writes.before_answer = fail_second
    session = await open_limited(max_bulk_items=1)
    prepared = session.prepare_write(1, [7, 7, 7])
    with pytest.raises(MxGatewayConnectionError, match=r"prepared write: .*broke off") as caught:
        await prepared.write([1.0, 2.0, 3.0])
    outcomes = [Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.NOT_SENT]
    assert caught.value.result.outcome.tolist() == outcomes


async def test_rejected_values_and_progress(session: Session) -> None:
    server = await session.register("x")
    good = await session.add_item(server, "Tank1.Level")
    prepared = session.prepare_write(server, [good, 9999])
    progress: list[tuple[int, int]] = []
    result = await prepared.write([1.0, 2.0], on_progress=lambda *at: progress.append(at))
    assert result.outcome.tolist() == [Outcome.ACCEPTED, Outcome.REJECTED]
    assert progress == [(2, 2)]
    with pytest.raises(MxAccessError, match="index 1, item 9999"):
        result.raise_for_failure()


async def test_closed_session(scripted_session: Session) -> None:
    prepared = scripted_session.prepare_write(1, [1])
    await scripted_session.close()
    with pytest.raises(MxGatewaySessionError, match="closed"):
        await prepared.write([1.0])
    with pytest.raises(MxGatewaySessionError, match="closed"):
        scripted_session.prepare_write(1, [1])


async def test_tags_in_place_of_handles(session: Session) -> None:
    server = await session.register("x")
    items = await session.subscribe(server, ["A.B", "A.C"])
    for handles in (items, ["A.C", "A.B"]):
        result = await session.prepare_write(server, handles).write([1.0, 2.0])
        assert result.ok
    read = await session.read_bulk(server, ["A.B", "A.C"])
    assert [from_mx_value(r.value) for r in read] == [2.0, 1.0]
    with pytest.raises(ValueError, match="no item"):
        session.prepare_write(server, ["A.X"])


async def test_a_session_that_was_rebuilt(session: Session) -> None:
    server = await session.register("x")
    item = await session.add_item(server, "A.B")
    prepared, writer = session.prepare_write(server, [item]), session.bulk_writer(server)
    await session.rebuild()
    with pytest.raises(MxGatewaySessionError, match=r"rebuilt .* prepared write anew"):
        await prepared.write([1.0])
    with pytest.raises(MxGatewaySessionError, match=r"rebuilt .* bulk writer anew"):
        writer.put([item], [1.0])
    await writer.close()


async def test_the_handles_are_not_the_callers(scripted_session: Session, writes: Writes) -> None:
    handles = np.array([1, 2], np.int32)
    prepared = scripted_session.prepare_write(1, handles, np.int32)
    handles[:] = 0
    assert (await prepared.write(np.array([5, 6], "i4"))).item_handle.tolist() == [1, 2]
    assert writes.handles() == [[1, 2]]
    assert repr(prepared) == "<PreparedWrite of 2 int32 values>"
