"""What each command does, apart from bulk writes, which have a way of their own."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.session import Session
from mxfast.simulator.values import timestamp, timestamp_ns

# What a handler gets: the session, the command's payload and the reply to fill in.
Handler = Callable[[Session, Any, pb.MxCommandReply], None]
_ItemAction = Callable[[Session, int, int], None]

# The COM class that the gateway's worker fronts.
_PROGID = "LMXProxy.LMXProxyServer.1"

# The worker's own patience with a read that names none; the notes do not know it.
_READ_TIMEOUT_MS = 10_000


def return_nothing(reply: pb.MxCommandReply) -> None:
    """Fill in what a COM call without a result returns."""
    reply.return_value.data_type = pb.MX_DATA_TYPE_NO_DATA
    reply.return_value.variant_type = "VT_EMPTY"
    reply.return_value.is_null = True


def _succeed(reply: pb.MxCommandReply, handle: int | None = None) -> None:
    """Fill in what a COM call that succeeded returns: nothing, or a handle."""
    reply.hresult = 0
    reply.statuses.append(status.ok_status())
    if handle is None:
        return_nothing(reply)
    else:
        reply.return_value.data_type = pb.MX_DATA_TYPE_INTEGER
        reply.return_value.variant_type = "VT_I4"
        reply.return_value.int32_value = handle


# One item or server


def _register(session: Session, asked: pb.RegisterCommand, reply: pb.MxCommandReply) -> None:
    handle = session.register()
    reply.register.server_handle = handle
    _succeed(reply, handle)


def _unregister(session: Session, asked: pb.UnregisterCommand, reply: pb.MxCommandReply) -> None:
    session.unregister(asked.server_handle)
    _succeed(reply)


def _add(name: str, session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    buffered = name == "add_buffered_item"
    handle = session.add_item(asked.server_handle, joined_name(asked), buffered=buffered)
    getattr(reply, name).item_handle = handle
    _succeed(reply, handle)


def joined_name(asked: Any) -> str:
    """Return a tag's name, which may be relative to a context; how they join is inferred."""
    context = getattr(asked, "item_context", None)
    if context is None:
        return str(asked.item_definition)
    return ".".join(filter(None, (context.rstrip("."), asked.item_definition.lstrip("."))))


def _set_buffered_update_interval(
    session: Session, asked: pb.SetBufferedUpdateIntervalCommand, reply: pb.MxCommandReply
) -> None:
    """Answer OK without a payload (contract notes, Commands)."""
    session.check_server(asked.server_handle)
    if asked.update_interval_milliseconds < 0:
        raise status.unusable_value(
            f"an update interval of {asked.update_interval_milliseconds} ms"
        )
    session.changes.set_buffered_interval(asked.server_handle, asked.update_interval_milliseconds)
    _succeed(reply)


def _advise_supervisory(session: Session, server_handle: int, item: int) -> None:
    session.advise(server_handle, item, supervisory=True)


_ITEM_ACTIONS: dict[str, _ItemAction] = {
    "remove_item": Session.remove_item,
    "advise": Session.advise,
    "advise_supervisory": _advise_supervisory,
    "un_advise": Session.un_advise,
}


