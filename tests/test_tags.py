"""Subscribing and reading any number of tags, and writing to them by name."""

import asyncio
from typing import Any

import numpy as np
import pytest

from mxfast import (
    EncodeError,
    GatewayClient,
    Items,
    MalformedReplyError,
    MxAccessError,
    MxGatewaySessionError,
    Outcome,
    Session,
    ValueKind,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import parse
from mxfast.simulator import SimulatedGateway
from tests.conftest import Context, ScriptedGateway, ok

TAGS = [f"Tank{n}.Level" for n in range(10)]


class Answers:
    """Answers bulk commands by tag, as a gateway does, and notes how many tags each had."""

    def __init__(self, gateway: ScriptedGateway) -> None:
        self.sizes: list[int] = []
        self.bytes: list[int] = []
        self.change: Any = lambda results: None
        gateway.unary["Invoke"] = self.answer

    async def answer(self, request: bytes, context: Context) -> bytes:
        command = pb.MxCommandRequest.FromString(request).command
        reply = pb.MxCommandReply(kind=command.kind, protocol_status=ok())
        asked = getattr(command, command.WhichOneof("payload") or "")
        results = getattr(reply, command.WhichOneof("payload") or "").results
        for tag in asked.tag_addresses:
            row = sum(self.sizes) + len(results)
            results.add(tag_address=tag, item_handle=100 + row, was_successful=True)
        self.sizes.append(len(results))
        self.bytes.append(len(request))
        self.change(results)
        return reply.SerializeToString()


@pytest.fixture
async def small(gateway: SimulatedGateway) -> Any:
    """A session that sends at most three items a request."""
    async with (
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=3
        ) as client,
        await client.open_session() as session,
    ):
        yield session


# ---------------------------------------------------------------- subscribe


async def test_tags_are_subscribed_however_many(small: Session) -> None:
    server = await small.register("x")
    events = small.event_batches()
    items = await small.subscribe(server, TAGS)
    assert items.tags.tolist() == TAGS
    assert items.ok.all()
    assert len(set(items.item_handle.tolist())) == 10
    assert items.server_handle == server
    items.raise_for_failure()
    # Advised, and looked up by the handles of events.
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while seen != set(TAGS):
            seen.update(items.tags_of((await anext(events)).item_handle))
    await events.aclose()


def series(library: str) -> Any:
    """What makes a Series of a library that is no requirement of mxfast; skips without it."""
    return lambda tags: pytest.importorskip(library).Series(tags)


COLUMNS = {
    "list": list,
    "tuple": tuple,
    "U": np.array,
    "object": lambda tags: np.array(tags, object),
    "StringDType": lambda tags: np.array(tags, np.dtypes.StringDType()),
    "pandas": series("pandas"),
    "polars": series("polars"),
    "pyarrow": lambda tags: pytest.importorskip("pyarrow").array(tags),
}
each_column = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)


@each_column
async def test_tags_come_in_any_column(session: Session, column: Any) -> None:
    server = await session.register("x")
    assert (await session.subscribe(server, column(TAGS))).tags.tolist() == TAGS


