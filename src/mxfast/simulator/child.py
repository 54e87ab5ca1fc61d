"""A child process that answers line by line, and ends with its parent."""

import contextlib
import logging
import select
import subprocess
import sys
import tempfile

_log = logging.getLogger("mxfast.simulator")

_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 5.0


class Child:
    """A Python module run as a child process.

    It ends when its stdin does: when :meth:`stop` closes it, and when this process dies.

    Parameters
    ----------
    *arguments : str
        The module and its arguments.
    """

    def __init__(self, *arguments: str) -> None:
        # A file, because nobody would read a pipe while the child runs.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            process_group=0,  # a terminal sends Ctrl-C to the foreground group only
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, line: str) -> str:
        """Write a line and return the line that answers it.

        It goes by stdin, where neither keys nor a private key are seen in a process list.

        Raises
        ------
        TimeoutError
            No answer within a minute.
        RuntimeError
            The child ended instead; the message has what it wrote to stderr.
        """
        child = self._process
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(line + "\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], _ANSWER_SECONDS)[0]:
                raise TimeoutError(
                    f"the simulated gateway did not answer within {_ANSWER_SECONDS:.0f} s"
                )
            answer = child.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = child.wait()
            raise RuntimeError(
                f"the process of the simulated gateway has ended (exit code {code}):\n"
                f"{self._take_errors() or 'it said nothing'}"
            )
        return answer

    def stop(self) -> None:
        """End the child; what it wrote to stderr goes to the log."""
        child = self._process
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
        if self._errors.closed:
            return ""
        with self._errors as errors:
            errors.seek(0)
            return errors.read().strip()
