"""What became of the values of an array write."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import WriteReply
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MxAccessError,
    MxGatewayError,
    Redact,
    describe_hresult,
    describe_statuses,
    parse,
    without_key,
)

__all__ = ["Outcome", "RowErrors", "WriteError", "WriteResult"]

T = TypeVar("T")


class Outcome(IntEnum):
    """What became of one value of an array write."""

    NOT_SENT = 0
    """No request with it was sent."""
    ACCEPTED = 1
    """MXAccess took the call. Whether the value was committed, the item's later write-complete
    event tells (contract notes, Bulk commands)."""
    REJECTED = 2
    """MXAccess or the gateway refused it; `WriteResult.errors` says why. Also all values of a
    request that the gateway did not begin: a wrong key, no scope, a session that is closed."""
    UNKNOWN = 3
    """It was sent, and no answer came that tells what became of it."""
    COMPLETED = 4
    """Accepted, and its write-complete came with good statuses. Only with ``confirm``."""
    FAILED = 5
    """Accepted, and its write-complete tells of a failure; `WriteResult.errors` says which.
    Only with ``confirm``."""


class WriteError(NamedTuple):
    """Why one value was rejected or failed."""

    message: str
    statuses: tuple[pb.MxStatusProxy, ...]


class RowErrors(Mapping[int, T]):
    """Index of each bad row of a result to its error, made when it is asked for.

    Making one takes microseconds: those of a whole array that was refused would hold the
    event loop for seconds.

    Parameters
    ----------
    column : ndarray, shape (n,)
        What tells bad rows.
    bad : tuple
        Its elements where a row is bad.
    error_of : callable
        Returns the error of a bad row.
    """

    def __init__(
        self, column: NDArray[Any], bad: tuple[int, ...], error_of: Callable[[int], T]
    ) -> None:
        self._column = column
        self._bad = bad
        self._error_of = error_of

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < len(self._column) or self._column[index] not in self._bad:
            raise KeyError(index)
        return self._error_of(index)

    def __iter__(self) -> Iterator[int]:
        yield from np.flatnonzero(np.isin(self._column, self._bad)).tolist()

    def __len__(self) -> int:
        return int(np.count_nonzero(np.isin(self._column, self._bad)))

    def __repr__(self) -> str:
        first = next(iter(self), None)
        shown = "" if first is None else f", the first {first}: {self[first]!r}"
        return f"<errors of {len(self)} rows{shown}>"


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
        "_failed",
        "_operation",
        "_redact",
        "_refusals",
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
        operation: str,
    ) -> None:
        self.item_handle = item_handle
        self.outcome = np.zeros(len(item_handle), np.uint8)
        self.hresult = np.zeros(len(item_handle), np.int32)
        self.requests = 0
        self.request_bytes = 0
        self._tag_of = tag_of
        self._redact = redact
        self._operation = operation
        # By the first row of their request, ascending: as requests are entered.
        self._refusals: list[tuple[int, WriteReply | MxGatewayError]] = []
        self._failed: Mapping[int, bytes] = {}

    def _enter(self, start: int, stop: int, reply: WriteReply) -> None:
        """Enter the reply to the request of these rows."""
        self.hresult[start:stop] = reply.hresult
        if reply.was_successful.all():
            self.outcome[start:stop] = Outcome.ACCEPTED
        else:
            self.outcome[start:stop] = np.where(
                reply.was_successful, np.uint8(Outcome.ACCEPTED), np.uint8(Outcome.REJECTED)
            )
            self._refusals.append((start, reply))

    def _refuse(self, start: int, stop: int, error: MxGatewayError) -> None:
        """Enter that the gateway did not begin the request of these rows."""
        self.outcome[start:stop] = Outcome.REJECTED
        self._refusals.append((start, error))

    def _confirm(self, completed: NDArray[np.intp], failed: Mapping[int, bytes]) -> None:
        """Enter the write-completes that came, and the events of those that failed."""
        self.outcome[completed] = Outcome.COMPLETED
        if failed:
            self.outcome[np.fromiter(failed, np.intp)] = Outcome.FAILED
            self._failed = failed

    @property
    def ok(self) -> bool:
        """Whether every value was accepted, and none is known to have failed."""
        taken = (self.outcome == Outcome.ACCEPTED) | (self.outcome == Outcome.COMPLETED)
        return bool(taken.all())

    @property
    def errors(self) -> Mapping[int, WriteError]:
        """Index of each rejected or failed value to its message and statuses.

        Ascending. Each error is made when it is asked for, anew each time.
        """
        return RowErrors(self.outcome, (Outcome.REJECTED, Outcome.FAILED), self._error_of)

    def _error_of(self, index: int) -> WriteError:
        if self.outcome[index] == Outcome.FAILED:
            event = parse(pb.MxEvent, self._failed[index], self._operation)
            event = without_key(event, self._redact)
            message = "; ".join(describe_statuses(event.statuses))
            return WriteError(message, tuple(event.statuses))
        start, refusal = self._refusals[bisect_right(self._refusals, index, key=itemgetter(0)) - 1]
        if isinstance(refusal, MxGatewayError):
            return WriteError(str(refusal).removeprefix(f"{refusal.operation}: "), ())
        result = parse(pb.BulkWriteResult, refusal.result_bytes(index - start), self._operation)
        result = without_key(result, self._redact)
        said = [result.error_message] if result.error_message else []
        said += describe_statuses(result.statuses)
        if result.hresult:
            said.append(describe_hresult(result.hresult))
        message = "; ".join(said) or "rejected without a reason"
        return WriteError(message, tuple(result.statuses))

    def raise_for_failure(self) -> None:
        """Raise unless every value was accepted and none is known to have failed.

        Raises
        ------
        MxAccessError
            Names the first value that was not accepted or failed, by index and item, says
            why, and how many there are. Its ``result`` is this result.
        """
        if self.ok:
            return
        taken = (self.outcome == Outcome.ACCEPTED) | (self.outcome == Outcome.COMPLETED)
        index = int(taken.argmin())
        handle = int(self.item_handle[index])
        tag = self._tag_of(handle)
        outcome = Outcome(self.outcome[index])
        if outcome in (Outcome.REJECTED, Outcome.FAILED):
            reason = self.errors[index].message
        else:
            reason = outcome.name.lower().replace("_", " ")
        bad = len(self) - int(taken.sum())
        what = "failed" if outcome is Outcome.FAILED else "were not accepted"
        error = MxAccessError(
            f"{bad} of {len(self)} values {what}; the first is index {index}, "
            f"item {handle}{f' ({tag})' if tag else ''}: {reason}",
            operation=self._operation,
        )
        error.result = self
        raise error

    def __len__(self) -> int:
        return len(self.item_handle)

    def __repr__(self) -> str:
        counts = np.bincount(self.outcome, minlength=len(Outcome))
        shown = ", ".join(f"{counts[each]} {each.name}" for each in Outcome if counts[each])
        return f"<WriteResult of {len(self)} values: {shown}>"
