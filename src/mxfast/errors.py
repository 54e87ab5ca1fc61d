"""What can go wrong, and the one place that says what a code or a status means.

Three kinds of answer become exceptions here: gRPC status codes (transport, access and
session), the protocol status of a reply (the gateway and its worker), and MXAccess's own
result (HRESULT and statuses). Sources: contract notes, Commands, timeouts, errors; Status.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message

from mxfast.contract import mxaccess_gateway as pb

__all__ = [
    "MalformedReplyError",
    "MxAccessError",
    "MxGatewayAuthenticationError",
    "MxGatewayAuthorizationError",
    "MxGatewayCommandError",
    "MxGatewayConnectionError",
    "MxGatewayError",
    "MxGatewayOverflowError",
    "MxGatewaySessionError",
    "MxGatewaySessionLostError",
    "MxGatewayTimeoutError",
    "MxGatewayTransportError",
    "MxGatewayWorkerError",
]

Redact = Callable[[str], str]
MessageT = TypeVar("MessageT", bound=Message)


class MxGatewayError(Exception):
    """Base of every error of this package.

    Parameters
    ----------
    message : str
        What went wrong and what to do; holds no key.
    code : grpc.StatusCode, optional
        The gRPC code.
    operation : str
        What was being done, such as ``"write"``.
    reply : protobuf message, optional
        The raw reply, as it came but for keys in its texts, which are masked.

    Attributes
    ----------
    result : WriteResult, Items, ReadResult or None
        For an array write or a subscribe that failed on its way: the outcome of every item.
        For a ``raise_for_failure``: what it was asked of. Not kept by pickle and copy.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        operation: str = "",
        reply: Message | None = None,
    ) -> None:
        super().__init__(f"{operation}: {message}" if operation else message)
        self.code = code
        self.operation = operation
        self.reply = reply
        self.result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A result refers to the session that it came from, which no other process has.
        return type(self), self.args, {**self.__dict__, "result": None}


class MxGatewayTransportError(MxGatewayError):
    """The call did not get through, or its answer did not."""


class MxGatewayConnectionError(MxGatewayTransportError, ConnectionError):
    """The gateway cannot be reached."""


class MxGatewayAuthenticationError(MxGatewayTransportError, PermissionError):
    """The gateway does not accept the API key."""


class MxGatewayAuthorizationError(MxGatewayTransportError, PermissionError):
    """The API key lacks the scope for this call."""


class MxGatewayTimeoutError(MxGatewayTransportError, TimeoutError):
    """No answer in time. The gateway goes on with a command: its outcome is unknown."""


class MxGatewaySessionError(MxGatewayError):
    """The session is closed, unknown to the gateway or not ready; or the client is closed."""


class MxGatewaySessionLostError(MxGatewaySessionError):
    """The session died under an event stream, and with it its handles.

    `Session.rebuild` opens another one in its place.
    """


class MxGatewayWorkerError(MxGatewayError):
    """The session's worker process is gone or broke the protocol."""


class MxGatewayCommandError(MxGatewayError):
    """The gateway refused the command."""


class MxAccessError(MxGatewayCommandError):
    """MXAccess itself reports a failure."""


class MalformedReplyError(MxGatewayError):
    """A reply lacks what it must hold, or cannot be read."""


class MxGatewayOverflowError(MxGatewayError):
    """Events came faster than they were taken, and ``overflow="error"`` was asked for."""


_SESSION_CODES = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_PROTOCOL_ERRORS: dict[int, type[MxGatewayError]] = {
    pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST: MxGatewayCommandError,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_FOUND: MxGatewaySessionError,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_READY: MxGatewaySessionError,
    pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE: MxGatewayWorkerError,
    pb.PROTOCOL_STATUS_CODE_TIMEOUT: MxGatewayTimeoutError,
    pb.PROTOCOL_STATUS_CODE_CANCELED: MxGatewayCommandError,
    pb.PROTOCOL_STATUS_CODE_PROTOCOL_VIOLATION: MxGatewayWorkerError,
    pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE: MxAccessError,
}

# What the gateway answers before it hands a command to the worker (the codes are inferred).
# Not RESOURCE_EXHAUSTED, which also is a reply too large for the client.
_NOT_BEGUN_CODES = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}

_NOT_BEGUN_STATUSES = {
    pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_FOUND,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_READY,
}

_HARMLESS = {
    pb.MX_STATUS_CATEGORY_UNSPECIFIED,
    pb.MX_STATUS_CATEGORY_UNKNOWN,
    pb.MX_STATUS_CATEGORY_OK,
    pb.MX_STATUS_CATEGORY_PENDING,
}

_DETAILS = {
    1003: "the reference does not resolve to an attribute",
    1012: "the attribute is secured: it needs WriteSecured",
    1013: "the attribute needs a verified write by two users",
}

