"""The sessions of a gateway: opened, closed, and closed by the sweep."""

from collections.abc import Callable, Iterator

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.clock import Clock
from mxfast.simulator.session import Session

# Closed sessions the gateway still knows. The notes say that a close is idempotent while
# the session is known, not for how long that is.
_CLOSED_SESSIONS = 1024

SWEEP_SECONDS = 30.0
"""How often sessions are looked at (contract notes, Session life cycle)."""


class SessionTable:
    """The sessions of a gateway.

    Parameters
    ----------
    make_session : callable
        Makes a session, given its number, from 1, and the seconds that its commands may take.
    clock : Clock
        The gateway's time.
    limit : int
        How many may be open at once.
    lease : float
        Seconds without a unary call or an event stream after which a session is closed.
    detach_grace : float
        Seconds after its last event stream ended; 0 for ever.
    """

    def __init__(
        self,
        make_session: Callable[[int, float], Session],
        clock: Clock,
        *,
        limit: int,
        lease: float,
        detach_grace: float,
    ) -> None:
        self._make_session = make_session
        self._clock = clock
        self._limit = limit
        self._lease = lease
        self._detach_grace = detach_grace
        self._opened = 0
        self._open: dict[str, Session] = {}
        self._closed: dict[str, str] = {}  # id to why

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    def open(self, command_timeout: float) -> Session:
        """Open a session.

        Raises
        ------
        Refusal
            RESOURCE_EXHAUSTED at the limit.
        """
        if len(self._open) >= self._limit:
            raise status.session_limit(self._limit)
        self._opened += 1
        session = self._make_session(self._opened, command_timeout)
        self._open[session.session_id] = session
        return session

    def close(self, session_id: str, reason: str = "") -> None:
        """Close a session, also a faulted one; closing it again does nothing.

        Raises
        ------
        Refusal
            NOT_FOUND for an id that no known session has.
        """
        session = self._open.pop(session_id, None)
        if session is not None:
            session.close()
            self._closed[session_id] = reason
            if len(self._closed) > _CLOSED_SESSIONS:
                del self._closed[next(iter(self._closed))]
        elif session_id not in self._closed:
            raise status.session_not_found(session_id)

    def ready(self, session_id: str) -> Session:
        """Return the session of that id, and renew its lease.

        Raises
        ------
        Refusal
            NOT_FOUND for an unknown id, FAILED_PRECONDITION for a closed or faulted
            session; `WorkerGone` where its worker ended.
        """
        session = self._open.get(session_id)
        if session is None:
            reason = self._closed.get(session_id)
            if reason is not None:
                raise status.session_not_ready(session_id, pb.SESSION_STATE_CLOSED, reason)
            raise status.session_not_found(session_id)
        if session.worker_gone:
            raise status.WorkerGone(session_id)
        if session.state != pb.SESSION_STATE_READY:
            raise status.session_not_ready(session_id, session.state)
        session.used_at = self._clock.monotonic()
        return session

    def sweep(self) -> None:
        """Close the sessions whose lease or detach grace is over."""
        now = self._clock.monotonic()
        for session in self:
            if session.events.subscribers:
                continue
            detached = session.detached_at
            if self._detach_grace and detached is not None and now - detached >= self._detach_grace:
                self.close(session.session_id, "detach-grace-expired")
            elif now - session.used_at >= self._lease:
                self.close(session.session_id, "lease-expired")

    def close_all(self) -> None:
        """Close every session."""
        for session_id in list(self._open):
            self.close(session_id)
