"""What the clients of both services are: options, a transport, and its end."""

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import Any, Self, cast

import grpc
from google.protobuf.message import Message

from mxfast.channel import create_channel, wait_ready
from mxfast.checks import shown
from mxfast.errors import MessageT
from mxfast.options import ClientOptions
from mxfast.streams import MessageIterator, open_stream
from mxfast.stub import StubChannel
from mxfast.transport import GrpcTransport, MessageStream, call

_LEAVING_SECONDS = 5.0  # enough for a worker to start, whose session must then be closed


class Connection:
    """A connection to a gateway; an async context manager.

    Parameters and errors are described where users meet them: at `mxfast.GatewayClient`.
    """

    def __init__(
        self,
        options: ClientOptions,
        *,
        channel: grpc.aio.Channel | None = None,
        stub: object | None = None,
    ) -> None:
        _require(options)
        if stub is not None:
            if channel is not None:
                raise ValueError("give either a channel or a stub")
            channel = cast(grpc.aio.Channel, StubChannel(stub))
        self._options = options
        self._channel = create_channel(options) if channel is None else channel
        self._transport = GrpcTransport(self._channel, options, owns_channel=channel is None)
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, options: ClientOptions | None = None, **fields: Any) -> Self:
        """Connect to a gateway.

        Parameters
        ----------
        options : ClientOptions, optional
            What to connect to.
        **fields
            Fields of `ClientOptions`, alone or in place of those of `options`.

        Returns
        -------
        Self
            Connected. The key is not used before the first call.

        Raises
        ------
        TypeError, ValueError
            The options are wrong.
        OSError
            ``ca_file`` cannot be read.
        MxGatewayConnectionError
            No connection within ``connect_timeout``; the message names endpoint and cause.
        """
        if options is None:
            options = ClientOptions(**fields)
        elif fields:
            options = dataclasses.replace(_require(options), **fields)
        client = cls(options)
        try:
            await wait_ready(client._channel, options)
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def options(self) -> ClientOptions:
        """The options of this client."""
        return self._options

    async def _unary(
        self, method: str, request: Message, reply_type: type[MessageT], operation: str
    ) -> MessageT:
        return await call(
            self._transport,
            method,
            request,
            reply_type,
            timeout=self._options.call_timeout,
            operation=operation,
        )

    def _stream(self, method: str, request: Message, operation: str) -> MessageStream:
        return open_stream(self._transport, self._options, method, request, operation)

    def _messages(
        self, method: str, request: Message, message_type: type[MessageT], operation: str
    ) -> MessageIterator[MessageT]:
        return MessageIterator(self._stream(method, request, operation), message_type, operation)

    def _leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done that a cancelled call leaves behind; `close` waits for it."""
        task = asyncio.create_task(work, name="mxfast after a cancelled call")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close the connection, once also under concurrent callers; calls under way fail.

        Sessions that were not closed stay with the gateway until their lease ends. One whose
        `open_session` was cancelled is closed first, which may take five seconds.
        """
        leaving = list(self._leaving)
        try:
            if leaving:
                await asyncio.wait(leaving, timeout=_LEAVING_SECONDS)
        finally:
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._options!r}>"


def _require(options: Any) -> ClientOptions:
    if not isinstance(options, ClientOptions):
        raise TypeError(
            f"options must be ClientOptions, got {shown(options)}; an endpoint is given by name: "
            "endpoint='host:port'"
        )
    return options
