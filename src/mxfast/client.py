"""The connection to a gateway."""

import dataclasses
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from mxfast.channel import create_channel, wait_ready
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import MalformedReplyError, check_mxaccess, check_protocol
from mxfast.options import ClientOptions
from mxfast.session import Session
from mxfast.transport import GrpcTransport, call

__all__ = ["GatewayClient"]


class GatewayClient:
    """A client of one gateway; an async context manager.

    ``await GatewayClient.connect(...)`` makes one that is connected::

        async with await GatewayClient.connect(endpoint="localhost:5120", api_key=key) as client:
            async with await client.open_session("line-4") as session:
                ...

    Parameters
    ----------
    options : ClientOptions
        What to connect to.
    channel : grpc.aio.Channel, optional
        A channel to use instead of making one; it is not closed by the client.
    """

    def __init__(self, options: ClientOptions, *, channel: grpc.aio.Channel | None = None) -> None:
        self._options = options
        self._channel = create_channel(options) if channel is None else channel
        self._transport = GrpcTransport(self._channel, options, owns_channel=channel is None)

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
        GatewayClient
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
            options = dataclasses.replace(options, **fields)
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

    async def open_session(
        self,
        client_session_name: str = "",
        *,
        requested_backend: str = "",
        client_correlation_id: str = "",
        command_timeout: float | None = None,
    ) -> Session:
        """Open a session: the gateway starts a worker for it, which may take seconds.

        Parameters
        ----------
        client_session_name : str
            Shown by the gateway.
        requested_backend : str
            Empty for the gateway's default.
        client_correlation_id : str
            Sent along.
        command_timeout : float, optional
            Seconds the gateway gives a command; its default is 30.

        Returns
        -------
        Session
            Close it when done: the gateway has room for 64 (contract notes, Sessions).

        Raises
        ------
        MxGatewayError
            The call did not get through, the key was refused, or no session was opened.
        """
        request = pb.OpenSessionRequest(
            requested_backend=requested_backend,
            client_session_name=client_session_name,
            client_correlation_id=client_correlation_id,
        )
        if command_timeout is not None:
            seconds, fraction = divmod(command_timeout, 1)
            limit = Duration(seconds=int(seconds), nanos=int(fraction * 1e9))
            request.command_timeout.CopyFrom(limit)
        reply = await self.open_session_raw(request)
        if not reply.session_id:
            raise MalformedReplyError(
                "the reply has no session id", operation="open_session", reply=reply
            )
        return Session(self._transport, self._options, reply.session_id)

    async def open_session_raw(self, request: pb.OpenSessionRequest) -> pb.OpenSessionReply:
        """Send an OpenSession request and return its reply; checks the protocol status only."""
        reply = await call(
            self._transport,
            GATEWAY_METHODS["OpenSession"],
            request,
            pb.OpenSessionReply,
            timeout=self._options.call_timeout,
            operation="open_session",
        )
        check_protocol(reply.protocol_status, "open_session", reply, self._transport.redact)
        return reply

    async def close_session_raw(self, request: pb.CloseSessionRequest) -> pb.CloseSessionReply:
        """Send a CloseSession request and return its reply; checks the protocol status only."""
        reply = await call(
            self._transport,
            GATEWAY_METHODS["CloseSession"],
            request,
            pb.CloseSessionReply,
            timeout=self._options.call_timeout,
            operation="close_session",
        )
        check_protocol(reply.protocol_status, "close_session", reply, self._transport.redact)
        return reply

    async def invoke(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        """Send a command, and raise where the gateway or MXAccess reports a failure.

        Parameters
        ----------
        request : MxCommandRequest
            With the session's id.

        Returns
        -------
        MxCommandReply

        Raises
        ------
        MxGatewayError
            Of the class that the failure stands for.
        """
        reply = await self.invoke_raw(request)
        check_mxaccess(reply, "invoke", "", self._transport.redact)
        return reply

    async def invoke_raw(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        """Send a command and return its reply as it is.

        Only the protocol status is checked: a failure of MXAccess is in the reply and does
        not raise.
        """
        reply = await call(
            self._transport,
            GATEWAY_METHODS["Invoke"],
            request,
            pb.MxCommandReply,
            timeout=self._options.call_timeout,
            operation="invoke",
        )
        check_protocol(reply.protocol_status, "invoke", reply, self._transport.redact)
        return reply

    async def close(self) -> None:
        """Close the connection, once also under concurrent callers; calls under way fail.

        Sessions that were not closed stay with the gateway until their lease ends.
        """
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<GatewayClient {self._options!r}>"
