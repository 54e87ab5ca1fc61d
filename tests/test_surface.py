"""Every RPC and every command can be reached, and every review finding has its test."""

import importlib
from typing import Any

import pytest

from mxfast import GalaxyRepositoryClient, MxGatewayError, Session, commands
from mxfast.commands import Command
from mxfast.contract import GALAXY_METHODS, GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from tests.conftest import KEY, ScriptedGateway

WITHOUT_A_METHOD = {
    pb.MX_COMMAND_KIND_SHUTDOWN_WORKER: "shutdown_worker",
    pb.MX_COMMAND_KIND_SUBSCRIBE_ALARMS: "subscribe_alarms",
    pb.MX_COMMAND_KIND_UNSUBSCRIBE_ALARMS: "unsubscribe_alarms",
    pb.MX_COMMAND_KIND_ACKNOWLEDGE_ALARM: "acknowledge_alarm_command",
    pb.MX_COMMAND_KIND_ACKNOWLEDGE_ALARM_BY_NAME: "acknowledge_alarm_by_name_command",
    pb.MX_COMMAND_KIND_QUERY_ACTIVE_ALARMS: "query_active_alarms_command",
}


def test_every_command_kind_has_a_method_or_is_known_to_have_none() -> None:
    found = {
        command.kind: name.lower()
        for name, command in vars(commands).items()
        if isinstance(command, Command)
    }
    for kind, name in found.items():
        assert callable(getattr(Session, name)), kind
    unspecified = {pb.MX_COMMAND_KIND_UNSPECIFIED}
    assert found.keys() | WITHOUT_A_METHOD.keys() == {*pb.MxCommandKind.values()} - unspecified
    assert not found.keys() & WITHOUT_A_METHOD.keys()


@pytest.mark.parametrize("kind", WITHOUT_A_METHOD, ids=lambda kind: WITHOUT_A_METHOD[kind])
async def test_what_has_no_method_goes_through_invoke(session: Session, kind: Any) -> None:
    command = pb.MxCommand(kind=kind)
    getattr(command, WITHOUT_A_METHOD[kind]).SetInParent()
    # MXAccess may refuse what is empty; the gateway knows the kind and its worker answers.
    reply = await session.invoke_raw(command)
    assert reply.kind == kind
    assert reply.session_id == session.session_id


async def test_every_rpc_is_reachable(scripted: ScriptedGateway) -> None:
    fields: Any = {"endpoint": scripted.endpoint, "api_key": KEY, "plaintext": True}
    async with (
        await scripted.connect() as client,
        await GalaxyRepositoryClient.connect(**fields) as galaxy,
        await client.open_session() as session,
    ):
        for call in (
            session.ping,
            session.stream_events().__anext__,
            client.stream_alarms().__anext__,
            client.query_active_alarms().__anext__,
            lambda: client.acknowledge_alarm("A.B"),
            galaxy.test_connection,
            galaxy.get_last_deploy_time,
            galaxy.discover_hierarchy,
            galaxy.browse,
            galaxy.watch_deploy_events().__anext__,
        ):
            with pytest.raises(MxGatewayError, match="UNIMPLEMENTED"):
                await call()
    assert set(scripted.calls) == GATEWAY_METHODS.keys() | GALAXY_METHODS.keys()
    assert len(GATEWAY_METHODS) == 7
    assert len(GALAXY_METHODS) == 5


FINDINGS = {
    "concurrent close of client and galaxy client": (
        "test_client_reviews.test_concurrent_close_of_a_client_closes_its_channel_once"
    ),
    "concurrent close of a session": "test_session.test_concurrent_close_sends_one_close",
    "a stream's timeout": (
        "test_client_reviews.test_a_streams_timeout_is_passed_and_left_out_where_it_is_not_taken"
    ),
    "one iterator": "test_client_reviews.test_one_iterator_cancels_every_stream",
    "the status rule": ("test_client_reviews.test_a_status_raises_only_for_warnings_and_errors"),
    "MXACCESS_FAILURE raises": "test_errors.test_protocol_status",
    "raw calls": "test_migrating.test_a_raw_call_leaves_mxaccess_failures_in_the_reply",
    "raw docstrings": (
        "test_client_reviews.test_every_raw_method_says_that_mxaccess_failure_does_not_raise"
    ),
    "non-finite floats": "test_migrating.test_a_float_that_is_not_finite_is_refused",
    "bytes": "test_migrating.test_bytes_travel_as_a_record",
    "one page, no prefetch": "test_galaxy.test_iter_hierarchy_holds_one_page_and_never_prefetches",
    "page let go": "test_galaxy.test_a_page_is_let_go_before_the_next_is_asked_for",
    "repeated token": "test_galaxy.test_a_repeated_page_token_is_refused",
    "bulk size": "test_migrating.test_more_than_max_bulk_items_is_refused",
    "None arguments": "test_migrating.test_a_bulk_method_refuses_none_and_a_lone_string",
    "ca_file is read": "test_tls.test_tls",
    "missing ca_file": "test_migrating.test_a_missing_ca_file_raises",
    "localhost": "test_migrating.test_plaintext_is_never_assumed",
    "the key": (
        "test_client_reviews.test_the_key_is_absent_from_every_repr_log_and_error_however_nested"
    ),
    "reply without payload": "test_session.test_reply_without_its_payload",
    "handle 0": "test_session.test_reply_with_handle_0",
    "the gRPC code survives": "test_errors.test_grpc_code",
    "an error without a code": "test_errors.test_an_error_without_a_code",
    "public names": "test_client_reviews.test_the_names_of_the_drop_in_layer_are_there",
    "importing": (
        "test_client_reviews.test_importing_opens_nothing_reads_no_environment_and_starts_no_task"
    ),
    "a deadline": "test_errors.test_a_deadline_says_that_the_outcome_is_unknown",
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_of_the_reviews_has_its_test(finding: str) -> None:
    module, name = FINDINGS[finding].split(".")
    assert callable(getattr(importlib.import_module(f"tests.{module}"), name))
