"""What the values of tags can do by themselves: the signals of a simulated plant.

Give them to a gateway by tag, ``signals={"Tank1.Level": Sine(period=10)}``. In text, as
``mxfast simulate --signal`` takes them, a signal is its name and its fields:
``Tank1.Level=sine:period=10,amplitude=5``.
"""

import math
import os
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxfast.checks import path_text, shown
from mxfast.csv_file import read_rows
from mxfast.simulator import described

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
"""A signal's fields and its state, one row a tag."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What all signals have in common.

    Parameters
    ----------
    interval : float, default 1
        Seconds between two samples, above 0.
    """

    interval: float = 1.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, float) and not math.isfinite(value):
                raise ValueError(f"signal {self.name()}: {each.name} is {value}, not finite")
        self._check_positive("interval")

    @classmethod
    def name(cls) -> str:
        """Return the signal's name in text."""
        return next(name for name, kind in SIGNALS.items() if kind is cls)

    def to_fields(self) -> dict[str, Any]:
        """Return the signal for JSON: its name as ``signal``, and its fields."""
        return {"signal": self.name(), **asdict(self)}

    @property
    def family(self) -> Hashable:
        """Signals of one family are sampled together."""
        return type(self), self.interval

    def columns(self, count: int) -> Columns:
        """Return the fields, and the state at the beginning, for so many tags."""
        numbers = (each.name for each in fields(self) if isinstance(each.default, float))
        return {name: np.full(count, float(getattr(self, name))) for name in numbers}

    def advance(self, of: Columns, chance: np.random.Generator) -> None:
        """Go on to the next sample; what depends on the time alone has nothing to do."""

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return the present sample of each tag of the family.

        Parameters
        ----------
        of : dict of str to array
            The family's columns.
        elapsed : float
            Seconds since the gateway began.
        """
        raise NotImplementedError

    def _check_positive(self, name: str) -> None:
        if (value := getattr(self, name)) <= 0:
            raise ValueError(f"signal {self.name()}: {name} is {value}, not above 0")


@dataclass(frozen=True, kw_only=True)
class Constant(Signal):
    """One value; what a client writes lasts until the next sample.

    Parameters
    ----------
    value : float, default 0
        The value.
    interval : float, default 1
        As :class:`Signal`.
    """

    value: float = 0.0

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return the values."""
        return of["value"]


@dataclass(frozen=True, kw_only=True)
class Ramp(Signal):
    """From one value to another in a straight line, and then again from the first.

    Parameters
    ----------
    low, high : float, default 0 and 100
        Where it begins and where it ends; it may fall.
    period : float, default 60
        Seconds that it takes.
    interval : float, default 1
        As :class:`Signal`.
    """

    low: float = 0.0
    high: float = 100.0
    period: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("period")

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return where each ramp is."""
        samples: Floats = of["low"] + (of["high"] - of["low"]) * (elapsed / of["period"] % 1)
        return samples


@dataclass(frozen=True, kw_only=True)
class Sine(Signal):
    """A sine wave.

    Parameters
    ----------
    mean : float, default 0
        Its middle.
    amplitude : float, default 1
        How far it goes up and down from there.
    period : float, default 60
        Seconds of a whole wave.
    phase : float, default 0
        Where it begins, as a part of the wave: 0.25 is the top.
    interval : float, default 1
        As :class:`Signal`.
    """

    mean: float = 0.0
    amplitude: float = 1.0
    period: float = 60.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("period")

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return where each wave is."""
        turns = elapsed / of["period"] + of["phase"]
        samples: Floats = of["mean"] + of["amplitude"] * np.sin(2 * np.pi * turns)
        return samples


