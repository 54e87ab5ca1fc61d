"""The simulated gateway in a child process."""

import asyncio
import contextlib
import json
import logging
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self, TypedDict, Unpack

from mxfast.simulator.server import SimulatedGateway
from mxfast.simulator.users import Security

_log = logging.getLogger("mxfast.simulator")

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class GatewayOptions(TypedDict, total=False):
    """The keywords of :class:`SimulatedGateway`."""

    host: str
    port: int
    api_keys: Mapping[str, Iterable[str]] | None
    update_interval: float
    tags: Iterable[str] | None
    max_sessions: int
    tls: tuple[bytes, bytes] | None
    max_message_bytes: int
    event_queue_capacity: int
    secured_tags: Mapping[str, Security] | None
    users: Mapping[str, str] | None
    galaxy_objects: int
    galaxy_seed: int


class SimulatedGatewayProcess:
    """A :class:`SimulatedGateway` in a child process, as a context manager.

    Works with ``with`` and ``async with``. The child ends with the context, and also
    when this process dies. Ctrl-C in a terminal does not reach it: whoever started it
    ends it.

    Parameters
    ----------
    **options
        The keywords of :class:`SimulatedGateway`.

    Raises
    ------
    ValueError
        As :class:`SimulatedGateway`.
    """

    def __init__(self, **options: Unpack[GatewayOptions]) -> None:
        if (tags := options.get("tags")) is not None:
            options["tags"] = list(tags)
        if api_keys := options.get("api_keys"):
            options["api_keys"] = {key: list(scopes) for key, scopes in api_keys.items()}
        self._options = options
        self._api_key = SimulatedGateway(**options).api_key
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
    def api_key(self) -> str | None:
        """The first key that is accepted; None without authentication."""
        return self._api_key

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
            child.stdin.write(_to_json(self._options) + "\n")
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


def _to_json(options: GatewayOptions) -> str:
    fields: dict[str, Any] = dict(options)
    if tls := options.get("tls"):
        fields["tls"] = [part.decode("ascii") for part in tls]
    return json.dumps(fields)


def options_from_json(line: str) -> GatewayOptions:
    """Return the options that a parent wrote for its child."""
    options: GatewayOptions = json.loads(line)
    if tls := options.get("tls"):
        private_key, chain = tls
        options["tls"] = (str(private_key).encode("ascii"), str(chain).encode("ascii"))
    return options
