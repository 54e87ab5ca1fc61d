"""Lists of tags of any length, in as many bulk commands as it takes."""

import numpy as np
from numpy.typing import NDArray

from mxfast import MAX_BULK_ITEMS, MxAccessError, Session


async def add_items(session: Session, server: int, tags: list[str]) -> NDArray[np.int32]:
    """Add the tags without advising them and return their item handles.

    Raises
    ------
    MxAccessError
        The gateway refused a tag; names it.
    """
    handles = np.empty(len(tags), np.int32)
    for start in range(0, len(tags), MAX_BULK_ITEMS):
        results = await session.add_item_bulk(server, tags[start : start + MAX_BULK_ITEMS])
        for row, result in enumerate(results, start):
            if not result.was_successful:
                raise MxAccessError(
                    f"{tags[row]}: {result.error_message}", operation="add_item_bulk"
                )
            handles[row] = result.item_handle
    return handles
