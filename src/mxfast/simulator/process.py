"""The simulated gateway in a child process."""

import asyncio
from types import TracebackType
from typing import Self

from mxfast.simulator.child import Child
from mxfast.simulator.options import GatewayOptions


class SimulatedGatewayProcess(GatewayOptions):
    """A :class:`SimulatedGateway` in a child process, as a context manager.

    Works with ``with`` and ``async with``. The child ends with the context, and also
    when this process dies. Ctrl-C in a terminal does not reach it: whoever started it
    ends it.

    Its options are those of :class:`GatewayOptions`, but for the clock.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._line = self.to_json()
        self._endpoint: str | None = None
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        """Where the gateway listens, as ``host:port``.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        if self._endpoint is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._endpoint

    @property
    def pid(self) -> int:
        """The child's process id.

        Raises
        ------
        RuntimeError
            Outside the context.
        """
        if self._child is None:
            raise RuntimeError("the simulated gateway is not running; enter its context first")
        return self._child.pid

    def __enter__(self) -> Self:
        child = self._start()
        try:
            self._endpoint = child.ask(self._line)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        child = self._start()
        try:
            self._endpoint = await asyncio.to_thread(child.ask, self._line)
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._stop)

    def _start(self) -> Child:
        if self._child is not None:
            raise RuntimeError("the simulated gateway is running already")
        self._child = Child("mxfast.simulator", "--child")
        return self._child

    def _stop(self) -> None:
        child, self._child, self._endpoint = self._child, None, None
        if child is not None:
            child.stop()
