"""``python -m mxfast.simulator``: the simulated gateway as a process.

Prints its endpoint as one line when it listens. Stops on SIGINT and SIGTERM. With
``--child`` it takes its options as a line of JSON from stdin, and stops also when stdin
ends, that is when its parent closes it or dies. With ``--host-many`` each line of stdin
starts a gateway more or stops one.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from mxfast.simulator.host import serve_many
from mxfast.simulator.server import SimulatedGateway

_LONGEST_LINE = 1 << 30  # a million tag names fit


async def _serve(gateway: SimulatedGateway, stop: asyncio.Event) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with gateway:
        print(gateway.endpoint, flush=True)
        await stop.wait()


async def _foreground(gateway: SimulatedGateway) -> None:
    await _serve(gateway, asyncio.Event())


async def _with_stdin(work: Callable[[asyncio.StreamReader], Awaitable[None]]) -> None:
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    try:
        await work(lines)
    finally:
        transport.close()


async def _child(lines: asyncio.StreamReader) -> None:
    stop = asyncio.Event()
    line = await lines.readline()
    if line:
        ending = asyncio.create_task(_until_end(lines, stop))
        try:
            await _serve(SimulatedGateway.from_json(line.decode()), stop)
        finally:
            ending.cancel()


async def _until_end(lines: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await lines.read()
    stop.set()


def main() -> None:
    """Run the simulated gateway until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m mxfast.simulator")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0: the system chooses")
    parser.add_argument(
        "--child", action="store_true", help="take options from stdin and stop when it ends"
    )
    parser.add_argument(
        "--host-many", action="store_true", help="start and stop gateways as lines of stdin say"
    )
    arguments = parser.parse_args()
    try:
        if arguments.child:
            asyncio.run(_with_stdin(_child))
        elif arguments.host_many:
            asyncio.run(_with_stdin(serve_many))
        else:
            asyncio.run(_foreground(SimulatedGateway(host=arguments.host, port=arguments.port)))
    except OSError as error:  # the port is taken, say; a traceback would add nothing
        sys.exit(str(error))


if __name__ == "__main__":
    main()
