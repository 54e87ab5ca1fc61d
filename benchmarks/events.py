"""Events one message each: what reading them costs, and whether it lasts.

    python benchmarks/events.py overhead [ROUNDS]
    python benchmarks/events.py steady [SECONDS [TAGS]]

``overhead`` reads the same messages from a server in another process with a bare grpc.aio
loop and with ``event_batches``, in turn, and compares the client's CPU time a message; both
have a channel with the same options. ``steady`` watches tags, 10,000 by default, that change
once a second, and prints each minute what came, what was lost and the client's memory.
Values are "merged" where the gateway, whose stream is behind, tells only the newest of two:
that is no loss, and on a machine that keeps up none is.
"""

import asyncio
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection

import grpc
import numpy as np

from mxfast import ClientOptions, GatewayClient, MxGatewayError, Session, create_channel
from mxfast.codec import encode_events
from mxfast.contract import GATEWAY_METHODS
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator.process import SimulatedGatewayProcess

EVENTS = 2_000  # a round and way: short, so that the two see the same machine

Context = grpc.aio.ServicerContext[bytes, bytes]


# ------------------------------------------------------------------ what reading costs


def messages() -> list[bytes]:
    """Return data changes as the gateway sends them."""
    payload = np.linspace(0, 100, EVENTS).view(np.int64)
    now = time.time_ns()
    return encode_events(
        "session-benchmark",
        pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        1,
        np.arange(1, EVENTS + 1, dtype=np.int32),
        first_sequence=1,
        gateway_timestamp=now,
        status=pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK).SerializeToString(),
        kind=np.full(EVENTS, 5, np.uint8),
        payload=payload,
        quality=np.full(EVENTS, 192, np.int32),
        source_timestamp=np.full(EVENTS, now, "datetime64[ns]"),
    )


def serve(told: Connection) -> None:
    """Serve the messages, as fast as they are read, until the process is ended."""

    class Handler(grpc.GenericRpcHandler):
        """Sends the same to all."""

        def __init__(self) -> None:
            self._messages = messages()

        def service(
            self, details: grpc.HandlerCallDetails
        ) -> "grpc.RpcMethodHandler[bytes, bytes]":
            """Return the one method that is used."""
            return grpc.unary_stream_rpc_method_handler(self._stream)

        async def _stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
            for message in self._messages:
                yield message

    async def main() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([Handler()])
        told.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


async def bare(channel: grpc.aio.Channel) -> int:
    """Read the stream with nothing around grpc.aio."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
        GATEWAY_METHODS["StreamEvents"]
    )
    call = method(b"")
    count = 0
    while await call.read() is not grpc.aio.EOF:
        count += 1
    return count


async def batches(client: GatewayClient) -> int:
    """Read the stream as columns."""
    session = Session(client._transport, client.options, "session-benchmark")
    return sum([len(batch) async for batch in session.event_batches()])


async def overhead(rounds: int) -> None:
    """Compare the two, in turn."""
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(tells,), daemon=True)
    server.start()
    endpoint = f"127.0.0.1:{told.recv()}"
    spent: dict[str, list[float]] = {"bare grpc.aio": [], "event_batches": []}
    async with (
        create_channel(ClientOptions(endpoint, plaintext=True)) as channel,
        await GatewayClient.connect(endpoint=endpoint, plaintext=True) as client,
    ):
        for number in range(rounds + 1):
            for way, figures in spent.items():
                before = time.process_time()
                count = await (bare(channel) if way == "bare grpc.aio" else batches(client))
                if count != EVENTS:
                    raise SystemExit(f"{way} read {count} of {EVENTS} messages")
                if number:  # the first round warms up
                    figures.append((time.process_time() - before) / EVENTS * 1e6)
    server.terminate()
    for way, figures in spent.items():
        print(f"{way:16}{statistics.median(figures):8.2f} us CPU a message")
    ratios = [ours / theirs for theirs, ours in zip(*spent.values(), strict=True)]
    print(
        f"event_batches / bare: median {statistics.median(ratios):.3f}, "
        f"{min(ratios):.3f} to {max(ratios):.3f} in {rounds} rounds"
    )


# ------------------------------------------------------------------ whether it lasts


async def write_each_second(
    endpoint: str, api_key: str | None, seconds: float, tags: list[str]
) -> None:
    """Write the number of the second to all tags."""
    async with (
        await GatewayClient.connect(endpoint=endpoint, api_key=api_key, plaintext=True) as client,
        await client.open_session("writer") as session,
    ):
        items = await session.subscribe(await session.register("writer"), tags)
        began = time.monotonic()
        for second in range(1, int(seconds) + 1):
            await asyncio.sleep(max(0.0, began + second - time.monotonic()))
            values = np.full(len(tags), float(second))
            (await session.write_array(items.server_handle, items, values)).raise_for_failure()


def writer(endpoint: str, api_key: str | None, seconds: float, tags: list[str]) -> None:
    """Write in a process of its own."""
    asyncio.run(write_each_second(endpoint, api_key, seconds, tags))


def memory_mb() -> float:
    """Return the memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


