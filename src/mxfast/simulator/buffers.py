"""Buffered items: their changes are gathered and come many in one event."""

from collections.abc import Iterator
from typing import NamedTuple

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator.clock import Clock
from mxfast.simulator.values import array_value, timestamp

_DEFAULT_INTERVAL_S = 1.0  # inferred: the notes do not say
_STEP_MS = 100  # the interval is rounded up to whole steps (contract notes, Values)


class Sample(NamedTuple):
    """One value of an item."""

    value: pb.MxValue
    quality: int
    source_ns: int


class Buffers:
    """What a session's buffered items have gathered, by server and item handle.

    Parameters
    ----------
    clock : Clock
        The gateway's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: dict[tuple[int, int], list[Sample]] = {}
        self._intervals: dict[int, float] = {}
        self._flushed: dict[int, float] = {}

    def set_interval(self, server_handle: int, milliseconds: int) -> None:
        """Set how often a server handle's events come."""
        self._intervals[server_handle] = -(-milliseconds // _STEP_MS) * _STEP_MS / 1000

    def add(self, server_handle: int, item: int, sample: Sample) -> None:
        """Gather a sample."""
        self._samples.setdefault((server_handle, item), []).append(sample)

    def flush(self, *, at_once: bool) -> Iterator[pb.MxEvent]:
        """Return the events that are due, or all ``at_once``, in the order of their items."""
        if not self._samples:
            return
        now = self._clock.monotonic()
        due = set()
        for server in {server for server, _ in self._samples}:
            interval = self._intervals.get(server, _DEFAULT_INTERVAL_S)
            if at_once or now - self._flushed.get(server, -interval) >= interval:
                due.add(server)
                self._flushed[server] = now
        for key in sorted(key for key in self._samples if key[0] in due):
            for samples in _alike(self._samples.pop(key)):
                yield _event(*key, samples)


def _alike(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Return runs of samples of one type, which an array can hold."""
    run: list[Sample] = []
    for sample in samples:
        if run and (sample.value.WhichOneof("kind") != run[0].value.WhichOneof("kind")):
            yield run
            run = []
        run.append(sample)
    yield run


def _event(server_handle: int, item: int, samples: list[Sample]) -> pb.MxEvent:
    """Return an event with arrays of values, qualities and timestamps.

    That the values travel as an array in the event's value, and that a value which no
    array can hold (a null, an array) is told by its newest sample alone, is inferred: no
    recorded event proves the form (contract notes, Values, quality, time).
    """
    newest = samples[-1]
    arm = newest.value.WhichOneof("kind")
    if arm is None or arm == "array_value":
        samples = [newest]
        value = newest.value
    else:
        value = array_value(
            arm,
            newest.value.data_type,
            newest.value.variant_type,
            [getattr(sample.value, arm) for sample in samples],
        )
    qualities = array_value(
        "int32_value", pb.MX_DATA_TYPE_INTEGER, "VT_I4", [sample.quality for sample in samples]
    )
    times = array_value(
        "timestamp_value",
        pb.MX_DATA_TYPE_TIME,
        "VT_DATE",
        [timestamp(sample.source_ns) for sample in samples],
    )
    body = pb.OnBufferedDataChangeEvent(
        data_type=newest.value.data_type,
        quality_values=qualities.array_value,
        timestamp_values=times.array_value,
    )
    return pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_BUFFERED_DATA_CHANGE,
        server_handle=server_handle,
        item_handle=item,
        value=value,
        quality=newest.quality,
        source_timestamp=timestamp(newest.source_ns),
        on_buffered_data_change=body,
    )
