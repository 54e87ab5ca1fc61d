"""A session's write-completes: what became of the writes that MXAccess accepted."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status
from mxfast.simulator.clock import Clock
from mxfast.simulator.event_blocks import OK_STATUS
from mxfast.simulator.events import EventLog
from mxfast.simulator.faults import FailWrites


class WriteCompletes:
    """The write-completes of one session.

    Parameters
    ----------
    events : EventLog
        Where they go.
    clock : Clock
        The gateway's time.
    """

    def __init__(self, events: EventLog, clock: Clock) -> None:
        self._events = events
        self._clock = clock

    def tell(
        self, server_handle: int, items: NDArray[np.int32], failing: Mapping[int, FailWrites]
    ) -> None:
        """Tell how the writes to some items ended, in their order.

        Parameters
        ----------
        server_handle : int
            Of all the items.
        items : int32 array
            An item handle a write.
        failing : mapping of int to FailWrites
            The fault of each write, by its row, that fails.
        """
        if not failing:
            self._publish(server_handle, items, OK_STATUS)
            return
        for fault, rows in groupby(range(len(items)), failing.get):
            alike = items[list(rows)]
            if fault is None:
                self._publish(server_handle, alike, OK_STATUS)
                continue
            failure = status.failed_write(fault.category, fault.detail).SerializeToString()
            if fault.delay == 0:
                self._publish(server_handle, alike, failure)
            elif fault.delay < math.inf:
                self._clock.call_later(
                    fault.delay, partial(self._publish, server_handle, alike, failure)
                )

    def _publish(self, server_handle: int, items: NDArray[np.int32], outcome: bytes) -> None:
        self._events.publish(
            pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE, server_handle, items, outcome=outcome
        )
