"""Makes blocking classes of asynchronous ones, whose objects live in a loop of their own thread."""

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - before LoopThread registers for the end
import contextlib
import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import FunctionType
from typing import Any, Self

from mxfast.errors import MxGatewaySessionError

_log = logging.getLogger("mxfast")

# What a blocking class calls the special methods of the asynchronous one.
_SPECIAL = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
_PLAIN = ("__len__", "__getitem__", "__contains__")
_END = object()
_CLOSING_TIME = 10.0  # seconds at exit for all that is open


class LoopThread:
    """An event loop in a thread of its own, started by the first call.

    With the main thread end the streams, so that threads which read them do. When those
    threads have ended the loop does: calls of daemon threads are cancelled, and what has a
    ``close`` is closed, the newest first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        self._forked = False
        self._opened: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._count = 0
        self._reading: set[asyncio.Task[Any]] = set()  # tasks that wait for a stream's next
        self.streams_end = False
        os.register_at_fork(after_in_child=self._after_fork)
        # atexit comes too late: a program waits for its threads first. The last one that was
        # registered is called first, so this comes before a pool's that waits for its threads.
        getattr(threading, "_register_atexit", atexit.register)(self._end_streams)

    def run(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Call a function in the loop, wait for what it returns, and return that.

        Raises
        ------
        RuntimeError
            From the loop's own thread, after a fork, or when the program ends.
        KeyboardInterrupt
            Ctrl-C. The call was cancelled and has ended; how, is its ``__context__``.
        """
        loop = self._running()
        call = _Call(function, args, keywords)
        try:
            loop.call_soon_threadsafe(call.start)
            call.ended.wait()
        except BaseException as interrupt:  # Ctrl-C, or what another signal's handler raises
            loop.call_soon_threadsafe(call.cancel)
            call.ended.wait()
            interrupt.__context__ = call.error
            raise
        if isinstance(call.error, asyncio.CancelledError):
            raise MxGatewaySessionError("the program ends") from None
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # the traceback would hold it, and it the error
        return call.result

    def closed_at_exit(self, opened: Any) -> None:
        """Close this when the program ends, if it is still there."""
        with self._lock:
            self._count += 1
            self._opened[self._count] = opened

    async def next(self, iterator: AsyncIterator[Any]) -> Any:
        """Return the next of an iterator, or `_END`; runs in the loop."""
        reading = asyncio.current_task()
        assert reading is not None
        if _is_stream(iterator):
            if self.streams_end:
                return _END
            self._reading.add(reading)
        try:
            return await anext(iterator)
        except StopAsyncIteration:
            return _END
        except asyncio.CancelledError:
            if self.streams_end and reading in self._reading:
                return _END
            raise
        finally:
            self._reading.discard(reading)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._forked:
            raise RuntimeError(
                "mxfast.blocking was in use when this process was forked, which gRPC does not "
                "survive: start processes with 'spawn', or connect only after the fork"
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call from mxfast's own event loop (a callback such as on_progress) "
                "would wait for itself: do it in another thread"
            )
        with self._lock:
            if self._ended:
                raise RuntimeError("the program ends: mxfast.blocking takes no more calls")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="mxfast.blocking", daemon=True
                )
                self._thread.start()
                atexit.register(self._end)
            return self._loop

    def _after_fork(self) -> None:
        # Whether the lock is held by a thread that is not in this process: none knows.
        self._lock = threading.Lock()
        self._forked = self._loop is not None

    def _end_streams(self) -> None:
        self.streams_end = True
        if self._forked or self._loop is None:
            return
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._reading])

    def _end(self) -> None:
        if self._forked or self._loop is None or self._thread is None:
            return
        with self._lock:
            self._ended = True
        closing = asyncio.run_coroutine_threadsafe(self._close_all(), self._loop)
        with contextlib.suppress(TimeoutError):
            closing.result(_CLOSING_TIME)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1)

    async def _close_all(self) -> None:
        await _cancelled([task for task in asyncio.all_tasks() if task.get_name() == _Call.NAME])
        for _, opened in sorted(self._opened.items(), reverse=True):
            try:
                await opened.close()
            except Exception as error:
                # A bulk writer's notes say how many values were not sent.
                said = "; ".join([str(error), *getattr(error, "__notes__", ())])
                _log.warning("%r could not be closed when the program ended: %s", opened, said)
        await _cancelled(
            [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        )
        await asyncio.get_running_loop().shutdown_asyncgens()


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Call:
    """One call and how it ended."""

    NAME = "mxfast.blocking call"

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self._function = function
        self._args = args
        self._keywords = keywords
        self._task: asyncio.Task[None] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.NAME)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self.result = self._function(*self._args, **self._keywords)
            if inspect.isawaitable(self.result):
                self.result = await self.result
        except BaseException as error:
            self.error = error

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before it began
            self.error = asyncio.CancelledError()
        self.ended.set()