async def test_a_null_among_tags_is_named(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    column = pytest.importorskip("pyarrow").array(["A.B", None])
    with pytest.raises(EncodeError, match=r"tags\[1\] is null"):
        await scripted_session.subscribe(1, column)
    with pytest.raises(EncodeError, match=r"item_handles\[1\] is null"):
        await scripted_session.write_array(1, column, [1.0, 2.0])
    assert "Invoke" not in scripted.calls


async def test_tags_come_from_any_iterable(session: Session) -> None:
    server = await session.register("x")
    for tags in (iter(TAGS), dict.fromkeys(TAGS)):
        assert (await session.subscribe(server, tags)).tags.tolist() == TAGS


async def test_refused_tags_are_listed_and_raise_nothing() -> None:
    async with (
        SimulatedGateway(tags=["Tank1.Level", "Tank2.Level"], update_interval=0) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        items = await session.subscribe(server, ["Tank1.Level", "Tank9.Level", "Tank2.Level"])
        assert items.ok.tolist() == [True, False, True]
        assert list(items.failed) == ["Tank9.Level"]
        assert "not resolved" in items.failed["Tank9.Level"]
        with pytest.raises(MxAccessError, match=r"subscribe: 1 of 3 .* 1, Tank9\.Level: Reference"):
            items.raise_for_failure()
        with pytest.raises(ValueError, match=r"\[1\], 'Tank9\.Level', is not subscribed: .*ok\]"):
            await session.write_array(server, items, [1.0, 2.0, 3.0])
        result = await session.write_array(server, items[items.ok], [1.0, 3.0])
        assert result.ok
        read = await session.read_array(server, items)
        assert read.ok.tolist() == [True, False, True]
        np.testing.assert_array_equal(read.value, [1.0, np.nan, 3.0])


@pytest.mark.parametrize(
    ("tags", "error", "words"),
    [
        (None, TypeError, "tags must be a list of str, not None"),
        ("Tank1.Level", TypeError, r"tags must be a list of str, not 'Tank1\.Level'"),
        (b"x", TypeError, "tags must be a list of str"),
        (["A.B", 5], TypeError, r"tags\[1\] must be a str, got 5"),
        (np.array(["A.B", np.nan], object), TypeError, r"tags\[1\] must be a str, got nan"),
        ([5, 6], TypeError, r"tags\[0\] must be a str, got 5"),
        (np.arange(3), TypeError, r"tags\[0\] must be a str"),
        (["A.B", ""], ValueError, r"tags\[1\] is empty"),
        (["A.B", "x\ud800"], ValueError, r"tags\[1\], .* cannot be encoded"),
        (["A.B", "C.D", "A.B"], ValueError, r"tags\[2\] is 'A\.B', as is tags\[0\]"),
        (["A.B", "x" * 2**24], ValueError, r"tags\[1\], 'xx.* has 16777216 bytes: max_message"),
    ],
)
async def test_bad_tags_are_refused_before_anything_is_sent(
    scripted: ScriptedGateway, scripted_session: Session, tags: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        await scripted_session.subscribe(1, tags)
    assert len(str(caught.value)) < 200
    if "as is" not in words:
        with pytest.raises(error, match=words):
            await scripted_session.read_array(1, tags)
    assert "Invoke" not in scripted.calls


async def test_no_tags_send_nothing(scripted: ScriptedGateway, scripted_session: Session) -> None:
    assert len(await scripted_session.subscribe(1, [])) == 0
    read = await scripted_session.read_array(1, np.array([], str))
    assert len(read) == read.values(ValueKind.STRING).size == 0
    assert read.value.dtype == np.float64
    read.raise_for_failure()
    assert "Invoke" not in scripted.calls
    await scripted_session.close()
    for method in (scripted_session.subscribe, scripted_session.read_array):
        with pytest.raises(MxGatewaySessionError, match="closed"):
            await method(1, [])


async def test_requests_keep_both_limits(scripted: ScriptedGateway) -> None:
    answers = Answers(scripted)
    tags = [f"{'é' * 100}{n}.Level" for n in range(60)]
    async with (
        await scripted.connect(max_bulk_items=25, max_message_bytes=4096) as client,
        await client.open_session() as session,
    ):
        items = await session.subscribe(1, tags)
        assert items.item_handle.tolist() == list(range(100, 160))
        assert sum(answers.sizes) == 60
        assert max(answers.bytes) <= 4096
        assert max(answers.sizes) <= 25
        read = await session.read_array(1, tags)
        assert read.item_handle.tolist() == list(range(160, 220))
        assert max(answers.bytes) <= 4096


def swapped(results: Any) -> None:
    results[0].tag_address, results[1].tag_address = TAGS[1], TAGS[0]


def without_handle(results: Any) -> None:
    results[1].item_handle = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda results: results.pop(), "10 tags were sent and 9 results came back"),
        (lambda results: results.add(), "10 tags were sent and 11 results came back"),
        (swapped, r"result 0 is for the tag 'Tank1\.Level', 'Tank0\.Level' was sent"),
        (without_handle, r"result 1, for the tag 'Tank1\.Level', has no item handle"),
    ],
)
async def test_results_that_do_not_fit_are_refused(
    scripted: ScriptedGateway, scripted_session: Session, change: Any, words: str
) -> None:
    Answers(scripted).change = change
    with pytest.raises(MalformedReplyError, match=f"subscribe: {words}") as caught:
        await scripted_session.subscribe(1, TAGS)
    assert not caught.value.result.ok.any()
    assert set(caught.value.result.failed.values()) == {"not answered"}
    if change is not without_handle:
        with pytest.raises(MalformedReplyError, match=words.replace("subscribe", "read_array")):
            await scripted_session.read_array(1, TAGS)


