"""Every statement of docs/migrating.md, under its own name."""

import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest

import mxfast
from mxfast import (
    ClientOptions,
    GalaxyRepositoryClient,
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewayAuthenticationError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayTimeoutError,
    MxGatewayTransportError,
    MxGatewayWorkerError,
    Session,
    blocking,
    from_mx_value,
    to_mx_value,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, SimulatedGatewayProcess
from tests.checkout import ROOT
from tests.conftest import KEY, SECRET, Context, ScriptedGateway, ok


def test_the_document_says_what_is_tested_here() -> None:
    document = (ROOT / "docs" / "migrating.md").read_text()
    said = [
        re.sub(r"\W+", "_", statement.lower()).strip("_")
        for statement in re.findall(r"\*\*(.+?)\*\*", document, re.DOTALL)
    ]
    tested = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    assert said == tested[1:]


# What stays

SIGNATURES = {
    GatewayClient: """
        connect(options=None, **fields)
        open_session(client_session_name='', *, ...)
        open_session_raw(request)
        close_session_raw(request)
        invoke(request)
        invoke_raw(request)
        stream_events_raw(request)
        query_active_alarms(alarm_filter_prefix='')
        stream_alarms(alarm_filter_prefix='')
        acknowledge_alarm(alarm_full_reference, comment='', operator_user='')
        close()
    """,
    Session: """
        register(client_name)
        unregister(server_handle)
        add_item(server_handle, item_definition)
        add_item2(server_handle, item_definition, item_context)
        remove_item(server_handle, item_handle)
        advise(server_handle, item_handle)
        un_advise(server_handle, item_handle)
        advise_supervisory(server_handle, item_handle)
        add_buffered_item(server_handle, item_definition, item_context='')
        set_buffered_update_interval(server_handle, update_interval_milliseconds)
        suspend(server_handle, item_handle)
        activate(server_handle, item_handle)
        write(server_handle, item_handle, value, user_id=0)
        write2(server_handle, item_handle, value, timestamp_value, user_id=0)
        write_secured(server_handle, item_handle, current_user_id, verifier_user_id, value)
        write_secured2(server_handle, item_handle, current_user_id, verifier_user_id, value, \
timestamp_value)
        authenticate_user(server_handle, verify_user, verify_user_password)
        archestra_user_to_id(server_handle, user_id_guid)
        add_item_bulk(server_handle, tag_addresses)
        advise_item_bulk(server_handle, item_handles)
        remove_item_bulk(server_handle, item_handles)
        un_advise_item_bulk(server_handle, item_handles)
        subscribe_bulk(server_handle, tag_addresses)
        unsubscribe_bulk(server_handle, item_handles)
        write_bulk(server_handle, entries, *, correlation_id='')
        write2_bulk(server_handle, entries, *, correlation_id='')
        write_secured_bulk(server_handle, entries, *, correlation_id='')
        write_secured2_bulk(server_handle, entries, *, correlation_id='')
        read_bulk(server_handle, tag_addresses, *, timeout_ms=0, correlation_id='')
        write_array_elements(server_handle, item_handle, element_data_type, total_length, \
elements, user_id=0)
        ping(message='')
        get_session_state()
        get_worker_info()
        drain_events(max_events=0)
        stream_events(after_worker_sequence=0)
        stream_events_raw(after_worker_sequence=0)
        invoke(command, *, correlation_id='')
        invoke_raw(command, *, correlation_id='')
        close()
    """,
    GalaxyRepositoryClient: """
        connect(options=None, **fields)
        test_connection()
        get_last_deploy_time()
        discover_hierarchy(**filters)
        iter_hierarchy(**filters)
        browse(**filters)
        watch_deploy_events(last_seen_deploy_time=None)
        close()
    """,
    mxfast: """
        create_channel(options)
        to_mx_value(value, *, data_type=None)
        from_mx_value(message)
    """,
}


def plain_signature(name: str, function: Any) -> str:
    """A signature without its types, and without self."""
    signature = inspect.signature(function)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    plain = inspect.Signature(parameters)
    return f"{name}{plain}"


def test_every_public_name_has_its_place_and_its_parameters() -> None:
    for owner, listed in SIGNATURES.items():
        for expected in map(str.strip, listed.strip().splitlines()):
            name = expected.partition("(")[0]
            found = plain_signature(name, getattr(owner, name))
            # Keywords beyond those that ... stands for are this package's own.
            known = expected.removesuffix("...)")
            found = found[: len(known)] if known != expected else found
            assert found == known
    assert isinstance(Session.session_id, property)
    assert mxfast.MAX_BULK_ITEMS == 1000
    fields = """endpoint api_key plaintext ca_file server_name_override call_timeout stream_timeout
        connect_timeout max_message_bytes max_bulk_items allow_insecure"""
    assert list(inspect.signature(ClientOptions).parameters) == fields.split()


async def test_parameters_go_by_position_or_by_name(session: Session) -> None:
    server = await session.register(client_name="line-4")
    item = await session.add_item(server_handle=server, item_definition="Tank1.Level")
    assert await session.add_item(server, "Tank1.Level") > item
    await session.write(server, item, 3.25, 0)
    await session.write(server_handle=server, item_handle=item, value=3.5, user_id=0)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    await session.write2(server, item, 3.75, moment, 0)
    (read,) = await session.read_bulk(server, ["Tank1.Level"], timeout_ms=0, correlation_id="")
    assert from_mx_value(read.value) == 3.75
    assert read.source_timestamp.ToDatetime(tzinfo=UTC) == moment


async def test_bulk_methods_take_and_return_protobuf_messages(session: Session) -> None:
    server = await session.register("line-4")
    (added,) = await session.subscribe_bulk(server, ["Tank1.Level"])
    assert isinstance(added, pb.SubscribeResult)
    entry = pb.WriteBulkEntry(item_handle=added.item_handle, value=to_mx_value(1.5))
    (written,) = await session.write_bulk(server, [entry])
    assert isinstance(written, pb.BulkWriteResult)
    assert written.was_successful


async def test_stream_events_yields_messages(session: Session) -> None:
    server = await session.register("line-4")
    item = await session.add_item(server, "Tank1.Level")
    async with session.stream_events(after_worker_sequence=0) as events:
        await session.advise(server, item)
        event = await anext(events)
    assert isinstance(event, pb.MxEvent)
    assert event.item_handle == item


def test_errors_keep_their_names_and_bases() -> None:
    bases: dict[type, tuple[type, ...]] = {
        MxGatewayTransportError: (MxGatewayError,),
        MxGatewayAuthenticationError: (MxGatewayTransportError, PermissionError),
        MxGatewayAuthorizationError: (MxGatewayTransportError, PermissionError),
        MxGatewayTimeoutError: (MxGatewayTransportError, TimeoutError),
        MxGatewayConnectionError: (MxGatewayTransportError, ConnectionError),
        MxGatewaySessionError: (MxGatewayError,),
        MxGatewayWorkerError: (MxGatewayError,),
        MxGatewayCommandError: (MxGatewayError,),
        MxAccessError: (MxGatewayCommandError,),
        MalformedReplyError: (MxGatewayError,),
    }
    for error, expected in bases.items():
        assert error.__bases__ == expected


async def test_a_raw_call_leaves_mxaccess_failures_in_the_reply(session: Session) -> None:
    server = await session.register("line-4")
    command = pb.MxCommand(
        kind=pb.MX_COMMAND_KIND_ADVISE,
        advise=pb.AdviseCommand(server_handle=server, item_handle=999),
    )
    reply = await session.invoke_raw(command)
    assert reply.hresult < 0
    with pytest.raises(MxAccessError):
        await session.invoke(command)


async def test_a_stub_may_stand_for_the_gateway() -> None:
    class Stub:
        async def OpenSession(self, request: pb.OpenSessionRequest) -> pb.OpenSessionReply:
            return pb.OpenSessionReply(session_id="s", protocol_status=ok())

    client = GatewayClient(ClientOptions("localhost:5120", plaintext=True), stub=Stub())
    assert (await client.open_session()).session_id == "s"


# What is new


async def test_arrays_go_out_and_columns_come_in(session: Session) -> None:
    server = await session.register("line-4")
    async with session.event_batches() as batches:
        added = await session.subscribe_bulk(server, ["Tank1.Level", "Tank2.Level"])
        items = [each.item_handle for each in added]
        result = await session.write_array(server, items, np.array([1.5, 2.5]))
        assert result.ok
        batch = await anext(batches)
    assert batch.value.dtype == np.float64
    assert set(batch.item_handle.tolist()) <= set(items)


async def test_a_replay_gap_is_seen(scripted: ScriptedGateway, scripted_session: Session) -> None:
    sentinel = pb.MxEvent(
        replay_gap=pb.ReplayGap(requested_after_sequence=5, oldest_available_sequence=90)
    )

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield sentinel.SerializeToString()

    scripted.stream["StreamEvents"] = stream
    events = scripted_session.stream_events(after_worker_sequence=5)
    assert [event async for event in events] == [sentinel]
    batches = scripted_session.event_batches(after_worker_sequence=5)
    assert [batch.gap async for batch in batches] == [True]


def test_blocking_clients_do_without_asyncio() -> None:
    with (
        SimulatedGatewayProcess() as gateway,
        blocking.GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        client.open_session("line-4") as session,
    ):
        assert session.register("line-4") > 0


async def test_a_simulated_gateway_needs_no_plant() -> None:
    async with SimulatedGateway() as gateway:
        assert gateway.endpoint.startswith("127.0.0.1:")


# What differs, and why


async def test_plaintext_is_never_assumed(scripted: ScriptedGateway) -> None:
    assert ClientOptions("localhost:5120", KEY).plaintext is False
    with pytest.raises(MxGatewayConnectionError):
        await GatewayClient.connect(endpoint=scripted.endpoint, connect_timeout=0.5)
    assert scripted.calls == []


def test_a_key_does_not_travel_in_plaintext_to_another_host() -> None:
    with pytest.raises(ValueError, match="plaintext: use TLS"):
        ClientOptions("plant:5120", KEY, plaintext=True)
    assert ClientOptions("plant:5120", KEY, plaintext=True, allow_insecure=True).api_key == KEY


async def test_connect_fails_when_nobody_answers() -> None:
    with pytest.raises(MxGatewayConnectionError, match=r"127\.0\.0\.1:1"):
        await GatewayClient.connect(endpoint="127.0.0.1:1", plaintext=True, connect_timeout=0.5)


async def test_a_missing_ca_file_raises() -> None:
    with pytest.raises(FileNotFoundError):
        await GatewayClient.connect(endpoint="localhost:5120", ca_file="no/such/file.pem")


async def test_a_reply_without_its_payload_raises(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok()))
    with pytest.raises(MalformedReplyError):
        await scripted_session.register("line-4")
    with pytest.raises(MalformedReplyError):
        await scripted_session.read_bulk(1, ["Tank1.Level"])


