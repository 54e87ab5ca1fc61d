"""Streams of messages for the user, one by one."""

from collections.abc import AsyncIterator
from typing import Generic, Self

from google.protobuf.message import Message

from mxfast.errors import MalformedReplyError, MessageT, parse
from mxfast.options import ClientOptions
from mxfast.transport import MessageStream, Transport

__all__ = ["MessageIterator"]


def open_stream(
    transport: Transport, options: ClientOptions, method: str, request: Message, operation: str
) -> MessageStream:
    """Open a stream, any there is: the request is on its way when this returns."""
    return transport.stream(
        method, request.SerializeToString(), timeout=options.stream_timeout, operation=operation
    )


class MessageIterator(AsyncIterator[MessageT], Generic[MessageT]):
    """The messages of a stream, such as events; an async iterator and context manager.

    The stream is opened when this is made. It ends, and its call is cancelled, with
    `aclose` (or ``async with``), when a task that waits for a message is cancelled, on an
    error, and when nothing refers to it any more. Nothing is read ahead.

    Parameters
    ----------
    stream : MessageStream
        Where the messages come from.
    message_type : type
        Their protobuf class.
    operation : str
        For errors.
    """

    def __init__(self, stream: MessageStream, message_type: type[MessageT], operation: str) -> None:
        self._stream = stream
        self._message_type = message_type
        self._operation = operation
        self._arrived: list[bytes] = []

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def __anext__(self) -> MessageT:
        """Return the next message; after a wait that was cancelled, none.

        Raises
        ------
        MxGatewayError
            The stream failed.
        """
        if not self._arrived:
            self._arrived = await self._stream.__anext__()
            self._arrived.reverse()
        try:
            return parse(self._message_type, self._arrived.pop(), self._operation)
        except MalformedReplyError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End the stream and cancel its call."""
        self._arrived = []
        await self._stream.aclose()
