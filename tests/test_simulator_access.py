"""Sessions, keys and the server itself, over real gRPC."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mxfast.contract import GALAXY_METHODS, GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import DEFAULT_API_KEY, SCOPES, SimulatedGateway
from mxfast.simulator.certificates import generate_identity
from tests.simulator_client import Peer, Remote, double, kind_of


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with SimulatedGateway() as gateway, Peer(gateway.endpoint) as peer:
        yield peer


def code_of(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return caught.value.code()


async def test_open_session_tells_what_it_opened(peer: Peer) -> None:
    reply = pb.OpenSessionReply.FromString(await peer.raw("OpenSession", b""))
    prefix, _, digits = reply.session_id.partition("-")
    assert prefix == "session"
    assert len(bytes.fromhex(digits)) == 16
    assert reply.backend_name == "mxaccess-worker"
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert reply.gateway_protocol_version > 0
    assert reply.worker_protocol_version > 0
    assert list(reply.capabilities)
    assert reply.default_command_timeout.seconds == 30


async def test_close_session_answers_closed_however_often(peer: Peer) -> None:
    remote = await peer.open()
    for _ in range(3):
        reply = await remote.close()
        assert reply.final_state == pb.SESSION_STATE_CLOSED
        assert reply.session_id == remote.session_id
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK


async def test_an_unknown_session_is_not_found(peer: Peer) -> None:
    remote = Remote(peer, "session-" + "0" * 32)
    for attempt in (remote.invoke("ping"), remote.close(), remote.first_event()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert code_of(caught) == grpc.StatusCode.NOT_FOUND


async def test_a_closed_session_takes_no_commands_writes_or_streams(peer: Peer) -> None:
    remote = await peer.registered()
    (item,) = await remote.add("Tank.Level")
    await remote.close()
    for attempt in (remote.invoke("ping"), remote.write([item], [1.0]), remote.first_event()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert code_of(caught) == grpc.StatusCode.FAILED_PRECONDITION
        assert "Closed" in (caught.value.details() or "")


async def test_the_session_limit_counts_open_sessions_only() -> None:
    async with SimulatedGateway(max_sessions=2) as gateway, Peer(gateway.endpoint) as peer:
        first = await peer.open()
        await peer.open()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.open()
        assert code_of(caught) == grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.close()
        await peer.open()


async def test_sixty_four_sessions_are_open_at_once(peer: Peer) -> None:
    remotes = await asyncio.gather(*(peer.open() for _ in range(64)))
    assert len({remote.session_id for remote in remotes}) == 64
    with pytest.raises(grpc.aio.AioRpcError):
        await peer.open()


@pytest.mark.parametrize("key", [None, "", "mxgw_demo_wrong"])
async def test_a_missing_or_wrong_key_is_unauthenticated(peer: Peer, key: str | None) -> None:
    remote = await peer.open()
    peer.metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    for attempt in (peer.open(), remote.invoke("ping"), remote.close(), remote.first_event()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert code_of(caught) == grpc.StatusCode.UNAUTHENTICATED
        assert not key or key not in (caught.value.details() or "")


async def test_without_authentication_no_key_is_needed() -> None:
    async with SimulatedGateway(api_keys=None) as gateway:
        assert gateway.api_key is None
        async with Peer(gateway.endpoint, api_key=None) as peer:
            await (await peer.open()).invoke("ping")


async def test_the_default_key_is_the_well_known_one() -> None:
    async with SimulatedGateway() as gateway:
        assert gateway.api_key == DEFAULT_API_KEY
    assert SimulatedGateway(api_keys={"mxgw_a_1": SCOPES, "mxgw_b_2": ()}).api_key == "mxgw_a_1"


@pytest.mark.parametrize(
    ("scope", "command"),
    [
        ("invoke:read", "ping"),
        ("invoke:read", "subscribe_bulk"),
        ("invoke:read", "read_bulk"),
        ("invoke:write", "write"),
        ("invoke:write", "write2"),
        ("invoke:write", "write_bulk"),
        ("invoke:write", "write2_bulk"),
        ("invoke:secure", "write_secured"),
        ("invoke:secure", "write_secured2"),
        ("invoke:secure", "write_secured_bulk"),
        ("invoke:secure", "write_secured2_bulk"),
        ("invoke:secure", "authenticate_user"),
        ("events:read", "drain_events"),
        ("admin", "shutdown_worker"),
    ],
)
async def test_a_command_needs_its_scope(scope: str, command: str) -> None:
    keys = {"mxgw_all_but_one": SCOPES - {scope}, "mxgw_all_0": SCOPES}
    async with (
        SimulatedGateway(api_keys=keys) as gateway,
        Peer(gateway.endpoint, api_key="mxgw_all_but_one") as limited,
        Peer(gateway.endpoint, api_key="mxgw_all_0") as full,
    ):
        remote = await limited.open()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await remote.invoke(command)
        assert code_of(caught) == grpc.StatusCode.PERMISSION_DENIED
        assert scope in (caught.value.details() or "")
        await Remote(full, remote.session_id).invoke(command)


@pytest.mark.parametrize("scope", ["session:open", "session:close", "events:read"])
async def test_a_call_needs_its_scope(scope: str) -> None:
    async with (
        SimulatedGateway(api_keys={"mxgw_all_but_one": SCOPES - {scope}}) as gateway,
        Peer(gateway.endpoint, api_key="mxgw_all_but_one") as peer,
    ):
        remote = Remote(peer, "session-0")
        attempts = {
            "session:open": peer.open(),
            "session:close": remote.close(),
            "events:read": remote.first_event(),
        }
        for needed, attempt in attempts.items():
            if needed == scope:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await attempt
                assert code_of(caught) == grpc.StatusCode.PERMISSION_DENIED
            else:
                attempt.close()


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="invoke:everything"):
        SimulatedGateway(api_keys={"mxgw_a_1": ["invoke:everything"]})


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": 65536},
        {"update_interval": -0.1},
        {"update_interval": float("nan")},
        {"max_sessions": 0},
        {"max_message_bytes": 0},
        {"event_queue_capacity": 0},
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SimulatedGateway(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", [path for paths in (GATEWAY_METHODS, GALAXY_METHODS) for path in paths.values()]
)
async def test_malformed_bytes_are_an_invalid_argument_and_the_server_lives_on(
    peer: Peer, path: str
) -> None:
    method: Any = peer.channel.unary_stream(path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\xff\xff\xff", metadata=peer.metadata).read()
    assert code_of(caught) == grpc.StatusCode.INVALID_ARGUMENT
    assert "Malformed request" in (caught.value.details() or "")
    await (await peer.open()).invoke("ping")


@pytest.mark.parametrize(
    "command", ["advise", "un_advise", "advise_supervisory", "remove_item", "suspend", "write"]
)
async def test_a_handle_of_another_session_is_refused_and_stays_what_it_was(
    peer: Peer, command: str
) -> None:
    owner, other = await peer.registered(), await peer.registered()
    (item,) = await owner.add("A.x")
    reply = await other.invoke(command, item_handle=item)
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
    assert f"Invalid item handle {item}" in reply.diagnostic_message
    await owner.write([item], [5.0])
    assert await owner.numbers("A.x") == [5.0]


async def test_a_cut_bulk_write_is_an_invalid_argument_and_writes_nothing(peer: Peer) -> None:
    remote = await peer.registered()
    items = await remote.add("A.x", "A.y")
    request = pb.MxCommandRequest(session_id=remote.session_id)
    request.command.kind = kind_of("write_bulk")
    request.command.write_bulk.server_handle = remote.server
    for item in items:
        request.command.write_bulk.entries.add(item_handle=item, value=double(5.0))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.raw("Invoke", request.SerializeToString()[:-4])
    assert code_of(caught) == grpc.StatusCode.INVALID_ARGUMENT
    assert await remote.numbers("A.x", "A.y") == [0.0, 0.0]


async def test_an_oversized_message_is_refused_and_the_server_lives_on() -> None:
    async with (
        SimulatedGateway(max_message_bytes=10_000) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote = await peer.open()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await remote.invoke("ping", message="x" * 20_000)
        assert code_of(caught) == grpc.StatusCode.RESOURCE_EXHAUSTED
        await remote.invoke("ping", message="x")


async def test_a_message_of_sixteen_mebibytes_is_taken(peer: Peer) -> None:
    remote = await peer.open()
    reply = await remote.invoke("ping", message="x" * (16 * 1024 * 1024 - 200))
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK


async def test_health_is_serving_for_the_server_and_the_gateway(peer: Peer) -> None:
    stub: Any = health_pb2_grpc.HealthStub(peer.channel)
    for name in ("", pb.DESCRIPTOR.services_by_name["MxAccessGateway"].full_name):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_tls_serves_the_given_certificate() -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    async with SimulatedGateway(tls=(issued.private_key_pem.bytes(), chain)) as gateway:
        endpoint = gateway.endpoint.replace("127.0.0.1", "localhost")
        async with Peer(endpoint, ca=authority.cert_pem.bytes()) as peer:
            await (await peer.open()).invoke("ping")


@pytest.mark.parametrize("tls", [None, "generate"])
async def test_a_taken_port_is_not_blamed_on_the_certificate(tls: Literal["generate"]) -> None:
    async with SimulatedGateway() as gateway:
        port = int(gateway.endpoint.rpartition(":")[2])
        with pytest.raises(OSError, match=f"listen on 127.0.0.1:{port}: the port is") as caught:
            await SimulatedGateway(port=port, tls=tls).__aenter__()
    assert "certificate" not in str(caught.value)


async def test_a_certificate_that_does_not_load_is_not_blamed_on_the_port() -> None:
    fitting, other = generate_identity("a"), generate_identity("a")
    async with SimulatedGateway() as gateway:
        taken = int(gateway.endpoint.rpartition(":")[2])
        for port in (0, taken):
            for tls in ((b"no key", b"no certificate"), (fitting.private_key, other.chain)):
                with pytest.raises(OSError, match="key and certificate chain: they must") as caught:
                    await SimulatedGateway(tls=tls, port=port).__aenter__()
                assert "port" not in str(caught.value)


async def test_a_gateway_starts_again_empty() -> None:
    gateway = SimulatedGateway()
    async with gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.open()
        with pytest.raises(RuntimeError, match="running already"):
            await gateway.__aenter__()
    with pytest.raises(RuntimeError, match="not running"):
        _ = gateway.endpoint
    async with gateway, Peer(gateway.endpoint) as peer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Remote(peer, remote.session_id).invoke("ping")
        assert code_of(caught) == grpc.StatusCode.NOT_FOUND


async def test_gateways_side_by_side_share_nothing() -> None:
    async with SimulatedGateway() as one, SimulatedGateway() as other:
        assert one.endpoint != other.endpoint
        async with Peer(one.endpoint) as at_one, Peer(other.endpoint) as at_other:
            here, there = await at_one.registered(), await at_other.registered()
            await here.write(await here.add("A.x"), [5.0])
            assert await there.numbers("A.x") == [0.0]


async def test_stopping_ends_open_streams_and_leaves_no_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = asyncio.all_tasks()
    async with SimulatedGateway() as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        stream = await remote.stream()
        await remote.subscribe("A.x")
        await stream.read()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await stream.read()
    while asyncio.all_tasks() - before:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.001)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Users


async def secured_write(remote: Remote, item: int, user: int, verifier: int) -> str:
    """Write in both ways, which must agree; return why it is refused, or an empty text."""
    fields: dict[str, Any] = {
        "item_handle": item,
        "current_user_id": user,
        "verifier_user_id": verifier,
        "value": double(1.0),
    }
    single = await remote.invoke("write_secured", **fields)
    entries = [pb.WriteSecuredBulkEntry(**fields)]
    bulk = (await remote.invoke("write_secured_bulk", entries=entries)).write_secured_bulk
    assert single.diagnostic_message == bulk.results[0].error_message
    return single.diagnostic_message


async def test_a_secured_write_takes_only_users_that_its_session_has_authenticated():
    users = {"anna": "one", "bert": "two", "carl": "three"}
    options: Any = {"users": users, "secured_tags": {"A.x": "secured", "A.y": "verified"}}
    async with SimulatedGateway(**options) as gateway, Peer(gateway.endpoint) as peer:
        remote, other = await peer.registered(), await peer.registered()
        x, y = await remote.add("A.x", "A.y")
        assert "No user is authenticated as 1 and 1" in await secured_write(remote, x, 1, 1)
        reply = await other.invoke(
            "authenticate_user", verify_user="anna", verify_user_password="one"
        )
        assert reply.authenticate_user.user_id == 1
        assert await secured_write(remote, x, 1, 1)  # another session's
        reply = await remote.invoke(
            "authenticate_user", verify_user="anna", verify_user_password="wrong"
        )
        assert reply.authenticate_user.user_id == 0
        for user in (0, 1):
            assert await secured_write(remote, x, user, user)
        await remote.invoke("authenticate_user", verify_user="anna", verify_user_password="one")
        assert await secured_write(remote, x, 1, 1) == ""
        assert "No user is authenticated as 1 and 2" in await secured_write(remote, y, 1, 2)
        guid = str(uuid.uuid5(uuid.NAMESPACE_OID, "bert"))
        reply = await remote.invoke("archestra_user_to_id", user_id_guid=guid)
        assert reply.archestra_user_to_id.user_id == 2
        assert await secured_write(remote, y, 1, 2) == ""
        assert "No user is authenticated as 3 and 1" in await secured_write(remote, y, 3, 1)