@pytest.mark.parametrize("wrong", [None, "Tank1.Level"])
async def test_a_bulk_method_refuses_none_and_a_lone_string(session: Session, wrong: Any) -> None:
    with pytest.raises(TypeError, match="tag_addresses must be a list"):
        await session.subscribe_bulk(1, wrong)


async def test_more_than_max_bulk_items_is_refused(scripted: ScriptedGateway) -> None:
    reply = pb.MxCommandReply(protocol_status=ok())
    reply.add_item_bulk.results.extend([pb.SubscribeResult(was_successful=True)] * 3)
    scripted.reply_with(reply)
    async with await scripted.connect(max_bulk_items=3) as client:
        session = await client.open_session()
        with pytest.raises(ValueError, match="4 tag_addresses: at most max_bulk_items = 3"):
            await session.add_item_bulk(1, ["a", "b", "c", "d"])
        assert "Invoke" not in scripted.calls
        assert len(await session.add_item_bulk(1, ["a", "b", "c"])) == 3


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], np.array([-np.inf])])
async def test_a_float_that_is_not_finite_is_refused(
    scripted: ScriptedGateway, scripted_session: Session, value: Any
) -> None:
    with pytest.raises(ValueError, match="finite"):
        await scripted_session.write(1, 2, value)
    assert "Invoke" not in scripted.calls


