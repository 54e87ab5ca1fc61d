"""The faults that a simulated gateway has now, and the file that says which."""

import json
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import faults, status
from mxfast.simulator.clock import Clock, Timer
from mxfast.simulator.faults import Fault
from mxfast.simulator.tags import matches

if TYPE_CHECKING:
    from mxfast.simulator.alarms import Alarms
    from mxfast.simulator.galaxy import Galaxy
    from mxfast.simulator.session import Session

_log = logging.getLogger("mxfast.simulator")

_FaultT = TypeVar("_FaultT", bound=Fault)

_LOOK_SECONDS = 0.1
"""How often the fault file is looked at."""


@dataclass(frozen=True)
class Target:
    """The running gateway that faults strike; ``drop`` tears down its connections."""

    clock: Clock
    sessions: "Iterable[Session]"
    alarms: "Alarms"
    galaxy: "Galaxy"
    drop: Callable[[], None]


class Faults:
    """The faults of a gateway. Change them in the event loop that it runs in.

    Faults that last are kept from one run of the gateway to the next; those that strike
    once (:class:`mxfast.simulator.faults.Action`) need a gateway that runs.

    Examples
    --------
    >>> slow = gateway.faults.add(faults.Latency(seconds=0.2))
    >>> gateway.faults.remove(slow)
    >>> gateway.faults.add(faults.CrashWorker())
    """

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self._struck: dict[int, int] = {}  # id of an active fault to how often it struck
        self._random = random.Random(0)
        self._target: Target | None = None
        self._waiting: list[tuple[faults.Action, Timer]] = []  # those that have yet to strike
        self.qualities: tuple[faults.Quality, ...] = ()
        self._sort()

    def __iter__(self) -> Iterator[Fault]:
        return iter((*self._active, *(fault for fault, _ in self._waiting)))

    def add(self, fault: _FaultT) -> _FaultT:
        """Begin a fault, or strike.

        Returns
        -------
        Fault
            The same, to be removed: one that lasts, or that has yet to strike.

        Raises
        ------
        RuntimeError
            The fault strikes once, and the gateway is not running.
        """
        if not isinstance(fault, faults.Action):
            self._active.append(fault)
            self._sort()
        elif self._target is None:
            raise RuntimeError(f"{fault.name()} needs a gateway that runs; enter its context first")
        elif fault.after > 0:
            self._strike_later(fault, self._target)
        else:
            _strike(fault, self._target)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault, or keep one from striking.

        Raises
        ------
        ValueError
            It is not there, or no longer.
        """
        there = list(self)
        if fault not in there:
            raise ValueError(f"there is no fault {fault}")
        same = [index for index, each in enumerate(there) if each is fault]
        index = same[0] if same else there.index(fault)
        if index < len(self._active):
            self._struck.pop(id(self._active.pop(index)), None)
            self._sort()
        else:
            _, timer = self._waiting.pop(index - len(self._active))
            timer.cancel()

    def clear(self) -> None:
        """End all faults, also those that have yet to strike."""
        self._cancel_strikes()
        self._active.clear()
        self._struck.clear()
        self._sort()

    # What the gateway asks. Each list is empty unless there is such a fault.

    def _sort(self) -> None:
        before = self.qualities
        self.calls = self._of(
            faults.Latency, faults.RefuseCalls, faults.HandshakeWorker, faults.ExpireKey
        )
        self.replies = self._of(faults.MalformedReply)
        self.refused_tags = self._of(faults.RefuseTags)
        self.failed_writes = self._of(faults.FailWrites)
        self.slow_tags = self._of(faults.SlowTags)
        self.qualities = self._of(faults.Quality)
        self.late = self._of(faults.LateFirstValue)
        self.streams = self._of(faults.DuplicateEvents, faults.CutAfter)
        self.gaps = self._of(faults.ReplayGap)
        changed = [each.tags for each in set(before) ^ set(self.qualities)]
        if changed and self._target is not None:
            for session in self._target.sessions:
                session.changes.tell_again(
                    lambda name: any(_concerns(tags, name) for tags in changed)
                )

    def _of(self, *kinds: type[Fault]) -> tuple[Any, ...]:
        return tuple(fault for fault in self._active if isinstance(fault, kinds))

    def attach(self, target: Target) -> None:
        """Strike this gateway from now on."""
        self._target = target

    def detach(self) -> None:
        """Strike nobody any more."""
        self._cancel_strikes()
        self._target = None

    def _strike_later(self, fault: faults.Action, target: Target) -> None:
        def strike() -> None:
            self._waiting.remove(waiting)
            _strike(fault, target)

        waiting = fault, target.clock.call_later(fault.after, strike)
        self._waiting.append(waiting)

    def _cancel_strikes(self) -> None:
        for _, timer in self._waiting:
            timer.cancel()
        self._waiting.clear()

    def _wear(self, fault: faults.Counted) -> None:
        """Note that a fault struck; after the last time it is gone."""
        struck = self._struck[id(fault)] = self._struck.get(id(fault), 0) + 1
        if struck == fault.times:
            self.remove(fault)

    async def before_call(self, method: str, authorization: object, clock: Clock) -> None:
        """Delay a call, or refuse it."""
        for fault in self.calls:
            if not any(fault is each for each in self.calls):
                continue  # it ended while this call was delayed
            match fault:
                case faults.Latency(method=only) if only in ("", method):
                    self._wear(fault)
                    await clock.sleep(fault.seconds + self._random.uniform(0, fault.jitter))
                case faults.RefuseCalls(method=only) if only in ("", method):
                    self._wear(fault)
                    raise status.refused_on_request(grpc.StatusCode[fault.code])
                case faults.HandshakeWorker() if method == "Invoke":
                    self._wear(fault)
                    raise status.worker_handshaking()
                case faults.ExpireKey(key=only) if not only or f"Bearer {only}" == authorization:
                    self._wear(fault)
                    raise status.expired_key()

    def reply(self, method: str, reply: bytes) -> bytes:
        """Return what is sent in the place of a unary call's reply."""
        command = ""
        if method == "Invoke":
            command = status.command_name(pb.MxCommandReply.FromString(reply).kind)
        for fault in self.replies:
            if fault.command in ("", method, command):
                self._wear(fault)
                if fault.form == "garbage":
                    return b"\xff" * 8
                return b"" if fault.form == "empty" else _without_payload(method, reply)
        return reply

    def refusal(self, name: str) -> status.MxAccessFailure | None:
        """Return why a tag is refused, or None where it is not."""
        for fault in self.refused_tags:
            if _concerns(fault.tags, name):
                return status.refused_tag(name, fault.detail)
        return None

    def check_tag(self, name: str) -> None:
        """Raise an MxAccessFailure for a tag that is refused."""
        if self.refused_tags and (failure := self.refusal(name)) is not None:
            raise failure

    def failing(self, names: Iterable[str]) -> dict[int, faults.FailWrites]:
        """Return what fails the writes to tags, by their places, where something does."""
        return {
            row: fault
            for row, name in enumerate(names)
            for fault in reversed(self.failed_writes)  # of several, the first counts
            if _concerns(fault.tags, name)
        }

    def seconds(self, names: Iterable[str]) -> float:
        """Return how much longer a command takes that has to do with these tags."""
        return sum(
            float(fault.seconds)
            for name in names
            for fault in self.slow_tags
            if _concerns(fault.tags, name)
        )

    def quality(
        self, quality: NDArray[np.int32], tags: NDArray[np.intp], name: Callable[[int], str]
    ) -> NDArray[np.int32]:
        """Return the qualities of tags instead of the given ones."""
        changed = quality.copy()
        for fault in self.qualities:
            for row, tag in enumerate(tags.tolist()):
                if _concerns(fault.tags, name(tag)):
                    changed[row] = fault.quality
        return changed

    def first_value_after(self) -> float:
        """Return how many seconds late a first value comes."""
        late = [(fault.seconds, max(fault.seconds, fault.longest)) for fault in self.late]
        return max((self._random.uniform(*bounds) for bounds in late), default=0.0)

    def read_seconds(self, name: str) -> float:
        """Return how long the value of a tag that is not advised takes to come."""
        return self.seconds([name]) + max((fault.seconds for fault in self.late), default=0.0)

    def copies(self, message: bytes, nth: int) -> tuple[bytes, ...]:
        """Return what a stream sends for its ``nth`` event, counted from 1."""
        copies: tuple[bytes, ...] = (message,)
        for fault in self.streams:
            match fault:
                case faults.MissingEvents(every=every):
                    if nth % every == 0:
                        self._wear(fault)
                        copies = ()
                case faults.DuplicateEvents(every=every):
                    if nth % every == 0:
                        self._wear(fault)
                        copies *= 2
        return copies

    def check_cut(self, sent: int) -> None:
        """Cut a stream that has sent so many events.

        Raises
        ------
        Refusal
            UNAVAILABLE, where it is cut.
        """
        for fault in self.streams:
            if isinstance(fault, faults.CutAfter) and sent >= fault.events:
                self._wear(fault)
                raise status.stream_cut()

    def lost_at_resume(self) -> int:
        """Return how many events a stream that resumes has lost at least."""
        lost = 0
        for fault in self.gaps:
            self._wear(fault)
            lost = max(lost, fault.lost)
        return lost


