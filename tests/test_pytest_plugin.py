"""The pytest plugin, in runs of pytest of its own as a user's tests are."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.test_simulator_process import wait_until_gone

pytest_plugins = ["pytester"]

ASYNC_TESTS = """
import pytest

MODE
async def test_client(mx_client):
    assert (await mx_client.open_session()).session_id

MODE
async def test_session(mx_session, mx_gateway, mx_client):
    assert await mx_session.register("x") > 0
    assert mx_client.options.endpoint == mx_gateway.endpoint
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    # The plugin has an entry point, but perhaps of another checkout than this one.
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run_pytest(*arguments: str, **files: str) -> pytest.RunResult:
        if files:
            pytester.makepyfile(**files)
        if "no:asyncio" not in arguments:  # pytest-asyncio warns where this is not set
            arguments += ("-o", "asyncio_default_fixture_loop_scope=function")
        return pytester.runpytest_subprocess(
            *("-p", "mxfast_pytest", "-W", "error", "--strict-markers"), *arguments
        )

    return run_pytest


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_asynchronous_fixtures_work_in_both_modes(run, mode):
    code = ASYNC_TESTS.replace("MODE", "@pytest.mark.asyncio" if mode == "strict" else "")
    done = run(f"--asyncio-mode={mode}", test_it=code)
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("document", ["README.md", "docs/testing.md"])
def test_the_examples_of_the_documentation_run(run, document):
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    examples = [code for code in blocks if "mx_session" in code]
    done = run(**{f"test_line{number}": code for number, code in enumerate(examples)})
    tests = sum(code.count("def test_") for code in examples)
    assert tests
    done.assert_outcomes(passed=tests)


def test_each_test_has_a_gateway_of_its_own_and_its_options(run):
    done = run(
        test_it="""
        import asyncio
        import pytest
        from mxfast import GatewayClient

        seen = []

        def added(gateway, *names):
            async def work():
                async with await GatewayClient.connect(**gateway.connection) as client:
                    async with await client.open_session() as session:
                        server = await session.register("x")
                        results = await session.add_item_bulk(server, names)
                        return [result.was_successful for result in results]
            return asyncio.run(work())

        @pytest.mark.mx_gateway(tags=["A.x"], max_sessions=3)
        class TestMarkers:
            def test_of_the_class(self, mx_gateway):
                assert added(mx_gateway, "A.x", "B.x") == [True, False]
                assert mx_gateway.options.max_sessions == 3
                seen.append(mx_gateway)

            @pytest.mark.mx_gateway(tags=["B.x"], api_keys=None)
            def test_of_its_own_and_the_class(self, mx_gateway):
                assert added(mx_gateway, "A.x", "B.x") == [False, True]
                assert mx_gateway.options.max_sessions == 3
                assert mx_gateway.api_key is None

        def test_none(mx_gateway):
            assert added(mx_gateway, "A.x", "B.x") == [True, True]
            assert repr(mx_gateway) == f"<MxGateway {mx_gateway.endpoint}>"

        def test_the_others_are_gone(mx_gateway):
            import socket
            host, _, port = seen[0].endpoint.partition(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))

        @pytest.mark.mx_gateway(tls="generate")
        def test_tls(mx_gateway, make_mx_gateway):
            assert "plaintext" not in mx_gateway.connection
            assert added(mx_gateway, "A.x") == [True]
            other = make_mx_gateway(tags=[])
            assert other.endpoint != mx_gateway.endpoint
            assert added(other, "A.x") == [False]
        """
    )
    done.assert_outcomes(passed=5)


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("tag=['A.x']", "mx_gateway has no option 'tag'; it has host, port, api_keys,*"),
        ("era=4", "mx_gateway: era is 4, none of 1, 2 and 3*"),
        ("3", "mx_gateway takes options by name, not (3,)*"),
        ("clock=None", "mx_gateway runs in another process and takes no clock*"),
        ("signals={'A': 1}", "mx_gateway: signals: 1 for 'A' is no signal*"),
        ("galaxy_file='no.csv'", "*could not start: *No such file*no.csv*"),
        ("signals={'A': Sine()}", "*could not start: signals: 'A' is no tag*"),
    ],
)
def test_a_wrong_option_is_a_clear_error(run, marker, complaint):
    done = run(
        test_it=f"""
        import pytest
        from mxfast.simulator.signals import Sine

        @pytest.mark.mx_gateway({marker})
        def test_wrong(mx_gateway):
            pass

        def test_right(mx_gateway):
            pass
        """
    )
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines([complaint])
    assert "Traceback" not in done.stdout.str()


