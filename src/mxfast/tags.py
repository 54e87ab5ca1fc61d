"""Bulk commands that name tags, of any number: subscribing, and reading into columns."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import accumulate, compress
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mxfast import commands
from mxfast.checks import shown
from mxfast.codec import (
    DecodeError,
    ReadReply,
    SubscribeReply,
    ValueKind,
    decode_read_reply,
    decode_subscribe_reply,
)
from mxfast.commands import Command, CommandSender
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.errors import (
    MalformedReplyError,
    MxAccessError,
    Redact,
    check_mxaccess,
    check_protocol,
    describe_statuses,
    parse,
    without_key,
)
from mxfast.items import Binding, Items, column_of_objects
from mxfast.outcomes import RowErrors

__all__ = ["ReadError", "ReadResult"]

_INVOKE = GATEWAY_METHODS["Invoke"]
_READ = "read_array"
_OPERATIONS = {commands.SUBSCRIBE_BULK.name: "subscribe", commands.READ_BULK.name: _READ}

ReplyT = TypeVar("ReplyT", SubscribeReply, ReadReply)


class ReadError(NamedTuple):
    """Why one tag could not be read."""

    message: str
    statuses: tuple[pb.MxStatusProxy, ...]


class ReadResult:
    """What `Session.read_array` read: columns, one row a tag in the order given.

    Arrays are read-only. Text, raw values and arrays are decoded when asked for.

    Attributes
    ----------
    tags : ndarray of object, shape (n,)
        The tags as given.
    item_handle : ndarray of int32, shape (n,)
        0 where the gateway names no item of the session.
    ok : ndarray of bool, shape (n,)
        Whether the tag was read and no status is a failure (contract notes, Status).
    was_cached : ndarray of bool, shape (n,)
        Whether the value is that of the last data change of an advised item.
    quality : ndarray of int32, shape (n,)
        OPC quality: good is 192 to 219 (contract notes, Status).
    source_timestamp : ndarray of datetime64[ns], shape (n,)
        UTC; NaT where there is none.
    kind : ndarray of uint8, shape (n,)
        A `ValueKind` each; ``NONE`` where there is no value.
    value : ndarray of float64, shape (n,)
        The number; NaN where the value is none. `values` keeps all bits of an int64.
    """

    def __init__(self, tags: list[str], replies: list[ReadReply], redact: Redact) -> None:
        self._replies = replies
        self._redact = redact
        self._starts = list(accumulate(map(len, replies), initial=0))  # their first rows
        self.tags = np.empty(len(tags), object)
        self.tags[:] = tags
        self.tags.flags.writeable = False

        def column(dtype: Any, parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
            # An empty array first, for no replies at all.
            joined = np.concatenate([np.empty(0, dtype), *parts])
            joined.flags.writeable = False
            return joined

        self.item_handle = column(np.int32, (reply.item_handle for reply in replies))
        self.ok = column(np.bool_, (reply.was_successful & reply.ok for reply in replies))
        self.was_cached = column(np.bool_, (reply.was_cached for reply in replies))
        self.quality = column(np.int32, (reply.quality for reply in replies))
        self.source_timestamp = column(
            "datetime64[ns]", (reply.source_timestamp for reply in replies)
        )
        self.kind = column(np.uint8, (reply.cells.kind for reply in replies))
        self.value = column(np.float64, (reply.cells.value for reply in replies))

    def values(self, kind: ValueKind) -> NDArray[Any]:
        """Return the values of one kind in their own dtype, in order.

        Parameters
        ----------
        kind : ValueKind

        Returns
        -------
        ndarray
            bool, int32, int64, float32, float64 or datetime64[ns]; an object array of str,
            bytes or ndarrays for text, raw values and arrays. Their rows are
            ``result.kind == kind``.
        """
        parts = [reply.cells.values(kind) for reply in self._replies]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def errors(self) -> Mapping[int, ReadError]:
        """Index of each tag that is not `ok` to its message and statuses.

        Ascending. Each error is made when it is asked for, anew each time.
        """
        return RowErrors(self.ok, (False,), self._error_of)

    def _error_of(self, index: int) -> ReadError:
        number = bisect_right(self._starts, index) - 1
        data = self._replies[number].result_bytes(index - self._starts[number])
        result = without_key(parse(pb.BulkReadResult, data, _READ), self._redact)
        said = [result.error_message] if result.error_message else []
        said += describe_statuses(result.statuses)
        message = "; ".join(said) or "not read, without a reason"
        return ReadError(message, tuple(result.statuses))

    def raise_for_failure(self) -> None:
        """Raise unless every tag was read.

        Raises
        ------
        MxAccessError
            Names the first tag that was not, says why, and how many there are. Its
            ``result`` is this result.
        """
        if self.ok.all():
            return
        index = int(self.ok.argmin())
        error = MxAccessError(
            f"{np.count_nonzero(~self.ok)} of {len(self)} tags were not read; the first is "
            f"index {index}, {self.tags[index]}: {self.errors[index].message}",
            operation=_READ,
        )
        error.result = self
        raise error

    def __len__(self) -> int:
        return len(self.tags)

    def __repr__(self) -> str:
        failed = int(np.count_nonzero(~self.ok))
        return f"<ReadResult of {len(self)} tags{f', {failed} not read' if failed else ''}>"


def checked_tags(given: Iterable[str] | Items, limit: int, *, unique: bool) -> list[str]:
    """Return a list of tags that can all be sent.

    Parameters
    ----------
    given : iterable of str, or Items
    limit : int
        Bytes of a request.
    unique : bool
        Whether a tag may be there once only.

    Raises
    ------
    TypeError
        No iterable, a single str, or something that is no str in it.
    ValueError
        A tag that is empty, too long, no text, or there twice.
    """
    if isinstance(given, Items):
        return list(given.tags)
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"tags must be a list of str, not {shown(given)}")
    tags = column_of_objects(given, "tags") or list(given)
    try:
        # All at once, as there may be very many.
        "".join(tags).encode()
    except (TypeError, UnicodeEncodeError):
        for index, tag in enumerate(tags):
            _check_text(index, tag)
    if not all(tags):
        raise ValueError(f"tags[{tags.index('')}] is empty")
    # Four bytes are the most of a character; the rest of a request takes less than a kilobyte.
    if 4 * max(map(len, tags), default=0) > limit - 1024:
        for index, tag in enumerate(tags):
            if len(tag.encode()) > limit - 1024:
                raise ValueError(
                    f"tags[{index}], {shown(tag)}, has {len(tag.encode())} bytes: "
                    f"max_message_bytes is {limit}"
                )
    if unique and len(set(tags)) != len(tags):
        seen: dict[str, int] = {}
        for index, tag in enumerate(tags):
            if seen.setdefault(tag, index) != index:
                raise ValueError(f"tags[{index}] is {shown(tag)}, as is tags[{seen[tag]}]")
    return tags


def _check_text(index: int, tag: object) -> None:
    if not isinstance(tag, str):
        raise TypeError(f"tags[{index}] must be a str, got {shown(tag)}")
    try:
        tag.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"tags[{index}], {shown(tag)}, cannot be encoded: {error}") from None


async def subscribe(sender: CommandSender, server_handle: int, tags: list[str]) -> Items:
    """Add and advise tags; see `Session.subscribe`."""
    handles = np.zeros(len(tags), np.int32)
    failed: dict[str, str] = {}
    answered = 0

    def items() -> Items:
        column = np.empty(len(tags), object)
        column[:] = tags
        binding = Binding(server_handle, column, handles, failed)
        sender.rebindables.add(binding)  # for the handles of a session that is built anew
        return Items(binding)

    try:
        async for start, reply in _exchange(
            sender, commands.SUBSCRIBE_BULK, server_handle, tags, decode_subscribe_reply
        ):
            for row in np.flatnonzero(~reply.was_successful).tolist():
                said = sender.transport.redact(reply.error_message(row))
                failed[tags[start + row]] = said or "refused without a reason"
            answered = start + len(reply)
            handles[start:answered] = np.where(reply.was_successful, reply.item_handle, 0)
            sender.handles.subscribed(
                server_handle,
                reply.item_handle[reply.was_successful].tolist(),
                compress(tags[start:answered], reply.was_successful.tolist()),
            )
    except BaseException as error:
        # What was subscribed until then is not lost; also on a CancelledError.
        failed.update(dict.fromkeys(tags[answered:], "not answered"))
        error.result = items()  # type: ignore[attr-defined]
        raise
    return items()


async def read(
    sender: CommandSender, server_handle: int, tags: list[str], timeout_ms: int
) -> ReadResult:
    """Read tags into columns; see `Session.read_array`."""
    replies = [
        reply
        async for _, reply in _exchange(
            sender,
            commands.READ_BULK,
            server_handle,
            tags,
            decode_read_reply,
            timeout_ms=timeout_ms,
        )
    ]
    return ReadResult(tags, replies, sender.transport.redact)


async def _exchange(
    sender: CommandSender,
    command: Command,
    server_handle: int,
    tags: list[str],
    decode: Callable[[bytes], ReplyT],
    **fields: int,
) -> AsyncIterator[tuple[int, ReplyT]]:
    """Send a bulk command for all tags and yield each reply with the row of its first tag.

    One request after another: a session's commands are run so anyhow.
    """
    operation = _OPERATIONS[command.name]
    seconds_a_tag = fields.get("timeout_ms", 0) / 1000
    rows = sender.options.max_bulk_items
    start = 0
    sender.require_open(operation)
    while start < len(tags):
        await sender.attached()
        sender.server(server_handle, operation)  # each time: it may be rebuilt between two
        part = tags[start : start + rows]
        request = sender.request(
            command, {"server_handle": server_handle, "tag_addresses": part, **fields}
        )
        if len(request) > sender.options.max_message_bytes and len(part) > 1:
            rows = len(part) // 2
            continue
        sender.require_open(operation)
        timeout = sender.options.call_timeout + len(part) * seconds_a_tag
        data = await sender.transport.unary(_INVOKE, request, timeout=timeout, operation=operation)
        try:
            reply = decode(data)
        except DecodeError as error:
            raise MalformedReplyError(f"unreadable reply: {error}", operation=operation) from None
        if not reply.has_results:
            message = parse(pb.MxCommandReply, data, operation)
            check_protocol(message.protocol_status, operation, message, sender.transport.redact)
            check_mxaccess(message, operation, "", sender.transport.redact)
        if problem := _problem(reply, part, start):
            raise MalformedReplyError(problem, operation=operation)
        yield start, reply
        start += len(part)


def _problem(reply: SubscribeReply | ReadReply, tags: list[str], start: int) -> str:
    """Return what keeps a reply from having one result for each tag in order, or nothing."""
    if not reply.has_results:
        return "the reply has no results"
    if len(reply) != len(tags):
        return f"{len(tags)} tags were sent and {len(reply)} results came back"
    said = reply.tag_addresses()
    if said != tags:
        for row, (tag, other) in enumerate(zip(tags, said, strict=True)):
            if not _is_same_tag(tag, other):
                return f"result {start + row} is for the tag {shown(other)}, {shown(tag)} was sent"
    if isinstance(reply, SubscribeReply):
        nameless = reply.was_successful & (reply.item_handle == 0)
        if nameless.any():
            row = int(nameless.argmax())
            return f"result {start + row}, for the tag {shown(tags[row])}, has no item handle"
    return ""


def _is_same_tag(sent: str, said: str) -> bool:
    """Tell whether a result is for the tag that was sent, as far as it says.

    MXAccess does not mind the case of names (inferred), and the gateway appends ``[]`` to a
    bare array's name (contract notes, Writes).
    """
    return not said or said.casefold().removesuffix("[]") == sent.casefold().removesuffix("[]")
