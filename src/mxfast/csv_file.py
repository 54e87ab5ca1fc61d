"""Rows of a CSV file, whose errors name the file and the line."""

import csv
from collections.abc import Iterator
from pathlib import Path


def read_rows(path: str | Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Return the number of each row's last line, and its cells; an empty line has none.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no UTF-8, or no CSV.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator)
        begin = 1
        try:
            for cells in reader:
                yield reader.line_num, cells
                begin = reader.line_num + 1
        except csv.Error as error:  # told where the row begins: it may go on to the file's end
            raise ValueError(f"{path}, line {begin}: {error}; is a quote left open?") from error
        except UnicodeDecodeError as error:  # whose position counts from a buffer's beginning
            raise ValueError(f"{path}: it is not UTF-8: {error.reason}") from error
