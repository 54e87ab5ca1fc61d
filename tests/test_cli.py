"""The command line, run as a user runs it, against the simulated gateway."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mxfast import GalaxyRepositoryClient, GatewayClient, MxGatewayError
from mxfast.cli import demo as demo_module
from mxfast.cli.app import cli
from mxfast.cli.connection import Connection
from mxfast.cli.demo import Figures, run_demo
from mxfast.cli.replay import due
from mxfast.cli.table import read_table
from mxfast.simulator import SimulatedGateway

COMMAND = [sys.executable, "-m", "mxfast"]
NO_GATEWAY = "127.0.0.1:1"  # nothing listens on port 1


def mxfast(*arguments, cwd=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MXGATEWAY_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**environment, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


async def mxfast_async(*arguments):
    return await asyncio.to_thread(mxfast, *arguments)


# ---------------------------------------------------------------- demo


def test_demo_writes_watches_and_reads_back():
    done = mxfast("demo", "--tags", "300", "--values", "3050", "--watched", "40", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["tags"] == 300
    assert figures["values"] == 3050
    assert figures["requests"] == 11  # ten cycles of 300 and one of 50
    assert figures["request_bytes"] > 3050 * 20
    assert figures["events"] >= 40  # each watched tag's last value at least
    assert figures["differing"] == figures["stale"] == figures["events_dropped"] == 0
    assert figures["values_per_second"] > 0
    assert "Traceback" not in done.stderr


def test_demo_prints_a_table():
    done = mxfast("demo", "--tags", "20", "--values", "2000", "--watched", "5")
    assert done.returncode == 0, done.stderr
    assert re.search(r"values written and acknowledged\s*│\s*2,000", done.stdout)
    assert re.search(r"tags read back different\s*│\s*0", done.stdout)


async def test_demo_notices_a_value_that_is_not_the_last_one_written():
    async with (
        SimulatedGateway() as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as intruder,
    ):
        server = await intruder.register("intruder")
        handle = await intruder.add_item(server, "Demo000.Value07")
        demo = asyncio.create_task(
            run_demo(Connection(gateway.endpoint, gateway.api_key, plaintext=True), 50, 5000, 5)
        )
        while not demo.done():
            await intruder.write(server, handle, -1.0)
        assert demo.result().differing == 1
        assert not demo.result().good


def test_demo_exits_with_1_where_something_differs(monkeypatch):
    async def bad(*_):
        return Figures(1, values=1, seconds=1.0, event_seconds=1.0, differing=1)

    monkeypatch.setattr(demo_module, "run_demo", bad)
    done = CliRunner().invoke(cli, ["demo"])
    assert done.exit_code == 1
    assert "what came back is not what was written last" in done.output


def test_ctrl_c_stops_the_demo_and_its_gateway():
    # On a terminal, where the bar shows that the writing has begun.
    terminal, inside = pty.openpty()
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--values", "2000000000"], stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    output = ""
    while "writing" not in output:
        output += os.read(terminal, 4096).decode(errors="replace")
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
    gateways = [int(pid) for pid in children.read_text().split()]
    assert len(gateways) == 1
    demo.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while part := os.read(terminal, 4096).decode(errors="replace"):
            output += part
    os.close(terminal)
    assert demo.wait() == 130
    assert re.search(r"stopped: [\d,]+ values were acknowledged", output)
    assert "Traceback" not in output
    assert not Path(f"/proc/{gateways[0]}").exists()


# ---------------------------------------------------------------- simulate


async def test_simulate_serves_until_ctrl_c():
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "simulate", "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    endpoint = (await process.stdout.readline()).decode().removeprefix("endpoint: ").strip()
    key = (await process.stdout.readline()).decode().removeprefix("api key:  ").strip()
    async with await GatewayClient.connect(
        endpoint=endpoint, api_key=key, plaintext=True
    ) as client:
        session = await client.open_session()
        assert await session.register("test") > 0
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert process.returncode == 0
    assert output == b"stopped\n"
    assert errors == b""


async def told_of_adding(session, server, name):
    try:
        await session.add_item(server, name)
    except MxGatewayError as error:
        return str(error)
    return ""


async def test_simulate_takes_faults_an_era_and_a_fault_file(tmp_path):
    file = tmp_path / "faults.json"
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("simulate", "--port", "0", "--no-auth", "--era", "1", "--fault-file", str(file)),
        *("--fault", "refuse-tags:tags=A.x", "--fault", "refuse-calls:method=OpenSession,times=1"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    endpoint = (await process.stdout.readline()).decode().removeprefix("endpoint: ").strip()
    async with await GatewayClient.connect(endpoint=endpoint, plaintext=True) as client:
        with pytest.raises(MxGatewayError):
            await client.open_session()
        session = await client.open_session()
        server = await session.register("test")
        with pytest.raises(MxGatewayError, match=r"A\.x"):
            await session.add_item(server, "A.x")
        with pytest.raises(MxGatewayError, match="Unsupported"):  # era 1 has no Ping
            await session.ping()
        file.write_text('["refuse-tags:tags=A.y"]')
        async with asyncio.timeout(30):
            while not re.search(r"A\.y.*fault", await told_of_adding(session, server, "A.y")):
                pass
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


async def test_simulate_takes_a_galaxy_signals_and_tls(tmp_path):
    galaxy, authority = tmp_path / "galaxy.csv", tmp_path / "ca.pem"
    galaxy.write_text("object,attribute,type\nTank1,Level,Double\nTank1,Name,String\n")
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("simulate", "--port", "0", "--galaxy", str(galaxy), "--tls", str(authority)),
        *("--signal", "Tank1.*=constant:value=7.5", "--no-auth"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(3)]
    endpoint, _, ca_file = (line.partition(":")[2].strip() for line in lines)
    assert ca_file == str(authority)
    async with await GatewayClient.connect(endpoint=endpoint, ca_file=ca_file) as client:
        session = await client.open_session()
        server = await session.register("test")
        names = ["Tank1.Level", "Tank1.Name", "Tank2.Level"]
        level, name, unknown = await session.read_bulk(server, names)
        assert level.value.double_value == 7.5
        assert name.value.WhichOneof("kind") == "string_value"
        assert not unknown.was_successful
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


async def test_simulate_leaves_the_certificate_of_the_gateway_that_has_the_port(tmp_path):
    authority = tmp_path / "ca.pem"
    authority.write_text("of the gateway that runs")
    async with SimulatedGateway() as gateway:
        port = gateway.endpoint.rpartition(":")[2]
        done = await mxfast_async("simulate", "--port", port, "--tls", str(authority))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is taken" in done.stderr
    assert "certificate" not in done.stderr
    assert authority.read_text() == "of the gateway that runs"


async def test_simulate_says_where_it_cannot_write_the_certificate(tmp_path):
    authority = tmp_path / "missing" / "ca.pem"
    done = await mxfast_async("simulate", "--port", "0", "--tls", str(authority))
    assert done.returncode == 1
    assert str(authority) in done.stderr
    assert "Traceback" not in done.stderr


async def test_simulate_takes_the_size_and_seed_of_the_galaxy():
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("simulate", "--port", "0", "--galaxy-objects", "7", "--seed", "3"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    endpoint, key = (line.partition(":")[2].strip() for line in lines)
    async with (
        SimulatedGateway(galaxy_objects=7, galaxy_seed=3) as same,
        await GalaxyRepositoryClient.connect(
            endpoint=endpoint, api_key=key, plaintext=True
        ) as client,
    ):
        tags = [each.tag_name for each in await client.discover_hierarchy()]
        assert sorted(tags) == sorted(each.tag_name for each in same.galaxy)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--signal", "Tank1.Level"], "'Tank1.Level' is not of the form TAG=NAME"),
        (["--signal", "Tank1.Level=cosine"], "no signal is called 'cosine'"),
        (["--signal", "Tank1.Level=file:path=missing.csv"], "missing.csv"),
        (["--port", "0", "--galaxy", "missing.csv"], "missing.csv"),
        (["--galaxy-objects", "0"], "0 is not in the range"),
    ],
)
def test_simulate_refuses_a_plant_that_cannot_be(arguments, complaint):
    done = mxfast("simulate", *arguments)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_simulate_refuses_a_fault_that_there_is_not():
    done = mxfast("simulate", "--fault", "latency:second=1")
    assert done.returncode == 2
    assert "second" in done.stderr


# ---------------------------------------------------------------- replay

TABLE = """\
time;Level;Volume Flow
2026-01-01 00:00:00;3.25;-1e3
2026-01-01 00:00:01.500;3.5;0
2026-01-01T02:00:02+02:00;3.75;121
"""
TIMES = ["2026-01-01T00:00:00", "2026-01-01T00:00:01.5", "2026-01-01T00:00:02"]


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "rig.csv"
    path.write_text(TABLE)
    return path


async def test_replay_writes_every_cell_with_its_own_timestamp(table_file):
    async with (
        SimulatedGateway(update_interval=0) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
        await client.open_session() as session,
    ):
        server = await session.register("watcher")
        stream = session.event_batches()
        tags = ["rig.Level", "rig.Volume Flow"]
        items = await session.subscribe_bulk(server, tags)
        done = await mxfast_async(
            *("replay", str(table_file), "--sep", ";", "--json", "--plaintext"),
            *("--endpoint", gateway.endpoint, "--api-key", gateway.api_key or ""),
        )
        assert done.returncode == 0, done.stderr
        seen: dict[int, list[tuple[float, np.datetime64]]] = {}
        for item in items:
            seen[item.item_handle] = []
        async for batch in stream:
            for handle, value, time in zip(
                batch.item_handle.tolist(), batch.value, batch.source_timestamp, strict=True
            ):
                seen[handle].append((value, time))
            if all(len(rows) == 4 for rows in seen.values()):
                break
        await stream.aclose()
    figures = json.loads(done.stdout)
    assert figures["values"] == 6
    assert figures["rows"] == 3
    assert figures["last_row_equal"] is True
    times = np.array(TIMES, "datetime64[ns]").tolist()
    for item, values in zip(items, [[3.25, 3.5, 3.75], [-1000.0, 0.0, 121.0]], strict=True):
        written = seen[item.item_handle][1:]  # the first is the value before
        assert [value for value, _ in written] == values
        assert [time.astype("datetime64[ns]").tolist() for _, time in written] == times


def test_replay_starts_a_simulated_gateway_of_its_own(table_file):
    done = mxfast("replay", str(table_file), "--sep", ";", "--prefix", "Rig1.")
    assert done.returncode == 0, done.stderr
    assert re.search(r"values written and acknowledged\s*│\s*6", done.stdout)
    assert re.search(r"last row reads back equal\s*│\s*yes", done.stdout)


@pytest.mark.parametrize("cell", ["fault", "", "nan", "1,5"])
def test_a_cell_that_is_no_number_is_named_and_nothing_is_sent(table_file, cell):
    table_file.write_text(TABLE.replace(";3.5;", f";{cell};"))
    done = mxfast("replay", str(table_file), "--sep", ";", "--endpoint", NO_GATEWAY)
    assert done.returncode == 1
    assert f"{table_file}, line 3, column 'Level': {cell!r} is no finite number" in done.stderr
    assert NO_GATEWAY not in done.stderr  # it did not even try to connect


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("01.500;", "0:1;", "line 3, column 'time': '2026-01-01 00:00:0:1' is no ISO 8601 time"),
        ("2026-01-01T02", "1500-01-01T02", "is not in the years 1678 to 2261"),
        (";121\n", "\n", "line 4: 2 cells, but the header has 3"),
        ("Volume Flow", "Level", "line 1: a tag's name is empty or stands twice"),
        (TABLE.partition("\n")[2], "", "no rows below the header"),
        (TABLE, "", "line 1: the header has 0 column(s)"),
        ("3.25", '"3.25' + "\n" * 200_000, "line 2: field larger than field limit (131072)"),
    ],
)
def test_a_broken_table_is_refused(table_file, before, after, message):
    table_file.write_text(TABLE.replace(before, after))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(table_file, ";")


def test_the_wrong_separator_is_suggested(table_file):
    done = mxfast("replay", str(table_file))
    assert done.returncode == 1
    assert "is ',' the separator?" in done.stderr


@pytest.mark.parametrize("speed", [None, 1e12])
async def test_rows_fall_due_once_each_in_their_order(speed):
    times = np.array(["2026-01-01", "2026-01-03", "2026-01-02", "2026-01-04"], "datetime64[ns]")
    rows = [row async for part in due(times, speed) for row in range(4)[part]]
    assert rows == [0, 1, 2, 3]


def test_a_speed_that_is_none_is_refused(table_file):
    done = mxfast("replay", str(table_file), "--speed", "fast")
    assert done.returncode == 2
    assert "neither 'max' nor a number above 0" in done.stderr


def test_a_gateway_that_is_not_there_is_named(table_file):
    done = mxfast(
        *("replay", str(table_file), "--sep", ";", "--endpoint", NO_GATEWAY, "--plaintext"),
        *("--connect-timeout", "0.5"),
    )
    assert done.returncode == 1
    assert NO_GATEWAY in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_refused_tag_is_named(table_file):
    async with SimulatedGateway(tags=["rig.Level"]) as gateway:
        done = await mxfast_async(
            *("replay", str(table_file), "--sep", ";", "--plaintext"),
            *("--endpoint", gateway.endpoint, "--api-key", gateway.api_key or ""),
        )
    assert done.returncode == 1
    assert "rig.Volume Flow" in done.stderr


# ---------------------------------------------------------------- the group


@pytest.mark.parametrize("command", [[], ["demo"], ["replay"], ["simulate"]])
def test_help_has_an_example(command):
    done = mxfast(*command, "--help")
    assert done.returncode == 0
    assert "\n    mxfast " in done.stdout


def test_without_its_extra_the_command_line_says_what_to_install():
    script = "import sys; sys.modules['click'] = None; from mxfast.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ("mxfast: click is missing; install it with: pip install 'mxfast[cli]'\n")
