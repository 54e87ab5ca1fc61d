"""The commands of Invoke, apart from bulk writes, which have a way of their own."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.session import Session
from mxfast.simulator.values import timestamp, timestamp_ns

Handler = Callable[[Session, pb.MxCommand, pb.MxCommandReply], None]
_Results = Callable[..., pb.SubscribeResult]

# The COM class that the gateway's worker fronts.
_PROGID = "LMXProxy.LMXProxyServer.1"


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
    payload = _payload_name(command.kind)
    handler = _HANDLERS.get(payload)
    if payload in _BULK_WRITES or (
        handler is not None and command.WhichOneof("payload") != payload
    ):
        _invalid(reply, f"The command has no {payload} payload.")
    elif handler is None:
        _invalid(reply, f"Unsupported MXAccess command kind {payload or command.kind}.")
    else:
        try:
            handler(session, command, reply)
        except status.MxAccessFailure as failure:
            _fail(reply, failure)
        session.publish_advised()
    return reply.SerializeToString()


def worker_gone(session_id: str, correlation_id: str, kind: Any, gone: status.WorkerGone) -> bytes:
    """Return the serialised reply to a command whose worker has ended."""
    reply = pb.MxCommandReply(session_id=session_id, correlation_id=correlation_id, kind=kind)
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE
    reply.protocol_status.message = str(gone)
    return reply.SerializeToString()


def _payload_name(kind: int) -> str:
    """Return the name that a kind's payload has in MxCommand; empty for an unknown kind."""
    if kind not in pb.MxCommandKind.values():
        return ""
    return pb.MxCommandKind.Name(kind).removeprefix("MX_COMMAND_KIND_").lower()


def _invalid(reply: pb.MxCommandReply, message: str) -> None:
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST
    reply.protocol_status.message = message


def _fail(reply: pb.MxCommandReply, failure: status.MxAccessFailure) -> None:
    reply.protocol_status.code = pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
    reply.protocol_status.message = str(failure)
    reply.hresult = failure.hresult
    _return_nothing(reply)
    reply.statuses.append(failure.status())
    reply.diagnostic_message = str(failure)


def _return_nothing(reply: pb.MxCommandReply) -> None:
    reply.return_value.data_type = pb.MX_DATA_TYPE_NO_DATA
    reply.return_value.variant_type = "VT_EMPTY"
    reply.return_value.is_null = True


def _succeed(reply: pb.MxCommandReply, handle: int | None = None) -> None:
    """Fill in what a COM call that succeeded returns: nothing, or a handle."""
    reply.hresult = 0
    reply.statuses.append(status.ok_status())
    if handle is None:
        _return_nothing(reply)
    else:
        reply.return_value.data_type = pb.MX_DATA_TYPE_INTEGER
        reply.return_value.variant_type = "VT_I4"
        reply.return_value.int32_value = handle


# One item or server