_HRESULTS = {
    0x80004021: "secured write refused before its value was looked at",
    0x80070057: "value does not fall within the expected range; "
    "before the first data change the item's type is not yet known",
}

_SAYS_MORE = (pb.MxCommandReply, pb.AcknowledgeAlarmReply)

_UNKNOWN_OUTCOME = "the outcome is unknown, since the gateway does not stop a command it has begun"


def from_rpc_error(
    error: BaseException,
    operation: str,
    *,
    endpoint: str,
    key: str | None,
    redact: Redact,
    stream: bool = False,
    about_session: bool = True,
) -> MxGatewayError:
    """Return this package's error for one of gRPC's.

    Parameters
    ----------
    error : grpc.RpcError or another error raised by gRPC
        With or without a ``code()``.
    operation : str
        What was being done.
    endpoint : str
        For the message.
    key : str or None
        The API key as it may be shown.
    redact : callable
        Takes the key out of what the server says.
    stream : bool
        A stream rather than a unary call.
    about_session : bool
        A call that belongs to a session: refusals then mean the session.

    Returns
    -------
    MxGatewayError
        Of the class that the code stands for, with code and redacted details.
    """
    code = error.code() if callable(getattr(error, "code", None)) else None  # type: ignore[attr-defined]
    details = error.details() if callable(getattr(error, "details", None)) else str(error)  # type: ignore[attr-defined]
    details = redact(details or "")
    said = f"{code.name}: {details}" if code is not None else details or type(error).__name__
    kind: type[MxGatewayError] = MxGatewayTransportError
    match code:
        case grpc.StatusCode.UNAUTHENTICATED:
            kind = MxGatewayAuthenticationError
            text = (
                f"the gateway does not accept the API key {key} ({said})"
                if key
                else f"the gateway wants an API key and none was given ({said})"
            )
        case grpc.StatusCode.PERMISSION_DENIED:
            kind = MxGatewayAuthorizationError
            text = f"the API key {key or '(none)'} lacks the scope for this call ({said})"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            kind = MxGatewayTimeoutError
            text = (
                f"the stream's time has passed ({said})"
                if stream
                else f"no answer in time; {_UNKNOWN_OUTCOME} ({said})"
            )
        case grpc.StatusCode.UNAVAILABLE:
            kind = MxGatewayConnectionError
            text = f"{endpoint} cannot be reached or broke off ({said})"
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
            text = f"a message is larger than max_message_bytes ({said})"
        case _ if code is grpc.StatusCode.INVALID_ARGUMENT or (
            code in _SESSION_CODES and not about_session
        ):
            kind = MxGatewayCommandError
            text = f"the gateway refused the request ({said})"
        case _ if code in _SESSION_CODES:
            kind = MxGatewaySessionError
            text = f"the session does not take this call ({said})"
        case _:
            text = f"the call failed ({said})"
    return kind(text, code=code, operation=operation)


def was_not_begun(error: MxGatewayError) -> bool:
    """Tell whether a command's error says that the gateway did not begin it.

    It did not let it in, could not read it, or knows no such session that is ready. Of every
    other failure, such as a deadline or a connection that broke, that cannot be told.
    """
    if isinstance(error.reply, pb.MxCommandReply):
        return error.reply.protocol_status.code in _NOT_BEGUN_STATUSES
    return error.code in _NOT_BEGUN_CODES


def parse(message_type: type[MessageT], data: bytes, operation: str) -> MessageT:
    """Return the message that bytes of a reply hold.

    Raises
    ------
    MalformedReplyError
        The bytes are no such message.
    """
    try:
        return message_type.FromString(data)
    except ProtobufDecodeError as error:
        raise MalformedReplyError(
            f"{len(data)} bytes are no {message_type.DESCRIPTOR.name}: {error}",
            operation=operation,
        ) from error


def without_key(message: MessageT, redact: Redact) -> MessageT:
    """Return a copy of a message with the key taken out of its texts, for errors to keep."""
    copy = type(message)()
    copy.CopyFrom(message)
    _mask_texts(copy, redact)
    return copy


def _mask_texts(message: Message, redact: Redact) -> None:
    for field, held in message.ListFields():
        if isinstance(held, str):
            setattr(message, field.name, redact(held))
        elif isinstance(held, Message):
            _mask_texts(held, redact)
        elif field.type == FieldDescriptor.TYPE_STRING:
            held[:] = [redact(text) for text in held]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in held:
                _mask_texts(each, redact)


