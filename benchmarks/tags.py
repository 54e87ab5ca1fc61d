"""Subscribing and reading many tags: time and client CPU a tag, against lists of messages.

    python benchmarks/tags.py [TAGS [RUNS]]

The simulated gateway runs in a process of its own on the same machine. Each run opens a session
for each way, in turn: `subscribe` and `read_array`, and the commands that give protobuf messages
(`subscribe_bulk` and `read_bulk`, split by hand), of which a few fields are read. The gateway
makes most of the time that passes: a client's own figure is its CPU.
"""

import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np

from mxfast import MAX_BULK_ITEMS, GatewayClient, Session, from_mx_value
from mxfast.simulator import SimulatedGatewayProcess

Way = Callable[[Session, int, list[str], int], Awaitable[object]]


async def subscribe(session: Session, server: int, tags: list[str], size: int) -> object:
    """Subscribe into `Items`."""
    items = await session.subscribe(server, tags)
    assert items.ok.all()
    return items


async def read_array(session: Session, server: int, tags: list[str], size: int) -> object:
    """Read into columns."""
    read = await session.read_array(server, tags)
    assert read.ok.all()
    return read.value


async def subscribe_bulk(session: Session, server: int, tags: list[str], size: int) -> object:
    """Subscribe into lists of messages, and make an array of handles."""
    handles = []
    for start in range(0, len(tags), size):
        for result in await session.subscribe_bulk(server, tags[start : start + size]):
            assert result.was_successful
            handles.append(result.item_handle)
    return np.array(handles)


async def read_bulk(session: Session, server: int, tags: list[str], size: int) -> object:
    """Read into lists of messages, and make arrays of values, qualities and times."""
    rows = []
    for start in range(0, len(tags), size):
        for result in await session.read_bulk(server, tags[start : start + size]):
            assert result.was_successful
            seconds = result.source_timestamp.seconds
            rows.append((from_mx_value(result.value), result.quality, seconds))
    return np.array(rows)


WAYS: list[Way] = [subscribe, read_array, subscribe_bulk, read_bulk]


async def measure(tags: list[str], runs: int, size: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds and CPU seconds of every run, by way."""
    figures: dict[str, list[tuple[float, float]]] = {way.__name__: [] for way in WAYS}
    async with (
        SimulatedGatewayProcess() as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint,
            api_key=gateway.api_key,
            plaintext=True,
            max_bulk_items=size,
        ) as client,
    ):
        for run in range(runs + 1):
            for ways in (WAYS[:2], WAYS[2:]):
                async with await client.open_session() as session:
                    server = await session.register("benchmark")
                    for way in ways:
                        started, cpu = time.perf_counter(), time.process_time()
                        await way(session, server, tags, size)
                        seconds = time.perf_counter() - started
                        if run:  # the first run makes the tags
                            used = time.process_time() - cpu
                            figures[way.__name__].append((seconds, used))
    return figures


def main() -> None:
    """Print medians for requests of the default size and for all tags in one."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    tags = [f"Area1.Tank{number:05}.Level" for number in range(count)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{count:,} tags, medians of {runs} runs")
    for size in (MAX_BULK_ITEMS, count):
        print(f"\n{f'{size:,} tags a request':24}{'seconds':>12}{'CPU us a tag':>16}")
        for name, figures in asyncio.run(measure(tags, runs, size)).items():
            seconds, cpu = map(statistics.median, zip(*figures, strict=True))
            print(f"{name:24}{seconds:12.2f}{cpu / count * 1e6:16.2f}")


if __name__ == "__main__":
    main()
