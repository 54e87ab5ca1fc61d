"""The seam: bytes out, bytes in. Above it nobody knows gRPC, below it nobody knows messages."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, Self, cast

import grpc
from google.protobuf.message import Message

from mxfast.auth import Redactor, authorization, mask_key
from mxfast.contract import GATEWAY_METHODS
from mxfast.errors import MessageT, MxGatewayError, MxGatewaySessionError, from_rpc_error, parse
from mxfast.options import ClientOptions

_SESSION_METHODS = frozenset(
    GATEWAY_METHODS[name] for name in ("OpenSession", "CloseSession", "Invoke", "StreamEvents")
)

# gRPC reports misuse (a closed channel) and its own failures outside of RpcError.
_GRPC_ERRORS = (grpc.RpcError, grpc.aio.BaseError)

_ATTACH_SECONDS = 0.5


class MessageStream(Protocol):
    """A stream of messages that arrive in batches."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> list[bytes]:
        """Return what has arrived, at least one message."""

    def opened(self) -> Awaitable[object]:
        """Return what is done when the other end has said that the stream is open, or over."""

    async def aclose(self) -> None:
        """End the stream and cancel its call; harmless when it has ended."""


class Transport(Protocol):
    """Carries serialized messages to the gateway and back.

    Every error it raises is a `MxGatewayError`.
    """

    def redact(self, text: str) -> str:
        """Take the key out of a text that the server may have had a part in."""

    async def unary(
        self,
        method: str,
        request: bytes,
        *,
        timeout: float | None,  # noqa: ASYNC109 - the call's deadline
        operation: str = "",
    ) -> bytes:
        """Send one request and return its reply."""

    def stream(
        self, method: str, request: bytes, *, timeout: float | None, operation: str = ""
    ) -> MessageStream:
        """Open a stream; the request is on its way when this returns."""

    async def close(self) -> None:
        """Close the connection; what is under way fails."""


