"""A CSV file of measurements as arrays: times in the first column, a tag in each other one."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxfast.csv_file import read_rows

FIRST_YEAR, LAST_YEAR = 1678, 2261  # what datetime64[ns] holds whole


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes
    ----------
    columns : list of str
        The header without its first cell.
    times : ndarray of datetime64[ns], shape (rows,)
        UTC; a time without an offset is taken for UTC.
    values : ndarray of float64, shape (rows, columns)
    """

    columns: list[str]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]


def read_table(path: Path, separator: str) -> Table:
    """Read a whole file and check every cell.

    Raises
    ------
    ValueError
        A cell that is no number or no time, a row of another length, a header without
        tags: named by file, line and column.
    """
    times: list[np.datetime64] = []
    rows: list[list[float]] = []
    lines = read_rows(path, separator)
    _, header = next(lines, (1, []))
    if len(header) < 2:
        raise ValueError(
            f"{path}, line 1: the header has {len(header)} column(s): "
            f"a time and at least one tag are needed; is {separator!r} the separator?"
        )
    columns = [name.strip() for name in header[1:]]
    if "" in columns or len(set(columns)) < len(columns):
        raise ValueError(f"{path}, line 1: a tag's name is empty or stands twice")
    for line, cells in lines:
        if not cells:
            continue
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
        times.append(parse_time(cells[0], f"{where}, column {header[0]!r}"))
        rows.append(
            [
                parse_number(cell, where, column)
                for cell, column in zip(cells[1:], columns, strict=True)
            ]
        )
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    return Table(columns, np.array(times, "datetime64[ns]"), np.array(rows))


def parse_number(cell: str, where: str, column: str) -> float:
    """Return a finite number, or raise naming the cell."""
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}, column {column!r}: {cell[:40]!r} is no finite number")
    return number


def parse_time(cell: str, where: str) -> np.datetime64:
    """Return an ISO 8601 time, or raise naming the cell."""
    text = cell.strip()
    try:
        if text.endswith("Z") or "+" in text or text.rfind("-") > text.find(":") > 0:
            moment = datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
            time = np.datetime64(moment, "us")
        else:
            time = np.datetime64(text)
        year = int(time.astype("datetime64[Y]").astype(np.int64)) + 1970
    except ValueError:
        raise ValueError(f"{where}: {cell[:40]!r} is no ISO 8601 time") from None
    if np.isnat(time) or not FIRST_YEAR <= year <= LAST_YEAR:
        raise ValueError(f"{where}: {cell[:40]!r} is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return time
