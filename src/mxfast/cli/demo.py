"""``mxfast demo``: the main job against the simulated gateway, with its figures."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mxfast import EventStream, Items, Session
from mxfast.cli.connection import Connection
from mxfast.cli.output import print_result, progress_bar, run
from mxfast.cli.tags import add_items

SETTLE_SECONDS = 5.0
"""How long the last events may take after the last write."""


@dataclass
class Figures:
    """What the demo measures and checks."""

    tags: int
    values: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    events: int = 0
    event_seconds: float = 0.0
    dropped: int = 0
    gaps: int = 0
    requests: int = 0
    request_bytes: int = 0
    differing: int = 0
    stale: int = 0

    def rows(self) -> dict[str, tuple[str, Any]]:
        """Return JSON keys with their labels and figures."""
        return {
            "tags": ("tags", self.tags),
            "values": ("values written and acknowledged", self.values),
            "values_per_second": ("values a second", self.values / self.seconds),
            "cpu_us_per_value": (
                "client CPU, microseconds a value",
                self.cpu_seconds / self.values * 1e6,
            ),
            "events": ("events received", self.events),
            "events_per_second": ("events a second", self.events / self.event_seconds),
            "events_dropped": ("events dropped", self.dropped),
            "requests": ("write requests", self.requests),
            "request_bytes": ("bytes of write requests", self.request_bytes),
            "differing": ("tags read back different", self.differing),
            "stale": ("watched tags without their last value", self.stale),
        }

    @property
    def good(self) -> bool:
        """Whether all that was read back or watched is what was written last."""
        return not (self.differing or self.stale or self.dropped or self.gaps)


class Watcher:
    """A session that watches tags through `event_batches`.

    Attributes
    ----------
    values : float64 array
        The newest value of each tag, in the order of the tags; NaN before the first.
    events, dropped, gaps : int
        Of the stream, until now.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stream: EventStream | None = None
        self._task: asyncio.Task[None] | None = None
        self.values: NDArray[np.float64] = np.empty(0)
        self.events = 0
        self.dropped = 0
        self.gaps = 0

    async def start(self, tags: list[str]) -> None:
        """Open the stream, then subscribe: initial values sent before would be lost."""
        server = await self._session.register("mxfast demo, watcher")
        self._stream = self._session.event_batches()
        items = await self._session.subscribe(server, tags)
        items.raise_for_failure()
        self.values = np.full(len(items), np.nan)
        self._task = asyncio.create_task(self._watch(self._stream, items))
        await self.until(lambda: not np.isnan(self.values).any())

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds or no more events can be expected; say whether it does."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not condition() and time.monotonic() < deadline:
            if self._task is not None and self._task.done():
                self._task.result()  # raises what ended it
            await asyncio.sleep(0.01)
        return condition()

    async def stop(self) -> None:
        """End the stream."""
        if self._stream is not None:
            await self._stream.aclose()
        if self._task is not None:
            await self._task

    async def _watch(self, stream: EventStream, items: Items) -> None:
        async for batch in stream:
            self.values[items.rows_of(batch)] = batch.value  # of equal rows the last wins
            self.events += len(batch)
            self.dropped += batch.dropped
            self.gaps += batch.gap


@click.command()
@click.option(
    "--tags",
    default=10_000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Tags to write to.",
)
@click.option(
    "--values",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(1),
    help="Values to write in all, in cycles over the tags.",
)
@click.option(
    "--watched",
    default=1_000,
    show_default=True,
    type=click.IntRange(1),
    help="Tags that a second session watches.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(tags: int, values: int, watched: int, as_json: bool) -> None:
    """Write a million numpy values to a simulated gateway and read them back.

    Starts the gateway in a child process, writes in cycles over all tags while a second
    session watches some of them, reads every tag back and prints the figures. Exits with
    1 if one value differs from the last one written.

    \b
    Examples:
      mxfast demo
      mxfast demo --tags 500 --values 50000 --json
    """
    figures = run(run_demo(Connection(), tags, values, min(watched, tags)))
    print_result("mxfast demo", figures.rows(), as_json=as_json)
    if not figures.good:
        raise click.ClickException("what came back is not what was written last")


async def run_demo(connection: Connection, tags: int, values: int, watched: int) -> Figures:
    """Run the demo and return its figures."""
    figures = Figures(tags)
    names = [f"Demo{number // 100:03}.Value{number % 100:02}" for number in range(tags)]
    try:
        async with (
            connection.open() as client,
            await client.open_session("mxfast demo, writer") as session,
            await client.open_session("mxfast demo, watcher") as watching,
        ):
            server = await session.register("mxfast demo, writer")
            handles = await add_items(session, server, names)
            watcher = Watcher(watching)
            try:
                await watcher.start(names[:watched])
                last = await write_cycles(
                    session, server, handles, values, watcher=watcher, figures=figures
                )
            finally:
                await watcher.stop()
            read = await session.read_array(server, names)
            figures.differing = int((~read.ok | (read.value != last)).sum())
    except asyncio.CancelledError:
        click.echo(f"stopped: {figures.values:,} values were acknowledged", err=True)
        raise
    return figures


async def write_cycles(
    session: Session,
    server: int,
    handles: NDArray[np.int32],
    values: int,
    *,
    watcher: Watcher,
    figures: Figures,
) -> NDArray[np.float64]:
    """Write in cycles over the tags, wait for the last events, and return the last values."""
    rng = np.random.default_rng(1)
    last = np.zeros(len(handles))
    events_before = watcher.events
    with progress_bar() as progress:
        bar = progress.add_task("writing", total=values)
        started, cpu_started = time.perf_counter(), time.process_time()
        while figures.values < values:
            done = figures.values
            cycle = rng.standard_normal(min(len(handles), values - done))

            def advance(answered: int, _: int, done: int = done) -> None:
                figures.values = done + answered

            result = await session.write_array(
                server, handles[: len(cycle)], cycle, on_progress=advance
            )
            result.raise_for_failure()
            last[: len(cycle)] = cycle
            figures.requests += result.requests
            figures.request_bytes += result.request_bytes
            progress.update(bar, completed=figures.values)
        figures.seconds = time.perf_counter() - started
        figures.cpu_seconds = time.process_time() - cpu_started
    expected = last[: len(watcher.values)]
    await watcher.until(lambda: bool((watcher.values == expected).all()))
    figures.event_seconds = time.perf_counter() - started
    figures.events = watcher.events - events_before
    figures.stale = int((watcher.values != expected).sum())
    figures.dropped, figures.gaps = watcher.dropped, watcher.gaps
    return last
