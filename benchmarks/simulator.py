"""What the simulated gateway costs, against servers that do nothing.

    python benchmarks/simulator.py [ROUNDS]

Each server is a process of its own on this machine, and so is the client. A bare server is
grpc.aio with a handler that ignores the request and answers with ready-made bytes, the
same that the gateway sends. Rates are taken in turns, and the ratio is the median of the
rounds' ratios: other work on the machine slows both. The processor time a call is the
server's own, all its threads together, and less in need of an idle machine.
"""

import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import DEFAULT_API_KEY, SimulatedGatewayProcess

SERVICE = "/mxaccess_gateway.v1.MxAccessGateway/"
METADATA = (("authorization", f"Bearer {DEFAULT_API_KEY}"),)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SECONDS = 1.0
TICKS = os.sysconf("SC_CLK_TCK")

Context = grpc.aio.ServicerContext[bytes, bytes]
Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
StreamCall = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


def event_messages(session_id: str, count: int) -> list[bytes]:
    """Return data changes as the gateway encodes them."""
    status = pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK)
    return codec.encode_events(
        session_id,
        pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        1,
        np.arange(1, count + 1, dtype=np.int32),
        first_sequence=1,
        gateway_timestamp=time.time_ns(),
        status=status.SerializeToString(),
        kind=np.full(count, codec.ValueKind.DOUBLE, np.uint8),
        payload=np.random.default_rng(1).standard_normal(count).view(np.int64),
        quality=np.full(count, 192, np.int32),
        source_timestamp=np.full(count, time.time_ns()),
    )


# ---------------------------------------------------------------- the bare server


