"""The blocking clients against a simulated gateway in another process."""

import ast
import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mxfast
from mxfast import MxAccessError, MxGatewaySessionError, Outcome, blocking
from mxfast.facade import Facade, facade_of
from mxfast.facade import blocking as make_blocking
from mxfast.simulator import SimulatedGatewayProcess
from tests.checkout import ROOT
from tests.conftest import KEY, ScriptedGateway
from tools.blocking_stub import STUB, classes, stub


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedGatewayProcess]:
    with SimulatedGatewayProcess(update_interval=0) as gateway:
        yield gateway


@pytest.fixture
def connection(running: SimulatedGatewayProcess) -> Iterator[blocking.GatewayClient]:
    with blocking.GatewayClient.connect(
        endpoint=running.endpoint, api_key=running.api_key, plaintext=True
    ) as client:
        yield client


def test_from_end_to_end(connection: blocking.GatewayClient) -> None:
    with connection.open_session("script") as session:
        server = session.register("script")
        events = session.event_batches()
        items = [each.item_handle for each in session.subscribe_bulk(server, ["T1.A", "T2.A"])]
        result = session.write_array(server, items, [1.5, 2.5])
        assert result.outcome.tolist() == [Outcome.ACCEPTED] * 2
        newest: dict[int, float] = {}
        while list(newest.values()) != [1.5, 2.5]:
            batch = next(events)
            assert isinstance(batch, mxfast.EventBatch)
            numbers = batch.value[~np.isnan(batch.value)]
            handles = batch.item_handle[~np.isnan(batch.value)]
            newest.update(zip(handles.tolist(), numbers.tolist(), strict=True))
        events.close()
        assert list(events) == []
        session.write(server, items[0], 7)
        (read,) = session.read_bulk(server, ["T1.A"])
        assert mxfast.from_mx_value(read.value) == 7
        assert session.session_id in repr(session)
    with pytest.raises(MxGatewaySessionError, match="closed"):
        session.ping()


def test_messages_one_by_one(connection: blocking.GatewayClient) -> None:
    with connection.open_session() as session, session.stream_events() as events:
        server = session.register("script")
        item = session.add_item(server, "T3.A")
        session.advise(server, item)
        session.write(server, item, 4.5)
        for event in events:
            if event.value.double_value == 4.5:
                break
    with pytest.raises(StopIteration):
        next(events)


def test_the_galaxy(running: SimulatedGatewayProcess) -> None:
    with blocking.GalaxyRepositoryClient.connect(
        endpoint=running.endpoint, api_key=running.api_key, plaintext=True
    ) as galaxy:
        assert galaxy.test_connection()
        hierarchy = galaxy.iter_hierarchy(page_size=7)
        names = [each.tag_name for each in hierarchy]
        assert names == [each.tag_name for each in galaxy.discover_hierarchy()]
        top = galaxy.browse()
        assert type(top[0]) is blocking.GalaxyNode
        children = top[0].expand()
        assert top[0].object.tag_name in names
        assert children[0].object.parent_gobject_id == top[0].object.gobject_id
        assert top[0].children is not None
        assert [each.object for each in top[0].children] == [each.object for each in children]
        with galaxy.watch_deploy_events() as deploys:
            assert next(deploys).sequence > 0
            assert deploys.missed == 0


def test_errors_are_those_of_the_client(connection: blocking.GatewayClient) -> None:
    with connection.open_session() as session:
        server = session.register("script")
        with pytest.raises(MxAccessError, match="item 999"):
            session.write(server, 999, 1.0)
        with pytest.raises(mxfast.EncodeError):
            session.write_array(server, [1], [np.nan])
        with pytest.raises(TypeError, match="unexpected keyword"):
            session.write(server, 1, 1.0, wrong=1)  # type: ignore[call-arg]
        with pytest.raises(AttributeError, match="nothing_like_it"):
            _ = session.nothing_like_it  # type: ignore[attr-defined]


