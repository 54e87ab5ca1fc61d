"""The plant's alarms, which belong to no session (contract notes, Alarms)."""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.events import EventLog
from mxfast.simulator.values import timestamp
from mxfast.values import to_mx_value

# What a snapshot and a transition both tell.
_SHARED = (
    "alarm_full_reference",
    "source_object_reference",
    "alarm_type_name",
    "severity",
    "original_raise_timestamp",
    "category",
    "description",
    "operator_user",
    "operator_comment",
    "current_value",
    "limit_value",
    "degraded",
    "source_provider",
)


class AlarmSubscriber:
    """The reader of one StreamAlarms call: a bounded queue of messages.

    Parameters
    ----------
    prefix : str
        Beginning of the references it wants.
    snapshot : list of AlarmFeedMessage
        What it gets first.
    capacity : int
        Further messages the queue holds.
    """

    def __init__(self, prefix: str, snapshot: list[pb.AlarmFeedMessage], capacity: int) -> None:
        self.prefix = prefix
        self._room = len(snapshot) + capacity
        self._messages = deque(snapshot)
        self._overflowed = False
        self._wake = asyncio.Event()

    def add(self, message: pb.AlarmFeedMessage) -> None:
        """Append a message."""
        self._overflowed = self._overflowed or len(self._messages) >= self._room
        if not self._overflowed:
            self._messages.append(message)
        self._wake.set()

    async def take(self) -> pb.AlarmFeedMessage:
        """Wait for the next message.

        Raises
        ------
        Refusal
            RESOURCE_EXHAUSTED where more came than the queue holds. That alarms are queued
            and cut off as events are is inferred.
        """
        if not self._messages and not self._overflowed:
            self._wake.clear()
            await self._wake.wait()
        if self._overflowed:
            raise status.alarm_queue_overflow()
        return self._messages.popleft()


