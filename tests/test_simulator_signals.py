"""Signals: what the simulated plant's values do by themselves, by a clock that a test moves."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast.codec import ValueKind
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway, SimulatedGatewayProcess, VirtualClock
from mxfast.simulator.player import Player
from mxfast.simulator.signals import (
    SIGNALS,
    Constant,
    FromFile,
    Ramp,
    RandomWalk,
    Signal,
    Sine,
    signal_from_fields,
    signal_from_text,
)
from mxfast.simulator.tags import TagDatabase
from tests.simulator_client import Peer, take


class Played:
    """Tags that signals act on, without a server."""

    def __init__(
        self, signals: dict[str, Signal], names: list[str] | None = None, **fields: Any
    ) -> None:
        self.clock = VirtualClock()
        self.database = TagDatabase(names, lambda name: None, {}, self.clock.time_ns)
        self.stores: list[int] = []
        self.database.listeners.append(lambda tags, values: self.stores.append(len(tags)))
        self.player = Player(signals, self.database, self.clock)
        self.player.start()

    def value(self, name: str) -> float:
        tags = np.array([self.database.find(name)], np.intp)
        return float(self.database.values.take(tags).payload.view(np.float64)[0])

    def course(self, name: str, seconds: float, count: int) -> list[float]:
        """Return the present value, and the values after each step of time."""
        values = [self.value(name)]
        for _ in range(count):
            self.clock.advance(seconds)
            values.append(self.value(name))
        return values


def test_a_constant_holds_against_writes() -> None:
    played = Played({"A.x": Constant(value=4.5)})
    assert played.course("A.x", 1, 3) == [4.5] * 4
    tag = played.database.find("A.x")
    other = played.database.values.take(np.array([played.database.find("A.y")], np.intp))
    played.database.store(np.array([tag], np.intp), other)
    assert played.course("A.x", 1, 1) == [0.0, 4.5]


def test_a_ramp_rises_in_a_line_and_begins_again() -> None:
    played = Played({"A.x": Ramp(low=10, high=20, period=4), "A.y": Ramp(low=1, high=0, period=2)})
    assert played.course("A.x", 1, 5) == [10.0, 12.5, 15.0, 17.5, 10.0, 12.5]
    played = Played({"A.y": Ramp(low=1, high=0, period=2)})
    assert played.course("A.y", 1, 3) == [1.0, 0.5, 1.0, 0.5]


@given(
    mean=st.floats(-1e6, 1e6),
    amplitude=st.floats(0, 1e6),
    period=st.floats(0.5, 1e4),
    phase=st.floats(0, 1),
    interval=st.floats(0.1, 10),
)
def test_a_sine_is_where_the_time_says(
    mean: float, amplitude: float, period: float, phase: float, interval: float
) -> None:
    played = Played(
        {"A.x": Sine(mean=mean, amplitude=amplitude, period=period, phase=phase, interval=interval)}
    )
    for step, value in enumerate(played.course("A.x", interval, 5)):
        expected = mean + amplitude * math.sin(2 * math.pi * (step * interval / period + phase))
        assert value == pytest.approx(expected, abs=1e-4 * (1 + amplitude))


def test_a_random_walk_stays_in_bounds_and_is_the_same_again() -> None:
    walk = RandomWalk(start=5, step=3, low=0, high=10, seed=7)

    def course(signal: Signal) -> list[list[float]]:
        played = Played({"A.*": signal}, ["A.x", "A.y"])
        values = []
        for _ in range(50):
            values.append([played.value(name) for name in ("A.x", "A.y")])
            played.clock.advance(1)
        return [list(each) for each in zip(*values, strict=True)]

    first, second = course(walk)
    assert first[0] == second[0] == 5.0
    assert first[1:] != second[1:]  # each tag its own
    assert {0.0, 10.0} < set(first + second)
    assert all(0 <= value <= 10 for value in first + second)
    assert max(abs(a - b) for a, b in itertools.pairwise(first)) <= 3
    assert course(walk) == [first, second]
    assert course(RandomWalk(start=5, step=3, low=0, high=10, seed=8)) != [first, second]


def test_a_file_is_played_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "rig.csv"
    file.write_text("time;Level;Flow\n0;1.5;7\n1;2.5;8\n\n2;3.5;9\n")
    fields: dict[str, Any] = {"path": str(file), "column": "Level", "separator": ";"}
    played = Played({"A.x": FromFile(**fields), "A.y": FromFile(**fields, loop=False)})
    assert played.course("A.x", 1, 4) == [1.5, 2.5, 3.5, 1.5, 2.5]
    assert played.value("A.y") == 3.5
    # A tag that is made later begins with the first row.
    played = Played({"B.*": FromFile(**{**fields, "column": "Flow"})})
    played.clock.advance(1)
    assert played.course("B.x", 1, 1) == [7.0, 8.0]


@pytest.mark.parametrize(
    ("content", "column", "complaint"),
    [
        ("", "Level", "line 1: 0 columns are called 'Level'; there are none"),
        ("a,b\n1,2\n", "Level", "line 1: 0 columns are called 'Level'; there are a, b"),
        ("a,a\n1,2\n", "a", "line 1: 2 columns are called 'a'"),
        ("a,Level\n", "Level", "no rows"),
        ("a,Level\n1,2\n1,x\n", "Level", "line 3, column 'Level': 'x' is no finite number"),
        ("a,Level\n1\n", "Level", "line 2, column 'Level': '' is no finite number"),
        ("a,Level\n1,nan\n", "Level", "line 2, column 'Level': 'nan' is no finite number"),
        ('a,Level\n1,"2\n' + "1,2\n" * 40_000, "Level", "line 2: field larger .*is a quote left"),
    ],
)
def test_a_bad_file_is_named_with_line_and_column(
    tmp_path: Path, content: str, column: str, complaint: str
) -> None:
    file = tmp_path / "rig.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        FromFile(path=file, column=column)
    assert str(file) in str(caught.value)


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="signal file: path must be a path, got 5"):
        FromFile(path=5, column="Level")  # type: ignore[arg-type]


def test_a_key_of_its_own_goes_before_patterns_and_they_go_in_order() -> None:
    played = Played(
        {
            "*.x": Constant(value=1),
            "A.*": Constant(value=2),
            "A.x": Constant(value=3),
            "A.Profile[?]": Constant(value=4),
        },
        ["A.x", "A.y", "B.x", "B.y"],
    )
    values = [played.value(name) for name in ("A.x", "A.y", "B.x", "B.y")]
    assert values == [3.0, 2.0, 1.0, 0.0]


def test_only_changes_are_stored_and_all_of_a_kind_at_once() -> None:
    names = [f"T{n}.x" for n in range(10_000)]
    played = Played({"T*": Ramp(period=10), "C.x": Constant(value=1)}, [*names, "C.x"])
    played.stores.clear()
    played.clock.advance(3)
    assert played.stores == [10_000] * 3


def test_rates_differ() -> None:
    played = Played({"A.x": Ramp(period=100, interval=0.5), "A.y": Ramp(period=100, interval=2)})
    assert played.course("A.x", 0.5, 4) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert played.value("A.y") == 2.0
    played.clock.advance(1)
    assert played.value("A.y") == 2.0


def test_no_signal_goes_on_after_the_gateway() -> None:
    played = Played({"A.x": Ramp(period=10)})
    played.player.stop()
    played.clock.advance(5)
    assert played.value("A.x") == 0.0
    assert played.value("A.y") == 0.0


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (Sine, {"period": 0}),
        (Ramp, {"period": -1}),
        (Constant, {"interval": 0}),
        (Constant, {"value": math.nan}),
        (Sine, {"interval": math.inf}),
        (RandomWalk, {"start": 101}),
        (RandomWalk, {"seed": -1}),
        (FromFile, {"separator": "::"}),
    ],
)
def test_a_signal_refuses_what_it_cannot_be(
    kind: Callable[..., Signal], refused: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"signal \w+: {next(iter(refused))}"):
        kind(**refused)


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("sine", Sine()),
        ("sine:period=10,amplitude=5", Sine(period=10, amplitude=5)),
        ("ramp: low=1 , high=-2.5", Ramp(low=1, high=-2.5)),
        ("constant:value=3,interval=0.1", Constant(value=3, interval=0.1)),
        ("walk:seed=3,step=0.5", RandomWalk(seed=3, step=0.5)),
    ],
)
def test_signals_in_text(text: str, signal: Signal) -> None:
    assert signal_from_text(text) == signal
    assert signal_from_fields(signal.to_fields()) == signal


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cosine", "no signal is called 'cosine'; there are constant, ramp, sine, walk, file"),
        ("sine:height=3", "signal sine has no field 'height'; it has"),
        ("sine:period=long", "signal sine: period is 'long'"),
        ("sine:period", "signal sine: 'period' is not of the form field=value"),
        ("file:loop=maybe", "signal file: loop is 'maybe': not yes or no"),
    ],
)
def test_wrong_text_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        signal_from_text(text)


def test_every_signal_has_a_name_in_text() -> None:
    assert set(SIGNALS.values()) == set(Signal.__subclasses__())


async def test_events_tell_the_signal_and_reads_too() -> None:
    clock = VirtualClock()
    gateway = SimulatedGateway(
        clock=clock,
        signals={"Tank1.*": Ramp(low=0, high=10, period=10), "Pump_00005.Run": Ramp(high=1)},
    )
    async with gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        stream = await remote.stream()
        clock.advance(2)
        await remote.subscribe("Tank1.Level", "Other.Level")
        events = await take(stream, 2)
        assert [event.value.double_value for event in events] == [2.0, 0.0]
        clock.advance(1)
        (event,) = await take(stream, 1)
        assert event.value.double_value == 3.0
        assert event.source_timestamp.ToNanoseconds() == clock.time_ns()
        assert await remote.numbers("Tank1.Level", "Other.Level") == [3.0, 0.0]


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("Level", [0.0, 0.75, 1.5]),
        ("Speed", [0.0, 0.75, 1.5]),
        ("Starts", [0, 1, 2]),
        ("Run", [False, True, True]),
    ],
)
async def test_a_sample_is_what_the_attribute_is(
    attribute: str, values: list[Any], tmp_path: Path
) -> None:
    galaxy = tmp_path / "galaxy.csv"
    galaxy.write_text(
        "object,attribute,type\n"
        "P,Level,Double\nP,Speed,Float\nP,Starts,Integer\nP,Run,Boolean\nP,Name,String\n"
    )
    clock = VirtualClock()
    signals = {"P.*": Ramp(high=7.5, period=10)}
    gateway = SimulatedGateway(clock=clock, galaxy_file=str(galaxy), signals=signals)
    async with gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        (name,) = await remote.read("P.Name")
        assert name.value.string_value == ""
        for value in values:
            (result,) = await remote.read(f"P.{attribute}")
            assert getattr(result.value, str(result.value.WhichOneof("kind"))) == value
            clock.advance(1)
    for tag in ("P.Name", "P.Other"):
        with pytest.raises(ValueError, match=f"signals: .*'{tag}'"):
            async with SimulatedGateway(galaxy_file=str(galaxy), signals={tag: Sine()}):
                pytest.fail("it started")


def test_samples_out_of_a_types_range_are_cut_off() -> None:
    clock = VirtualClock()
    database = TagDatabase(["A.i", "A.f"], lambda name: None, {}, clock.time_ns)
    database.declared[:2] = ValueKind.INT32, ValueKind.FLOAT
    Player({"A.*": Constant(value=1e300)}, database, clock)
    values = database.values.take(np.array([0, 1], np.intp))
    assert values.message(0)[0].int32_value == 2**31 - 1
    assert values.message(1)[0].float_value == np.finfo(np.float32).max
    assert values.message(0)[0].data_type == pb.MX_DATA_TYPE_INTEGER


async def test_a_child_process_gets_its_signals() -> None:
    signals = {"A.x": Constant(value=2.5), "B.*": Sine(phase=0.25, period=1e9)}
    async with (
        SimulatedGatewayProcess(signals=signals) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        assert await (await peer.registered()).numbers("A.x", "B.x") == [2.5, 1.0]


def test_what_is_no_signal_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'sine' for 'A\.x' is no signal"):
        SimulatedGateway(signals={"A.x": "sine"})  # type: ignore[dict-item]
