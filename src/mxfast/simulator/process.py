"""The simulated gateway in a child process."""

import asyncio
import contextlib
import logging
import select
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Self

from mxfast.simulator.options import GatewayOptions

_log = logging.getLogger("mxfast.simulator")

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class SimulatedGatewayProcess(GatewayOptions):
    """A :class:`SimulatedGateway` in a child process, as a context manager.

    Works with ``with`` and ``async with``. The child ends with the context, and also
    when this process dies. Ctrl-C in a terminal does not reach it: whoever started it
    ends it.

    Its options are those of :class:`GatewayOptions`, but for the clock.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._line = self.to_json() + "\n"
        self._endpoint: str | None = None
        self._child: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

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
            self._endpoint = self._read_endpoint(child)
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
            self._endpoint = await asyncio.to_thread(self._read_endpoint, child)
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

    def _start(self) -> subprocess.Popen[str]:
        if self._child is not None:
            raise RuntimeError("the simulated gateway is running already")
        # A file, because nobody would read a pipe while the child runs.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, "-m", "mxfast.simulator", "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            process_group=0,  # a terminal sends Ctrl-C to the foreground group only
        )
        return self._child

    def _read_endpoint(self, child: subprocess.Popen[str]) -> str:
        """Hand the child its options and wait until it says where it listens."""
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            # By stdin, where neither keys nor the private key are seen in a process list.
            child.stdin.write(self._line)
            child.stdin.flush()
            if not select.select([child.stdout], [], [], _START_SECONDS)[0]:
                raise TimeoutError(
                    f"the simulated gateway did not start within {_START_SECONDS:.0f} s"
                )
            line = child.stdout.readline().strip()
        except BrokenPipeError:
            line = ""
        if not line:
            code = child.wait()
            raise RuntimeError(
                f"the simulated gateway could not start (exit code {code}):\n"
                f"{self._take_errors() or 'it said nothing'}"
            )
        return line

    def _stop(self) -> None:
        child, self._child, self._endpoint = self._child, None, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            child.stdin.close()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        if errors := self._take_errors():
            _log.warning("the simulated gateway wrote:\n%s", errors)

    def _take_errors(self) -> str:
        """Return what the child wrote to stderr, once."""
        errors, self._errors = self._errors, None
        if errors is None:
            return ""
        with errors:
            errors.seek(0)
            return errors.read().strip()