async def test_names_as_the_gateway_writes_them_are_the_same_tags(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    def written(results: Any) -> None:
        results[0].tag_address = "TANK0.Level"
        results[1].tag_address = "Tank1.Level[]"
        results[2].tag_address = ""

    Answers(scripted).change = written
    items = await scripted_session.subscribe(1, TAGS)
    assert items.ok.all()
    assert items.tags.tolist() == TAGS


async def test_replies_that_are_none(scripted: ScriptedGateway, scripted_session: Session) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok()))
    for method in (scripted_session.subscribe, scripted_session.read_array):
        with pytest.raises(MalformedReplyError, match="the reply has no results"):
            await method(1, TAGS)
    failure = pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE, message="broken")
    scripted.reply_with(pb.MxCommandReply(protocol_status=failure))
    for method in (scripted_session.subscribe, scripted_session.read_array):
        with pytest.raises(MxAccessError, match="broken"):
            await method(1, TAGS)

    async def garbage(request: bytes, context: Context) -> bytes:
        return b"\xff"

    scripted.unary["Invoke"] = garbage
    with pytest.raises(MalformedReplyError, match="unreadable reply"):
        await scripted_session.read_array(1, TAGS)


async def test_what_was_subscribed_before_a_failure_is_not_lost(scripted: ScriptedGateway) -> None:
    answers = Answers(scripted)

    def fail(results: Any) -> None:
        if len(answers.sizes) == 3:
            raise RuntimeError("the gateway's own fault")

    answers.change = fail
    async with (
        await scripted.connect(max_bulk_items=3) as client,
        await client.open_session() as session,
    ):
        with pytest.raises(Exception, match="subscribe: ") as caught:
            await session.subscribe(1, TAGS)
        items: Items = caught.value.result  # type: ignore[attr-defined]
        assert items.ok.tolist() == [True] * 6 + [False] * 4
        assert items.failed == dict.fromkeys(TAGS[6:], "not answered")
        assert len(answers.sizes) == 3
        # Their names are known.
        with pytest.raises(ValueError, match=r"item_handles\[1\] is the tag 'Tank6\.Level'"):
            await session.write_array(1, [TAGS[0], TAGS[6]], [1.0, 2.0])


async def test_a_cancelled_subscribe_says_what_it_did(scripted: ScriptedGateway) -> None:
    answers = Answers(scripted)
    hangs = asyncio.Event()

    async def answer(request: bytes, context: Context) -> bytes:
        if len(answers.sizes) == 2:
            hangs.set()
            await asyncio.Event().wait()
        return await answers.answer(request, context)

    scripted.unary["Invoke"] = answer
    async with (
        await scripted.connect(max_bulk_items=3) as client,
        await client.open_session() as session,
    ):
        task = asyncio.create_task(session.subscribe(1, TAGS))
        await asyncio.wait_for(hangs.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.result.ok.tolist() == [True] * 6 + [False] * 4  # type: ignore[attr-defined]


async def test_a_reason_holds_no_key(scripted: ScriptedGateway, scripted_session: Session) -> None:
    def refuse(results: Any) -> None:
        results[0].was_successful = False
        results[0].error_message = "refused for mxgw_test_d0ntShowThis"
        if isinstance(results[0], pb.BulkReadResult):
            results[0].statuses.add(diagnostic_text="told by mxgw_test_d0ntShowThis")
        results[1].was_successful = False

    Answers(scripted).change = refuse
    items = await scripted_session.subscribe(1, TAGS)
    assert items.item_handle[:2].tolist() == [0, 0]
    assert "d0ntShowThis" not in items.failed["Tank0.Level"]
    assert items.failed["Tank1.Level"] == "refused without a reason"
    read = await scripted_session.read_array(1, TAGS)
    assert read.errors[0].statuses[0].diagnostic_text == "told by mxgw_test_***"
    assert "d0ntShowThis" not in repr(read.errors)
    assert read.errors[1].message == "not read, without a reason"


# ---------------------------------------------------------------- read_array


async def test_values_of_any_kind_are_read_into_columns(small: Session) -> None:
    server = await small.register("x")
    given: list[Any] = [2.5, 2**62 + 1, "Füllstand", True, b"\0\1", [1.0, 2.0], -7]
    tags = [f"Mixed{n}.Value" for n in range(len(given))]
    items = await small.subscribe(server, tags[:4])
    handles = [await small.add_item(server, tag) for tag in tags]
    for handle, value in zip(handles, given, strict=True):
        await small.write(server, handle, value)
    read = await small.read_array(server, tags, timeout_ms=500)
    assert read.tags.tolist() == tags
    assert read.ok.all()
    assert read.was_cached.tolist() == [True] * 4 + [False] * 3
    assert read.item_handle[:4].tolist() == items.item_handle.tolist()
    assert (read.quality == 192).all()
    assert not np.isnat(read.source_timestamp).any()
    assert read.kind.tolist() == [
        ValueKind.DOUBLE,
        ValueKind.INT64,
        ValueKind.STRING,
        ValueKind.BOOL,
        ValueKind.RAW,
        ValueKind.ARRAY,
        ValueKind.INT32,
    ]
    np.testing.assert_array_equal(read.value, [2.5, 2.0**62, np.nan, 1, np.nan, np.nan, -7])
    assert read.values(ValueKind.INT64).tolist() == [2**62 + 1]
    assert read.values(ValueKind.STRING).tolist() == ["Füllstand"]
    assert read.values(ValueKind.RAW).tolist() == [b"\0\1"]
    assert read.values(ValueKind.ARRAY)[0].tolist() == [1.0, 2.0]
    assert repr(read) == "<ReadResult of 7 tags>"
    for column in (read.tags, read.value, read.ok, read.source_timestamp):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]
    # A tag may be read twice.
    assert (await small.read_array(server, [tags[0]] * 5)).value.tolist() == [2.5] * 5


