"""Writes the signals' samples into the tag database as time goes on."""

from collections.abc import Hashable, Iterable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mxfast.checks import shown
from mxfast.codec import ValueKind
from mxfast.simulator import status
from mxfast.simulator.clock import Clock, Timer
from mxfast.simulator.signals import Columns, Floats, Signal
from mxfast.simulator.tags import TagDatabase, matches
from mxfast.simulator.typed import ANY
from mxfast.simulator.values import Values

_FLOAT_MAX = float(np.finfo(np.float32).max)
_INT32 = np.iinfo(np.int32)

# Declared kinds of tags that a sample can be stored in.
_NUMERIC = (ANY, ValueKind.BOOL, ValueKind.INT32, ValueKind.FLOAT, ValueKind.DOUBLE)


class Player:
    """Lets signals act on tags. Use it in the gateway's event loop.

    A sample that is the value a tag has already changes nothing, as MXAccess tells changes
    only. A tag of the galaxy gets the sample as its type: rounded to a whole number, cut
    off at the range, or true from 0.5 on.

    Parameters
    ----------
    signals : mapping of str to Signal
        By tag or pattern; see :class:`mxfast.simulator.options.GatewayOptions`.
    database : TagDatabase
        The tags; they get their first samples at once.
    clock : Clock
        The gateway's time.

    Raises
    ------
    ValueError
        A key that is no tag's name, or whose tag holds no numbers.
    """

    def __init__(self, signals: Mapping[str, Signal], database: TagDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._began = clock.monotonic()
        self._exact = {name: each for name, each in signals.items() if not is_pattern(name)}
        self._patterns = {name: each for name, each in signals.items() if is_pattern(name)}
        self._families: dict[Hashable, _Family] = {}
        self._timers: list[Timer] = []
        self._intervals = {each.interval for each in signals.values()}
        for name in self._exact:
            self._check(name)
        if signals:
            self._attach(range(len(database)))
            database.on_new = lambda tag: self._attach([tag])

    def start(self) -> None:
        """Take samples from now on."""
        for interval in sorted(self._intervals):
            self._timers.append(self._clock.every(interval, partial(self._tick, interval)))

    def stop(self) -> None:
        """End the signals."""
        self._database.on_new = None
        for timer in self._timers:
            timer.cancel()

    def _check(self, name: str) -> None:
        try:
            tag = self._database.find(name)
        except status.MxAccessFailure as failure:
            raise ValueError(f"signals: {shown(name)} is no tag: {failure}") from failure
        if not self._holds_numbers(tag):
            raise ValueError(f"signals: the tag {shown(name)} holds no numbers")

    def _attach(self, tags: Iterable[int]) -> None:
        """Let the signals act on those of new tags that they are for."""
        joining: dict[int, tuple[Signal, list[int]]] = {}
        for tag in tags:
            signal = self._signal_of(tag)
            if signal is not None:
                joining.setdefault(id(signal), (signal, []))[1].append(tag)
        for signal, its_tags in joining.values():
            family = self._families.setdefault(signal.family, _Family(signal))
            joined = np.array(its_tags, np.intp)
            columns = family.join(signal, joined)
            self._store(joined, signal.sample(columns, self._elapsed))

    def _signal_of(self, tag: int) -> Signal | None:
        name = self._database.name(tag)
        found = self._exact.get(name)
        if found is None and self._patterns and self._holds_numbers(tag):
            fitting = (each for key, each in self._patterns.items() if matches(key, name))
            found = next(fitting, None)
        return found

    def _holds_numbers(self, tag: int) -> bool:
        return int(self._database.declared[tag]) in _NUMERIC

    @property
    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._began

    def _tick(self, interval: float) -> None:
        for family in self._families.values():
            if family.signal.interval == interval:
                self._store(*family.next(self._elapsed))

    def _store(self, tags: NDArray[np.intp], samples: Floats) -> None:
        kind, payload = _as_declared(self._database.declared[tags], samples)
        rows = np.flatnonzero(~self._database.values.is_kept(tags, kind, payload))
        if len(rows) == 0:
            return
        values = Values(
            kind[rows],
            payload[rows],
            np.full(len(rows), status.QUALITY_GOOD, np.int32),
            np.full(len(rows), self._clock.time_ns(), np.int64),
            {},
        )
        self._database.store(tags[rows], values)


class _Family:
    """The tags whose signals are sampled together: a few numpy operations for all."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self._chance = np.random.default_rng(getattr(signal, "seed", 0))
        self._tags: list[NDArray[np.intp]] = []
        self._columns: list[Columns] = []

    def join(self, signal: Signal, tags: NDArray[np.intp]) -> Columns:
        """Take in tags of one signal and return their columns."""
        columns = signal.columns(len(tags))
        self._tags.append(tags)
        self._columns.append(columns)
        return columns

    def next(self, elapsed: float) -> tuple[NDArray[np.intp], Floats]:
        """Return all tags and their next samples."""
        if len(self._tags) > 1:
            self._tags = [np.concatenate(self._tags)]
            self._columns = [
                {
                    name: np.concatenate([each[name] for each in self._columns])
                    for name in self._columns[0]
                }
            ]
        self.signal.advance(self._columns[0], self._chance)
        return self._tags[0], self.signal.sample(self._columns[0], elapsed)


def is_pattern(name: str) -> bool:
    """Tell whether a key of signals stands for more than one tag."""
    return "*" in name or "?" in name


def _as_declared(
    declared: NDArray[np.uint8], samples: Floats
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return kind and payload of samples: doubles where nothing is declared."""
    kind = np.where(declared == ANY, np.uint8(ValueKind.DOUBLE), declared)
    payload = samples.view(np.int64).copy()
    rows = np.flatnonzero(kind == ValueKind.FLOAT)
    if len(rows):
        single = np.clip(samples[rows], -_FLOAT_MAX, _FLOAT_MAX).astype(np.float32)
        payload[rows] = single.astype(np.float64).view(np.int64)
    rows = np.flatnonzero(kind == ValueKind.INT32)
    payload[rows] = np.clip(np.rint(samples[rows]), _INT32.min, _INT32.max).astype(np.int64)
    rows = np.flatnonzero(kind == ValueKind.BOOL)
    payload[rows] = samples[rows] >= 0.5
    return kind, payload
