"""Lists of tags of any length, in as many bulk commands as it takes."""

from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from mxfast import MAX_BULK_ITEMS, MxAccessError, Session
from mxfast.contract import mxaccess_gateway as pb


async def in_bulks(
    command: Callable[[int, list[str]], Awaitable[list[pb.SubscribeResult]]],
    server: int,
    tags: list[str],
) -> NDArray[np.int32]:
    """Give the tags to `add_item_bulk` or `subscribe_bulk` and return their item handles.

    Raises
    ------
    MxAccessError
        The gateway refused a tag; names it.
    """
    handles = np.empty(len(tags), np.int32)
    for start in range(0, len(tags), MAX_BULK_ITEMS):
        results = await command(server, tags[start : start + MAX_BULK_ITEMS])
        for row, result in enumerate(results, start):
            if not result.was_successful:
                raise MxAccessError(
                    f"{tags[row]}: {result.error_message}", operation="add_item_bulk"
                )
            handles[row] = result.item_handle
    return handles


async def read_tags(session: Session, server: int, tags: list[str]) -> list[pb.BulkReadResult]:
    """Read the tags, one result each in their order."""
    results: list[pb.BulkReadResult] = []
    for start in range(0, len(tags), MAX_BULK_ITEMS):
        results += await session.read_bulk(server, tags[start : start + MAX_BULK_ITEMS])
    return results