def check_protocol(
    status: pb.ProtocolStatus, operation: str, reply: Message, redact: Redact
) -> None:
    """Raise for a protocol status other than OK.

    A failure of MXAccess is left to `check_mxaccess` where the reply says more about it.

    Parameters
    ----------
    status : ProtocolStatus
        Of the reply.
    operation : str
        What was being done.
    reply : protobuf message
        Kept on the exception, without a key.
    redact : callable
        Takes the key out of what the server says.

    Raises
    ------
    MxGatewayError
        Of the class that the status code stands for; `MalformedReplyError` where the
        reply has no status.
    """
    code = status.code
    if code == pb.PROTOCOL_STATUS_CODE_OK:
        return
    if code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE and isinstance(reply, _SAYS_MORE):
        return
    kept = without_key(reply, redact)
    if code == pb.PROTOCOL_STATUS_CODE_UNSPECIFIED:
        raise MalformedReplyError(
            "the reply has no protocol status",
            operation=operation,
            reply=kept,
        )
    text = _enum_words(pb.ProtocolStatusCode, code, "PROTOCOL_STATUS_CODE_", "protocol status")
    if status.message:
        text += f": {redact(status.message)}"
    if code == pb.PROTOCOL_STATUS_CODE_TIMEOUT:
        text += f"; {_UNKNOWN_OUTCOME}"
    raise _PROTOCOL_ERRORS.get(code, MxGatewayCommandError)(text, operation=operation, reply=kept)


def check_mxaccess(
    reply: pb.MxCommandReply | pb.AcknowledgeAlarmReply,
    operation: str,
    subject: str,
    redact: Redact,
) -> None:
    """Raise where MXAccess reports that a command failed.

    Parameters
    ----------
    reply : MxCommandReply or AcknowledgeAlarmReply
        Whose protocol status is OK or MXACCESS_FAILURE.
    operation : str
        What was being done.
    subject : str
        Item and tag, or nothing.
    redact : callable
        Takes the key out of what the server says.

    Raises
    ------
    MxAccessError
        Statuses, HRESULT and detail codes in words.
    """
    if not is_mxaccess_failure(reply):
        return
    said = [subject] if subject else []
    said += describe_statuses(_statuses(reply))
    if reply.hresult:
        said.append(describe_hresult(reply.hresult))
    said += [text for text in (reply.diagnostic_message, reply.protocol_status.message) if text]
    text = redact("; ".join(said)) or "MXAccess reports a failure without saying which"
    raise MxAccessError(text, operation=operation, reply=without_key(reply, redact))


def _statuses(
    reply: pb.MxCommandReply | pb.AcknowledgeAlarmReply,
) -> Iterable[pb.MxStatusProxy]:
    if isinstance(reply, pb.MxCommandReply):
        return reply.statuses
    return [reply.status] if reply.HasField("status") else []


def is_mxaccess_failure(reply: pb.MxCommandReply | pb.AcknowledgeAlarmReply) -> bool:
    """Tell whether a reply reports a failure of MXAccess.

    That is the protocol status MXACCESS_FAILURE, a negative HRESULT, or a failed status.
    """
    return (
        reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE
        or reply.hresult < 0
        or any(map(is_failure, _statuses(reply)))
    )


def is_failure(status: pb.MxStatusProxy) -> bool:
    """Tell whether a status means failure.

    ``success`` is COM's number, not a boolean, and 0 is also its default: only with the
    category WARNING or an error does 0 mean failure (contract notes, Status). A category
    newer than this package is taken for an error.
    """
    return status.success == 0 and status.category not in _HARMLESS


def describe_statuses(statuses: Iterable[pb.MxStatusProxy]) -> list[str]:
    """Return the failed statuses in words, or all where none is a failure."""
    statuses = list(statuses)
    return [_describe(s) for s in statuses if is_failure(s)] or [_describe(s) for s in statuses]


def _describe(status: pb.MxStatusProxy) -> str:
    text = _enum_words(
        pb.MxStatusCategory, status.category, "MX_STATUS_CATEGORY_", "status category"
    )
    if status.detail:
        meaning = _DETAILS.get(status.detail)
        text += f" {status.detail}" + (f" ({meaning})" if meaning else "")
    if status.detected_by > pb.MX_STATUS_SOURCE_UNKNOWN:
        source = _enum_words(
            pb.MxStatusSource, status.detected_by, "MX_STATUS_SOURCE_", "status source"
        )
        text += f", detected by {source}"
    return f"{text}: {status.diagnostic_text}" if status.diagnostic_text else text


def describe_hresult(hresult: int) -> str:
    """Return an HRESULT as it is written, with its meaning where that is known."""
    number = hresult & 0xFFFFFFFF
    meaning = _HRESULTS.get(number)
    return f"HRESULT 0x{number:08X}" + (f" ({meaning})" if meaning else "")


def _enum_words(enum: EnumTypeWrapper, number: int, prefix: str, kind: str) -> str:
    # A number that a newer gateway brought stays a number.
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower().replace("_", " ")
    except ValueError:
        return f"{kind} {number}"