async def watch(session: Session, seconds: float, tags: list[str]) -> None:
    """Take the events and print what came, once a minute."""
    events = session.event_batches(overflow="error")
    items = await session.subscribe(await session.register("watcher"), tags)
    newest, done = np.zeros(len(tags)), False
    count = gaps = dropped = merged = 0
    began, cpu, printed = time.monotonic(), time.process_time(), 0
    print("minute     events  gaps  dropped   merged   memory    CPU")
    async for batch in events:
        count += len(batch)
        gaps += batch.gap
        dropped += batch.dropped
        # A value is the second it was written in: of each tag none may be missing.
        rows = items.rows_of(batch)
        order = np.argsort(rows, kind="stable")
        row, value = rows[order], batch.value[order]
        first = np.concatenate([[True], row[1:] != row[:-1]])
        before = np.where(first, newest[row], np.concatenate([[0.0], value[:-1]]))
        merged += int(np.maximum(value - before - 1, 0).sum())
        newest[row] = value  # of equal rows the last stays
        passed = time.monotonic() - began
        done = bool((newest == int(seconds)).all())
        if passed // 60 > printed or done or passed > seconds + 60:
            printed = int(passed // 60)
            share = (time.process_time() - cpu) / passed
            print(
                f"{passed / 60:6.1f} {count:10,} {gaps:5} {dropped:8} {merged:8} "
                f"{memory_mb():7.1f} MB {share:5.0%}",
                flush=True,
            )
            if done or passed > seconds + 60:
                break
    await events.aclose()
    expected = len(tags) * (int(seconds) + 1)  # each tag's first value too
    print(f"{count:,} events + {merged:,} merged by the gateway, of {expected:,} values")
    if gaps or dropped or count + merged != expected:
        raise SystemExit("events were lost")


async def steady(seconds: float, count: int) -> None:
    """Watch tags that another process writes, over a gateway in a third."""
    tags = [f"Tank{n}.Level" for n in range(count)]
    async with SimulatedGatewayProcess() as gateway:
        context = multiprocessing.get_context("spawn")
        async with (
            await GatewayClient.connect(
                endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
            ) as client,
            await client.open_session("watcher") as session,
        ):
            other = context.Process(
                target=writer, args=(gateway.endpoint, gateway.api_key, seconds, tags), daemon=True
            )
            other.start()
            try:
                await watch(session, seconds, tags)
            finally:
                other.terminate()


def main() -> None:
    """Run what the command line asks for."""
    what, *given = sys.argv[1:] or ["overhead"]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        if what == "steady":
            seconds, count = [*map(int, given), *(600, 10_000)[len(given) :]]
            asyncio.run(steady(seconds, count))
        else:
            asyncio.run(overhead(int(given[0]) if given else 60))
    except MxGatewayError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