def _act(action: _ItemAction, session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    action(session, asked.server_handle, asked.item_handle)
    _succeed(reply)


def _suspend(
    name: str, session: Session, asked: pb.SuspendCommand, reply: pb.MxCommandReply
) -> None:
    session.suspend(asked.server_handle, asked.item_handle, name == "suspend")
    getattr(reply, name).status.CopyFrom(status.ok_status())
    _succeed(reply)


# Users


def _authenticate_user(session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    """Answer the user's id, 0 where name or password is wrong (contract notes, Writes)."""
    session.check_server(asked.server_handle)
    user = session.plant.users.authenticate(asked.verify_user, asked.verify_user_password)
    _tell_user(session, user, reply.authenticate_user, reply)


def _archestra_user_to_id(session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    session.check_server(asked.server_handle)
    user = session.plant.users.id_of(asked.user_id_guid)
    _tell_user(session, user, reply.archestra_user_to_id, reply)


def _tell_user(session: Session, user: int, answer: Any, reply: pb.MxCommandReply) -> None:
    """Answer a user's id, with which the session may write to secured attributes from now on."""
    if user:
        session.authenticated.add(user)
    answer.user_id = user
    _succeed(reply, user)


# One write


def _write(session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    """Carry out one of the four writes: with or without a time, by a user or secured."""
    now = session.plant.clock.time_ns()
    source_ns = None
    time = asked.timestamp_value if hasattr(asked, "timestamp_value") else pb.MxValue()
    if time.HasField("timestamp_value") and not time.is_null:
        source_ns = timestamp_ns(time.timestamp_value)
    session.write_item(
        asked.server_handle,
        asked.item_handle,
        asked.value,
        now if source_ns is None else source_ns,  # a time that names none is as of now
        user=getattr(asked, "user_id", 0),
        by=(asked.current_user_id, asked.verifier_user_id)
        if hasattr(asked, "current_user_id")
        else None,
    )
    _succeed(reply)


# Many items


@contextmanager
def _reporting(result: pb.SubscribeResult) -> Iterator[None]:
    """Note in an entry's result whether the body succeeds."""
    try:
        yield
        result.was_successful = True
    except status.MxAccessFailure as failure:
        result.error_message = str(failure)


_BULK_ITEM_ACTIONS: dict[str, _ItemAction] = {
    "advise_item_bulk": Session.advise,
    "un_advise_item_bulk": Session.un_advise,
    "remove_item_bulk": Session.remove_item,
    "unsubscribe_bulk": Session.remove_item,
}


def _act_on_each(name: str, session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    """Do something to each item; an entry that fails does not hold up the others."""
    server = asked.server_handle
    answer: pb.BulkSubscribeReply = getattr(reply, name)
    answer.SetInParent()
    for item in asked.item_handles:
        result = answer.results.add(server_handle=server, item_handle=item)
        with _reporting(result):
            result.tag_address = session.name(server, item)
            _BULK_ITEM_ACTIONS[name](session, server, item)


def _add_each(name: str, session: Session, asked: Any, reply: pb.MxCommandReply) -> None:
    """Add each item. A failed entry has item handle 0 (contract notes, Bulk commands)."""
    server = asked.server_handle
    answer: pb.BulkSubscribeReply = getattr(reply, name)
    answer.SetInParent()
    for address in asked.tag_addresses:
        result = answer.results.add(server_handle=server, tag_address=address)
        with _reporting(result):
            result.item_handle = session.add_item(server, address)
            if name == "subscribe_bulk":
                session.advise(server, result.item_handle)


def read_timeout_ms(asked: pb.ReadBulkCommand) -> int:
    """Return how many milliseconds a read waits for each tag."""
    return asked.timeout_ms or _READ_TIMEOUT_MS


def _read_bulk(session: Session, asked: pb.ReadBulkCommand, reply: pb.MxCommandReply) -> None:
    """Read tags: what the last data change told, where there was one, else what is now.

    A tag that is not advised has no item of its own in the reply: the one made for the
    read is gone by then (inferred). So is one whose only item is buffered, as the notes
    know of a cache of OnDataChange alone (contract notes, Bulk commands).
    """
    reply.read_bulk.SetInParent()
    server = asked.server_handle
    cached = session.cached_items(server)
    timeout = read_timeout_ms(asked)
    for name in asked.tag_addresses:
        result = reply.read_bulk.results.add(server_handle=server, tag_address=name)
        try:
            session.check_server(server)
            tag = session.read_tag(name)
            result.was_cached = tag in cached
            takes = session.plant.faults.read_seconds(session.full_name(name))
            if not result.was_cached and takes * 1000 > timeout:
                raise status.read_timeout(name, timeout)
        except status.MxAccessFailure as failure:
            result.error_message = str(failure)
            result.statuses.append(failure.status())
            continue
        if result.was_cached:
            result.item_handle = cached[tag]
            value, result.quality, source_ns = session.cached(server, cached[tag])
        else:
            value, result.quality, source_ns = session.read(tag)
        result.value.CopyFrom(value)
        result.source_timestamp.CopyFrom(timestamp(source_ns))
        result.was_successful = True


# Alarms


def _subscribe_alarms(
    session: Session, asked: pb.SubscribeAlarmsCommand, reply: pb.MxCommandReply
) -> None:
    """Have the alarms' changes among the session's events; that it answers so is inferred."""
    session.plant.alarms.listen(session.events)
    _succeed(reply)


def _unsubscribe_alarms(
    session: Session, asked: pb.UnsubscribeAlarmsCommand, reply: pb.MxCommandReply
) -> None:
    session.plant.alarms.unlisten(session.events)
    _succeed(reply)


def _acknowledge_alarm(
    session: Session, asked: pb.AcknowledgeAlarmCommand, reply: pb.MxCommandReply
) -> None:
    reference = session.plant.alarms.named_by(asked.alarm_guid)
    _acknowledge(session, reference, asked.alarm_guid, asked, reply)


def _acknowledge_alarm_by_name(
    session: Session, asked: pb.AcknowledgeAlarmByNameCommand, reply: pb.MxCommandReply
) -> None:
    """Acknowledge by full reference; provider and group are not looked at (inferred)."""
    known = session.plant.alarms.is_active(asked.alarm_name)
    _acknowledge(session, asked.alarm_name if known else None, asked.alarm_name, asked, reply)


def _acknowledge(
    session: Session, reference: str | None, given: str, asked: Any, reply: pb.MxCommandReply
) -> None:
    if reference is None:
        raise status.unresolved_reference(given)
    session.plant.alarms.acknowledge_alarm(
        reference, user=asked.operator_user, comment=asked.comment
    )
    reply.acknowledge_alarm.native_status = 0
    _succeed(reply)


def _query_active_alarms(
    session: Session, asked: pb.QueryActiveAlarmsCommand, reply: pb.MxCommandReply
) -> None:
    alarms = session.plant.alarms.active(asked.alarm_filter_prefix)
    reply.query_active_alarms.snapshots.extend(alarms)
    reply.query_active_alarms.SetInParent()
    _succeed(reply)


# About the session


def _ping(session: Session, asked: pb.PingCommand, reply: pb.MxCommandReply) -> None:
    """Answer OK without a payload (contract notes, Commands)."""


def _get_session_state(
    session: Session, asked: pb.GetSessionStateCommand, reply: pb.MxCommandReply
) -> None:
    reply.session_state.state = session.state


def _get_worker_info(
    session: Session, asked: pb.GetWorkerInfoCommand, reply: pb.MxCommandReply
) -> None:
    reply.worker_info.worker_process_id = os.getpid()
    reply.worker_info.worker_version = "simulated"
    reply.worker_info.mxaccess_progid = _PROGID


def _drain_events(session: Session, asked: pb.DrainEventsCommand, reply: pb.MxCommandReply) -> None:
    reply.drain_events.SetInParent()
    for message in session.events.drain(asked.max_events):
        reply.drain_events.events.add().MergeFromString(message)


def _shutdown_worker(
    session: Session, asked: pb.ShutdownWorkerCommand, reply: pb.MxCommandReply
) -> None:
    """Answer OK without a payload, and end the worker (contract notes, Commands)."""
    session.end_worker()


HANDLERS: dict[str, Handler] = {
    "register": _register,
    "unregister": _unregister,
    **{name: partial(_add, name) for name in ("add_item", "add_item2", "add_buffered_item")},
    **{name: partial(_act, action) for name, action in _ITEM_ACTIONS.items()},
    "set_buffered_update_interval": _set_buffered_update_interval,
    **{name: partial(_suspend, name) for name in ("suspend", "activate")},
    "authenticate_user": _authenticate_user,
    "archestra_user_to_id": _archestra_user_to_id,
    **dict.fromkeys(("write", "write2", "write_secured", "write_secured2"), _write),
    **{name: partial(_add_each, name) for name in ("add_item_bulk", "subscribe_bulk")},
    **{name: partial(_act_on_each, name) for name in _BULK_ITEM_ACTIONS},
    "read_bulk": _read_bulk,
    "subscribe_alarms": _subscribe_alarms,
    "unsubscribe_alarms": _unsubscribe_alarms,
    "acknowledge_alarm": _acknowledge_alarm,
    "acknowledge_alarm_by_name": _acknowledge_alarm_by_name,
    "query_active_alarms": _query_active_alarms,
    "ping": _ping,
    "get_session_state": _get_session_state,
    "get_worker_info": _get_worker_info,
    "drain_events": _drain_events,
    "shutdown_worker": _shutdown_worker,
}