@pytest.mark.parametrize("wrong", [True, "1", 1.0, None])
async def test_a_handle_that_is_no_integer_is_refused(
    scripted: ScriptedGateway, scripted_session: Session, wrong: Any
) -> None:
    with pytest.raises(TypeError, match="item_handle must be an integer"):
        await scripted_session.write(1, wrong, 1.0)
    assert "Invoke" not in scripted.calls


def test_bytes_travel_as_a_record() -> None:
    message = to_mx_value(b"\x00\xff")
    assert (message.variant_type, message.raw_value) == ("VT_RECORD", b"\x00\xff")
    assert from_mx_value(message) == b"\x00\xff"


def test_a_naive_datetime_means_utc() -> None:
    moment = datetime(2026, 1, 1, 12)
    assert from_mx_value(to_mx_value(moment)) == moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "variant"), [(2**31 - 1, "VT_I4"), (2**31, "VT_I8"), (-(2**31) - 1, "VT_I8")]
)
def test_a_python_int_takes_the_narrower_type_that_holds_it(value: int, variant: str) -> None:
    assert to_mx_value(value).variant_type == variant


def test_a_list_holds_elements_of_one_type() -> None:
    assert to_mx_value([1, 2.5]).array_value.double_values.values == [1.0, 2.5]
    for mixed in ([1, "a"], [True, 1], ["a", b"a"]):
        with pytest.raises(TypeError, match=r"\[1\] is a "):
            to_mx_value(mixed)