async def serve_bare(entries: int) -> None:
    """Answer every call with ready-made bytes, until stdin ends."""
    handles = np.arange(1, entries + 1, dtype=np.int32)
    session_id = "session-" + "0" * 32
    kind = pb.MX_COMMAND_KIND_WRITE_BULK
    reply = codec.encode_write_reply(session_id, "", kind, 1, handles)
    events = event_messages(session_id, 512)

    async def answer(request: bytes, context: Context) -> bytes:
        return reply

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        while True:
            for event in events:
                yield event

    class Handler(grpc.GenericRpcHandler):
        def service(
            self, details: grpc.HandlerCallDetails
        ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
            if details.method.endswith("StreamEvents"):
                return grpc.unary_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


class BareServer:
    """The bare server in a process of its own."""

    def __init__(self, entries: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--bare", str(entries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        self.endpoint = self._child.stdout.readline().strip()
        self.pid = self._child.pid

    def __enter__(self) -> "BareServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate("")


# ---------------------------------------------------------------- the client


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Client:
    """A session with some items, by raw calls."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.aio.insecure_channel(endpoint, options=OPTIONS)
        self.invoke: Call = self.channel.unary_unary(f"{SERVICE}Invoke")
        self.session_id = "session-" + "0" * 32
        self.server = 0

    async def open(self) -> None:
        """Open the session and register."""
        opening: Call = self.channel.unary_unary(f"{SERVICE}OpenSession")
        reply = pb.OpenSessionReply.FromString(await opening(b"", metadata=METADATA))
        self.session_id = reply.session_id
        registered = await self.command("register", pb.RegisterCommand())
        self.server = registered.register.server_handle

    async def command(self, name: str, payload: object) -> pb.MxCommandReply:
        """Send one command."""
        kind = pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name.upper()}")
        command = pb.MxCommand(kind=kind, **{name: payload})  # type: ignore[arg-type]
        request = pb.MxCommandRequest(session_id=self.session_id, command=command)
        data = await self.invoke(request.SerializeToString(), metadata=METADATA)
        return pb.MxCommandReply.FromString(data)

    async def add(self, name: str, count: int) -> list[int]:
        """Add items, or advise them too."""
        tags = [f"Tank{n}.Level" for n in range(count)]
        asked = {"server_handle": self.server, "tag_addresses": tags}
        if name == "subscribe_bulk":
            reply = await self.command(name, pb.SubscribeBulkCommand(**asked))  # type: ignore[arg-type]
            return [each.item_handle for each in reply.subscribe_bulk.results]
        reply = await self.command(name, pb.AddItemBulkCommand(**asked))  # type: ignore[arg-type]
        return [each.item_handle for each in reply.add_item_bulk.results]


async def write_rate(client: Client, request: bytes, seconds: float) -> int:
    """Write again and again, two requests under way; return how often."""
    count = 0
    end = time.perf_counter() + seconds

    async def write() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await client.invoke(request, metadata=METADATA)
            count += 1

    await asyncio.gather(write(), write())
    return count


async def event_rate(client: Client, seconds: float) -> int:
    """Read the event stream; return how many came."""
    streaming: StreamCall = client.channel.unary_stream(f"{SERVICE}StreamEvents")
    request = pb.StreamEventsRequest(session_id=client.session_id)
    stream = streaming(request.SerializeToString(), metadata=METADATA)
    await stream.initial_metadata()
    for _ in range(1000):  # the first of all
        await stream.read()
    count = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            await stream.read()
        count += 100
    stream.cancel()
    return count


async def in_turns(
    rounds: int, pids: tuple[int, int], *rates: Callable[[], Awaitable[int]]
) -> tuple[list[list[float]], list[list[float]]]:
    """Measure two rates in turns; return calls a second, and the servers' seconds a call."""
    speeds: list[list[float]] = [[], []]
    costs: list[list[float]] = [[], []]
    for _ in range(rounds):
        for which, (pid, rate) in enumerate(zip(pids, rates, strict=True)):
            before, start = cpu_seconds(pid), time.perf_counter()
            count = await rate()
            speeds[which].append(count / (time.perf_counter() - start))
            costs[which].append((cpu_seconds(pid) - before) / count)
    return speeds, costs


def report(title: str, unit: int, speeds: list[list[float]], costs: list[list[float]]) -> None:
    """Print a comparison: gateway first, bare server second."""
    ratios = [gateway / bare for gateway, bare in zip(*speeds, strict=True)]
    cost = [statistics.median(each) * 1e6 for each in costs]
    print(
        f"{title:28}{statistics.median(speeds[0]) * unit:14,.0f}/s"
        f"{statistics.median(speeds[1]) * unit:14,.0f}/s"
        f"{statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        f"{cost[0]:10,.0f}{cost[1]:8,.0f} us"
    )


async def compare_writes(entries: int, rounds: int) -> None:
    """Compare bulk writes of so many entries."""
    with SimulatedGatewayProcess() as gateway, BareServer(entries) as bare:
        ours, theirs = Client(gateway.endpoint), Client(bare.endpoint)
        await ours.open()
        handles = await ours.add("add_item_bulk", entries)
        request = codec.encode_write_bulk(
            ours.session_id, ours.server, handles, np.linspace(0.0, 1.0, entries)
        )
        speeds, costs = await in_turns(
            rounds,
            (gateway.pid, bare.pid),
            lambda: write_rate(ours, request, SECONDS),
            lambda: write_rate(theirs, request, SECONDS),
        )
        report(f"values, {entries:,} a write", entries, speeds, costs)


async def compare_events(rounds: int) -> None:
    """Compare event streams; a second session changes more tags than can be told."""
    count = 10_000
    with SimulatedGatewayProcess(update_interval=0.05) as gateway, BareServer(1) as bare:
        ours, theirs, writer = (
            Client(gateway.endpoint),
            Client(bare.endpoint),
            Client(gateway.endpoint),
        )
        await ours.open()
        await writer.open()
        await ours.add("subscribe_bulk", count)
        handles = await writer.add("add_item_bulk", count)
        request = codec.encode_write_bulk(
            writer.session_id, writer.server, handles, np.linspace(0.0, 1.0, count)
        )

        async def read_ours() -> int:
            async def change() -> None:
                while True:
                    await writer.invoke(request, metadata=METADATA)
                    await asyncio.sleep(0.25)

            changing = asyncio.create_task(change())
            try:
                return await event_rate(ours, SECONDS)
            finally:
                changing.cancel()

        speeds, costs = await in_turns(
            rounds,
            (gateway.pid, bare.pid),
            read_ours,
            lambda: event_rate(theirs, SECONDS),
        )
        report("events", 1, speeds, costs)


async def measure_memory() -> None:
    """Tell what a million tags cost."""
    with SimulatedGatewayProcess() as empty:
        least = resident_bytes(empty.pid)
    names = (f"Area{n % 100}.Tank{n // 100}.Level" for n in range(1_000_000))
    with SimulatedGatewayProcess(tags=names) as gateway:
        client = Client(gateway.endpoint)
        await client.open()
        most = resident_bytes(gateway.pid)
    print(f"1,000,000 tags: {most / 1e6:,.0f} MB, a gateway without any {least / 1e6:,.0f} MB")


async def measure_sessions() -> None:
    """Tell how long 64 sessions at once take to open and write."""
    with SimulatedGatewayProcess() as gateway:
        clients = [Client(gateway.endpoint) for _ in range(64)]
        start = time.perf_counter()
        await asyncio.gather(*(client.open() for client in clients))
        added = await asyncio.gather(*(client.add("subscribe_bulk", 100) for client in clients))
        print(
            f"64 sessions opened, 100 items each: {time.perf_counter() - start:.2f} s, "
            f"{sum(len(each) for each in added):,} items"
        )


async def main(rounds: int) -> None:
    """Print all figures."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':28}{'gateway':>16}{'bare server':>16}{'ratio':>8}{'':16}{'server CPU a call':>18}")
    await compare_writes(1_000, rounds)
    await compare_writes(50_000, rounds)
    await compare_events(rounds)
    await measure_memory()
    await measure_sessions()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(serve_bare(int(sys.argv[2])))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