class GrpcTransport:
    """`Transport` over a grpc.aio channel.

    Exactly ``bytes`` go to gRPC and come from it: it swallows what a serializer raises,
    so nothing is encoded or decoded inside it.

    Parameters
    ----------
    channel : grpc.aio.Channel
        Closed by `close` only if owned.
    options : ClientOptions
        For the key and the endpoint's name.
    owns_channel : bool
        Whether `close` closes the channel.
    """

    def __init__(
        self, channel: grpc.aio.Channel, options: ClientOptions, *, owns_channel: bool = True
    ) -> None:
        self._channel = channel
        self._owns_channel = owns_channel
        self._endpoint = options.endpoint
        self._shown_key = mask_key(options.api_key) if options.api_key else None
        self._metadata = grpc.aio.Metadata(*authorization(options.api_key))
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._stream: dict[str, grpc.aio.UnaryStreamMultiCallable[bytes, bytes]] = {}
        self._closing: asyncio.Task[None] | None = None
        self.redact = Redactor(options.api_key)

    async def unary(
        self,
        method: str,
        request: bytes,
        *,
        timeout: float | None,  # noqa: ASYNC109 - the call's deadline
        operation: str = "",
    ) -> bytes:
        """Send one request and return its reply.

        Parameters
        ----------
        method : str
            Path of the method.
        request : bytes
            The serialized request.
        timeout : float or None
            Seconds.
        operation : str
            Name for errors; the method's by default.

        Returns
        -------
        bytes
            The serialized reply.

        Raises
        ------
        MxGatewayError
            As `mxfast.errors` maps gRPC's codes.
        """
        call = self._unary.get(method)
        if call is None:
            call = self._unary[method] = self._channel.unary_unary(method)
        if self._closing is not None:
            raise self.closed_error(method, operation)
        try:
            return await call(request, timeout=timeout, metadata=self._metadata)
        except _GRPC_ERRORS as error:
            failure = self.error(error, method, operation)
        except asyncio.CancelledError:
            if is_own_cancellation():
                raise
            failure = self.closed_error(method, operation)
        # Not chained to gRPC's error: that one repeats what the server said, key and all.
        raise failure

    def stream(
        self, method: str, request: bytes, *, timeout: float | None, operation: str = ""
    ) -> "GrpcStream":
        """Open a stream; parameters and errors as for `unary`."""
        call = self._stream.get(method)
        if call is None:
            call = self._stream[method] = self._channel.unary_stream(method)
        if self._closing is not None:
            raise self.closed_error(method, operation)
        try:
            opened = call(request, timeout=timeout, metadata=self._metadata)
        except _GRPC_ERRORS as error:
            failure = self.error(error, method, operation, stream=True)
        else:
            return GrpcStream(self, opened, method, operation)
        raise failure

    def error(
        self, error: BaseException, method: str, operation: str, *, stream: bool = False
    ) -> MxGatewayError:
        """Return this package's error for one of gRPC's."""
        if isinstance(error, grpc.aio.UsageError):
            return self.closed_error(method, operation)
        return from_rpc_error(
            error,
            operation or _name(method),
            endpoint=self._endpoint,
            key=self._shown_key,
            redact=self.redact,
            stream=stream,
            about_session=method in _SESSION_METHODS,
        )

    def closed_error(self, method: str, operation: str) -> MxGatewayError:
        """Return the error for a call on a client that was closed."""
        return MxGatewaySessionError("the client is closed", operation=operation or _name(method))

    async def close(self) -> None:
        """Close an owned channel, once also under concurrent callers."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        # A caller that is cancelled leaves the others their close.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._owns_channel:
            await self._channel.close()


class GrpcStream:
    """The messages of one gRPC stream.

    Its call is cancelled by `aclose`, when a task that waits for a message is cancelled,
    on an error, and when the stream is no longer referenced.
    """

    __slots__ = ("_call", "_closed", "_loop", "_method", "_operation", "_transport")

    def __init__(
        self,
        transport: GrpcTransport,
        call: grpc.aio.UnaryStreamCall[bytes, bytes],
        method: str,
        operation: str,
    ) -> None:
        self._transport = transport
        self._call = call
        self._method = method
        self._operation = operation
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        """Return the next message, in a list of one: grpc.aio hands them over singly."""
        # read() stands alone: a timeout around it would cancel the call. Whatever ends the
        # stream also cancels its call.
        message: object = None
        try:
            message = await self._call.read()
        except _GRPC_ERRORS as error:
            failure = self._transport.error(error, self._method, self._operation, stream=True)
        except asyncio.CancelledError:
            if is_own_cancellation():
                self._closed = True
                raise
            if self._closed:
                raise StopAsyncIteration from None
            failure = self._transport.closed_error(self._method, self._operation)
        else:
            if message is grpc.aio.EOF:
                raise StopAsyncIteration
            return [cast(bytes, message)]
        finally:
            if not isinstance(message, bytes):
                self._call.cancel()
        raise failure

    def opened(self) -> Awaitable[object]:
        """Return what is done when the initial metadata has arrived, or the stream is over.

        It refers to the call alone, so that a stream that is waited for may be forgotten.
        """
        return self._call.initial_metadata()

    async def aclose(self) -> None:
        """End the stream and cancel its call; harmless when it has ended."""
        self._closed = True
        self._call.cancel()

    def __del__(self) -> None:
        # gRPC's call is part of a cycle: left to itself it would run on until a collection.
        if not self._call.done():
            call_soon_from_any_thread(self._loop, self._call.cancel)


async def attached(opened: Awaitable[object]) -> None:
    """Wait until a stream is open, or half a second.

    The simulated gateway says so when it has attached the subscriber. Whether the real one
    does before its first message is not known (inferred), hence the bound.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ATTACH_SECONDS):
            await opened


def call_soon_from_any_thread(
    loop: asyncio.AbstractEventLoop, callback: Callable[[], object]
) -> None:
    """Call back in the loop's thread, if the loop still runs: for finalizers."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def is_own_cancellation() -> bool:
    """Tell whether a CancelledError is meant for the running task.

    gRPC raises the same when the call, not the task, is cancelled: by closing the channel.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def call(
    transport: Transport,
    method: str,
    request: Message,
    reply_type: type[MessageT],
    *,
    timeout: float | None,  # noqa: ASYNC109 - the call's deadline
    operation: str = "",
) -> MessageT:
    """Send a message and return the reply as one.

    Raises
    ------
    MxGatewayError
        As `Transport.unary`; `MalformedReplyError` where the reply cannot be read.
    """
    data = await transport.unary(
        method, request.SerializeToString(), timeout=timeout, operation=operation
    )
    return parse(reply_type, data, operation or _name(method))


def _name(method: str) -> str:
    return method.rpartition("/")[2]