THREAD = LoopThread()


class Facade:
    """Base of every blocking class: one asynchronous object."""

    _target: Any
    _asynchronous: type  # the class of the target

    def __init__(self) -> None:
        raise TypeError(f"a {type(self).__name__} comes from a method: see mxfast.blocking")

    def __getattr__(self, name: str) -> Any:
        # Attributes that the class does not name; methods and properties have their own.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return blocking(getattr(self._target, name))

    def __repr__(self) -> str:
        return f"<blocking {repr(self._target).removeprefix('<')}"


class Iteration(Facade, Iterator[Any]):
    """A blocking iterator; threads that share it take turns."""

    _turn: threading.Lock

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Return the next one; errors are those of the asynchronous iterator."""
        with self._turn:
            if THREAD.streams_end and _is_stream(self._target):
                raise StopIteration
            found = THREAD.run(THREAD.next, self._target)
        if found is _END:
            raise StopIteration
        return blocking(found)

    def close(self) -> None:
        """End the iteration, after another thread's turn: it is a page at most."""
        with self._turn:
            THREAD.run(self._target.aclose)


def _is_stream(iterator: AsyncIterator[Any]) -> bool:
    # A generator ends by itself, and what it returned would look complete if it ended early.
    return not inspect.isasyncgen(iterator)


def blocking(value: Any) -> Any:
    """Return the blocking form of what an asynchronous call returned."""
    if type(value) is list:
        return [blocking(each) for each in value]
    if inspect.isroutine(value):
        return functools.partial(THREAD.run, value)
    cls: type = type(value)
    facade = facade_of(cls)
    if facade is None:
        return value
    made = facade.__new__(facade)
    _hold(made, value)
    return made


def _hold(facade: Facade, target: Any) -> None:
    facade._target = target
    if isinstance(facade, Iteration):
        facade._turn = threading.Lock()
    if inspect.iscoroutinefunction(getattr(target, "close", None)):
        THREAD.closed_at_exit(target)


def _target(value: Any) -> Any:
    return value._target if isinstance(value, Facade) else value


@functools.cache
def facade_of(cls: type) -> type[Facade] | None:
    """Return the blocking class of an asynchronous one; None for what has nothing to wait for.

    Every public method runs in the loop, the plain ones too: what they open belongs to it.
    What is returned comes in its blocking form, ``aclose`` is ``close``, and the rest has the
    names, signatures and docstrings that it has there.
    """
    if not cls.__module__.startswith("mxfast."):
        return Iteration if issubclass(cls, AsyncIterator) else None
    if not _is_asynchronous(cls):
        return None
    bases = [base for each in cls.__bases__ if (base := facade_of(each)) is not None]
    own: type[Facade] = Iteration if issubclass(cls, AsyncIterator) else Facade
    if not any(issubclass(base, own) for base in bases):
        bases.append(own)
    members: dict[str, Any] = {
        "__module__": "mxfast.blocking",
        "_asynchronous": cls,
        "__doc__": f"Blocking form of `{cls.__module__}.{cls.__qualname__}`.\n\n{cls.__doc__}",
    }
    for name, member in vars(cls).items():
        if name == "__init__" and "connect" in vars(cls):
            members[name] = _constructor(member)
        elif name in _SPECIAL:
            members[_SPECIAL[name]] = _entering(member) if name == "__aenter__" else _method(member)
        elif name == "aclose":
            members["close"] = _method(member)
        elif name in _PLAIN or not name.startswith("_"):
            made = _member(member)
            if made is not None:
                members[name] = made
    return type(cls.__name__, tuple(bases), members)


def _is_asynchronous(cls: type) -> bool:
    return any(
        inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        for each in cls.__mro__
        for name, member in vars(each).items()
        if not name.startswith("_") or name in ("__anext__", "__aenter__")
    )


def _member(member: Any) -> Any:
    if isinstance(member, FunctionType):
        return _method(member)
    if isinstance(member, classmethod):
        return classmethod(_class_method(member.__func__))
    if isinstance(member, staticmethod):
        return member
    if isinstance(member, property):
        return property(lambda self: blocking(member.__get__(self._target)), doc=member.__doc__)
    return None


def _method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Facade, *args: Any, **keywords: Any) -> Any:
        given = [_target(each) for each in args]
        named = {name: _target(each) for name, each in keywords.items()}
        return blocking(THREAD.run(method, self._target, *given, **named))

    return call


def _class_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(cls: type[Facade], *args: Any, **keywords: Any) -> Any:
        return blocking(THREAD.run(method, cls._asynchronous, *args, **keywords))

    return call


def _constructor(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def construct(self: Facade, *args: Any, **keywords: Any) -> None:
        _hold(self, THREAD.run(self._asynchronous, *args, **keywords))

    return construct


def _entering(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def enter(self: Facade) -> Facade:
        THREAD.run(method, self._target)
        return self

    return enter
