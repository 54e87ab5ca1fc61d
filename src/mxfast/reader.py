"""The task that drains an event stream into the queues of its consumers."""

import asyncio

from mxfast.errors import MxGatewayError
from mxfast.event_queue import EventQueue
from mxfast.transport import MessageStream

__all__ = ["EventReader"]


class EventReader:
    """Reads one stream for all its consumers, apart from their code.

    It ends with the stream, and when the last consumer has left.

    Parameters
    ----------
    stream : MessageStream
        The open stream.
    """

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._queues: tuple[EventQueue, ...] = ()
        self._error: Exception | None = None
        self.task = asyncio.create_task(self._run(), name="mxfast event reader")

    def join(self, queue: EventQueue) -> None:
        """Add a consumer's queue.

        Raises
        ------
        ValueError
            It or another one has the policy ``"block"``, which would hold up all others.
        """
        if self._queues and "block" in {queue.overflow, *(each.overflow for each in self._queues)}:
            raise ValueError(
                'overflow="block" is for a stream with one consumer, since it would hold up the '
                'others: give each of them "latest", "drop_oldest" or "error"'
            )
        if self.task.done():
            queue.end(self._error)
        else:
            self._queues += (queue,)

    def leave(self, queue: EventQueue) -> None:
        """Take a consumer's queue out; with the last one the stream ends."""
        queue.end(None)
        self._queues = tuple(each for each in self._queues if each is not queue)
        if not self._queues:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._read()
        except Exception as error:  # whatever it is, the consumers see it
            self._error = error
        finally:
            for queue in self._queues:
                queue.end(self._error)
            await self._stream.aclose()

    async def _read(self) -> None:
        async for arrived in self._stream:
            for queue in self._queues:
                if queue.put(arrived):
                    try:
                        await queue.make_room()
                    except MxGatewayError as error:
                        # The consumer's own matter: what is for the others goes on.
                        queue.end(error)
                        self.leave(queue)
