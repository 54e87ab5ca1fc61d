"""Many simulated gateways in one child process, for tests that want a fresh one each.

A process takes a second to start, a gateway in it some milliseconds. In a thread of the
tests' own process a gateway would be as quick, but asyncio's gRPC shares a socket between
the loops of a process, and reports as an error whenever two of them read it.
"""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

from mxfast.simulator.child import Child
from mxfast.simulator.options import GatewayOptions
from mxfast.simulator.server import SimulatedGateway


class GatewayHost:
    """A child process that runs gateways, as a context manager.

    It ends with the context, and also when this process dies. Not for several threads.
    """

    def __init__(self) -> None:
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self._child = Child("mxfast.simulator", "--host-many")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._running.pid

    def start(self, options: GatewayOptions) -> str:
        """Start a gateway and return where it listens, as ``host:port``.

        Raises
        ------
        RuntimeError
            It cannot start, or the child has ended; the message says why.
        """
        answer = json.loads(self._running.ask(options.to_json()))
        if "error" in answer:
            raise RuntimeError(f"the simulated gateway could not start: {answer['error']}")
        return str(answer["endpoint"])

    def revive(self) -> bool:
        """Start the child again if it has ended; tell whether it had, and its gateways with it."""
        if self._running.is_running:
            return False
        self._running.stop()
        self.__enter__()
        return True

    def stop(self, endpoint: str) -> None:
        """Stop a gateway.

        Raises
        ------
        RuntimeError
            There is none, it cannot stop, or the child has ended.
        """
        answer = json.loads(self._running.ask(json.dumps({"stop": endpoint})))
        if "error" in answer:
            raise RuntimeError(f"{endpoint} could not be stopped: {answer['error']}")

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError("the host is not running; enter its context first")
        return self._child


async def serve_many(lines: asyncio.StreamReader) -> None:
    """Start and stop gateways as the lines say, until they end.

    A line is what :meth:`GatewayOptions.to_json` wrote, or names an endpoint to stop.
    """
    running: dict[str, SimulatedGateway] = {}
    try:
        while line := await lines.readline():
            print(json.dumps(await _obey(line.decode(), running)), flush=True)
    finally:
        for gateway in running.values():
            await gateway.__aexit__(None, None, None)


async def _obey(line: str, running: dict[str, SimulatedGateway]) -> dict[str, Any]:
    told = json.loads(line)
    try:
        if "stop" in told:
            await running.pop(told["stop"]).__aexit__(None, None, None)
            return {}
        gateway = await SimulatedGateway.from_json(line).__aenter__()
    except (OSError, ValueError) as error:  # a port that is taken, a file that is wrong
        return {"error": str(error)}
    except Exception as error:  # whatever it is, the host's other gateways go on
        return {"error": repr(error)}
    running[gateway.endpoint] = gateway
    return {"endpoint": gateway.endpoint}
