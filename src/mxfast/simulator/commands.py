"""The commands of Invoke, apart from bulk writes, which have a way of their own."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.command_handlers import (
    HANDLERS,
    joined_name,
    read_timeout_ms,
    return_nothing,
)
from mxfast.simulator.session import Session

_BULK_WRITES = frozenset({"write_bulk", "write2_bulk", "write_secured_bulk", "write_secured2_bulk"})

# The payloads that are not named as their kind is.
_PAYLOADS = {
    name: f"{name}_command"
    for name in ("acknowledge_alarm", "acknowledge_alarm_by_name", "query_active_alarms")
}

# Kinds that a gateway of era 1 does not know (contract notes, Commands).
_NOT_IN_ERA_1 = frozenset(
    {
        "ping",
        "get_session_state",
        "get_worker_info",
        "drain_events",
        "shutdown_worker",
        "add_buffered_item",
        "set_buffered_update_interval",
        "suspend",
        "activate",
        "authenticate_user",
        "archestra_user_to_id",
    }
)


def execute(session: Session, request: pb.MxCommandRequest) -> bytes:
    """Carry out a command and return the serialised reply.

    A command of an unsupported kind, or without the payload of its kind, is answered
    with INVALID_REQUEST, one that MXAccess refuses with MXACCESS_FAILURE (contract
    notes, Commands).
    """
    command = request.command
    reply = pb.MxCommandReply(
        session_id=request.session_id,
        correlation_id=request.client_correlation_id,
        kind=command.kind,
    )
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_OK
    name = status.command_name(command.kind)
    handler = HANDLERS.get(name)
    payload = _PAYLOADS.get(name, name)
    unknown = handler is None or (session.rules.era == 1 and name in _NOT_IN_ERA_1)
    if name not in _BULK_WRITES and unknown:
        _invalid(reply, f"Unsupported MXAccess command kind {name or command.kind}.")
    elif handler is None or command.WhichOneof("payload") != payload:
        _invalid(reply, f"The command has no {payload} payload.")
    else:
        try:
            handler(session, getattr(command, payload), reply)
        except status.MxAccessFailure as failure:
            _fail(reply, failure)
        session.changes.publish_advised()
    return reply.SerializeToString()


def seconds_of(session: Session, request: pb.MxCommandRequest) -> float:
    """Return how long a command takes, which is nothing without faults."""
    payload = request.command.WhichOneof("payload")
    if payload is None:
        return 0.0
    asked = getattr(request.command, payload)
    faults = session.plant.faults
    if payload != "read_bulk":
        return faults.seconds(_names(session, asked))
    cached = session.cached_items(asked.server_handle)
    longest = read_timeout_ms(asked) / 1000
    seconds = 0.0
    for name in map(session.full_name, asked.tag_addresses):
        takes = faults.seconds([name])
        with suppress(status.MxAccessFailure):
            if session.read_tag(name) not in cached:
                takes = min(faults.read_seconds(name), longest)
        seconds += takes
    return seconds


def _names(session: Session, asked: Any) -> Iterator[str]:
    """Return the names of the tags that a command has to do with."""
    yield from map(session.full_name, getattr(asked, "tag_addresses", ()))
    if hasattr(asked, "item_definition"):
        yield session.full_name(joined_name(asked))
    items = list(getattr(asked, "item_handles", ()))
    items += [entry.item_handle for entry in getattr(asked, "entries", ())]
    if hasattr(asked, "item_handle"):
        items.append(asked.item_handle)
    for item in items:
        with suppress(status.MxAccessFailure):
            yield session.name(asked.server_handle, item)


def worker_gone(session_id: str, correlation_id: str, kind: Any, gone: status.WorkerGone) -> bytes:
    """Return the serialised reply to a command whose worker has ended."""
    reply = pb.MxCommandReply(session_id=session_id, correlation_id=correlation_id, kind=kind)
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE
    reply.protocol_status.message = str(gone)
    return reply.SerializeToString()


def _invalid(reply: pb.MxCommandReply, message: str) -> None:
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST
    reply.protocol_status.message = message


def _fail(reply: pb.MxCommandReply, failure: status.MxAccessFailure) -> None:
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
    reply.protocol_status.message = str(failure)
    reply.hresult = failure.hresult
    return_nothing(reply)
    reply.statuses.append(failure.status())
    reply.diagnostic_message = str(failure)
