"""A stub in the place of a channel: for tests of user code, without a gateway."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mxfast.contract import SERVICES


class StubChannel:
    """Offers the methods of a stub as a channel does its own, in bytes.

    Parameters
    ----------
    stub : object
        With a method for each RPC that is used, named as it: ``Invoke``, ``StreamEvents``
        and so on, as gRPC's generated stubs have them. It takes a message and the keywords
        ``metadata`` and ``timeout``, if its signature has them, and returns an awaitable
        message, or for a stream something to iterate over asynchronously.
    """

    def __init__(self, stub: object) -> None:
        self._stub = stub

    def unary_unary(self, path: str) -> Callable[..., Awaitable[bytes]]:
        """Return the method of a path."""
        method, request_type = self._method(path)

        async def call(request: bytes, **keywords: Any) -> bytes:
            message = request_type.FromString(request)
            reply: Message = await method(message, **_taken(method, keywords))
            return reply.SerializeToString()

        return call

    def unary_stream(self, path: str) -> Callable[..., "StubCall"]:
        """Return the streaming method of a path."""
        method, request_type = self._method(path)

        def call(request: bytes, **keywords: Any) -> StubCall:
            message = request_type.FromString(request)
            return StubCall(method(message, **_taken(method, keywords)))

        return call

    def _method(self, path: str) -> tuple[Callable[..., Any], type[Message]]:
        service, name = path[1:].split("/")
        descriptor = SERVICES[service].methods_by_name[name]
        return getattr(self._stub, name), GetMessageClass(descriptor.input_type)


class StubCall:
    """A stream of a stub, with the methods that gRPC's own calls have."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages
        self._iterator = aiter(messages)
        self._done = False
        self._reading: asyncio.Task[bytes | Any] | None = None

    async def read(self) -> bytes | Any:
        """Return the next message, or EOF.

        Raises
        ------
        asyncio.CancelledError
            `cancel` was called meanwhile.
        """
        # A task of its own, which `cancel` can end: no generator is closed while it waits.
        self._reading = asyncio.create_task(self._next())
        return await self._reading

    async def _next(self) -> bytes | Any:
        try:
            message: Message = await anext(self._iterator)
        except StopAsyncIteration:
            self._done = True
            return grpc.aio.EOF
        return message.SerializeToString()

    def cancel(self) -> bool:
        """End the stream: by its ``cancel``, or by closing the generator that it is."""
        if self._done:
            return False
        self._done = True
        if self._reading is not None:
            self._reading.cancel()
        if hasattr(self._messages, "cancel"):
            self._messages.cancel()
        elif hasattr(self._iterator, "aclose"):
            self._closing = asyncio.create_task(self._close(self._iterator.aclose))
        return True

    async def _close(self, aclose: Callable[[], Awaitable[None]]) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await aclose()

    async def initial_metadata(self) -> tuple[()]:
        """Return none: a stub has nothing to say before its first message."""
        return ()

    def done(self) -> bool:
        """Tell whether the stream has ended."""
        return self._done


def _taken(method: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that a method takes: not every stub has a timeout."""
    parameters = inspect.signature(method).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
