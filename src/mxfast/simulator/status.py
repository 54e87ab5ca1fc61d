"""The one place that says which gRPC code, protocol status or MXAccess status means what.

The gateway has two error channels (contract notes, Commands): trouble with the gateway,
the session, the key or the request is a gRPC status, here a :class:`Refusal`; trouble
inside MXAccess is an ordinary reply, here an :class:`MxAccessFailure`.
"""

import grpc

from mxfast.contract import mxaccess_gateway as pb

# The contract notes give no HRESULT for a wrong handle or an unresolved name; COM's own
# "one or more arguments are invalid" is inferred.
E_INVALIDARG = -2147024809

# "Secured write refused before its value was looked at" (contract notes, Writes).
SECURED_WRITE_REFUSED = -2147467231

UNRESOLVED_REFERENCE = 1003
NEEDS_SECURED_WRITE = 1012
NEEDS_VERIFIED_WRITE = 1013

# COM's numbers are two less than the contract's (contract notes, Status).
_COM_OFFSET = 2

QUALITY_GOOD = 192


class Refusal(Exception):
    """A call that ends with a gRPC status instead of a reply.

    Parameters
    ----------
    code : grpc.StatusCode
        The status of the call.
    message : str
        Its details; never holds a credential.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def unauthenticated() -> Refusal:
    """Return the refusal of a missing or unknown key (contract notes, Transport and access)."""
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, "Missing or invalid API key.")


def permission_denied(scope: str) -> Refusal:
    """Return the refusal of a key without ``scope`` (contract notes, Transport and access)."""
    return Refusal(
        grpc.StatusCode.PERMISSION_DENIED, f"The API key lacks the required scope '{scope}'."
    )


def malformed(error: Exception) -> Refusal:
    """Return the refusal of bytes that are no such message (code inferred)."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {error}")


def internal() -> Refusal:
    """Return the refusal for a fault of the simulated gateway itself."""
    return Refusal(
        grpc.StatusCode.INTERNAL, "Internal error of the simulated gateway; see its log."
    )


def session_not_found(session_id: str) -> Refusal:
    """Return the refusal of an id that no session has or had (code inferred)."""
    return Refusal(
        grpc.StatusCode.NOT_FOUND, f"SessionNotFound: session '{session_id}' was not found."
    )


def session_not_ready(session_id: str, state: int, reason: str = "") -> Refusal:
    """Return the refusal of a closed or faulted session, and why it is (code inferred)."""
    name = pb.SessionState.Name(state).removeprefix("SESSION_STATE_").capitalize()
    if reason:
        name += f" ({reason})"
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"SessionNotReady: session '{session_id}' is {name}; only a Ready session takes calls.",
    )


def session_limit(limit: int) -> Refusal:
    """Return the refusal of one session too many (code inferred)."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"SessionLimitExceeded: {limit} sessions are open, which is the limit.",
    )


def pending_limit(session_id: str, limit: int) -> Refusal:
    """Return the refusal of one pending command too many (code inferred)."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"PendingCommandLimitExceeded: {limit} commands of session '{session_id}' are pending.",
    )


def command_timeout(session_id: str, seconds: float) -> Refusal:
    """Return the end of a call whose command goes on in the worker (code inferred)."""
    return Refusal(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        f"Timeout: the command of session '{session_id}' took more than {seconds:g} s; "
        "it goes on in the worker.",
    )


def refused_on_request(code: grpc.StatusCode) -> Refusal:
    """Return the refusal that a fault asks for."""
    return Refusal(code, f"{code.name}: refused by a fault of the simulated gateway.")


def worker_handshaking() -> Refusal:
    """Return the refusal while a worker is not ready (contract notes; the code is inferred)."""
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SessionNotReady: Session state is Ready; worker state is Handshaking.",
    )


def expired_key() -> Refusal:
    """Return the refusal of a key that has expired (message inferred)."""
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, "The API key has expired.")


def stream_cut() -> Refusal:
    """Return the end of a stream that a fault cuts."""
    return Refusal(
        grpc.StatusCode.UNAVAILABLE, "The stream was cut by a fault of the simulated gateway."
    )


def subscriber_limit(session_id: str, limit: int) -> Refusal:
    """Return the refusal of one event stream too many, of several (code inferred)."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"EventSubscriberLimitReached: session '{session_id}' has {limit} event subscribers.",
    )


def subscriber_active(session_id: str) -> Refusal:
    """Return the refusal of a second event stream (contract notes, Events)."""
    return Refusal(
        grpc.StatusCode.ALREADY_EXISTS,
        f"EventSubscriberAlreadyActive: session '{session_id}' has an event subscriber.",
    )


def event_queue_overflow(session_id: str, capacity: int, *, faulted: bool) -> Refusal:
    """Return the end of a stream whose reader was too slow (contract notes, Events)."""
    rest = "; the session is faulted" if faulted else ""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"EventQueueOverflow: the event queue of session '{session_id}' holds {capacity} events "
        f"and is full{rest}.",
    )


def invalid_argument(reason: str) -> Refusal:
    """Return the refusal of a request that makes no sense (contract notes, Galaxy repository)."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid request: {reason}.")


def object_not_found(wanted: str) -> Refusal:
    """Return the refusal of an unknown root or parent (contract notes, Galaxy repository)."""
    return Refusal(grpc.StatusCode.NOT_FOUND, f"Object '{wanted}' was not found in the galaxy.")


def alarm_queue_overflow() -> Refusal:
    """Return the end of an alarm stream whose reader was too slow (inferred)."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "EventQueueOverflow: the alarm queue is full."
    )


class WorkerGone(Refusal):
    """The session's worker process has ended; the code is inferred.

    A command is answered with the protocol status WORKER_UNAVAILABLE instead.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(
            grpc.StatusCode.UNAVAILABLE,
            f"WorkerUnavailable: the worker of session '{session_id}' has ended.",
        )


