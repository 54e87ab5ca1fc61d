"""The simulated gateway in a child process."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import trustme

from mxfast.simulator import SimulatedGateway, SimulatedGatewayProcess, VirtualClock, signals
from mxfast.simulator.host import GatewayHost
from mxfast.simulator.options import GatewayOptions
from tests.simulator_client import Peer


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # ended, but not yet reaped


def wait_until_gone(pid: int) -> None:
    while is_running(pid):
        time.sleep(0.005)


async def test_a_child_serves_until_the_context_ends() -> None:
    async with SimulatedGatewayProcess() as gateway:
        pid = gateway.pid
        async with Peer(gateway.endpoint, api_key=gateway.api_key) as peer:
            await (await peer.open()).invoke("ping")
    assert not is_running(pid)


def test_a_child_works_without_an_event_loop() -> None:
    with SimulatedGatewayProcess() as gateway:
        pid = gateway.pid
        assert gateway.endpoint.startswith("127.0.0.1:")
        with pytest.raises(RuntimeError, match="running already"):
            gateway.__enter__()
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="not running"):
        _ = gateway.endpoint
    with gateway:
        assert gateway.pid != pid


async def test_a_child_gets_its_options() -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    async with SimulatedGatewayProcess(
        api_keys={"mxgw_own_1": iter(["session:open", "invoke:read"])},
        tags=(name for name in ("plain", "other")),
        tls=(issued.private_key_pem.bytes(), chain),
        update_interval=0,
        max_sessions=1,
    ) as gateway:
        assert gateway.api_key == "mxgw_own_1"
        endpoint = gateway.endpoint.replace("127.0.0.1", "localhost")
        async with Peer(endpoint, api_key="mxgw_own_1", ca=authority.cert_pem.bytes()) as peer:
            remote = await peer.registered()
            assert await remote.add("plain", "A.x") == [1, 0]
            with pytest.raises(grpc.aio.AioRpcError):
                await peer.open()
            with pytest.raises(grpc.aio.AioRpcError):
                await remote.write([1], [1.0])


def test_the_child_takes_every_option_of_the_gateway() -> None:
    given = SimulatedGatewayProcess(
        api_keys={"mxgw_own_1": ["session:open"]},
        tags=["A.x"],
        tls=(b"key", b"chain"),
        secured_tags={"A.x": "verified"},
        users={"anna": "secret"},
        galaxy_seed=7,
        galaxy_file=Path("galaxy.json"),
        fault_file=Path("faults.json"),
        signals={"A.*": signals.Sine(period=10.0), "B.x": signals.RandomWalk(seed=3)},
    )
    assert SimulatedGateway.from_json(given.to_json()).to_json() == given.to_json()


def test_a_host_starts_and_stops_gateways_in_one_process() -> None:
    with GatewayHost() as host:
        pid = host.pid
        endpoints = [host.start(GatewayOptions()) for _ in range(3)]
        assert len(set(endpoints)) == 3
        taken = int(endpoints[0].rpartition(":")[2])
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{taken}"):
            host.start(GatewayOptions(port=taken))
        host.stop(endpoints[0])
        assert host.start(GatewayOptions(port=taken)) == endpoints[0]
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="not running"):
        host.start(GatewayOptions())


def test_a_host_outlives_what_it_cannot_do(tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with GatewayHost() as host:
        endpoint = host.start(GatewayOptions())
        with pytest.raises(RuntimeError, match="could not start: RecursionError"):
            host.start(GatewayOptions(galaxy_file=deep))
        host.stop(endpoint)
        with pytest.raises(RuntimeError, match=f"{endpoint} could not be stopped"):
            host.stop(endpoint)
        assert not host.revive()
        assert host.start(GatewayOptions(port=int(endpoint.rpartition(":")[2]))) == endpoint


def test_a_host_that_died_says_so_and_is_revived() -> None:
    with GatewayHost() as host:
        host.start(GatewayOptions())
        pid = host.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"exit code -9"):
            host.start(GatewayOptions())
        assert host.revive()
        assert host.pid != pid
        assert host.start(GatewayOptions())


def test_a_clock_cannot_be_shared_with_a_child() -> None:
    with pytest.raises(ValueError, match="clock"):
        SimulatedGatewayProcess(clock=VirtualClock())


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("host", 5, "host must be a str, got 5"),
        ("port", 65536, r"port must lie in 0\.\.65535, got 65536"),
        ("port", "5120", "port must be an integer, got '5120'"),
        ("max_sessions", 0, "max_sessions must lie in 1"),
        ("max_message_bytes", 4e6, "max_message_bytes must be an integer, got 4000000.0"),
        ("lease", "1", "lease is '1', not a number of seconds"),
        ("lease", -1, "lease is -1, not a number of seconds"),
        ("detach_grace", float("nan"), "detach_grace is nan, not a number of seconds"),
        ("era", "3", "era is '3', none of 1, 2 and 3"),
        ("tags", "A.x", "tags must be a list of str, got one str"),
        ("tags", 5, "tags must be a list of str, got one int"),
        ("tags", ["A.x", 5], r"tags\[1\] must be a str, got one int"),
        ("initial_faults", "latency", "initial_faults must be a list of str"),
        ("initial_faults", [{"fault": "latency"}], r"initial_faults\[0\] must be a str, got one d"),
        ("secured_tags", ["A.x"], "secured_tags must be a dict of a tag, a str, to 'secured' or"),
        ("secured_tags", {5: "secured"}, "secured_tags must be a dict of a tag, a str"),
        ("secured_tags", {"A.x": "safe"}, "secured_tags: 'safe' for 'A.x' is not 'secured' or"),
        ("secured_tags", {"A.x": []}, r"secured_tags: \[\] for 'A.x' is not 'secured' or"),
        ("users", ["anna"], "users must be a dict of a name, a str, to a password"),
        ("users", {"anna": 5}, "users: the password of 'anna' must be a str"),
        ("api_keys", "mxgw_own_1", "api_keys must be a dict of a key, a str, to its scopes"),
        ("api_keys", {"mxgw_own_1": "admin"}, "the scopes of a key must be a list of str"),
        ("signals", ["A.x"], "signals must be a dict of a tag, a str, to a signal"),
        ("tls", ("key", "chain"), "tls must be private key and certificate chain, each the bytes"),
        ("tls", 5, "tls must be private key and certificate chain"),
        ("galaxy_file", 5, "galaxy_file must be a path, got 5"),
        ("fault_file", b"faults.json", "fault_file must be a path, got b'faults.json'"),
    ],
)
def test_a_wrong_option_is_an_error_of_the_parent(
    option: str, value: object, complaint: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        SimulatedGatewayProcess(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("initial_faults", "expire-key:key=mxgw_a_secret"),
        ("initial_faults", [{"fault": "expire-key", "key": "mxgw_a_secret"}]),
        ("api_keys", "mxgw_a_secret"),
        ("api_keys", {b"mxgw_a_secret": ["admin"]}),
        ("users", ["secret"]),
        ("users", {"anna": ["secret"]}),
        ("tls", "secret"),
        ("tls", ["secret", "chain"]),
    ],
)
def test_what_may_hold_a_secret_is_not_shown(option: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=option) as caught:
        SimulatedGatewayProcess(**{option: value})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


async def test_a_child_that_cannot_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async with SimulatedGateway() as taken:
        port = int(taken.endpoint.rpartition(":")[2])
        process = SimulatedGatewayProcess(port=port)
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with process:
                pytest.fail("it started")
    assert not caplog.records


async def test_cancelling_the_start_leaves_no_child() -> None:
    process = SimulatedGatewayProcess()
    starting = asyncio.create_task(process.__aenter__())
    await asyncio.sleep(0.01)
    pid = process.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_running(pid)


def test_terminating_the_child_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with SimulatedGatewayProcess() as gateway:
        os.kill(gateway.pid, signal.SIGTERM)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_killed_child_is_no_error_at_the_end() -> None:
    with SimulatedGatewayProcess() as gateway:
        os.kill(gateway.pid, signal.SIGKILL)


PARENT = """
import sys
from mxfast.simulator import SimulatedGatewayProcess
with SimulatedGatewayProcess() as gateway:
    print(gateway.pid, flush=True)
    sys.stdin.read()
"""


def start_parent() -> tuple["subprocess.Popen[str]", int]:
    """Start a process, leader of a group as in a terminal, that runs a gateway."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_the_child_ends_when_its_parent_is_killed() -> None:
    parent, pid = start_parent()
    with parent:
        parent.kill()
        wait_until_gone(pid)


def test_ctrl_c_is_left_to_the_parent() -> None:
    parent, pid = start_parent()
    with parent:
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = parent.communicate()
    assert not is_running(pid)
    assert errors.count("Traceback") == 1  # the parent's own KeyboardInterrupt


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_module_serves_in_the_foreground_until_a_signal(signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mxfast.simulator", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("127.0.0.1:")
        child.send_signal(signum)
        _, errors = child.communicate()
    assert child.returncode == 0
    assert errors == ""
