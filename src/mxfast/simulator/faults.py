"""The faults a simulated gateway can be told to have, as plain descriptions.

Give them to ``gateway.faults.add``; in text, as ``mxfast simulate --fault`` takes them, a
fault is its name and its fields: ``latency:seconds=0.2,jitter=0.1``.
"""

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc

from mxfast.checks import shown
from mxfast.contract import galaxy_repository, mxaccess_gateway
from mxfast.simulator import described
from mxfast.simulator.status import command_name

_RPCS = {
    method.name: method
    for file in (mxaccess_gateway.DESCRIPTOR, galaxy_repository.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What all faults have in common."""

    @classmethod
    def name(cls) -> str:
        """Return the fault's name in text, such as ``"refuse-tags"``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


@dataclass(frozen=True, kw_only=True)
class Action(Fault):
    """A fault that strikes once.

    Parameters
    ----------
    after : float, default 0
        Seconds from now until it does.
    """

    after: float = 0.0

    def __post_init__(self) -> None:
        _check_seconds(self, "after")


@dataclass(frozen=True, kw_only=True)
class Counted(Fault):
    """A fault that can wear off.

    Parameters
    ----------
    times : int, default 0
        How often it strikes; 0 for as long as it is there.
    """

    times: int = 0

    def __post_init__(self) -> None:
        _check_count(self, "times", 0)


@dataclass(frozen=True, kw_only=True)
class Latency(Counted):
    """Calls are taken later.

    Parameters
    ----------
    seconds : float, default 0
        By how much.
    jitter : float, default 0
        Up to how much more, evenly distributed.
    method : str, default ""
        The RPC, such as ``"Invoke"``; empty for all.
    times : int, default 0
        As :class:`Counted`.
    """

    seconds: float = 0.0
    jitter: float = 0.0
    method: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_seconds(self, "seconds", "jitter")
        _check_known(self, "method", _RPCS)


@dataclass(frozen=True, kw_only=True)
class RefuseCalls(Counted):
    """Calls end with a gRPC status, such as RESOURCE_EXHAUSTED or UNAVAILABLE.

    Parameters
    ----------
    code : str, default "RESOURCE_EXHAUSTED"
        The status.
    method : str, default ""
        The RPC, such as ``"Invoke"``; empty for all.
    times : int, default 0
        As :class:`Counted`.
    """

    code: str = "RESOURCE_EXHAUSTED"
    method: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in grpc.StatusCode.__members__ or self.code == "OK":
            raise ValueError(f"{self.name()}: {shown(self.code)} is no gRPC status of a failure")
        _check_known(self, "method", _RPCS)


@dataclass(frozen=True, kw_only=True)
class HandshakeWorker(Counted):
    """Commands fail because the worker is not ready yet, though its session is.

    A plant has this for a moment now and then; a client may try such a command again.

    Parameters
    ----------
    times : int, default 0
        As :class:`Counted`.
    """


@dataclass(frozen=True, kw_only=True)
class ExpireKey(Counted):
    """A key is no longer accepted: UNAUTHENTICATED.

    Parameters
    ----------
    key : str, default ""
        Which one; empty for all.
    times : int, default 0
        As :class:`Counted`.
    """

    key: str = ""

    def __repr__(self) -> str:  # never the key
        return f"{type(self).__name__}(times={self.times})"


@dataclass(frozen=True, kw_only=True)
class MalformedReply(Counted):
    """The reply of a call is not what it should be.

    Parameters
    ----------
    command : str, default ""
        The command, such as ``"register"`` or ``"write_bulk"``, or an RPC with one reply,
        such as ``"OpenSession"`` or, for every command, ``"Invoke"``; empty for all.
    form : {"garbage", "empty", "no-payload"}
        Bytes that are no message, no bytes, or a reply without what it should carry.
    times : int, default 0
        As :class:`Counted`.
    """

    FORMS: ClassVar = ("garbage", "empty", "no-payload")
    command: str = ""
    form: str = "garbage"

    def __post_init__(self) -> None:
        super().__post_init__()
        unary = [name for name, method in _RPCS.items() if not method.server_streaming]
        _check_known(
            self, "command", [*map(command_name, mxaccess_gateway.MxCommandKind.values()), *unary]
        )
        if self.form not in self.FORMS:
            raise ValueError(
                f"{self.name()}: form {shown(self.form)} is none of {', '.join(self.FORMS)}"
            )


@dataclass(frozen=True, kw_only=True)
class RefuseTags(Fault):
    """Adding, writing and reading a tag fails.

    Parameters
    ----------
    tags : str, default "*"
        Which: a name, or a pattern with ``*`` and ``?``.
    detail : int, default 902
        The status detail; its category is OPERATIONAL_ERROR.
    """

    tags: str = "*"
    detail: int = 902


@dataclass(frozen=True, kw_only=True)
class FailWrites(Fault):
    """Writes are accepted and then fail: the tag stays as it is, OnWriteComplete says why.

    Parameters
    ----------
    tags : str, default "*"
        Which: a name, or a pattern with ``*`` and ``?``.
    category : str, default "OPERATIONAL_ERROR"
        The status category of a failure, such as ``"COMMUNICATION_ERROR"`` or ``"WARNING"``.
    detail : int, default 902
        The status detail.
    delay : float, default 0
        Seconds until the OnWriteComplete comes; ``inf``: it never does.
    """

    CATEGORIES: ClassVar = (
        "WARNING",
        "COMMUNICATION_ERROR",
        "CONFIGURATION_ERROR",
        "OPERATIONAL_ERROR",
        "SECURITY_ERROR",
        "SOFTWARE_ERROR",
        "OTHER_ERROR",
    )
    tags: str = "*"
    category: str = "OPERATIONAL_ERROR"
    detail: int = 902
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.category not in self.CATEGORIES:
            raise ValueError(
                f"{self.name()}: category {shown(self.category)} is none of "
                f"{', '.join(self.CATEGORIES)}"
            )
        if not -(2**31) <= self.detail < 2**31:
            raise ValueError(f"{self.name()}: detail is {self.detail}, not a 32-bit number")
        if not self.delay >= 0:
            raise ValueError(f"{self.name()}: delay is {self.delay}, not 0 or more seconds")


@dataclass(frozen=True, kw_only=True)
class SlowTags(Fault):
    """A command that has to do with a tag takes longer, and all that wait for it.

    Parameters
    ----------
    tags : str, default "*"
        Which: a name, or a pattern with ``*`` and ``?``.
    seconds : float, default 1
        How much longer, for each time that the command names such a tag.
    """

    tags: str = "*"
    seconds: float = 1.0

    def __post_init__(self) -> None:
        _check_seconds(self, "seconds")


@dataclass(frozen=True, kw_only=True)
class Quality(Fault):
    """Tags have another quality than good.

    Parameters
    ----------
    tags : str, default "*"
        Which: a name, or a pattern with ``*`` and ``?``.
    quality : int, default 0
        OPC quality, 0 to 255: 0 is bad, 64 uncertain.
    """

    tags: str = "*"
    quality: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 255:
            raise ValueError(f"{self.name()}: quality is {self.quality}, not 0 to 255")


@dataclass(frozen=True, kw_only=True)
class LateFirstValue(Fault):
    """The first value of an advised item comes late, as it does on a plant.

    Until then the type of an item that is added meanwhile is not resolved, and a write to
    it fails.

    Parameters
    ----------
    seconds : float, default 3
        How late at least.
    longest : float, default 8
        How late at most.
    """

    seconds: float = 3.0
    longest: float = 8.0

    def __post_init__(self) -> None:
        _check_seconds(self, "seconds", "longest")


@dataclass(frozen=True, kw_only=True)
class DuplicateEvents(Counted):
    """Event streams send some events twice, with one sequence.

    Parameters
    ----------
    every : int, default 1
        Which: those whose number in their stream is a multiple of it.
    times : int, default 0
        As :class:`Counted`.
    """

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count(self, "every", 1)


@dataclass(frozen=True, kw_only=True)
class MissingEvents(DuplicateEvents):
    """Event streams leave some events out, so that the sequence jumps.

    Parameters
    ----------
    every : int, default 1
        Which: those whose number in their stream is a multiple of it.
    times : int, default 0
        As :class:`Counted`.
    """


@dataclass(frozen=True, kw_only=True)
class CutAfter(Counted):
    """An event stream is cut, with UNAVAILABLE, when it has sent some events.

    Parameters
    ----------
    events : int, default 1
        How many.
    times : int, default 1
        As :class:`Counted`.
    """

    events: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count(self, "events", 1)


@dataclass(frozen=True, kw_only=True)
class ReplayGap(Counted):
    """A stream that resumes finds that events are lost.

    What the session could have replayed is gone, and where the client had everything, so
    are ``lost`` events more.

    Parameters
    ----------
    lost : int, default 1
        See above.
    times : int, default 1
        As :class:`Counted`.
    """

    lost: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count(self, "lost", 1)


@dataclass(frozen=True, kw_only=True)
class DropConnections(Action):
    """Every connection is torn down; the gateway goes on listening."""


@dataclass(frozen=True, kw_only=True)
class SessionAction(Action):
    """A fault that strikes sessions, once.

    Parameters
    ----------
    session : str, default ""
        Id of the session; empty for all.
    after : float, default 0
        As :class:`Action`.
    """

    session: str = ""


@dataclass(frozen=True, kw_only=True)
class CutStreams(SessionAction):
    """Event streams end with UNAVAILABLE; their sessions go on."""


@dataclass(frozen=True, kw_only=True)
class CrashWorker(SessionAction):
    """A session's worker ends.

    Its commands are answered with WORKER_UNAVAILABLE, its streams end with an error and
    its handles are gone.
    """


@dataclass(frozen=True, kw_only=True)
class OverflowQueues(SessionAction):
    """The queues of event streams overflow, with what the gateway's policy makes of it."""


@dataclass(frozen=True, kw_only=True)
class RaiseAlarm(Action):
    """An alarm is raised, or told as triggered again: no fault, but switched as they are.

    Parameters
    ----------
    reference : str
        Its full reference, such as ``"Tank1.Level.Hi"``.
    severity : int, default 500
        From 0.
    alarm_type, category, description : str, default ""
        What else is told of it.
    after : float, default 0
        As :class:`Action`.
    """

    reference: str = ""
    severity: int = 500
    alarm_type: str = ""
    category: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reference:
            raise ValueError(f"{self.name()}: which alarm? give it a reference")
        if not 0 <= self.severity < 2**31:
            raise ValueError(f"{self.name()}: severity is {self.severity}, not 0 to 2147483647")


@dataclass(frozen=True, kw_only=True)
class ClearAlarm(Action):
    """Active alarms end; where there is none, nothing happens.

    Parameters
    ----------
    reference : str, default "*"
        Which: a full reference, or a pattern with ``*`` and ``?``.
    after : float, default 0
        As :class:`Action`.
    """

    reference: str = "*"


@dataclass(frozen=True, kw_only=True)
class Deploy(Action):
    """The galaxy is deployed: its watchers are told, and page tokens become stale."""


FAULTS: dict[str, type[Fault]] = {
    kind.name(): kind
    for kind in (
        Latency,
        RefuseCalls,
        HandshakeWorker,
        ExpireKey,
        MalformedReply,
        RefuseTags,
        FailWrites,
        SlowTags,
        Quality,
        LateFirstValue,
        DuplicateEvents,
        MissingEvents,
        CutAfter,
        ReplayGap,
        DropConnections,
        CutStreams,
        CrashWorker,
        OverflowQueues,
        RaiseAlarm,
        ClearAlarm,
        Deploy,
    )
}
"""Every fault by its name in text."""


def fault_from_text(text: str) -> Fault:
    """Return the fault that a text names, such as ``"slow-tags:tags=Tank*,seconds=2"``.

    Raises
    ------
    ValueError
        No such fault or field, or a value that it cannot have.
    """
    with _secretive(text.partition(":")[0]):
        return described.from_text("fault", FAULTS, text)


def fault_from_fields(name: str, given: Mapping[str, Any]) -> Fault:
    """Return the fault of that name with the given fields, as text or as what they are.

    Raises
    ------
    ValueError
        As :func:`fault_from_text`.
    """
    with _secretive(name):
        return described.from_fields("fault", FAULTS, name, given)


@contextlib.contextmanager
def _secretive(name: str) -> Iterator[None]:
    """Show nothing of what was given for a fault where that may hold a key."""
    try:
        yield
    except ValueError:
        if re.search("key|mxgw_", name, re.IGNORECASE) is None:
            raise
        raise ValueError(
            "a fault that expires a key is 'expire-key', or 'expire-key:key=...,times=...' with "
            "times from 0; what was given is not shown, as it may hold the key"
        ) from None


def _check_seconds(fault: Fault, *names: str) -> None:
    for name in names:
        if not 0 <= (seconds := getattr(fault, name)) < float("inf"):
            raise ValueError(f"{fault.name()}: {name} is {seconds}, not a number of seconds")


def _check_known(fault: Fault, name: str, known: Collection[str]) -> None:
    if (value := getattr(fault, name)) and value not in known:
        near = difflib.get_close_matches(value, known) or known
        raise ValueError(f"{fault.name()}: {name} is {shown(value)}, none of {', '.join(near)}")


def _check_count(fault: Fault, name: str, least: int) -> None:
    if (count := getattr(fault, name)) < least:
        raise ValueError(f"{fault.name()}: {name} is {count}, not {least} or more")