async def test_tags_that_cannot_be_read_are_named() -> None:
    async with (
        SimulatedGateway(tags=["Tank1.Level"]) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=2
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        read = await session.read_array(server, ["Tank1.Level"] * 2 + ["Tank9.Level"])
        assert read.ok.tolist() == [True, True, False]
        assert read.kind[2] == ValueKind.NONE
        assert list(read.errors) == [2]
        assert "1003" in read.errors[2].message
        assert read.errors[2].statuses[0].detail == 1003
        assert repr(read) == "<ReadResult of 3 tags, 1 not read>"
        with pytest.raises(MxAccessError, match=r"1 of 3 .* index 2, Tank9\.Level: .*1003") as e:
            read.raise_for_failure()
        assert e.value.result is read


async def test_why_tags_cannot_be_read_is_told_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def noted(message_type: Any, data: bytes, operation: str) -> Any:
        made.append(data)
        return parse(message_type, data, operation)

    async with (
        SimulatedGateway(tags=["Tank1.Level"]) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True, max_bulk_items=2
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("x")
        numbers = [1, 2, 3, 1, 4, 5, 1]
        read = await session.read_array(server, [f"Tank{n}.Level" for n in numbers])
        monkeypatch.setattr("mxfast.tags.parse", noted)
        with pytest.raises(MxAccessError, match=r"4 of 7 .* index 1, Tank2\.Level"):
            read.raise_for_failure()
        assert len(made) == 1
        assert list(read.errors) == [1, 2, 4, 5]
        assert len(made) == 1
        for row, error in read.errors.items():
            assert f"Tank{numbers[row]}.Level" in error.message
        assert 3 not in read.errors


async def test_items_stay_good_when_the_session_is_built_anew(session: Session) -> None:
    old = await session.register("x")
    items = await session.subscribe(old, TAGS)
    some = items[::2]
    await session.rebuild()
    assert items.tags.tolist() == TAGS
    assert items.ok.all()
    server = items.server_handle
    with pytest.raises(MxGatewaySessionError, match=rf"handle {old} .* give {server} now"):
        await session.write_array(old, items, np.arange(10.0))
    assert (await session.write_array(server, items, np.arange(10.0))).ok
    assert (await session.write_array(server, some, np.arange(5.0))).ok
    assert (await session.write_array(server, TAGS[1:2], [9.0])).ok
    read = await session.read_array(server, items)
    assert read.was_cached.all()  # advised again
    assert read.value.tolist() == [0, 9, 1, 3, 2, 5, 3, 7, 4, 9]


@pytest.mark.parametrize("timeout_ms", [-1, 2**32, 1.5])
async def test_a_timeout_out_of_range(session: Session, timeout_ms: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="timeout_ms"):
        await session.read_array(1, TAGS, timeout_ms=timeout_ms)


# ---------------------------------------------------------------- write_array by items and tags


@each_column
async def test_values_are_written_by_tag(small: Session, column: Any) -> None:
    server = await small.register("x")
    await small.subscribe(server, TAGS[:5])
    await small.add_item(server, TAGS[5])
    await small.add_item_bulk(server, TAGS[6:8])
    tags = TAGS[:8][::-1]
    result = await small.write_array(server, column(tags), np.arange(8.0))
    assert result.ok
    assert (await small.read_array(server, tags)).value.tolist() == list(range(8))


async def test_items_are_written_in_their_order(session: Session) -> None:
    server = await session.register("x")
    items = await session.subscribe(server, TAGS)
    result = await session.write_array(server, items[::-1], np.arange(10.0))
    assert result.ok
    assert result.item_handle.tolist() == items.item_handle[::-1].tolist()
    assert (await session.read_array(server, items)).value.tolist() == list(range(9, -1, -1))


async def test_a_tag_is_found_as_long_as_its_item_is_there(session: Session) -> None:
    server, other = await session.register("x"), await session.register("y")
    items = await session.subscribe(server, ["A.B", "C.D"])
    again = await session.add_item(server, "A.B")
    assert (await session.write_array(server, ["A.B"], [1.0])).item_handle == items.handle_of("A.B")
    await session.unsubscribe_bulk(server, [items.handle_of("A.B")])
    assert (await session.write_array(server, ["A.B"], [1.0])).item_handle == again
    with pytest.raises(ValueError, match=f"'A.B', which is no item of server handle {other}"):
        await session.write_array(other, ["A.B"], [1.0])
    await session.remove_item(server, again)
    with pytest.raises(ValueError, match=r"item_handles\[1\] is the tag 'A\.B'.*: subscribe or"):
        await session.write_array(server, ["C.D", "A.B"], [1.0, 2.0])
    assert (await session.write_array(server, ["C.D"], [4.0])).outcome[0] == Outcome.ACCEPTED


async def test_what_is_no_item_is_refused_before_anything_is_sent(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    Answers(scripted)
    items = await scripted_session.subscribe(1, TAGS[:2])
    sent = len(scripted.calls)
    for handles, error, words in [
        ("Tank0.Level", TypeError, r"item_handles is one str, 'Tank0\.Level': give a list"),
        (["Tank0.Level", 5], TypeError, r"item_handles\[1\] must be a str, as others are: 5"),
        ([5, "Tank0.Level"], TypeError, r"item_handles\[1\] is a str: 'Tank0\.Level'"),
        (["Tank0.Level", "x" * 99], ValueError, r"item_handles\[1\] is the tag 'x{36}\.\.\.,"),
    ]:
        with pytest.raises(error, match=words):
            await scripted_session.write_array(1, handles, [1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="belong to server handle 1, not 2"):
        await scripted_session.write_array(2, items, [1.0, 2.0])
    with pytest.raises(ValueError, match="2 item handles but 3 values"):
        await scripted_session.write_array(1, items, [1.0, 2.0, 3.0])
    assert len(scripted.calls) == sent


async def test_a_read_has_time_for_each_of_its_tags(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gateway takes tags that are not advised one after another.
    unary, timeouts = session._transport.unary, []

    async def record(*args: Any, **keywords: Any) -> bytes:
        timeouts.append(keywords["timeout"])
        return await unary(*args, **keywords)

    server = await session.register("reader")
    monkeypatch.setattr(session._transport, "unary", record)
    tags = [f"Tank{number}.Level" for number in range(5)]
    await session.read_bulk(server, tags, timeout_ms=1500)
    await session.read_bulk(server, tags)
    await session.read_array(server, tags[:2], timeout_ms=1500)
    await session.read_array(server, tags)
    many = [f"Tank{number}.Level" for number in range(1003)]
    await session.subscribe(server, many)
    await session.read_array(server, many, timeout_ms=2**32 - 1)
    assert session._options.call_timeout == 30
    assert timeouts == [
        30 + 5 * 1.5, 30, 30 + 2 * 1.5, 30,
        30, 30,  # subscribe
        30 + 1000 * (2**32 - 1) / 1000, 30 + 3 * (2**32 - 1) / 1000,
    ]  # fmt: skip
