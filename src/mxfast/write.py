"""Arrays of values to the gateway: split, sent with a small window, and every outcome kept."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mxfast.checks import shown
from mxfast.codec import (
    DecodeError,
    EncodeError,
    WriteReply,
    decode_write_reply,
    encode_write_bulk,
    first_non_finite,
)
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxAccessError,
    MxGatewayError,
    Redact,
    check_mxaccess,
    check_protocol,
    describe_hresult,
    describe_statuses,
    parse,
)
from mxfast.interop import as_array
from mxfast.options import ClientOptions
from mxfast.transport import Transport

__all__ = ["Outcome", "WriteError", "WriteResult"]

# A session runs one command after another: the second request waits at the gateway while
# the first is worked on, and more would only wait there too.
_IN_FLIGHT = 2

_INVOKE = GATEWAY_METHODS["Invoke"]
_OPERATION = "write_array"

Progress = Callable[[int, int], None]


class Outcome(IntEnum):
    """What became of one value of an array write."""

    NOT_SENT = 0
    """No request with it was sent."""
    ACCEPTED = 1
    """MXAccess took the call. Whether the value was committed, the item's later write-complete
    event tells (contract notes, Bulk commands)."""
    REJECTED = 2
    """MXAccess or the gateway refused it; `WriteResult.errors` says why."""
    UNKNOWN = 3
    """It was sent and no answer came that could be understood."""


class WriteError(NamedTuple):
    """Why one value was rejected."""

    message: str
    statuses: tuple[pb.MxStatusProxy, ...]


class WriteResult:
    """Outcomes of an array write, one row a value, in the order given.

    Attributes
    ----------
    item_handle : ndarray of int32, shape (n,)
        The handles as given.
    outcome : ndarray of uint8, shape (n,)
        An `Outcome` each.
    hresult : ndarray of int32, shape (n,)
        MXAccess's HRESULT; 0 where it gave none.
    requests : int
        Requests sent.
    request_bytes : int
        Their bytes, as gRPC messages.
    """

    __slots__ = (
        "_errors",
        "_redact",
        "_rejected",
        "_tag_of",
        "hresult",
        "item_handle",
        "outcome",
        "request_bytes",
        "requests",
    )

    def __init__(
        self,
        item_handle: NDArray[np.int32],
        tag_of: Callable[[int], str | None],
        redact: Redact,
    ) -> None:
        self.item_handle = item_handle
        self.outcome = np.zeros(len(item_handle), np.uint8)
        self.hresult = np.zeros(len(item_handle), np.int32)
        self.requests = 0
        self.request_bytes = 0
        self._tag_of = tag_of
        self._redact = redact
        self._rejected: list[tuple[int, WriteReply]] = []
        self._errors: dict[int, WriteError] | None = None

    def _enter(self, start: int, stop: int, reply: WriteReply) -> None:
        self.hresult[start:stop] = reply.hresult
        if reply.was_successful.all():
            self.outcome[start:stop] = Outcome.ACCEPTED
        else:
            self.outcome[start:stop] = np.where(
                reply.was_successful, np.uint8(Outcome.ACCEPTED), np.uint8(Outcome.REJECTED)
            )
            self._rejected.append((start, reply))
            self._errors = None

    @property
    def ok(self) -> bool:
        """Whether every value was accepted."""
        return bool((self.outcome == Outcome.ACCEPTED).all())

    @property
    def errors(self) -> Mapping[int, WriteError]:
        """Index of each rejected value to its message and statuses."""
        if self._errors is None:
            self._errors = {}
            for start, reply in self._rejected:
                for row in np.flatnonzero(~reply.was_successful).tolist():
                    result = parse(pb.BulkWriteResult, reply.result_bytes(row), _OPERATION)
                    said = [result.error_message] if result.error_message else []
                    said += describe_statuses(result.statuses)
                    if result.hresult:
                        said.append(describe_hresult(result.hresult))
                    message = self._redact("; ".join(said)) or "rejected without a reason"
                    self._errors[start + row] = WriteError(message, tuple(result.statuses))
        return self._errors

    def raise_for_failure(self) -> None:
        """Raise unless every value was accepted.

        Raises
        ------
        MxAccessError
            Names the first value that was not accepted, by index and item, says why, and
            how many there are. Its ``result`` is this result.
        """
        failed = np.flatnonzero(self.outcome != Outcome.ACCEPTED)
        if not len(failed):
            return
        index = int(failed[0])
        handle = int(self.item_handle[index])
        tag = self._tag_of(handle)
        outcome = Outcome(self.outcome[index])
        if outcome is Outcome.REJECTED:
            reason = self.errors[index].message
        else:
            reason = outcome.name.lower().replace("_", " ")
        error = MxAccessError(
            f"{len(failed)} of {len(self)} values were not accepted; the first is index {index}, "
            f"item {handle}{f' ({tag})' if tag else ''}: {reason}",
            operation=_OPERATION,
        )
        error.result = self
        raise error

    def __len__(self) -> int:
        return len(self.item_handle)

    def __repr__(self) -> str:
        counts = np.bincount(self.outcome, minlength=len(Outcome))
        shown = ", ".join(f"{counts[each]} {each.name}" for each in Outcome if counts[each])
        return f"<WriteResult of {len(self)} values: {shown}>"


class _Request(NamedTuple):
    start: int
    stop: int
    data: bytes


class _InFlight(NamedTuple):
    start: int
    stop: int
    answer: asyncio.Task[bytes]


class ArrayWrite:
    """One array write. Making it checks all that is given; `run` sends it.

    Parameters are those of `Session.write_array`, and who it is for: the transport, the
    options, the session's id, a source of correlation ids and the tags' names for errors.
    """

    def __init__(
        self,
        transport: Transport,
        options: ClientOptions,
        *,
        session_id: str,
        next_correlation_id: Callable[[], str],
        tag_of: Callable[[int], str | None],
        server_handle: int,
        item_handles: ArrayLike,
        values: ArrayLike,
        timestamps: ArrayLike | None,
        user_id: int,
        secured_by: tuple[int, int] | None,
        on_progress: Progress | None,
    ) -> None:
        self._transport = transport
        self._options = options
        self._session_id = session_id
        self._next_correlation_id = next_correlation_id
        self._server_handle = server_handle
        self._handles = _as_handles(item_handles)
        self._values = _as_column(values, "values", len(self._handles))
        self._timestamps = (
            None if timestamps is None else _as_column(timestamps, "timestamps", len(self._handles))
        )
        self._user_id = user_id
        self._secured_by = secured_by
        self._on_progress = on_progress
        self._result = WriteResult(self._handles, tag_of, transport.redact)
        self._requests = self._encoded()
        # A request is encoded when its turn comes; what a later one would refuse is found now.
        self._next = next(self._requests, None)
        if self._next is None:
            self._encode(0, 0)
        elif self._next.stop < len(self._handles):
            self._check_all()
            self._sent_last = np.zeros(_table_size(self._handles), np.int32)
        self._sent = _IN_FLIGHT  # so that the table's zeros are older than any in flight

    def _encode(self, start: int, stop: int) -> bytes:
        try:
            return encode_write_bulk(
                self._session_id,
                self._server_handle,
                self._handles[start:stop],
                self._values[start:stop],
                timestamps=None if self._timestamps is None else self._timestamps[start:stop],
                user_id=self._user_id,
                secured_by=self._secured_by,
                correlation_id=self._next_correlation_id(),
            )
        except EncodeError as error:
            # The codec counts from the request's first row, the user from the array's.
            index = start + error.index
            message = str(error).replace(f"[{error.index}]", f"[{index}]", 1)
            raise EncodeError(message, index, error.value) from None

    def _encoded(self) -> Iterator[_Request]:
        """Yield the requests, as large as the limits permit."""
        limit = self._options.max_message_bytes
        rows = self._options.max_bulk_items
        start = 0
        while start < len(self._handles):
            stop = min(start + rows, len(self._handles))
            data = self._encode(start, stop)
            if len(data) <= limit:
                yield _Request(start, stop, data)
                start = stop
            elif stop - start == 1:
                raise ValueError(
                    f"values[{start}] (item handle {self._handles[start]}) makes a request of "
                    f"{len(data)} bytes: max_message_bytes is {limit}"
                )
            else:
                # A little less than the average row asks for, so that few need a third try.
                rows = max(1, int((stop - start) * limit / len(data) * 0.95))

    def _check_all(self) -> None:
        kind, size = self._values.dtype.kind, self._values.dtype.itemsize
        if self._timestamps is None and kind == "f":
            bad = first_non_finite(self._values)
            if bad >= 0:
                self._encode(bad, bad + 1)  # raises, in the codec's words
        elif self._timestamps is not None or not (kind in "bi" or (kind == "u" and size < 8)):
            # Any element may be refused, or be too large: encode all once, keeping nothing.
            for _ in self._encoded():
                pass

    async def run(self) -> WriteResult:
        """Send what there is to send and return the outcomes; see `Session.write_array`."""
        waiting: deque[_InFlight] = deque()
        try:
            while self._next is not None or waiting:
                while self._next is not None and self._may_send(self._next, waiting):
                    waiting.append(self._send(self._next))
                    # Encoded while the gateway works on those before it.
                    self._next = next(self._requests, None)
                start, stop, answer = waiting[0]
                self._take(start, stop, await answer)
                waiting.popleft()
                if self._on_progress is not None:
                    self._on_progress(stop, len(self._handles))
        except BaseException as error:
            final = await self._give_up(error, waiting)
            if final is error:
                raise
            raise final from None
        return self._result

    def _may_send(self, request: _Request, waiting: deque[_InFlight]) -> bool:
        """Tell whether a request may go while others wait for their answer.

        Calls in flight may overtake each other, so two of them never share an item: a
        table holds for each item the number of the last request it was in. It is indexed
        by the handle's low bits; handles that share them wait without need, no more.
        """
        if len(waiting) == _IN_FLIGHT:
            return False
        if request.stop - request.start == len(self._handles):
            return True
        slots = self._handles[request.start : request.stop] & (len(self._sent_last) - 1)
        if waiting and (self._sent_last[slots] >= self._sent - len(waiting)).any():
            return False
        self._sent_last[slots] = self._sent
        return True

    def _send(self, request: _Request) -> _InFlight:
        self._sent += 1
        self._result.requests += 1
        self._result.request_bytes += len(request.data)
        answer = asyncio.ensure_future(
            self._transport.unary(
                _INVOKE,
                request.data,
                timeout=self._options.call_timeout,
                operation=_OPERATION,
            )
        )
        return _InFlight(request.start, request.stop, answer)

    def _take(self, start: int, stop: int, data: bytes) -> None:
        """Enter the reply to the request of these rows."""
        try:
            reply = decode_write_reply(data)
        except DecodeError as error:
            raise MalformedReplyError(f"unreadable reply: {error}", operation=_OPERATION) from None
        problem = None
        if not reply.has_results:
            message = parse(pb.MxCommandReply, data, _OPERATION)
            check_protocol(message.protocol_status, _OPERATION, message, self._transport.redact)
            check_mxaccess(message, _OPERATION, "", self._transport.redact)
            problem = "the reply has no results"
        elif len(reply) != stop - start:
            problem = f"{stop - start} values were sent and {len(reply)} results came back"
        else:
            sent = self._handles[start:stop]
            same = reply.item_handle == sent
            if not same.all():
                row = int(same.argmin())
                problem = (
                    f"result {start + row} is for item {reply.item_handle[row]}, "
                    f"item {sent[row]} was written"
                )
        if problem is not None:
            raise MalformedReplyError(
                f"{problem}; the outcome of indices {start} to {stop - 1} is unknown",
                operation=_OPERATION,
            )
        self._result._enter(start, stop, reply)

    async def _give_up(self, error: BaseException, waiting: deque[_InFlight]) -> BaseException:
        """Send nothing more, learn what can be learned, and return what to raise."""
        answers = [each.answer for each in waiting]
        if not isinstance(error, Exception):
            for answer in answers:
                answer.cancel()
        try:
            if answers:
                # After a failure, what else is under way is waited for: it has an outcome too.
                await asyncio.wait(answers)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            for answer in answers:
                answer.cancel()
        for start, stop, answer in waiting:
            try:
                self._take(start, stop, answer.result())
            except (MxGatewayError, asyncio.CancelledError, asyncio.InvalidStateError):
                self._result.outcome[start:stop] = Outcome.UNKNOWN
        error.result = self._result  # type: ignore[attr-defined]  # also on a CancelledError
        return error


def _as_handles(item_handles: ArrayLike) -> NDArray[np.int32]:
    """Return a copy of the handles, which the result keeps."""
    array = as_array(item_handles, "item_handles")
    if array.ndim != 1:
        raise ValueError(f"item_handles must be one-dimensional, not of shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int32)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("item_handles is a masked array: drop what is masked first")
    if array.dtype.kind not in "iu":
        elements = array.tolist() if isinstance(item_handles, np.ndarray) else list(item_handles)  # type: ignore[arg-type]
        for index, element in enumerate(elements):
            if isinstance(element, bool) or not isinstance(element, (int, np.integer)):
                raise TypeError(
                    f"item_handles[{index}] is {shown(element)}: an item handle is an integer"
                )
        raise TypeError(f"item_handles must be integers, not dtype {array.dtype}")
    outside = (array < -(2**31)) | (array >= 2**31)
    if outside.any():
        index = int(outside.argmax())
        raise ValueError(f"item_handles[{index}] is {array[index]}: an item handle has 32 bits")
    return array.astype(np.int32)


def _as_column(data: ArrayLike, name: str, length: int) -> NDArray[Any]:
    array = as_array(data, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if len(array) != length:
        raise ValueError(f"{length} item handles but {len(array)} {name}: give one an item")
    return array


def _table_size(handles: NDArray[np.int32]) -> int:
    """Return a power of two that covers the handles' range, within reason."""
    span = int(handles.max()) - int(handles.min()) + 1
    return 1 << min((span - 1).bit_length(), 22)
