import asyncio
import itertools
import multiprocessing
import pickle
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

import mxfast
from mxfast import (
    MalformedReplyError,
    MxAccessError,
    MxGatewayAuthenticationError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewaySessionError,
    MxGatewayTimeoutError,
    MxGatewayTransportError,
    MxGatewayWorkerError,
    Session,
)
from mxfast.auth import Redactor
from mxfast.contract import galaxy_repository as galaxy_pb
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import check_mxaccess, from_rpc_error, is_failure, without_key
from tests.conftest import KEY, SECRET, Context, ScriptedGateway, ok

CODES = {
    grpc.StatusCode.UNAUTHENTICATED: MxGatewayAuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: MxGatewayAuthorizationError,
    grpc.StatusCode.DEADLINE_EXCEEDED: MxGatewayTimeoutError,
    grpc.StatusCode.UNAVAILABLE: MxGatewayConnectionError,
    grpc.StatusCode.NOT_FOUND: MxGatewaySessionError,
    grpc.StatusCode.FAILED_PRECONDITION: MxGatewaySessionError,
    grpc.StatusCode.ALREADY_EXISTS: MxGatewaySessionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: MxGatewaySessionError,
    grpc.StatusCode.INVALID_ARGUMENT: MxGatewayCommandError,
    grpc.StatusCode.CANCELLED: MxGatewayTransportError,
    grpc.StatusCode.UNKNOWN: MxGatewayTransportError,
    grpc.StatusCode.INTERNAL: MxGatewayTransportError,
    grpc.StatusCode.UNIMPLEMENTED: MxGatewayTransportError,
    grpc.StatusCode.ABORTED: MxGatewayTransportError,
    grpc.StatusCode.OUT_OF_RANGE: MxGatewayTransportError,
    grpc.StatusCode.DATA_LOSS: MxGatewayTransportError,
}

PROTOCOL = {
    pb.PROTOCOL_STATUS_CODE_UNSPECIFIED: MalformedReplyError,
    pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST: MxGatewayCommandError,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_FOUND: MxGatewaySessionError,
    pb.PROTOCOL_STATUS_CODE_SESSION_NOT_READY: MxGatewaySessionError,
    pb.PROTOCOL_STATUS_CODE_WORKER_UNAVAILABLE: MxGatewayWorkerError,
    pb.PROTOCOL_STATUS_CODE_TIMEOUT: MxGatewayTimeoutError,
    pb.PROTOCOL_STATUS_CODE_CANCELED: MxGatewayCommandError,
    pb.PROTOCOL_STATUS_CODE_PROTOCOL_VIOLATION: MxGatewayWorkerError,
    pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE: MxAccessError,
    99: MxGatewayCommandError,
}


def nested_text(error: BaseException | None) -> str:
    """Everything that a traceback, a log or a repr could show of an error."""
    text = ""
    while error is not None:
        text += f"{error}{error!r}{error.args}{error.__dict__}"
        error = error.__cause__ or error.__context__
    return text


