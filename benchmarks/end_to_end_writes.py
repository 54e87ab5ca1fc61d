"""Array writes against a simulated gateway in another process, beside bare grpc.aio loops.

    python benchmarks/end_to_end_writes.py [--rounds N] [--million-values M]

Every way of writing takes its turn in each round, so that a machine whose speed drifts is
equally good or bad to all; the ratios are medians over the rounds. Client CPU is that of this
process, gRPC's threads included.
"""

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from mxfast import GatewayClient, Session, threads
from mxfast.auth import authorization
from mxfast.codec import encode_write_bulk
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGatewayProcess

INVOKE = GATEWAY_METHODS["Invoke"]

Way = Callable[[], Awaitable[None]]


class Plant(NamedTuple):
    """A session with items to write to, and a bare channel to the same gateway."""

    session: Session
    server: int
    handles: NDArray[np.int32]
    values: NDArray[np.float64]
    call: Callable[[bytes], Awaitable[bytes]]

    def request(self, rows: int) -> bytes:
        return encode_write_bulk(
            self.session.session_id, self.server, self.handles[:rows], self.values[:rows]
        )


class Cost(NamedTuple):
    """What one turn took."""

    values_per_second: float
    cpu_ns: float


async def open_plant(
    stack: AsyncExitStack,
    max_bulk_items: int,
    *,
    items: int = 50_000,
    max_message_bytes: int = 2**24,
) -> Plant:
    gateway = stack.enter_context(
        SimulatedGatewayProcess(update_interval=0, max_message_bytes=max_message_bytes)
    )
    client = await stack.enter_async_context(
        await GatewayClient.connect(
            endpoint=gateway.endpoint,
            api_key=gateway.api_key,
            plaintext=True,
            max_bulk_items=max_bulk_items,
            max_message_bytes=max_message_bytes,
        )
    )
    session = await stack.enter_async_context(await client.open_session())
    server = await session.register("benchmark")
    handles: list[int] = []
    for first in range(0, items, 1000):
        tags = [f"Bench.V{number}" for number in range(first, first + 1000)]
        handles += [each.item_handle for each in await session.add_item_bulk(server, tags)]
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(gateway.endpoint, options=limits)
    )
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INVOKE)
    metadata = grpc.aio.Metadata(*authorization(gateway.api_key))

    async def call(request: bytes) -> bytes:
        return await method(request, metadata=metadata)

    values = np.random.default_rng(1).standard_normal(items)
    return Plant(session, server, np.array(handles, np.int32), values, call)


# ---------------------------------------------------------------- ways of writing


def bare_loop(plant: Plant, request: bytes, requests: int, in_flight: int = 1) -> Way:
    """Send ready-made bytes and read the reply."""

    async def way() -> None:
        waiting: deque[asyncio.Future[bytes]] = deque()
        for _ in range(requests):
            if len(waiting) == in_flight:
                await waiting.popleft()
            waiting.append(asyncio.ensure_future(plant.call(request)))
        while waiting:
            await waiting.popleft()

    async def one_by_one() -> None:
        for _ in range(requests):
            await plant.call(request)

    return way if in_flight > 1 else one_by_one


def protobuf_loop(plant: Plant, rows: int, requests: int) -> Way:
    """The same with messages of the protobuf runtime at both ends of the client."""
    handles, values = plant.handles[:rows].tolist(), plant.values[:rows].tolist()

    async def way() -> None:
        for _ in range(requests):
            request = pb.MxCommandRequest(session_id=plant.session.session_id)
            request.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
            request.command.write_bulk.server_handle = plant.server
            add = request.command.write_bulk.entries.add
            for handle, value in zip(handles, values, strict=True):
                entry = add(item_handle=handle)
                entry.value.data_type = pb.MX_DATA_TYPE_DOUBLE
                entry.value.variant_type = "VT_R8"
                entry.value.double_value = value
            reply = pb.MxCommandReply.FromString(await plant.call(request.SerializeToString()))
            assert all(each.was_successful for each in reply.write_bulk.results)

    return way


def write_array_calls(plant: Plant, rows: int, requests: int) -> Way:
    """One call of write_array a request."""
    handles, values = plant.handles[:rows], plant.values[:rows]

    async def way() -> None:
        for _ in range(requests):
            assert (await plant.session.write_array(plant.server, handles, values)).ok

    return way


def write_array_once(plant: Plant, rows: int, requests: int) -> Way:
    """One call of write_array for all; of its requests two are under way at a time."""
    total = rows * requests
    handles, values = np.resize(plant.handles, total), np.resize(plant.values, total)

    async def way() -> None:
        result = await plant.session.write_array(plant.server, handles, values)
        assert result.ok
        assert result.requests == requests

    return way


def prepared_calls(plant: Plant, rows: int, requests: int) -> Way:
    """One prepared write a request."""
    prepared = plant.session.prepare_write(plant.server, plant.handles[:rows])
    values = plant.values[:rows]

    async def way() -> None:
        for _ in range(requests):
            assert (await prepared.write(values)).ok

    return way