def test_objects_that_a_method_makes_are_not_constructed() -> None:
    with pytest.raises(TypeError, match="comes from a method"):
        blocking.Session()


def test_a_client_is_made_of_a_stub() -> None:
    class Stub:
        async def OpenSession(self, request: Any) -> Any:
            raise AssertionError("is not called")

    options = mxfast.ClientOptions("localhost:5120", plaintext=True)
    with blocking.GatewayClient(options, stub=Stub()) as client:
        assert client.options is options
        with pytest.raises(AttributeError, match="StreamAlarms"):
            client.stream_alarms()


def test_threads_share_a_session(connection: blocking.GatewayClient) -> None:
    with connection.open_session("threads") as session:
        server = session.register("threads")
        together = threading.Barrier(8)

        def work(number: int) -> list[Any]:
            together.wait()
            seen = []
            for step in range(20):
                item = session.add_item(server, f"Thread{number}.Value{step}")
                session.write(server, item, number * 1000 + step)
                (read,) = session.read_bulk(server, [f"Thread{number}.Value{step}"])
                seen.append(mxfast.from_mx_value(read.value))
            return seen

        with ThreadPoolExecutor(8) as threads:
            for number, seen in enumerate(threads.map(work, range(8))):
                assert seen == [number * 1000 + step for step in range(20)]


def test_threads_share_an_iterator(running: SimulatedGatewayProcess) -> None:
    with blocking.GalaxyRepositoryClient.connect(
        endpoint=running.endpoint, api_key=running.api_key, plaintext=True
    ) as galaxy:
        expected = sorted(each.gobject_id for each in galaxy.discover_hierarchy())
        hierarchy = galaxy.iter_hierarchy(page_size=5)
        with ThreadPoolExecutor(4) as threads:
            parts = threads.map(lambda _: [each.gobject_id for each in hierarchy], range(4))
        assert sorted(each for part in parts for each in part) == expected


def test_a_generator_is_closed_after_another_threads_turn() -> None:
    waits, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            waits.set()
            await asyncio.to_thread(goes_on.wait)
            yield 2
            yield 3
        finally:
            closed.set()

    made = make_blocking(numbers())
    assert next(made) == 1
    with ThreadPoolExecutor(2) as threads:
        second = threads.submit(next, made)
        waits.wait()
        closing = threads.submit(made.close)
        try:
            with pytest.raises(TimeoutError):  # a close that does not wait fails
                closing.result(0.05)
        finally:
            goes_on.set()
        assert second.result(30) == 2
        closing.result(30)
    assert closed.is_set()
    assert list(made) == []


def test_closing_a_stream_ends_a_loop_in_another_thread(
    connection: blocking.GatewayClient,
) -> None:
    with connection.open_session() as session, ThreadPoolExecutor(1) as threads:
        events = session.event_batches()
        counted = threads.submit(lambda: sum(1 for _ in events))
        session.ping()
        events.close()
        assert counted.result(30) == 0


async def test_a_loop_may_run_already_as_in_a_notebook(
    running: SimulatedGatewayProcess,
) -> None:
    assert asyncio.get_running_loop()
    with (
        blocking.GatewayClient.connect(
            endpoint=running.endpoint, api_key=running.api_key, plaintext=True
        ) as client,
        client.open_session() as session,
    ):
        assert session.register("notebook") > 0


def test_a_callable_that_is_returned_runs_in_the_loop_too() -> None:
    class Target:
        def in_thread(self) -> str:
            return threading.current_thread().name

    made = make_blocking(Target().in_thread)
    assert made() == "mxfast.blocking"


def test_a_call_from_its_own_loop_is_refused(connection: blocking.GatewayClient) -> None:
    refused: list[RuntimeError] = []

    def progress(done: int, total: int) -> None:
        try:
            session.ping()
        except RuntimeError as error:
            refused.append(error)

    with connection.open_session() as session:
        server = session.register("script")
        item = session.add_item(server, "T4.A")
        session.write_array(server, [item], [1.0], on_progress=progress)
    assert "on_progress" in str(refused[0])