def _register(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    handle = session.register()
    reply.register.server_handle = handle
    _succeed(reply, handle)


def _unregister(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    session.unregister(command.unregister.server_handle)
    _succeed(reply)


def _add_item(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.add_item
    handle = session.add_item(asked.server_handle, asked.item_definition)
    reply.add_item.item_handle = handle
    _succeed(reply, handle)


def _add_item2(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    """Add an item whose name is relative to a context; how the two join is inferred."""
    asked = command.add_item2
    handle = session.add_item(asked.server_handle, _joined(asked))
    reply.add_item2.item_handle = handle
    _succeed(reply, handle)


def _add_buffered_item(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.add_buffered_item
    handle = session.add_buffered_item(asked.server_handle, _joined(asked))
    reply.add_buffered_item.item_handle = handle
    _succeed(reply, handle)


def _joined(asked: pb.AddItem2Command | pb.AddBufferedItemCommand) -> str:
    """Return the name of a tag that is relative to a context."""
    parts = (asked.item_context.rstrip("."), asked.item_definition.lstrip("."))
    return ".".join(filter(None, parts))


def _set_buffered_update_interval(
    session: Session, command: pb.MxCommand, reply: pb.MxCommandReply
) -> None:
    """Answer OK without a payload (contract notes, Commands)."""
    asked = command.set_buffered_update_interval
    session.set_buffered_update_interval(asked.server_handle, asked.update_interval_milliseconds)
    _succeed(reply)


def _remove_item(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.remove_item
    session.remove_item(asked.server_handle, asked.item_handle)
    _succeed(reply)


def _advise(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    session.advise(command.advise.server_handle, command.advise.item_handle)
    _succeed(reply)


def _advise_supervisory(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.advise_supervisory
    session.advise(asked.server_handle, asked.item_handle)
    _succeed(reply)


def _un_advise(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    session.un_advise(command.un_advise.server_handle, command.un_advise.item_handle)
    _succeed(reply)


def _suspend(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    session.suspend(command.suspend.server_handle, command.suspend.item_handle, True)
    reply.suspend.status.CopyFrom(status.ok_status())
    _succeed(reply)


def _activate(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    session.suspend(command.activate.server_handle, command.activate.item_handle, False)
    reply.activate.status.CopyFrom(status.ok_status())
    _succeed(reply)


# Users


def _authenticate_user(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    """Answer the user's id, 0 where name or password is wrong (contract notes, Writes)."""
    asked = command.authenticate_user
    session.check_server(asked.server_handle)
    user = session.users.authenticate(asked.verify_user, asked.verify_user_password)
    reply.authenticate_user.user_id = user
    _succeed(reply, user)


def _archestra_user_to_id(
    session: Session, command: pb.MxCommand, reply: pb.MxCommandReply
) -> None:
    asked = command.archestra_user_to_id
    session.check_server(asked.server_handle)
    user = session.users.id_of(asked.user_id_guid)
    reply.archestra_user_to_id.user_id = user
    _succeed(reply, user)


# One write


def _write(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.write
    session.write_item(asked.server_handle, asked.item_handle, asked.value, session.clock.time_ns())
    _succeed(reply)


def _write2(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.write2
    source_ns = _source_ns(session, asked.timestamp_value)
    session.write_item(asked.server_handle, asked.item_handle, asked.value, source_ns)
    _succeed(reply)


def _write_secured(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.write_secured
    by = (asked.current_user_id, asked.verifier_user_id)
    session.write_item(
        asked.server_handle, asked.item_handle, asked.value, session.clock.time_ns(), by=by
    )
    _succeed(reply)


def _write_secured2(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked = command.write_secured2
    by = (asked.current_user_id, asked.verifier_user_id)
    source_ns = _source_ns(session, asked.timestamp_value)
    session.write_item(asked.server_handle, asked.item_handle, asked.value, source_ns, by=by)
    _succeed(reply)


def _source_ns(session: Session, value: pb.MxValue) -> int:
    """Return the time a write names; one that names none is as of now."""
    ns = None
    if value.WhichOneof("kind") == "timestamp_value":
        ns = timestamp_ns(value.timestamp_value)
    return session.clock.time_ns() if ns is None else ns


# Many items


@contextmanager
def _reporting(result: pb.SubscribeResult) -> Iterator[None]:
    """Note in an entry's result whether the body succeeds."""
    try:
        yield
        result.was_successful = True
    except status.MxAccessFailure as failure:
        result.error_message = str(failure)


def _each_item(
    session: Session,
    server_handle: int,
    items: Iterable[int],
    results: _Results,
    *actions: Callable[[int, int], None],
) -> None:
    """Do something to each item; an entry that fails does not hold up the others."""
    for item in items:
        result = results(server_handle=server_handle, item_handle=item)
        with _reporting(result):
            result.tag_address = session.name(server_handle, item)
            for action in actions:
                action(server_handle, item)


def _each_name(
    session: Session,
    server_handle: int,
    names: Iterable[str],
    results: _Results,
    *,
    advise: bool,
) -> None:
    """Add each item. A failed entry has item handle 0 (contract notes, Bulk commands)."""
    for name in names:
        result = results(server_handle=server_handle, tag_address=name)
        with _reporting(result):
            result.item_handle = session.add_item(server_handle, name)
            if advise:
                session.advise(server_handle, result.item_handle)


def _add_item_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.add_item_bulk, reply.add_item_bulk.results
    reply.add_item_bulk.SetInParent()
    _each_name(session, asked.server_handle, asked.tag_addresses, results.add, advise=False)


def _subscribe_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.subscribe_bulk, reply.subscribe_bulk.results
    reply.subscribe_bulk.SetInParent()
    _each_name(session, asked.server_handle, asked.tag_addresses, results.add, advise=True)


def _advise_item_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.advise_item_bulk, reply.advise_item_bulk.results
    reply.advise_item_bulk.SetInParent()
    _each_item(session, asked.server_handle, asked.item_handles, results.add, session.advise)


def _un_advise_item_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.un_advise_item_bulk, reply.un_advise_item_bulk.results
    reply.un_advise_item_bulk.SetInParent()
    _each_item(session, asked.server_handle, asked.item_handles, results.add, session.un_advise)


def _remove_item_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.remove_item_bulk, reply.remove_item_bulk.results
    reply.remove_item_bulk.SetInParent()
    _each_item(session, asked.server_handle, asked.item_handles, results.add, session.remove_item)


def _unsubscribe_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    asked, results = command.unsubscribe_bulk, reply.unsubscribe_bulk.results
    reply.unsubscribe_bulk.SetInParent()
    _each_item(session, asked.server_handle, asked.item_handles, results.add, session.remove_item)


def _read_bulk(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    """Read tags; an advised one counts as cached (contract notes, Commands).

    A tag that is not advised has no item of its own in the reply: the one made for the
    read is gone by then (inferred).
    """
    asked = command.read_bulk
    reply.read_bulk.SetInParent()
    advised = session.advised_items(asked.server_handle)
    for name in asked.tag_addresses:
        result = reply.read_bulk.results.add(server_handle=asked.server_handle, tag_address=name)
        try:
            session.check_server(asked.server_handle)
            tag = session.database.find(name)
        except status.MxAccessFailure as failure:
            result.error_message = str(failure)
            result.statuses.append(failure.status())
            continue
        value, result.quality, source_ns = session.database.message(tag)
        result.value.CopyFrom(value)
        result.source_timestamp.CopyFrom(timestamp(source_ns))
        result.item_handle = advised.get(tag, 0)
        result.was_cached = tag in advised
        result.was_successful = True


# About the session


def _ping(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    """Answer OK without a payload (contract notes, Commands)."""


def _get_session_state(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    reply.session_state.state = session.state


def _get_worker_info(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    reply.worker_info.worker_process_id = os.getpid()
    reply.worker_info.worker_version = "simulated"
    reply.worker_info.mxaccess_progid = _PROGID


def _drain_events(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    reply.drain_events.SetInParent()
    for message in session.events.drain(command.drain_events.max_events):
        reply.drain_events.events.add().MergeFromString(message)


def _shutdown_worker(session: Session, command: pb.MxCommand, reply: pb.MxCommandReply) -> None:
    """Answer OK without a payload, and end the worker (contract notes, Commands)."""
    session.end_worker()


_HANDLERS: dict[str, Handler] = {
    "register": _register,
    "unregister": _unregister,
    "add_item": _add_item,
    "add_item2": _add_item2,
    "remove_item": _remove_item,
    "advise": _advise,
    "advise_supervisory": _advise_supervisory,
    "un_advise": _un_advise,
    "add_buffered_item": _add_buffered_item,
    "set_buffered_update_interval": _set_buffered_update_interval,
    "suspend": _suspend,
    "activate": _activate,
    "authenticate_user": _authenticate_user,
    "archestra_user_to_id": _archestra_user_to_id,
    "write": _write,
    "write2": _write2,
    "write_secured": _write_secured,
    "write_secured2": _write_secured2,
    "add_item_bulk": _add_item_bulk,
    "advise_item_bulk": _advise_item_bulk,
    "un_advise_item_bulk": _un_advise_item_bulk,
    "remove_item_bulk": _remove_item_bulk,
    "subscribe_bulk": _subscribe_bulk,
    "unsubscribe_bulk": _unsubscribe_bulk,
    "read_bulk": _read_bulk,
    "ping": _ping,
    "get_session_state": _get_session_state,
    "get_worker_info": _get_worker_info,
    "drain_events": _drain_events,
    "shutdown_worker": _shutdown_worker,
}

_BULK_WRITES = frozenset({"write_bulk", "write2_bulk", "write_secured_bulk", "write_secured2_bulk"})