# ---------------------------------------------------------------- measuring


async def cost_of(way: Way, count: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    await way()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(count / wall, cpu / count * 1e9)


async def compare(ways: dict[str, Way], count: int, rounds: int) -> None:
    """Print rate and CPU of each way, and how its rate compares with the first one's."""
    for way in ways.values():
        await way()  # the first time pays for connections, caches and lookups
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            costs[name].append(await cost_of(way, count))
    base = next(iter(costs.values()))
    print(f"{'':40}{'values/s':>14}{'CPU ns/value':>14}{'of the first':>14}")
    for name, each in costs.items():
        rate = statistics.median(cost.values_per_second for cost in each)
        cpu = statistics.median(cost.cpu_ns for cost in each)
        ratio = statistics.median(
            cost.values_per_second / first.values_per_second
            for cost, first in zip(each, base, strict=True)
        )
        print(f"{name:40}{rate:14,.0f}{cpu:14.1f}{ratio:14.2f}")


async def small_requests(rounds: int, requests: int = 200) -> None:
    """1,000 values a request."""
    async with AsyncExitStack() as stack:
        plant = await open_plant(stack, 1000)
        request = plant.request(1000)
        ways = {
            "bare loop, ready-made bytes": bare_loop(plant, request, requests),
            "bare loop, two requests under way": bare_loop(plant, request, requests, in_flight=2),
            "bare loop, protobuf runtime": protobuf_loop(plant, 1000, requests),
            "write_array, a call a request": write_array_calls(plant, 1000, requests),
            "write_array, one call": write_array_once(plant, 1000, requests),
            "prepared, a call a request": prepared_calls(plant, 1000, requests),
        }
        print(f"\n1,000 values a request, {requests} requests, {rounds} rounds")
        await compare(ways, 1000 * requests, rounds)


async def large_requests(rounds: int, requests: int = 40) -> None:
    """50,000 values a request."""
    async with AsyncExitStack() as stack:
        # Twice as many items, so that requests one after another need not wait for each other.
        plant = await open_plant(stack, 50_000, items=100_000)
        request = plant.request(50_000)
        ways = {
            "bare loop, ready-made bytes": bare_loop(plant, request, requests),
            "bare loop, two requests under way": bare_loop(plant, request, requests, in_flight=2),
            "write_array, a call a request": write_array_calls(plant, 50_000, requests),
            "write_array, one call": write_array_once(plant, 50_000, requests),
            "prepared, a call a request": prepared_calls(plant, 50_000, requests),
        }
        print(f"\n50,000 values a request, {requests} requests, {rounds} rounds")
        await compare(ways, 50_000 * requests, rounds)


async def memory_curve(millions: int) -> None:
    """Resident memory over many values written in one run."""
    async with AsyncExitStack() as stack:
        plant = await open_plant(stack, 50_000)
        way = write_array_once(plant, 50_000, 20)
        print(f"\n{millions} million values in calls of one million: resident memory in MiB")
        started = time.perf_counter()
        for done in range(millions + 1):
            if done % max(1, millions // 20) == 0:
                print(f"{done:6} million{resident_mib():9.1f}", flush=True)
            if done < millions:
                await way()
        seconds = time.perf_counter() - started
        print(f"{millions / seconds:.2f} million values a second")


async def held_loop(rows: int = 1_000_000, rounds: int = 9) -> None:
    """How long a write of one large request keeps other tasks waiting, at most.

    In CPU time of the loop's thread: what other processes take does not count.
    """
    async with AsyncExitStack() as stack:
        plant = await open_plant(stack, rows, items=1000, max_message_bytes=2**27)
        handles, values = np.resize(plant.handles, rows), np.ones(rows)
        request = encode_write_bulk(plant.session.session_id, plant.server, handles, values)

        async def write(large: int) -> None:
            threads.LARGE = large
            assert (await plant.session.write_array(plant.server, handles, values)).ok

        ways: dict[str, Way] = {
            "gRPC alone, ready-made bytes": bare_loop(plant, request, 1),
            "write_array, in threads": partial(write, threads.LARGE),
            "write_array, all on the loop": partial(write, rows + 1),
        }
        held: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                held[name].append(await longest_hold(way))
        print(f"\n{rows:,} values in one request: the event loop is held for up to, in ms")
        print(f"{'':40}{'least':>14}{'median':>14}")
        for name, each in held.items():
            print(f"{name:40}{min(each) * 1000:14.1f}{statistics.median(each) * 1000:14.1f}")


async def longest_hold(way: Way) -> float:
    """Return the longest time, in seconds of CPU, between two turns of another task."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.01)  # it beats before anything holds it
    longest = 0.0
    await way()
    heart.cancel()
    return longest


def resident_mib() -> float:
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def main() -> None:
    """Measure all and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--million-values", type=int, default=100)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    await small_requests(options.rounds)
    await large_requests(options.rounds)
    await held_loop()
    await memory_curve(options.million_values)


if __name__ == "__main__":
    asyncio.run(main())
