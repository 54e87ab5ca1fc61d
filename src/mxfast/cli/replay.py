"""``mxfast replay``: a file of measurements into the gateway, with their own timestamps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mxfast import MxGatewayError, Session
from mxfast.cli.connection import Connection, connection_options
from mxfast.cli.output import print_result, progress_bar, run
from mxfast.cli.table import Table, read_table
from mxfast.cli.tags import add_items


def parse_speed(_: click.Context, parameter: click.Parameter, value: str) -> float | None:
    """Return how many times real time; None stands for ``max``."""
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise click.BadParameter(
            f"{value!r} is neither 'max' nor a number above 0", param=parameter
        )
    return speed


@dataclass
class Replay:
    """What was written and what came back."""

    file: str
    gateway: str
    table: Table
    tags: list[str]
    written: int = 0
    seconds: float = 0.0
    last_row_equal: bool = False

    def rows(self) -> dict[str, tuple[str, Any]]:
        """Return JSON keys with their labels and figures."""
        return {
            "file": ("file", self.file),
            "gateway": ("gateway", self.gateway),
            "tags": ("tags", len(self.tags)),
            "rows": ("rows", len(self.table.times)),
            "first_time": ("first time", str(self.table.times[0])),
            "last_time": ("last time", str(self.table.times[-1])),
            "values": ("values written and acknowledged", self.written),
            "seconds": ("seconds", self.seconds),
            "values_per_second": ("values a second", self.written / self.seconds),
            "last_row_equal": ("last row reads back equal", self.last_row_equal),
        }


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--sep", default=",", show_default=True, help="What separates the cells.")
@click.option(
    "--prefix",
    help="Stands before each column's name to make the tag; by default the file's name and a dot.",
)
@click.option(
    "--speed",
    metavar="max|N",
    callback=parse_speed,
    default="max",
    show_default=True,
    help="As fast as the gateway takes it, or N times real time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@connection_options
def replay(  # noqa: PLR0917 - click passes by name
    file: Path,
    sep: str,
    prefix: str | None,
    speed: float | None,
    as_json: bool,
    endpoint: str | None,
    api_key: str | None,
    plaintext: bool,
    ca_file: str | None,
    connect_timeout: float,
) -> None:
    """Write a CSV file's cells to tags, each with its own timestamp.

    The first column holds the times, the header names the tags. The whole file is checked
    before anything is sent. At the end the last row is read back; exits with 1 if it
    differs from the file's.

    \b
    Examples:
      mxfast replay history.csv
      mxfast replay loop.csv --sep ';' --prefix Rig1. --speed 10 --endpoint plant:5120
    """
    if len(sep) != 1:
        raise click.BadParameter("one character separates the cells", param_hint="--sep")
    try:
        table = read_table(file, sep)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    connection = Connection(endpoint, api_key, plaintext, ca_file, connect_timeout)
    prefix = f"{file.stem}." if prefix is None else prefix
    job = Replay(str(file), connection.name, table, [prefix + name for name in table.columns])
    run(run_replay(job, connection, speed))
    print_result("mxfast replay", job.rows(), as_json=as_json)
    if not job.last_row_equal:
        raise click.ClickException("the last row read back differs from the file's")


async def run_replay(job: Replay, connection: Connection, speed: float | None) -> None:
    """Write the table and read its last row back."""
    try:
        async with (
            connection.open() as client,
            await client.open_session("mxfast replay") as session,
        ):
            server = await session.register("mxfast replay")
            handles = await add_items(session, server, job.tags)
            # A plant resolves an item's type with its first value; a write before that fails.
            await session.read_array(server, job.tags)
            with progress_bar() as progress:
                bar = progress.add_task("writing", total=job.table.values.size)
                started = time.perf_counter()
                async for rows in due(job.table.times, speed):
                    await write_rows(
                        job,
                        session,
                        server,
                        handles,
                        rows,
                        advance=lambda n: progress.update(bar, completed=n),
                    )
                job.seconds = time.perf_counter() - started
            read = await session.read_array(server, job.tags)
            job.last_row_equal = bool(
                read.ok.all()
                and (read.value == job.table.values[-1]).all()
                and (read.source_timestamp == job.table.times[-1]).all()
            )
    except (asyncio.CancelledError, MxGatewayError):
        total = job.table.values.size
        click.echo(f"stopped: {job.written:,} of {total:,} values were acknowledged", err=True)
        raise


async def due(times: NDArray[np.datetime64], speed: float | None) -> AsyncIterator[slice]:
    """Yield the rows to write next: all at once, or as they fall due at `speed`."""
    if speed is None:
        yield slice(0, len(times))
        return
    seconds = (times - times[0]) / np.timedelta64(1, "s") / speed
    # A row that is earlier than one before it in the file is due with that one.
    seconds = np.maximum.accumulate(seconds)
    started = time.perf_counter()
    first = 0
    while first < len(times):
        await asyncio.sleep(seconds[first] - (time.perf_counter() - started))
        last = int(np.searchsorted(seconds, time.perf_counter() - started, side="right"))
        yield slice(first, max(last, first + 1))
        first = max(last, first + 1)


async def write_rows(
    job: Replay,
    session: Session,
    server: int,
    handles: NDArray[np.int32],
    rows: slice,
    *,
    advance: Callable[[int], object],
) -> None:
    """Write some of the table's rows, one after another as they stand in the file."""
    values = job.table.values[rows]
    done = job.written

    def on_progress(answered: int, _: int) -> None:
        job.written = done + answered
        advance(job.written)

    result = await session.write_array(
        server,
        np.tile(handles, len(values)),
        values.ravel(),
        timestamps=np.repeat(job.table.times[rows], len(handles)),
        on_progress=on_progress,
    )
    result.raise_for_failure()