def test_every_code_and_protocol_status_has_its_row() -> None:
    assert set(CODES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert set(PROTOCOL) - {99} == set(pb.ProtocolStatusCode.values()) - {
        pb.PROTOCOL_STATUS_CODE_OK
    }


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_grpc_code(
    scripted: ScriptedGateway, scripted_session: Session, code: grpc.StatusCode
) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(code, f"refused {KEY} and {SECRET}")
        raise AssertionError

    scripted.unary["Invoke"] = fail
    with pytest.raises(MxGatewayError, match=code.name) as caught:
        await scripted_session.write(1, 2, 3.0)
    assert type(caught.value) is CODES[code]
    assert caught.value.code is code
    assert caught.value.operation == "write"
    assert str(caught.value).startswith("write: ")
    assert "refused mxgw_test_***" in str(caught.value)
    assert SECRET not in nested_text(caught.value)


@pytest.mark.parametrize("number", PROTOCOL)
async def test_protocol_status(
    scripted: ScriptedGateway, scripted_session: Session, number: int
) -> None:
    status = pb.ProtocolStatus(code=number, message=f"told by {KEY}")  # type: ignore[arg-type]
    scripted.reply_with(pb.MxCommandReply(protocol_status=status))
    with pytest.raises(MxGatewayError) as caught:
        await scripted_session.register("x")
    assert type(caught.value) is PROTOCOL[number]
    assert isinstance(caught.value.reply, pb.MxCommandReply)
    assert caught.value.reply.protocol_status.code == number
    assert caught.value.code is None
    assert SECRET not in f"{caught.value}{caught.value.__dict__}"
    if number == 99:
        assert "protocol status 99" in str(caught.value), "an unknown number is shown as such"


def test_python_bases() -> None:
    assert issubclass(MxGatewayTimeoutError, TimeoutError)
    assert issubclass(MxGatewayConnectionError, ConnectionError)
    assert issubclass(MxGatewayAuthenticationError, PermissionError)
    assert issubclass(MxGatewayAuthorizationError, PermissionError)
    for name in mxfast.__all__:
        others = ("EncodeError", "DecodeError", "ReadError", "WriteError")
        if name.endswith("Error") and name not in others:
            assert issubclass(getattr(mxfast, name), MxGatewayError)


@pytest.mark.parametrize("status", ["deadline", "protocol"])
async def test_a_deadline_says_that_the_outcome_is_unknown(
    scripted: ScriptedGateway, scripted_session: Session, status: str
) -> None:
    async def late(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
        raise AssertionError

    if status == "deadline":
        scripted.unary["Invoke"] = late
    else:
        code = pb.PROTOCOL_STATUS_CODE_TIMEOUT
        scripted.reply_with(pb.MxCommandReply(protocol_status=pb.ProtocolStatus(code=code)))
    with pytest.raises(TimeoutError, match="outcome is unknown"):
        await scripted_session.write(1, 2, 3.0)


async def test_call_timeout(scripted: ScriptedGateway) -> None:
    async def never(request: bytes, context: Context) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    scripted.unary["Invoke"] = never
    async with await scripted.connect(call_timeout=0.05) as client:
        session = await client.open_session()
        with pytest.raises(MxGatewayTimeoutError, match="DEADLINE_EXCEEDED"):
            await session.ping()


def test_an_error_without_a_code() -> None:
    error = from_rpc_error(
        grpc.RpcError(f"broke off {KEY}"),
        "write",
        endpoint="plant:1",
        key=None,
        redact=Redactor(KEY),
    )
    assert type(error) is MxGatewayTransportError
    assert error.code is None
    assert "broke off mxgw_test_***" in str(error)


def test_missing_key_is_said() -> None:
    class Unauthenticated(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAUTHENTICATED

    error = from_rpc_error(
        Unauthenticated(), "open_session", endpoint="plant:1", key=None, redact=Redactor(None)
    )
    assert "none was given" in str(error)


@pytest.mark.parametrize(
    ("success", "category"),
    list(itertools.product([-1, 0, 1], [*pb.MxStatusCategory.values(), 42])),
)
def test_status_rule(success: int, category: int) -> None:
    harmless = {
        pb.MX_STATUS_CATEGORY_UNSPECIFIED,
        pb.MX_STATUS_CATEGORY_UNKNOWN,
        pb.MX_STATUS_CATEGORY_OK,
        pb.MX_STATUS_CATEGORY_PENDING,
    }
    status = pb.MxStatusProxy(success=success, category=category)  # type: ignore[arg-type]
    assert is_failure(status) == (success == 0 and category not in harmless)


async def test_mxaccess_failure_in_words(
    scripted: ScriptedGateway, scripted_session: Session
) -> None:
    # The contract notes' failure of a Write.
    reply = pb.MxCommandReply(
        protocol_status=pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE),
        hresult=-2147220992,
        statuses=[
            pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK),
            pb.MxStatusProxy(
                category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR,
                detail=1012,
                detected_by=pb.MX_STATUS_SOURCE_RESPONDING_LMX,
                diagnostic_text=f"for {KEY}",
            ),
            pb.MxStatusProxy(category=77, detail=902, detected_by=55),  # type: ignore[arg-type]
        ],
    )
    scripted.reply_with(
        pb.MxCommandReply(protocol_status=ok(), add_item=pb.AddItemReply(item_handle=7))
    )
    await scripted_session.add_item(1, "Tank1.Level")
    scripted.reply_with(reply)
    with pytest.raises(MxAccessError) as caught:
        await scripted_session.write(1, 7, 2.0)
    text = str(caught.value)
    assert "item 7 (Tank1.Level)" in text
    assert "security error 1012 (the attribute is secured: it needs WriteSecured)" in text
    assert "detected by responding lmx" in text
    assert "status category 77 902, detected by status source 55" in text
    assert "HRESULT 0x80040200" in text
    assert "ok" not in text.split("; ")
    assert SECRET not in text
    reply.statuses[1].diagnostic_text = "for mxgw_test_***"
    assert caught.value.reply == reply, "as it came, but for the key"


def test_a_message_without_key() -> None:
    # A text alone, in a list, in a message, and in a list of messages; and what is no text.
    reply = pb.OpenSessionReply(
        session_id=KEY,
        worker_process_id=7,
        capabilities=["events", KEY],
        default_command_timeout={"seconds": 30},
        protocol_status={"message": f"Bearer {KEY}"},
    )
    masked = pb.OpenSessionReply()
    masked.CopyFrom(reply)
    masked.session_id = masked.capabilities[1] = "mxgw_test_***"
    masked.protocol_status.message = "Bearer mxgw_test_***"
    assert without_key(reply, Redactor(KEY)) == masked
    assert reply.session_id == KEY, "the message given is as it was"
    command = pb.MxCommandReply(statuses=[{"success": 1}, {"diagnostic_text": KEY}])
    (good, bad) = without_key(command, Redactor(KEY)).statuses
    assert (good.success, bad.diagnostic_text) == (1, "mxgw_test_***")


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.get_session_state(),  # no payload
        lambda session: session.add_item(1, "Tank1.Level"),  # handle 0
        lambda session: session.add_item_bulk(1, ["A.x", "B.x"]),  # one result of two
    ],
)
async def test_a_kept_reply_holds_no_key(
    scripted: ScriptedGateway, scripted_session: Session, call: Callable[[Session], Awaitable[Any]]
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        reply = pb.MxCommandReply(protocol_status=ok(), diagnostic_message=f"told by {KEY}")
        name = pb.MxCommandRequest.FromString(request).command.WhichOneof("payload")
        if name == "add_item":
            reply.add_item.SetInParent()
        elif name == "add_item_bulk":
            reply.add_item_bulk.results.add(error_message=KEY)
        return reply.SerializeToString()

    scripted.unary["Invoke"] = answer
    with pytest.raises(MalformedReplyError) as caught:
        await call(scripted_session)
    assert "mxgw_test_***" in repr(caught.value.reply)
    assert SECRET not in repr(caught.value.__dict__)


@pytest.mark.parametrize(
    "reply",
    [
        pb.MxCommandReply(
            statuses=[pb.MxStatusProxy(category=pb.MX_STATUS_CATEGORY_WARNING)],
        ),
        pb.MxCommandReply(hresult=-1),
        pb.MxCommandReply(
            protocol_status=pb.ProtocolStatus(code=pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE)
        ),
    ],
    ids=["status", "hresult", "protocol"],
)
async def test_invoke_checks_mxaccess_and_invoke_raw_does_not(
    scripted: ScriptedGateway, scripted_session: Session, reply: pb.MxCommandReply
) -> None:
    if not reply.HasField("protocol_status"):
        reply.protocol_status.CopyFrom(ok())
    scripted.reply_with(reply)
    command = pb.MxCommand(kind=pb.MX_COMMAND_KIND_PING, ping=pb.PingCommand())
    with pytest.raises(MxAccessError):
        await scripted_session.invoke(command)
    assert await scripted_session.invoke_raw(command) == reply


def every_message(found: Iterable[Any]) -> Iterator[Any]:
    for each in found:
        yield each
        yield from every_message(each.nested_types)


@pytest.mark.parametrize(
    "descriptor",
    list(
        every_message(
            message
            for module in (pb, galaxy_pb)
            for message in module.DESCRIPTOR.message_types_by_name.values()
        )
    ),
    ids=lambda each: each.name,
)
def test_messages_can_be_pickled(descriptor: Any) -> None:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.cpp_type == field.CPPTYPE_STRING and not field.is_repeated:
            setattr(message, field.name, "x" if field.type == field.TYPE_STRING else b"x")
    copy = pickle.loads(pickle.dumps(message))
    assert type(copy) is type(message)
    assert copy == message


def timed_out() -> MxGatewayError:
    return MxGatewayTimeoutError(
        "too late",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        operation="write",
        reply=pb.MxCommandReply(session_id="s", protocol_status=ok()),
    )


def test_errors_can_be_pickled() -> None:
    error = timed_out()
    error.result = lambda: "what refers to a session"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is MxGatewayTimeoutError
    assert str(copy) == "write: too late"
    assert (copy.code, copy.operation, copy.reply) == (error.code, "write", error.reply)
    assert copy.result is None


def refused_by_mxaccess() -> None:
    reply = pb.MxCommandReply(protocol_status=ok(), hresult=-1)
    check_mxaccess(reply, "write", "item 7", Redactor(None))


def test_an_error_comes_back_from_another_process() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with pytest.raises(MxAccessError, match="write: item 7; HRESULT 0xFFFFFFFF") as caught:
            pool.submit(refused_by_mxaccess).result(60)
        assert isinstance(caught.value.reply, pb.MxCommandReply)
        assert caught.value.reply.hresult == -1
        assert pool.submit(timed_out).result(60).reply.session_id == "s"  # type: ignore[union-attr]