class MxAccessFailure(Exception):
    """A command that MXAccess refused: a reply with status MXACCESS_FAILURE.

    Parameters
    ----------
    message : str
        The diagnostic text; in a bulk command the entry's error message.
    detail : int, default 0
        MXAccess status detail, for example 1003 for an unresolved reference.
    hresult : int, default E_INVALIDARG
        The HRESULT of the COM call, as a signed 32-bit number.
    category : MxStatusCategory, default CONFIGURATION_ERROR
        The status entry's category.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: int = 0,
        hresult: int = E_INVALIDARG,
        category: "pb.MxStatusCategory" = pb.MX_STATUS_CATEGORY_CONFIGURATION_ERROR,
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.hresult = hresult
        self.category = category

    def status(self) -> pb.MxStatusProxy:
        """Return the status entry that goes into the reply; its raw numbers are COM's."""
        return pb.MxStatusProxy(
            success=0,
            category=self.category,
            detected_by=pb.MX_STATUS_SOURCE_REQUESTING_LMX,
            detail=self.detail,
            raw_category=self.category - _COM_OFFSET,
            raw_detected_by=pb.MX_STATUS_SOURCE_REQUESTING_LMX - _COM_OFFSET,
            diagnostic_text=str(self),
        )

    def write_result(self, server_handle: int, item_handle: int) -> bytes:
        """Return the serialised BulkWriteResult of the entry that failed so."""
        return pb.BulkWriteResult(
            server_handle=server_handle,
            item_handle=item_handle,
            was_successful=False,
            hresult=self.hresult,
            statuses=[self.status()],
            error_message=str(self),
        ).SerializeToString()


def invalid_server_handle(server_handle: int) -> MxAccessFailure:
    """Return the failure for a server handle that this session did not register."""
    return MxAccessFailure(f"Invalid server handle {server_handle}.")


def invalid_item_handle(server_handle: int, item_handle: int) -> MxAccessFailure:
    """Return the failure for an item handle that this server handle does not have."""
    return MxAccessFailure(f"Invalid item handle {item_handle} for server handle {server_handle}.")


def unresolved_reference(name: str) -> MxAccessFailure:
    """Return the failure for a name no tag has: detail 1003 (contract notes, Commands)."""
    return MxAccessFailure(f"Reference '{name}' is not resolved.", detail=UNRESOLVED_REFERENCE)


def refused_tag(name: str, detail: int) -> MxAccessFailure:
    """Return the failure of a tag that a fault refuses."""
    return MxAccessFailure(
        f"'{name}' is refused by a fault of the simulated gateway.",
        detail=detail,
        category=pb.MX_STATUS_CATEGORY_OPERATIONAL_ERROR,
    )


def unresolved_type(name: str) -> MxAccessFailure:
    """Return the failure of a write before the first data change (contract notes, Writes)."""
    return unusable_value(f"the type of '{name}' is not resolved yet")


def failed_write(category: str, detail: int) -> pb.MxStatusProxy:
    """Return the status of a write that failed after it was accepted.

    That it is the object written to that found out is inferred.
    """
    outcome = pb.MxStatusProxy(
        success=0,
        category=f"MX_STATUS_CATEGORY_{category}",
        detected_by=pb.MX_STATUS_SOURCE_RESPONDING_AUTOMATION_OBJECT,
        detail=detail,
        diagnostic_text="The write failed by a fault of the simulated gateway.",
    )
    outcome.raw_category = outcome.category - _COM_OFFSET
    outcome.raw_detected_by = outcome.detected_by - _COM_OFFSET
    return outcome


def read_timeout(name: str, milliseconds: int) -> MxAccessFailure:
    """Return the failure of a read whose value did not come in time."""
    return MxAccessFailure(
        f"No value of '{name}' came within {milliseconds} ms.",
        category=pb.MX_STATUS_CATEGORY_COMMUNICATION_ERROR,
    )


def unusable_value(reason: str) -> MxAccessFailure:
    """Return the failure for a value that cannot be written."""
    return MxAccessFailure(f"Value does not fall within the expected range: {reason}.")


def needs_security(level: int) -> MxAccessFailure:
    """Return the failure of a write that a secured attribute refuses.

    Detail 1012 where it needs a secured write, 1013 where a second user must verify it
    (contract notes, Commands).
    """
    detail, wanted = (
        (NEEDS_VERIFIED_WRITE, "a verified write by two users")
        if level > 1
        else (NEEDS_SECURED_WRITE, "a secured write")
    )
    return MxAccessFailure(
        f"The attribute needs {wanted}.",
        detail=detail,
        category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR,
    )


def unknown_user(ids: tuple[int, int]) -> MxAccessFailure:
    """Return the failure of a secured write by users that nobody authenticated."""
    return MxAccessFailure(
        f"No user is authenticated as {ids[0]} and {ids[1]}.",
        hresult=SECURED_WRITE_REFUSED,
        category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR,
    )


def command_name(kind: int) -> str:
    """Return a command kind's name, such as ``"write_bulk"``; empty for an unknown one."""
    if kind not in pb.MxCommandKind.values():
        return ""
    return pb.MxCommandKind.Name(kind).removeprefix("MX_COMMAND_KIND_").lower()


def ok_status() -> pb.MxStatusProxy:
    """Return the status of success: COM category Ok 0, found by RespondingLmx 1."""
    return pb.MxStatusProxy(
        success=1,
        category=pb.MX_STATUS_CATEGORY_OK,
        detected_by=pb.MX_STATUS_SOURCE_RESPONDING_LMX,
        raw_category=0,
        raw_detected_by=1,
    )