def test_a_bad_file_and_a_host_that_dies_leave_later_tests_alone(run):
    done = run(
        test_it="""
        import os
        import signal

        def test_fails(make_mx_gateway, tmp_path):
            path = tmp_path / "galaxy.json"
            path.write_text("[" * 100_000)
            make_mx_gateway(galaxy_file=path)

        def test_right(make_mx_gateway, tmp_path):
            path = tmp_path / "galaxy.csv"
            path.write_text("object\\nTank1\\n")
            assert make_mx_gateway(galaxy_file=path).endpoint

        def kill(host):
            os.kill(host.pid, signal.SIGKILL)
            os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)

        def test_kills_and_goes_on(mx_gateway, make_mx_gateway, _mx_gateway_host):
            kill(_mx_gateway_host)
            assert make_mx_gateway().endpoint

        def test_kills(mx_gateway, _mx_gateway_host):
            kill(_mx_gateway_host)

        def test_is_right_too(mx_gateway):
            pass
        """
    )
    done.assert_outcomes(failed=1, passed=4, errors=1)
    done.stdout.fnmatch_lines(["*could not start: RecursionError*"])
    done.stdout.fnmatch_lines(["E * has ended (exit code -9):", "ERROR *::test_kills - *"])


def test_markers_and_fixtures_are_listed(run):
    run("--markers").stdout.fnmatch_lines(["@pytest.mark.mx_gateway(*options*): options of the*"])
    listed = run("--fixtures").stdout.str()
    for name in ("mx_gateway", "make_mx_gateway", "mx_client", "mx_session"):
        assert re.search(rf"^{name} ", listed, re.MULTILINE)


def test_nothing_is_imported_before_a_fixture_is_used(run):
    done = run(
        test_it="""
        import sys

        def test_imports():
            assert "mxfast_pytest" in sys.modules
            assert not {"grpc", "numpy", "mxfast", "google.protobuf"} & set(sys.modules)
        """
    )
    done.assert_outcomes(passed=1)


def test_without_the_extra_only_tests_that_need_it_fail(run):
    done = run(
        conftest="""
        import sys
        sys.modules["grpc_health"] = None
        """,
        test_it="""
        def test_other():
            pass

        def test_gateway(mx_gateway):
            pass
        """,
    )
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*mx_gateway needs grpc_health*pip install 'mxfast[[]simulator]'*"])


def test_without_pytest_asyncio_the_gateway_is_there(run):
    done = run(
        *("-p", "no:asyncio"),
        test_it="""
        def test_gateway(mx_gateway):
            assert mx_gateway.endpoint

        def test_client(mx_client):
            pass
        """,
    )
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*fixture 'mx_client' not found"])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_no_gateway_outlives_tests_that_are_killed(run, pytester, signum):
    run(
        test_it=f"""
        import os
        from pathlib import Path

        def test_dies(mx_gateway, _mx_gateway_host):
            Path("pid").write_text(str(_mx_gateway_host.pid))
            os.kill(os.getpid(), {int(signum)})
        """
    )
    pid = int(Path(pytester.path, "pid").read_text())
    assert pid != os.getpid()
    wait_until_gone(pid)


def test_a_session_that_died_is_no_error_of_its_own(run):
    done = run(
        "--asyncio-mode=auto",
        test_it="""
        import pytest
        from mxfast import MxGatewayWorkerError

        @pytest.mark.mx_gateway(initial_faults=["crash-worker:after=0.2"])
        async def test_crash(mx_session):
            with pytest.raises(MxGatewayWorkerError):
                while True:
                    await mx_session.register("x")
        """,
    )
    done.assert_outcomes(passed=1)
