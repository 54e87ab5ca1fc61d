"""What became of the values of an array write."""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mxfast.codec import WriteReply
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MxAccessError,
    Redact,
    describe_hresult,
    describe_statuses,
    parse,
    without_key,
)

__all__ = ["Outcome", "WriteError", "WriteResult"]


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
    COMPLETED = 4
    """Accepted, and its write-complete came with good statuses. Only with ``confirm``."""
    FAILED = 5
    """Accepted, and its write-complete tells of a failure; `WriteResult.errors` says which.
    Only with ``confirm``."""


class WriteError(NamedTuple):
    """Why one value was rejected or failed."""

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
        "_failed",
        "_operation",
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
        self._rejected: list[tuple[int, WriteReply]] = []
        self._failed: Mapping[int, bytes] = {}
        self._errors: dict[int, WriteError] | None = None

    def _enter(self, start: int, stop: int, reply: WriteReply) -> None:
        """Enter the reply to the request of these rows."""
        self.hresult[start:stop] = reply.hresult
        if reply.was_successful.all():
            self.outcome[start:stop] = Outcome.ACCEPTED
        else:
            self.outcome[start:stop] = np.where(
                reply.was_successful, np.uint8(Outcome.ACCEPTED), np.uint8(Outcome.REJECTED)
            )
            self._rejected.append((start, reply))
            self._errors = None

    def _confirm(self, completed: NDArray[np.intp], failed: Mapping[int, bytes]) -> None:
        """Enter the write-completes that came, and the events of those that failed."""
        self.outcome[completed] = Outcome.COMPLETED
        if failed:
            self.outcome[np.fromiter(failed, np.intp)] = Outcome.FAILED
            self._failed = failed
            self._errors = None

    @property
    def ok(self) -> bool:
        """Whether every value was accepted, and none is known to have failed."""
        taken = (self.outcome == Outcome.ACCEPTED) | (self.outcome == Outcome.COMPLETED)
        return bool(taken.all())

    @property
    def errors(self) -> Mapping[int, WriteError]:
        """Index of each rejected or failed value to its message and statuses."""
        if self._errors is None:
            self._errors = {}
            for start, reply in self._rejected:
                for row in np.flatnonzero(~reply.was_successful).tolist():
                    result = parse(pb.BulkWriteResult, reply.result_bytes(row), self._operation)
                    result = without_key(result, self._redact)
                    said = [result.error_message] if result.error_message else []
                    said += describe_statuses(result.statuses)
                    if result.hresult:
                        said.append(describe_hresult(result.hresult))
                    message = "; ".join(said) or "rejected without a reason"
                    self._errors[start + row] = WriteError(message, tuple(result.statuses))
            for index, data in self._failed.items():
                event = without_key(parse(pb.MxEvent, data, self._operation), self._redact)
                message = "; ".join(describe_statuses(event.statuses))
                self._errors[index] = WriteError(message, tuple(event.statuses))
        return self._errors

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
