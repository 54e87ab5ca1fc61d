"""Prints what a put of one value costs a `BulkWriter`, however many items it has.

    python benchmarks/puts.py [ITEMS [RUNS]]

Each run puts one value to each item in random order, first as new items and then again, with a
tenth of the items, and with all. The time of a put should not depend on their number. Nothing is
sent meanwhile: what is timed does not await.
"""

import asyncio
import os
import platform
import statistics
import sys
import time
from collections import defaultdict

import numpy as np

from mxfast import GatewayClient
from mxfast.simulator import SimulatedGatewayProcess


async def main(items: int, runs: int) -> None:
    """Put in turn, and print medians and their ratio."""
    seconds: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    sizes = (items // 10, items)
    with SimulatedGatewayProcess() as gateway:
        async with (
            await GatewayClient.connect(
                endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
            ) as client,
            await client.open_session() as session,
        ):
            server = await session.register("benchmark")
            for run in range(runs):
                for size in sizes:
                    handles = (np.random.default_rng(run).permutation(size) + 1).tolist()
                    async with session.bulk_writer(server) as writer:
                        for what in ("new", "again"):
                            start = time.perf_counter()
                            for handle in handles:
                                writer.put([handle], [1.0])
                            seconds[what, size].append((time.perf_counter() - start) / size)
    print(f"{os.cpu_count()} CPUs, {platform.machine()}; medians of {runs} runs in turn")
    for what in ("new", "again"):
        few, many = (statistics.median(seconds[what, size]) for size in sizes)
        print(
            f"one item a put, {what}: {few * 1e6:.1f} us of {sizes[0]} items, "
            f"{many * 1e6:.1f} us of {sizes[1]}: {many / few:.2f} times"
        )


if __name__ == "__main__":
    asyncio.run(main(*map(int, [*sys.argv[1:], *("40000", "5")[len(sys.argv) - 1 :]])))
