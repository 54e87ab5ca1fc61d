"""What must not pass: another session's handles, garbage for an answer, a closed client."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pytest

from mxfast import (
    GalaxyRepositoryClient,
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewaySessionError,
    Outcome,
    Session,
)
from mxfast.checks import shown
from mxfast.contract import mxaccess_gateway as pb
from tests.conftest import KEY, Context, ScriptedGateway


class Clients:
    """All three, to call something of."""

    def __init__(
        self, client: GatewayClient, galaxy: GalaxyRepositoryClient, session: Session
    ) -> None:
        self.client = client
        self.galaxy = galaxy
        self.session = session


Call = Callable[[Clients], Any]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

UNARY: dict[str, Call] = {
    "open_session": lambda on: on.client.open_session(),
    "close_session": lambda on: on.client.close_session_raw(pb.CloseSessionRequest()),
    "invoke": lambda on: on.session.invoke_raw(pb.MxCommand()),
    "acknowledge_alarm": lambda on: on.client.acknowledge_alarm("A.B"),
    "register": lambda on: on.session.register("x"),
    "add_item": lambda on: on.session.add_item(1, "A.B"),
    "write": lambda on: on.session.write(1, 2, 3.0),
    "write2": lambda on: on.session.write2(1, 2, "text", NOON),
    "read_bulk": lambda on: on.session.read_bulk(1, ["A.B"]),
    "write_array": lambda on: on.session.write_array(1, [2], [3.0]),
    "test_connection": lambda on: on.galaxy.test_connection(),
    "get_last_deploy_time": lambda on: on.galaxy.get_last_deploy_time(),
    "discover_hierarchy": lambda on: on.galaxy.discover_hierarchy(),
    "browse": lambda on: on.galaxy.browse(),
}
STREAMS: dict[str, Call] = {
    "stream_events": lambda on: on.session.stream_events(),
    "event_batches": lambda on: on.session.event_batches(),
    "stream_events_raw": lambda on: on.client.stream_events_raw(pb.StreamEventsRequest()),
    "stream_alarms": lambda on: on.client.stream_alarms(),
    "query_active_alarms": lambda on: on.client.query_active_alarms(),
    "watch_deploy_events": lambda on: on.galaxy.watch_deploy_events(),
}
CALLS = {
    "OpenSession", "CloseSession", "Invoke", "AcknowledgeAlarm", "TestConnection",
    "GetLastDeployTime", "DiscoverHierarchy", "BrowseChildren",
}  # fmt: skip
FEEDS = {"StreamEvents", "StreamAlarms", "QueryActiveAlarms", "WatchDeployEvents"}
GARBAGE = [b"\xff", b"\x0a\x7f", b"<html><body>502 Bad Gateway</body></html>"]


@pytest.fixture
async def on(scripted: ScriptedGateway) -> AsyncIterator[Clients]:
    fields: Any = {"endpoint": scripted.endpoint, "api_key": KEY, "plaintext": True}
    async with (
        await GatewayClient.connect(**fields) as client,
        await GalaxyRepositoryClient.connect(**fields) as galaxy,
    ):
        close = scripted.unary["CloseSession"]
        async with await client.open_session() as session:
            yield Clients(client, galaxy, session)
            scripted.unary["CloseSession"] = close


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", UNARY)
async def test_a_gateway_that_answers_garbage(
    scripted: ScriptedGateway, on: Clients, name: str, garbage: bytes
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return garbage

    scripted.unary.update(dict.fromkeys(CALLS, answer))
    with pytest.raises(MalformedReplyError, match=f"^{name}: ") as caught:
        await UNARY[name](on)
    if name == "write_array":  # sent, and the answer says nothing of its outcome
        assert caught.value.result.outcome.tolist() == [Outcome.UNKNOWN]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_of_garbage(
    scripted: ScriptedGateway, on: Clients, name: str, garbage: bytes
) -> None:
    async def answer(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield garbage

    scripted.stream.update(dict.fromkeys(FEEDS, answer))
    with pytest.raises(MalformedReplyError, match=f"^{name}: "):
        await anext(STREAMS[name](on))


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "raw open": (
        lambda on: on.client.open_session_raw(pb.CloseSessionRequest(session_id="x")),
        TypeError,
        "request must be a OpenSessionRequest, not CloseSessionRequest: session_id",
    ),
    "raw close": (
        lambda on: on.client.close_session_raw(None),
        TypeError,
        "request must be a CloseSessionRequest, not NoneType: None",
    ),
    "invoke nothing": (
        lambda on: on.client.invoke(None),
        TypeError,
        "request must be a MxCommandRequest, not NoneType: None",
    ),
    "invoke a command": (
        lambda on: on.client.invoke_raw(pb.MxCommand()),
        TypeError,
        "request must be a MxCommandRequest, not MxCommand: ",
    ),
    "raw events": (
        lambda on: on.client.stream_events_raw(None),
        TypeError,
        "request must be a StreamEventsRequest, not NoneType: None",
    ),
    "session's invoke": (
        lambda on: on.session.invoke(None),
        TypeError,
        "command must be a MxCommand, not NoneType: None",
    ),
    "session name": (
        lambda on: on.client.open_session(5),
        TypeError,
        "client_session_name must be a str, got 5",
    ),
    **{
        f"command_timeout {given!r}": (
            partial(lambda given, on: on.client.open_session(command_timeout=given), given),
            error,
            f"command_timeout must be .*, got {given!r}",
        )
        for given, error in [
            (0, ValueError),
            (-0.5, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            (True, TypeError),
            ("5", TypeError),
        ]
    },
    **{
        f"{name} at {given!r}": (
            partial(lambda write, given, on: write(on.session, given), write, given),
            TypeError,
            f"timestamp_value must be a datetime or datetime64, got {re.escape(shown(given))}",
        )
        for name, write in {
            "write2": lambda session, time: session.write2(1, 2, 3.0, time),
            "write_secured2": lambda session, time: session.write_secured2(1, 2, 3, 3, 4.0, time),
        }.items()
        for given in [
            1700000000.0,
            "yesterday",
            None,
            True,
            [NOON.year, NOON.month],
            np.array(["2026-03-01"], "M8[s]"),
            pb.MxValue(),
        ]
    },
    "write a masked element": (
        lambda on: on.session.write(1, 2, np.ma.array([1.0, 2.0], mask=[False, True])[1]),
        TypeError,
        "masked",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_argument_sends_nothing(
    scripted: ScriptedGateway, on: Clients, name: str
) -> None:
    before = len(scripted.calls)
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        await call(on)
    assert len(scripted.calls) == before


@pytest.mark.parametrize("client_type", [GatewayClient, GalaxyRepositoryClient])
@pytest.mark.parametrize("options", ["localhost:5120", {"endpoint": "localhost:5120"}, 5120])
async def test_no_options(
    client_type: type[GatewayClient | GalaxyRepositoryClient], options: Any
) -> None:
    words = (
        f"options must be ClientOptions, got {re.escape(repr(options))}; .* endpoint='host:port'"
    )
    with pytest.raises(TypeError, match=words):
        await client_type.connect(options)
    with pytest.raises(TypeError, match=words):
        await client_type.connect(options, plaintext=True)
    with pytest.raises(TypeError, match=words):
        client_type(options)


OF_ANOTHER_SESSION: dict[str, Callable[[Session, int, int], Any]] = {
    "add_item": lambda session, server, item: session.add_item(server, "A.x"),
    "advise": lambda session, server, item: session.advise(server, item),
    "un_advise": lambda session, server, item: session.un_advise(server, item),
    "remove_item": lambda session, server, item: session.remove_item(server, item),
    "write": lambda session, server, item: session.write(server, item, 1.0),
    "write_secured": lambda session, server, item: session.write_secured(server, item, 1, 1, 2.0),
}


@pytest.mark.parametrize("name", OF_ANOTHER_SESSION)
async def test_another_sessions_handle_is_refused(client: GatewayClient, name: str) -> None:
    async with await client.open_session() as own, await client.open_session() as other:
        # One more each, so that the same number is not by chance one of ours.
        await other.register("first")
        server = await other.register("second")
        item = await other.add_item(server, "A.x")
        with pytest.raises(MxAccessError, match=f"^{name}: "):
            await OF_ANOTHER_SESSION[name](own, server, item)
        await OF_ANOTHER_SESSION["write"](other, server, item)


async def test_another_sessions_handle_is_a_rejected_value(client: GatewayClient) -> None:
    async with await client.open_session() as own, await client.open_session() as other:
        server = await own.register("own")
        item = await own.add_item(server, "A.x")
        theirs = await other.add_item(await other.register("other"), "A.x")
        result = await own.write_array(server, [item, theirs], [1.0, 2.0])
        assert result.outcome.tolist() == [Outcome.ACCEPTED, Outcome.REJECTED]


@pytest.mark.parametrize("name", [*UNARY, *STREAMS])
async def test_a_closed_client_takes_no_call(
    scripted: ScriptedGateway, on: Clients, name: str
) -> None:
    await on.session.close()
    await on.client.close()
    await on.galaxy.close()
    before = list(scripted.calls)

    async def call() -> None:
        await (UNARY[name](on) if name in UNARY else anext(STREAMS[name](on)))

    with pytest.raises(MxGatewaySessionError, match="closed"):
        await call()
    assert scripted.calls == before