@dataclass(frozen=True, kw_only=True)
class RandomWalk(Signal):
    """Random steps, each tag its own, the same again for the same seed and order of tags.

    Parameters
    ----------
    start : float, default 50
        The first value.
    step : float, default 1
        The longest step up or down.
    low, high : float, default 0 and 100
        Bounds it does not leave.
    seed : int, default 0
        Of the random numbers.
    interval : float, default 1
        As :class:`Signal`.
    """

    start: float = 50.0
    step: float = 1.0
    low: float = 0.0
    high: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low <= self.start <= self.high:
            raise ValueError(
                f"signal {self.name()}: start is {self.start}, not {self.low} to {self.high}"
            )
        if self.seed < 0:
            raise ValueError(f"signal {self.name()}: seed is {self.seed}, not 0 or more")

    @property
    def family(self) -> Hashable:
        """Walks of one seed share its random numbers."""
        return type(self), self.interval, self.seed

    def columns(self, count: int) -> Columns:
        """Return the fields, and where each walk is."""
        return {**super().columns(count), "value": np.full(count, float(self.start))}

    def advance(self, of: Columns, chance: np.random.Generator) -> None:
        """Take a step."""
        steps = chance.uniform(-1, 1, len(of["value"])) * of["step"]
        of["value"] = np.clip(of["value"] + steps, of["low"], of["high"])

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return where each walk is."""
        return of["value"]


@dataclass(frozen=True, kw_only=True)
class FromFile(Signal):
    """A column of a CSV file, row by row from when the tag is first there.

    Parameters
    ----------
    path : str or path
        The file; its first line is a header.
    column : str
        Which column, by its header.
    separator : str, default ","
        Between the cells; in text ``comma``, ``semicolon`` or ``tab``.
    loop : bool, default True
        Whether the first row follows the last one; else the last value stays.
    interval : float, default 1
        As :class:`Signal`: seconds between two rows.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        No such column, no rows, or a cell that is no finite number: named by file, line
        and column.
    TypeError
        A path that is none.
    """

    path: str | os.PathLike[str] = ""
    column: str = ""
    separator: str = ","
    loop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "path", path_text(self.path, f"signal {self.name()}: path"))
        separator = _SEPARATORS.get(self.separator, self.separator)
        if len(separator) != 1:
            raise ValueError(
                f"signal {self.name()}: separator is {shown(self.separator)}, neither one "
                f"character nor {', '.join(_SEPARATORS)}"
            )
        object.__setattr__(self, "separator", separator)
        _ = self.series  # read now, so that whoever names a bad file is told

    @cached_property
    def series(self) -> Floats:
        """The column's numbers, read once."""
        return _read_column(os.fspath(self.path), self.column, self.separator)

    @property
    def family(self) -> Hashable:
        """Only tags of the same column go together."""
        return self

    def columns(self, count: int) -> Columns:
        """Return the row that each tag is at."""
        return {"row": np.zeros(count, np.intp)}

    def advance(self, of: Columns, chance: np.random.Generator) -> None:
        """Go on to the next row."""
        last = len(self.series) - 1
        past_end = 0 if self.loop else last
        of["row"] = np.where(of["row"] < last, of["row"] + 1, past_end)

    def sample(self, of: Columns, elapsed: float) -> Floats:
        """Return the row's number."""
        samples: Floats = self.series[of["row"]]
        return samples


_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}

SIGNALS: dict[str, type[Signal]] = {
    "constant": Constant,
    "ramp": Ramp,
    "sine": Sine,
    "walk": RandomWalk,
    "file": FromFile,
}
"""The signals there are, by their names in text."""


def signal_from_text(text: str) -> Signal:
    """Return the signal that a text names, such as ``"sine:period=10,amplitude=5"``.

    Raises
    ------
    OSError
        A file that cannot be read.
    ValueError
        No such signal or field, or a value that it cannot have.
    """
    return described.from_text("signal", SIGNALS, text)


def signal_from_fields(given: Mapping[str, Any]) -> Signal:
    """Return the signal that :meth:`Signal.to_fields` wrote.

    Raises
    ------
    OSError, ValueError
        As :func:`signal_from_text`.
    """
    rest = dict(given)
    return described.from_fields("signal", SIGNALS, rest.pop("signal"), rest)


def _read_column(path: str, column: str, separator: str) -> Floats:
    rows = read_rows(path, separator)
    _, names = next(rows, (1, []))
    header = [name.strip() for name in names]
    if header.count(column) != 1:
        raise ValueError(
            f"{path}, line 1: {header.count(column)} columns are called {shown(column)}; "
            f"there are {', '.join(header)[:200] or 'none'}"
        )
    at = header.index(column)
    numbers = []
    for line, cells in rows:
        if not cells:
            continue
        cell = cells[at] if at < len(cells) else ""
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"{path}, line {line}, column {shown(column)}: {shown(cell)} is no finite number"
            )
        numbers.append(number)
    if not numbers:
        raise ValueError(f"{path}: no rows below the header")
    return np.array(numbers)
