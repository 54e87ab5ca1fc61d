"""What single commands cost on top of gRPC, as client CPU.

    python benchmarks/unary.py [ROUNDS]

Each command is compared with a bare grpc.aio call of the same bytes: same channel, same
metadata, same deadline, to a simulated gateway in another process. Blocks of both alternate;
the process's CPU time (of all its threads) is taken for each block, and the figure is the
median of the ratios of neighbours.
"""

import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from mxfast import GatewayClient, Session, create_channel
from mxfast.auth import authorization
from mxfast.options import ClientOptions
from mxfast.simulator import SimulatedGatewayProcess

CALLS = 20
WARM_UP = 20

Call = Callable[[], Awaitable[Any]]


async def block(call: Call) -> float:
    """Return the microseconds of CPU that one of many calls takes."""
    start = time.process_time()
    for _ in range(CALLS):
        await call()
    return (time.process_time() - start) / CALLS * 1e6


async def bare_call(session: Session, call: Call, options: ClientOptions) -> Call:
    """Return a bare call that sends what ``call`` sends, on the session's own channel."""
    transport: Any = session._transport
    sent: list[tuple[str, bytes]] = []
    unary = transport.unary

    async def record(method: str, request: bytes, **keywords: Any) -> bytes:
        sent.append((method, request))
        reply: bytes = await unary(method, request, **keywords)
        return reply

    transport.unary = record
    await call()
    del transport.unary
    ((method, request),) = sent
    bare = transport._channel.unary_unary(method)
    metadata = grpc.aio.Metadata(*authorization(options.api_key))

    async def again() -> None:
        await bare(request, timeout=options.call_timeout, metadata=metadata)

    return again


async def measure(rounds: int) -> None:
    """Print each command's CPU and its ratio to the bare call's."""
    async with SimulatedGatewayProcess() as gateway:
        options = ClientOptions(gateway.endpoint, gateway.api_key, plaintext=True)
        async with (
            GatewayClient(options, channel=(channel := create_channel(options))) as client,
            channel,
            await client.open_session("benchmark") as session,
        ):
            server = await session.register("benchmark")
            tags = [f"Tank{number}.Level" for number in range(6)]
            item = await session.add_item(server, tags[0])
            more = await session.subscribe(server, [f"Tank{each}.Height" for each in range(100)])
            items = more.item_handle.tolist()
            noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
            calls: dict[str, Call] = {
                "write": lambda: session.write(server, item, 3.25),
                "add_item": lambda: session.add_item(server, tags[0]),
                "advise": lambda: session.advise(server, item),
                "ping": session.ping,
                "read_bulk, 6 tags": lambda: session.read_bulk(server, tags),
                "write, text": lambda: session.write(server, item, "text"),
                "write2": lambda: session.write2(server, item, 3.25, noon),
                "write_secured": lambda: session.write_secured(server, item, 1, 1, 3.25),
                "advise_item_bulk, 100": lambda: session.advise_item_bulk(server, items),
                "drain_events": session.drain_events,
            }
            await session.subscribe_bulk(server, tags)
            print(f"{'':24}{'bare call':>12}{'command':>12}{'ratio':>8}{'quartiles':>16}")
            for name, call in calls.items():
                bare = await bare_call(session, call, options)
                pairs = []
                for number in range(rounds + WARM_UP):
                    if number % 2:
                        pair = (await block(bare), await block(call))
                    else:
                        ours = await block(call)
                        pair = (await block(bare), ours)
                    pairs.append(pair)
                del pairs[:WARM_UP]
                ratios = [ours / theirs for theirs, ours in pairs]
                low, middle, high = statistics.quantiles(ratios, n=4)
                theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
                quartiles = f"{low:.3f}-{high:.3f}"
                print(f"{name:24}{theirs:9.1f} us{ours:9.1f} us{middle:8.3f}{quartiles:>16}")


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 401
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"medians of {rounds} rounds of {CALLS} calls, client CPU a call")
    asyncio.run(measure(rounds))


if __name__ == "__main__":
    main()