def run_script(code: str, *arguments: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


CONNECT = """
import os, sys, threading
from mxfast import blocking
endpoint, key = sys.argv[1:]
client = blocking.GatewayClient.connect(endpoint=endpoint, api_key=key, plaintext=True)
session = client.open_session("script")
"""


def test_ctrl_c_cancels_the_call_under_way(running: SimulatedGatewayProcess) -> None:
    code = """
    import asyncio, signal
    from mxfast.facade import THREAD

    def interrupt():
        while not any("call" in task.get_name() for task in asyncio.all_tasks(THREAD._loop)):
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    events = session.event_batches()
    session.ping()
    try:
        threading.Thread(target=interrupt).start()
        next(events)
    except KeyboardInterrupt as interrupt:
        print(type(interrupt.__context__).__name__)
    print(list(events), session.get_session_state() > 0)
    """
    script = run_script(CONNECT + textwrap.dedent(code), running.endpoint, running.api_key)
    assert (script.stdout, script.stderr) == ("CancelledError\n[] True\n", "")


async def test_what_is_open_is_closed_when_the_program_ends(scripted: ScriptedGateway) -> None:
    arrived = asyncio.Event()

    async def never(request: bytes, context: Any) -> bytes:
        arrived.set()
        await asyncio.Event().wait()
        return b""

    scripted.unary["Invoke"] = never
    code = """
    threading.excepthook = lambda arguments: None
    threading.Thread(target=session.ping, daemon=True).start()
    sys.stdin.readline()
    """
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", CONNECT + textwrap.dedent(code)),
        *(scripted.endpoint, KEY),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await arrived.wait()
    assert "CloseSession" not in scripted.calls
    assert await script.communicate(b"\n") == (b"", b"")
    assert script.returncode == 0
    assert scripted.calls[-1] == "CloseSession"


@pytest.mark.parametrize("start", ["thread", "pool", "daemon"])
def test_a_thread_that_reads_a_stream_ends_with_the_program(
    running: SimulatedGatewayProcess, start: str
) -> None:
    code = f"""
    from concurrent.futures import ThreadPoolExecutor
    events = session.event_batches()

    def read():
        reads.set()
        seen = sum(len(batch) for batch in events)
        print("read", seen, list(events))

    reads = threading.Event()
    if {start!r} == "pool":
        ThreadPoolExecutor(1).submit(read)
    else:
        threading.Thread(target=read, daemon={start!r} == "daemon").start()
    reads.wait()
    session.ping()
    """
    script = run_script(CONNECT + textwrap.dedent(code), running.endpoint, running.api_key)
    assert (script.returncode, script.stderr) == (0, "")
    # A daemon may or may not have the time to say so.
    assert script.stdout == "read 0 []\n" or (start == "daemon" and not script.stdout)


def test_a_thread_finishes_its_work_after_the_main_thread(
    running: SimulatedGatewayProcess,
) -> None:
    code = """
    galaxy = blocking.GalaxyRepositoryClient.connect(endpoint=endpoint, api_key=key, plaintext=True)
    hierarchy = galaxy.iter_hierarchy(page_size=1)
    first = next(hierarchy)

    def work():
        threading.main_thread().join()
        server = session.register("late")
        session.write(server, session.add_item(server, "Late.Value"), 7)
        everything = galaxy.discover_hierarchy()
        print([first, *hierarchy] == everything, len(everything) > 1)

    threading.Thread(target=work).start()
    """
    script = run_script(CONNECT + textwrap.dedent(code), running.endpoint, running.api_key)
    assert (script.stdout, script.stderr) == ("True True\n", "")


def test_a_fork_is_refused_clearly(running: SimulatedGatewayProcess) -> None:
    code = """
    child = os.fork()
    if child == 0:
        try:
            session.ping()
        except RuntimeError as error:
            os._exit(17 if "spawn" in str(error) else 1)
        os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    session.ping()
    """
    script = run_script(CONNECT + textwrap.dedent(code), running.endpoint, running.api_key)
    assert script.stdout == "17\n", script.stderr


def test_a_fork_before_the_first_call_is_no_matter(running: SimulatedGatewayProcess) -> None:
    code = f"""
import os, sys
from mxfast import blocking
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
{CONNECT}
session.close()
"""
    script = run_script(code, running.endpoint, running.api_key)
    assert script.returncode == 0, script.stderr


def test_importing_starts_nothing() -> None:
    code = """
    import threading, mxfast.blocking
    assert threading.active_count() == 1
    """
    assert run_script(code).returncode == 0


# Made of the asynchronous classes, with nothing left out.


def public_methods(cls: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(cls, inspect.isroutine)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_method_is_there_with_its_signature_and_docstring(cls: type) -> None:
    facade: Any = facade_of(cls)
    assert issubclass(facade, Facade)
    assert facade.__name__ == cls.__name__
    for name, method in public_methods(cls).items():
        made = getattr(facade, "close" if name == "aclose" else name)
        assert made.__doc__ == method.__doc__
        assert inspect.signature(made) == inspect.signature(method)
        assert not inspect.iscoroutinefunction(made)


def test_the_public_classes_are_those_of_mxfast() -> None:
    assert set(blocking.__all__) >= {"GatewayClient", "GalaxyRepositoryClient", "Session"}
    assert set(blocking.__all__) <= set(mxfast.__all__)
    for name in blocking.__all__:
        assert issubclass(getattr(blocking, name), Facade)


def test_the_stub_has_the_classes_of_the_module() -> None:
    body = ast.parse(STUB.read_text()).body
    in_stub = [node.name for node in body if isinstance(node, ast.ClassDef)]
    assert {name: getattr(blocking, name) for name in in_stub} == {
        cls.__name__: facade_of(cls) for cls in classes()
    }


def test_the_stub_is_up_to_date() -> None:
    assert STUB.read_text() == stub(), "run python tools/blocking_stub.py"


USER_CODE = """
from mxfast.blocking import GalaxyRepositoryClient, GatewayClient, Session


def script(session: Session) -> list[float]:
    server: int = session.register("line-4")
    item: int = session.add_item(server, "Tank1.Level")
    session.write(server, item, 3.25, user_id=0)
    ok: bool = session.write_array(server, [item], [1.0]).ok
    values: list[float] = []
    for batch in session.event_batches():
        values += batch.value.tolist()
    for event in session.stream_events():
        values.append(event.value.double_value)
    return values if ok else []


with GatewayClient.connect(endpoint="localhost:5120", plaintext=True) as client:
    with client.open_session("line-4") as opened:
        script(opened)
with GalaxyRepositoryClient.connect(endpoint="localhost:5120") as galaxy:
    for node in galaxy.browse(tag_name_glob="Tank*"):
        names: list[str] = [child.object.tag_name for child in node.expand()]
    areas: list[str] = [each.tag_name for each in galaxy.iter_hierarchy()]
"""


def test_user_code_is_typed(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(USER_CODE)
    wrong.write_text(
        USER_CODE + 'text: str = opened.register("line-4")\nawaitable = galaxy.aclose()\n'
    )
    environment = {**os.environ, "MYPYPATH": str(Path(mxfast.__file__).parents[1])}
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
    ]
    for path, expected in ((right, []), (wrong, ["[assignment]", "[attr-defined]"])):
        done = subprocess.run(
            [*command, str(path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        errors = [line for line in done.stdout.splitlines() if ": error:" in line]
        assert len(errors) == len(expected), done.stdout + done.stderr
        assert all(code in error for code, error in zip(expected, errors, strict=True))
