"""A bare gRPC client of the simulated gateway: protobuf messages in, protobuf messages out.

It shares no code with mxfast's own client, so that the two cannot be wrong together.
"""

from collections.abc import Iterable
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import DEFAULT_API_KEY

_SERVICE = pb.DESCRIPTOR.services_by_name["MxAccessGateway"]

Stream = grpc.aio.UnaryStreamCall[Any, pb.MxEvent]


def double(number: float) -> pb.MxValue:
    return pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_R8", double_value=number)


def kind_of(name: str) -> Any:
    return pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}")


class Peer:
    """A channel to a gateway."""

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = DEFAULT_API_KEY,
        ca: bytes | None = None,
        options: Iterable[tuple[str, int]] = (),
    ) -> None:
        if ca is None:
            self.channel = grpc.aio.insecure_channel(endpoint, options=list(options))
        else:
            self.channel = grpc.aio.secure_channel(
                endpoint, grpc.ssl_channel_credentials(ca), options=list(options)
            )
        self.metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def raw(self, method: str, data: bytes) -> bytes:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            f"/{_SERVICE.full_name}/{method}"
        )
        return await call(data, metadata=self.metadata)

    async def open(self) -> "Remote":
        reply = pb.OpenSessionReply.FromString(await self.raw("OpenSession", b""))
        return Remote(self, reply.session_id)

    async def registered(self) -> "Remote":
        """Open a session and register a server handle in it."""
        remote = await self.open()
        reply = await remote.invoke("register", client_name="test")
        remote.server = reply.register.server_handle
        return remote


class Remote:
    """A session on a gateway, with at most one server handle."""

    def __init__(self, peer: Peer, session_id: str) -> None:
        self.peer = peer
        self.session_id = session_id
        self.server = 0

    async def invoke(self, command: str, **fields: Any) -> pb.MxCommandReply:
        """Send a command by its payload's name; it gets the server handle by itself."""
        request = pb.MxCommandRequest(session_id=self.session_id, client_correlation_id="c-1")
        request.command.kind = kind_of(command)
        name = command if hasattr(request.command, command) else f"{command}_command"
        payload: Message = getattr(request.command, name)
        payload.SetInParent()
        if self.server and "server_handle" in payload.DESCRIPTOR.fields_by_name:
            fields.setdefault("server_handle", self.server)
        payload.MergeFrom(type(payload)(**fields))
        return await self.send(request)

    async def send(self, request: pb.MxCommandRequest) -> pb.MxCommandReply:
        data = await self.peer.raw("Invoke", request.SerializeToString())
        return pb.MxCommandReply.FromString(data)

    async def close(self) -> pb.CloseSessionReply:
        request = pb.CloseSessionRequest(session_id=self.session_id)
        data = await self.peer.raw("CloseSession", request.SerializeToString())
        return pb.CloseSessionReply.FromString(data)

    async def add(self, *names: str) -> list[int]:
        reply = await self.invoke("add_item_bulk", tag_addresses=names)
        return [result.item_handle for result in reply.add_item_bulk.results]

    async def subscribe(self, *names: str) -> list[int]:
        reply = await self.invoke("subscribe_bulk", tag_addresses=names)
        return [result.item_handle for result in reply.subscribe_bulk.results]

    async def write(self, items: Iterable[int], numbers: Iterable[float]) -> pb.MxCommandReply:
        entries = [
            pb.WriteBulkEntry(item_handle=item, value=double(number))
            for item, number in zip(items, numbers, strict=True)
        ]
        return await self.invoke("write_bulk", entries=entries)

    async def read(self, *names: str) -> list[pb.BulkReadResult]:
        reply = await self.invoke("read_bulk", tag_addresses=names)
        return list(reply.read_bulk.results)

    async def numbers(self, *names: str) -> list[float]:
        return [result.value.double_value for result in await self.read(*names)]

    async def stream(self, *, after: int = 0) -> Stream:
        """Open the event stream and wait until it is attached."""
        call = self.peer.channel.unary_stream(
            f"/{_SERVICE.full_name}/StreamEvents",
            request_serializer=pb.StreamEventsRequest.SerializeToString,
            response_deserializer=pb.MxEvent.FromString,
        )
        stream = call(
            pb.StreamEventsRequest(session_id=self.session_id, after_worker_sequence=after),
            metadata=self.peer.metadata,
        )
        await stream.initial_metadata()
        return stream

    async def first_event(self) -> pb.MxEvent:
        """Open the event stream and wait for its first event."""
        return (await take(await self.stream(), 1))[0]


async def resume(remote: Remote, after: int, count: int) -> tuple[Stream, list[pb.MxEvent]]:
    """Open the stream once the gateway has seen the last one go; read replayed events."""
    while True:
        stream = await remote.stream(after=after)
        try:
            return stream, await take(stream, count)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise


async def take(stream: Stream, count: int) -> list[pb.MxEvent]:
    """Read that many events."""
    events = [await stream.read() for _ in range(count)]
    return [event for event in events if isinstance(event, pb.MxEvent)]


def handles(events: Iterable[pb.MxEvent]) -> list[int]:
    return [event.item_handle for event in events]


def sequences(events: Iterable[pb.MxEvent]) -> list[int]:
    return [event.worker_sequence for event in events]