def _strike(fault: faults.Action, target: Target) -> None:
    match fault:
        case faults.DropConnections():
            target.drop()
        case faults.Deploy():
            target.galaxy.deploy()
        case faults.RaiseAlarm():
            target.alarms.raise_alarm(
                fault.reference,
                severity=fault.severity,
                alarm_type=fault.alarm_type,
                category=fault.category,
                description=fault.description,
            )
        case faults.ClearAlarm():
            for alarm in target.alarms.active(""):
                if matches(fault.reference, alarm.alarm_full_reference):
                    target.alarms.clear_alarm(alarm.alarm_full_reference)
        case faults.SessionAction():
            for session in target.sessions:
                if fault.session in ("", session.session_id):
                    _strike_session(fault, session)


def _strike_session(fault: faults.SessionAction, session: "Session") -> None:
    match fault:
        case faults.CrashWorker():
            session.end_worker()
        case faults.CutStreams():
            session.cut_streams()
        case faults.OverflowQueues():
            session.overflow_queues()


def _concerns(tags: str, name: str) -> bool:
    """Tell whether a fault's ``tags`` are about a tag; an array may be named without ``[]``."""
    return matches(tags, name) or (name.endswith("[]") and matches(tags, name[:-2]))


def _without_payload(method: str, reply: bytes) -> bytes:
    if method == "Invoke":
        answer = pb.MxCommandReply.FromString(reply)
        answer.ClearField("return_value")
        if payload := answer.WhichOneof("payload"):
            answer.ClearField(payload)
        return answer.SerializeToString()
    if method == "OpenSession":
        opened = pb.OpenSessionReply.FromString(reply)
        opened.ClearField("session_id")
        return opened.SerializeToString()
    return b""  # the others carry nothing but what they should


