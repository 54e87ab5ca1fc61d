"""Work on much data is done in a thread, whatever form the data comes in."""

import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mxfast import Session, requests, values
from mxfast.contract import mxaccess_gateway as pb
from mxfast.threads import LARGE, rows_of
from tests import wire
from tests.conftest import Context, OpenLimited, ScriptedGateway, Writes, ok

ONE, MANY = 1, LARGE // 10


class Noted:
    """Notes of functions whether they ran in the event loop's thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self._loop = threading.get_ident()
        self.on_loop: dict[str, set[bool]] = {}

    def note(self, module: Any, name: str) -> None:
        function = getattr(module, name)

        def noted(*args: Any, **fields: Any) -> Any:
            self.on_loop.setdefault(name, set()).add(threading.get_ident() == self._loop)
            return function(*args, **fields)

        self.monkeypatch.setattr(module, name, noted)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    return Noted(monkeypatch)


class Forms:
    """Columns of one length whose conversion or encoding is the work."""

    @staticmethod
    def handles_in_a_list(rows: int) -> dict[str, Any]:
        return {"item_handles": [*range(1, rows + 1)]}

    @staticmethod
    def floats_in_a_list(rows: int) -> dict[str, Any]:
        return {"values": [0.5] * rows}

    @staticmethod
    def floats_in_a_tuple(rows: int) -> dict[str, Any]:
        return {"values": (0.5,) * rows}

    @staticmethod
    def text_of_pandas(rows: int) -> dict[str, Any]:
        pandas = pytest.importorskip("pandas", reason="pandas is an extra")
        return {"values": pandas.Series(["x"] * rows)}

    @staticmethod
    def objects(rows: int) -> dict[str, Any]:
        return {"values": np.array(["x"] * rows, object)}

    @staticmethod
    def times_in_a_list(rows: int) -> dict[str, Any]:
        return {"timestamps": [datetime(2026, 1, 1, tzinfo=UTC)] * rows}

    @staticmethod
    def few_long_texts(rows: int) -> dict[str, Any]:
        return {"values": ["x" * (10 * LARGE // 50 if rows > 1 else 1)] * 50}

    @staticmethod
    def few_long_texts_of_numpy(rows: int) -> dict[str, Any]:
        return {"values": np.array(["x" * (10 * LARGE // 50 if rows > 1 else 1)] * 50, object)}


FORMS = [getattr(Forms, name) for name in vars(Forms) if not name.startswith("_")]


@pytest.mark.parametrize("form", FORMS)
async def test_an_array_write(
    noted: Noted,
    scripted_session: Session,
    writes: Writes,
    form: Callable[[int], dict[str, Any]],
) -> None:
    for name in ("as_handles", "as_column", "encode_write_bulk"):
        noted.note(requests, name)
    noted.monkeypatch.setattr("mxfast.write.as_handles", requests.as_handles)
    noted.monkeypatch.setattr("mxfast.write.as_column", requests.as_column)
    for rows in (ONE, MANY):
        noted.on_loop.clear()
        given = form(rows)
        (length,) = map(len, given.values())
        columns = {
            "item_handles": np.arange(1, length + 1),
            "values": np.zeros(length),
        } | given
        assert (await scripted_session.write_array(1, **columns)).ok
        assert noted.on_loop["as_handles"] == {rows == ONE}
        assert noted.on_loop["as_column"] == {rows == ONE}
        assert (rows == ONE) in noted.on_loop["encode_write_bulk"]


async def test_each_request_of_long_texts(
    noted: Noted, open_limited: OpenLimited, writes: Writes
) -> None:
    noted.note(requests, "encode_write_bulk")
    session = await open_limited(max_message_bytes=2_500_000)
    texts = ["x" * 10 * LARGE] * 8
    assert (await session.write_array(1, np.arange(1, 9), texts)).requests == 4
    assert noted.on_loop["encode_write_bulk"] == {False}


async def test_a_prepared_write_from_a_list(
    noted: Noted, scripted_session: Session, writes: Writes
) -> None:
    noted.note(requests, "as_values")
    noted.monkeypatch.setattr("mxfast.prepared_write.as_values", requests.as_values)
    for rows in (ONE, MANY):
        noted.on_loop.clear()
        prepared = scripted_session.prepare_write(1, np.arange(1, rows + 1))
        assert (await prepared.write([0.5] * rows)).ok
        assert noted.on_loop["as_values"] == {rows == ONE}


SINGLE: dict[str, Callable[[Session, Any], Awaitable[None]]] = {
    "write": lambda session, value: session.write(1, 2, value, 3),
    "write2": lambda session, value: session.write2(1, 2, value, datetime(2026, 1, 1), 3),
    "write_secured": lambda session, value: session.write_secured(1, 2, 3, 4, value),
    "write_secured2": lambda session, value: session.write_secured2(
        1, 2, 3, 4, value, datetime(2026, 1, 1)
    ),
}


@pytest.fixture
def seen(scripted: ScriptedGateway) -> list[bytes]:
    """The requests that came."""
    came: list[bytes] = []

    async def answer(request: bytes, context: Context) -> bytes:
        came.append(request)
        return pb.MxCommandReply(protocol_status=ok()).SerializeToString()

    scripted.unary["Invoke"] = answer
    return came


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([True, False]),
        np.arange(4, dtype="i8")[::-2],
        np.array(["a\0", "b"], object),
        np.array([0, 10**18], "M8[ns]"),
    ],
)
async def test_a_single_write_of_an_array_has_the_runtimes_bytes(
    scripted_session: Session, seen: list[bytes], name: str, array: np.ndarray[Any, Any]
) -> None:
    await SINGLE[name](scripted_session, array)
    request = pb.MxCommandRequest.FromString(seen[0])
    expected = pb.MxCommandRequest(
        session_id=request.session_id, client_correlation_id=request.client_correlation_id
    )
    expected.command.kind = getattr(pb, f"MX_COMMAND_KIND_{name.upper()}")
    command = getattr(expected.command, name)
    command.server_handle, command.item_handle = 1, 2
    command.value.CopyFrom(wire.array_message(array))
    if "2" in name:
        command.timestamp_value.CopyFrom(wire.time_value(np.datetime64("2026-01-01", "s")))
    if "secured" in name:
        command.current_user_id, command.verifier_user_id = 3, 4
    else:
        command.user_id = 3
    wire.assert_written(seen[0], expected)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "value",
    [
        np.zeros(LARGE),
        [0.5] * MANY,
        [[0.5, 1.5]] * MANY,
        np.array(["x" * LARGE] * 10),
        ["x" * LARGE] * 10,
    ],
    ids=["array", "list", "nested", "text", "list of text"],
)
async def test_a_single_write_of_a_large_array(
    noted: Noted, scripted_session: Session, seen: list[bytes], name: str, value: Any
) -> None:
    noted.note(values, "encode_value")
    await SINGLE[name](scripted_session, value[:1])
    assert noted.on_loop.pop("encode_value") == {True}
    await SINGLE[name](scripted_session, value)
    assert False in noted.on_loop["encode_value"]  # the timestamp's is on the loop
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (np.zeros((3, 4)), 12),
        (np.float64(1), 1),
        (1.5, 1),
        (None, 1),
        (np.array("x", object), 1),
        ([], 0),
        ([1, 2], 20),
        ([[1, 2], [3, 4]], 40),
        ("x" * 1000, 100),
        (["x" * 1000] * 3, 300),
        (["x" * 1000, None], 100),
        (np.array([b"x" * 1000] * 3), 300),
        (np.array(["x"] * 3, object), 30),
    ],
)
def test_how_much_work_something_is(data: Any, rows: int) -> None:
    assert rows_of(data) == rows