def test_what_cannot_be_converted_is_kept() -> None:
    message = pb.MxValue(variant_type="VT_DISPATCH", raw_diagnostic="no projection")
    assert from_mx_value(message) is message


async def test_an_unknown_enum_value_stays_a_number(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    number: Any = 77
    status = pb.MxStatusProxy(category=number, detected_by=number)
    scripted.reply_with(pb.MxCommandReply(protocol_status=ok(), statuses=[status]))
    with pytest.raises(MxAccessError, match="status category 77, detected by status source 77"):
        await scripted_session.ping()
    event = pb.MxEvent(family=number, value=pb.MxValue(data_type=number, int32_value=1))

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield event.SerializeToString()

    scripted.stream["StreamEvents"] = stream
    assert [each.family async for each in scripted_session.stream_events()] == [77]
    (batch,) = [each async for each in scripted_session.event_batches()]
    assert batch.family.tolist() == [77]
    assert batch[0].value.data_type == 77
    scripted.reply_with(
        pb.MxCommandReply(protocol_status=ok(), session_state=pb.SessionStateReply(state=number))
    )
    assert await scripted_session.get_session_state() == 77


async def test_a_deadline_says_that_the_outcome_is_unknown(scripted: ScriptedGateway) -> None:
    async def late(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        raise AssertionError

    scripted.unary["Invoke"] = late
    async with await scripted.connect() as client, await client.open_session() as session:
        with pytest.raises(TimeoutError, match="the outcome is unknown"):
            await session.write(1, 2, 3.0)


async def test_a_command_is_never_sent_twice(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    async def unavailable(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")
        raise AssertionError

    scripted.unary["Invoke"] = unavailable
    with pytest.raises(MxGatewayConnectionError):
        await scripted_session.write(1, 2, 3.0)
    assert scripted.calls.count("Invoke") == 1


def test_the_key_is_never_shown() -> None:
    options = ClientOptions("localhost:5120", KEY)
    assert "mxgw_test_***" in repr(options)
    assert SECRET not in repr([options, {"options": options}])


def test_importing_does_nothing_else() -> None:
    code = "import threading, mxfast; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True)


# Both clients in one process

OTHER_CONTRACT = """
from google.protobuf import descriptor_pb2, descriptor_pool
other = descriptor_pb2.FileDescriptorProto(
    name="{name}", package="mxaccess_gateway.v1", syntax="proto3"
)
other.message_type.add(name="MxValue")
descriptor_pool.Default().AddSerializedFile(other.SerializeToString())
try:
    import mxfast
except TypeError as error:
    assert "mxaccess_gateway" in str(error), error
else:
    raise AssertionError("is not refused")
"""


@pytest.mark.parametrize("name", ["mxaccess_gateway.proto", "of/another/name.proto"])
def test_two_contracts_do_not_go_together(name: str) -> None:
    subprocess.run([sys.executable, "-c", OTHER_CONTRACT.format(name=name)], check=True)