def _fault(entry: Any) -> Fault:
    match entry:
        case str():
            return faults.fault_from_text(entry)
        case {"fault": str(name)}:
            given = {key: value for key, value in entry.items() if key != "fault"}
            return faults.fault_from_fields(name, given)
    # Not what it is: it may hold a key.
    raise ValueError("it is neither text nor an object with a 'fault'")


class FaultFile:
    """A file that says which faults a gateway has, looked at as long as it runs.

    The file holds JSON: a list of texts as ``mxfast simulate --fault`` takes them, or of
    objects with the fault's name as ``fault`` and its fields. Of a new list, the faults
    that the one before did not hold begin or strike, and those of the one before that it
    does not hold end, or strike no more. No file is an empty list. A list that cannot be
    read is reported to the log and changes nothing.

    Parameters
    ----------
    path : str
        The file.
    control : Faults
        What it says goes here.

    Raises
    ------
    ValueError
        The file is there and does not hold such a list.
    """

    def __init__(self, path: str, control: Faults) -> None:
        self._path = Path(path)
        self._control = control
        self._held: list[Fault] = []
        self._seen = self._stamp()
        self._first = self._read()
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Take up what the file says, from now on."""
        self._take(self._first)
        # A file is changed in real time, also where the gateway's own clock stands.
        self._timer = Clock().every(_LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more, and end the faults that came from the file."""
        if self._timer is not None:
            self._timer.cancel()
        self._take([])

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._take(self._read())
            except ValueError as error:
                _log.warning("the faults stay as they are: %s", error)

    def _read(self) -> list[Fault]:
        try:
            listed = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ValueError(f"fault file {self._path}: {error}") from error
        if not isinstance(listed, list):
            raise ValueError(f"fault file {self._path}: it does not hold a list")
        wanted = []
        for number, entry in enumerate(listed, 1):
            try:
                wanted.append(_fault(entry))
            except ValueError as error:
                raise ValueError(f"fault file {self._path}, entry {number}: {error}") from error
        return wanted

    def _take(self, wanted: list[Fault]) -> None:
        kept, new = [], list(wanted)
        for fault in self._held:
            if fault in new:
                new.remove(fault)
                kept.append(fault)
            elif fault in self._control:  # it has not worn off or struck
                self._control.remove(fault)
        self._held = kept
        for fault in new:
            self._held.append(self._control.add(fault))
