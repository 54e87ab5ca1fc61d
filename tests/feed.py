"""Events by script: messages, and a StreamEvents method that sends what a test puts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from mxfast import EventBatch, to_mx_value
from mxfast.contract import mxaccess_gateway as pb
from mxfast.events import EventStream

Context = grpc.aio.ServicerContext[bytes, bytes]
CHANGE = pb.MX_EVENT_FAMILY_ON_DATA_CHANGE
COMPLETE = pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE


def event(sequence: int, item: int = 1, value: Any = 1.0, family: Any = CHANGE) -> bytes:
    message = pb.MxEvent(
        family=family,
        server_handle=1,
        item_handle=item,
        value=to_mx_value(value),
        quality=192,
        worker_sequence=sequence,
    )
    return message.SerializeToString()


def sentinel(after: int, oldest: int) -> bytes:
    gap = pb.ReplayGap(requested_after_sequence=after, oldest_available_sequence=oldest)
    return pb.MxEvent(replay_gap=gap).SerializeToString()


class Feed:
    """A StreamEvents method that sends what a test puts, and tells when the client left."""

    def __init__(self) -> None:
        self.requests: list[pb.StreamEventsRequest] = []
        self.left = asyncio.Event()
        self._queue: asyncio.Queue[bytes | tuple[grpc.StatusCode, str] | None] = asyncio.Queue()
        self.sent = 0

    async def stream(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        self.requests.append(pb.StreamEventsRequest.FromString(request))
        try:
            while (message := await self._queue.get()) is not None:
                if isinstance(message, tuple):
                    await context.abort(*message)
                else:
                    yield message
                    self.sent += 1
        finally:
            self.left.set()

    def put(self, *messages: bytes) -> None:
        for message in messages:
            self._queue.put_nowait(message)

    def end(self, code: grpc.StatusCode | None = None, details: str = "by script") -> None:
        self._queue.put_nowait(None if code is None else (code, details))


async def settled(stream: EventStream, done: Callable[[EventStream], bool]) -> None:
    """Wait until the reader task has got so far, without taking anything."""
    async with asyncio.timeout(10):
        while not done(stream):  # noqa: ASYNC110 - the reader task tells nobody
            await asyncio.sleep(0.002)


def waiting(count: int) -> Callable[[EventStream], bool]:
    return lambda stream: len(stream._queue.messages) >= count


def ended(stream: EventStream) -> bool:
    return stream._queue.ended


def sequences(batches: Iterable[EventBatch]) -> list[int]:
    return [int(s) for batch in batches for s in batch.worker_sequence]
