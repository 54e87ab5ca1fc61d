"""Events of a session as blocks: columns, or messages that are made already."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import encode_events
from mxfast.simulator import status
from mxfast.simulator.values import Values

OK_STATUS = status.ok_status().SerializeToString()
"""The serialised status of success."""


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Events of one family and one server handle, made at one moment.

    Attributes
    ----------
    family : int
        MxEventFamily.
    server_handle : int
        Server handle of all its items.
    item_handles : int32 array
        Item handle of each event.
    first_sequence : int
        Worker sequence of the first event; the others follow it.
    time_ns : int
        When they were made, in nanoseconds since 1970 (UTC).
    values : Values or None
        Their values; None for a family that has none.
    status : bytes
        The serialised MxStatusProxy of each.
    """

    family: int
    server_handle: int
    item_handles: NDArray[np.int32]
    first_sequence: int
    time_ns: int
    values: Values | None
    status: bytes

    def __len__(self) -> int:
        return len(self.item_handles)

    @property
    def next_sequence(self) -> int:
        """The sequence after the last event."""
        return self.first_sequence + len(self)

    def rows(self, start: int, stop: int) -> Self:
        """Return a copy of some of the events."""
        rows = np.arange(start, min(stop, len(self)))
        return type(self)(
            self.family,
            self.server_handle,
            self.item_handles[rows],
            self.first_sequence + start,
            self.time_ns,
            None if self.values is None else self.values.take(rows),
            self.status,
        )

    def encode(self, session_id: str) -> list[bytes]:
        """Return the MxEvent messages."""
        if self.values is None:
            return encode_events(
                session_id,
                self.family,
                self.server_handle,
                self.item_handles,
                first_sequence=self.first_sequence,
                gateway_timestamp=self.time_ns,
                status=self.status,
            )
        return encode_events(
            session_id,
            self.family,
            self.server_handle,
            self.item_handles,
            first_sequence=self.first_sequence,
            gateway_timestamp=self.time_ns,
            status=self.status,
            kind=self.values.kind,
            payload=self.values.payload,
            quality=self.values.quality,
            source_timestamp=self.values.source_timestamp,
            values=self.values.encoded,
        )


@dataclass(frozen=True, slots=True)
class MessageBlock:
    """Events whose messages are made already.

    Attributes
    ----------
    messages : tuple of bytes
        Serialised MxEvent messages.
    first_sequence : int
        Worker sequence of the first event; the others follow it.
    """

    messages: tuple[bytes, ...]
    first_sequence: int

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def next_sequence(self) -> int:
        """The sequence after the last event."""
        return self.first_sequence + len(self)

    def rows(self, start: int, stop: int) -> Self:
        """Return some of the events."""
        return type(self)(self.messages[start:stop], self.first_sequence + start)

    def encode(self, session_id: str) -> list[bytes]:
        """Return the MxEvent messages."""
        return list(self.messages)


Block = EventBlock | MessageBlock