class Alarms:
    """The active alarms, to be raised, acknowledged and cleared from a test.

    Call it from the event loop that the gateway runs in. An alarm that is cleared is no
    longer active, acknowledged or not (inferred).

    Parameters
    ----------
    queue_capacity : int
        Messages that the queue of an alarm stream holds.
    now_ns : callable returning int
        The time, in nanoseconds since 1970 (UTC).
    """

    def __init__(self, queue_capacity: int, now_ns: Callable[[], int]) -> None:
        self._queue_capacity = queue_capacity
        self._now_ns = now_ns
        self._active: dict[str, pb.ActiveAlarmSnapshot] = {}
        self._subscribers: set[AlarmSubscriber] = set()
        self._listeners: set[EventLog] = set()

    def raise_alarm(
        self,
        reference: str,
        *,
        severity: int = 500,
        alarm_type: str = "",
        category: str = "",
        description: str = "",
        value: object = None,
        limit: object = None,
    ) -> None:
        """Raise an alarm; one that is active already is told as triggered again.

        Parameters
        ----------
        reference : str
            Full reference, such as ``"Tank1.Level.Hi"``; its object is what is before
            the first dot.
        severity : int, default 500
        alarm_type, category, description : str
        value, limit : object
            The attribute's value and the limit it broke, as `mxfast.to_mx_value` takes them.
        """
        again = reference in self._active
        now = timestamp(self._now_ns())
        alarm = self._active.setdefault(reference, pb.ActiveAlarmSnapshot())
        if not again:
            alarm.original_raise_timestamp.CopyFrom(now)
        alarm.alarm_full_reference = reference
        alarm.source_object_reference = reference.partition(".")[0]
        alarm.alarm_type_name = alarm_type
        alarm.severity = severity
        alarm.category = category
        alarm.description = description
        alarm.current_state = pb.ALARM_CONDITION_STATE_ACTIVE
        alarm.last_transition_timestamp.CopyFrom(now)
        alarm.source_provider = pb.ALARM_PROVIDER_MODE_ALARMMGR
        if value is not None:
            alarm.current_value.CopyFrom(to_mx_value(value))
        if limit is not None:
            alarm.limit_value.CopyFrom(to_mx_value(limit))
        self._tell(
            alarm,
            pb.ALARM_TRANSITION_KIND_RETRIGGER if again else pb.ALARM_TRANSITION_KIND_RAISE,
        )

    def acknowledge_alarm(self, reference: str, *, user: str = "", comment: str = "") -> None:
        """Acknowledge an active alarm.

        Raises
        ------
        KeyError
            It is not active.
        """
        alarm = self._active[reference]
        alarm.current_state = pb.ALARM_CONDITION_STATE_ACTIVE_ACKED
        alarm.operator_user = user
        alarm.operator_comment = comment
        alarm.last_transition_timestamp.CopyFrom(timestamp(self._now_ns()))
        self._tell(alarm, pb.ALARM_TRANSITION_KIND_ACKNOWLEDGE)

    def clear_alarm(self, reference: str) -> None:
        """End an active alarm.

        Raises
        ------
        KeyError
            It is not active.
        """
        alarm = self._active.pop(reference)
        alarm.last_transition_timestamp.CopyFrom(timestamp(self._now_ns()))
        self._tell(alarm, pb.ALARM_TRANSITION_KIND_CLEAR)

    def set_provider(
        self, mode: "pb.AlarmProviderMode", *, degraded: bool = False, reason: str = ""
    ) -> None:
        """Tell every stream that the source of alarms has changed, such as to subtags."""
        now = timestamp(self._now_ns())
        message = pb.AlarmFeedMessage(
            provider_status=pb.AlarmProviderStatus(
                mode=mode, degraded=degraded, reason=reason, since=now
            )
        )
        for subscriber in self._subscribers:
            subscriber.add(message)
        for events in self._listeners:
            changed = pb.OnAlarmProviderModeChangedEvent(mode=mode, reason=reason, at=now)
            events.publish_messages(
                [
                    pb.MxEvent(
                        family=pb.MX_EVENT_FAMILY_ON_ALARM_PROVIDER_MODE_CHANGED,
                        on_alarm_provider_mode_changed=changed,
                    )
                ]
            )

    @property
    def subscribers(self) -> int:
        """How many streams are attached."""
        return len(self._subscribers)

    def is_active(self, reference: str) -> bool:
        """Tell whether an alarm is active."""
        return reference in self._active

    def guid(self, reference: str) -> str:
        """Return the GUID by which MXAccess's own command names an alarm (inferred)."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, reference))

    def named_by(self, guid: str) -> str | None:
        """Return the reference of the active alarm with a GUID, or None."""
        return next((each for each in self._active if self.guid(each) == guid.lower()), None)

    def listen(self, events: EventLog) -> None:
        """Tell a session of every change, as events of its own."""
        self._listeners.add(events)

    def unlisten(self, events: EventLog) -> None:
        """Tell a session no more; one that is not told stays so."""
        self._listeners.discard(events)

    def active(self, prefix: str) -> list[pb.ActiveAlarmSnapshot]:
        """Return copies of the active alarms whose reference begins so, oldest first."""
        found = []
        for reference, alarm in self._active.items():
            if reference.startswith(prefix):
                copy = pb.ActiveAlarmSnapshot()
                copy.CopyFrom(alarm)
                found.append(copy)
        return found

    def subscribe(self, prefix: str) -> AlarmSubscriber:
        """Attach a stream: the active alarms, then the end of the snapshot, then changes."""
        snapshot = [pb.AlarmFeedMessage(active_alarm=alarm) for alarm in self.active(prefix)]
        snapshot.append(pb.AlarmFeedMessage(snapshot_complete=True))
        subscriber = AlarmSubscriber(prefix, snapshot, self._queue_capacity)
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: AlarmSubscriber) -> None:
        """Detach a stream."""
        self._subscribers.discard(subscriber)

    def _tell(self, alarm: pb.ActiveAlarmSnapshot, kind: "pb.AlarmTransitionKind") -> None:
        fields = {name: getattr(alarm, name) for name in _SHARED if _is_set(alarm, name)}
        transition = pb.OnAlarmTransitionEvent(
            transition_kind=kind, transition_timestamp=alarm.last_transition_timestamp, **fields
        )
        message = pb.AlarmFeedMessage(transition=transition)
        for subscriber in self._subscribers:
            if alarm.alarm_full_reference.startswith(subscriber.prefix):
                subscriber.add(message)
        for events in self._listeners:
            family = pb.MX_EVENT_FAMILY_ON_ALARM_TRANSITION
            events.publish_messages([pb.MxEvent(family=family, on_alarm_transition=transition)])


def _is_set(alarm: pb.ActiveAlarmSnapshot, name: str) -> bool:
    return any(field.name == name for field, _ in alarm.ListFields())
