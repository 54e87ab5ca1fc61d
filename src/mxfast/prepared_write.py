"""Writes of the same items again and again."""

from collections.abc import Iterator

from numpy.typing import ArrayLike, DTypeLike

from mxfast.codec import in_dtype
from mxfast.outcomes import WriteResult
from mxfast.requests import (
    ArrayRequests,
    PreparedRequests,
    Request,
    as_handles,
    as_plain_dtype,
    as_values,
)
from mxfast.threads import rows_of, run_by_size
from mxfast.write import ArrayWriter, Progress

__all__ = ["PreparedWrite"]

_OPERATION = "prepared write"


class PreparedWrite:
    """A write of the same items again and again, from `Session.prepare_write`.

    Requests of float64, float32 and bool are laid out once; a cycle fills in its values.
    Those of integers, whose rows vary in length, are encoded anew; their item handles are
    checked once.

    Attributes
    ----------
    item_handle : ndarray of int32, shape (n,)
        Read-only.
    dtype : dtype
        Of the values.
    """

    def __init__(
        self, writer: ArrayWriter, server_handle: int, item_handles: ArrayLike, dtype: DTypeLike
    ) -> None:
        self.dtype = as_plain_dtype(dtype)
        self.item_handle = as_handles(item_handles)
        self.item_handle.flags.writeable = False
        self._writer = writer
        self._server_handle = server_handle
        self._target = writer.target(server_handle)
        self._prepared = self._laid_out()

    def _laid_out(self) -> PreparedRequests | None:
        if self.dtype.kind == "i":
            return None
        return PreparedRequests(self._target, self.item_handle, self.dtype)

    async def write(
        self,
        values: ArrayLike,
        *,
        confirm: float | None = None,
        on_progress: Progress | None = None,
    ) -> WriteResult:
        """Write a value to each item.

        Parameters
        ----------
        values : array of the prepared dtype, shape (n,)
            Other real numbers are converted where that loses nothing; of a list, a float
            becomes the nearest float32. Not to be changed before this returns.
        confirm, on_progress
            As for `Session.write_array`.

        Returns
        -------
        WriteResult
            An outcome for each value. With n = 0 nothing is sent.

        Raises
        ------
        TypeError, ValueError
            A dtype, shape or number that does not fit, or a value that is not finite
            (`EncodeError`). Nothing was sent.
        MxGatewayError, RuntimeError, asyncio.CancelledError
            As `Session.write_array`.
        """
        self._writer.require_session(self._target.session_id, _OPERATION)
        if self._target.most_rows != self._writer.most_rows:  # an event stream was opened or ended
            self._target = self._writer.target(self._server_handle)
            self._prepared = self._laid_out()
        requests = await run_by_size(rows_of(values), self._requests, values)
        return await self._writer.send(
            self._server_handle,
            self.item_handle,
            requests,
            confirm=confirm,
            on_progress=on_progress,
            operation=_OPERATION,
        )

    def _requests(self, values: ArrayLike) -> Iterator[Request]:
        column = in_dtype(as_values(values, len(self), self.dtype), self.dtype, "values")
        if self._prepared is not None:
            return self._prepared.of(column)
        return ArrayRequests(self._target, self.item_handle, column)

    def __len__(self) -> int:
        return len(self.item_handle)

    def __repr__(self) -> str:
        return f"<PreparedWrite of {len(self)} {self.dtype} values>"
