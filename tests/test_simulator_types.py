"""Attributes of the galaxy have types, and refuse values that are none of them."""

import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mxfast.codec import ValueKind
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from mxfast.simulator.galaxy_model import DATA_TYPES, Attribute
from mxfast.simulator.status import E_INVALIDARG
from mxfast.simulator.typed import declared_kind, fit
from mxfast.simulator.values import Values
from tests.simulator_client import Peer, Remote

GALAXY = """object,attribute,type,array,security
A,b,Boolean,,
A,i,Integer,,
A,f,Float,,
A,d,Double,,
A,s,String,,
A,t,Time,,
A,bs,Boolean,2,
A,is,Integer,2,
A,fs,Float,2,
A,ds,Double,2,
A,ss,String,2,
A,ts,Time,2,
A,free,Double,,free
A,secured,Double,,secured
A,verified,Double,,verified
"""

MOMENT = Timestamp(seconds=5)
FAR = Timestamp(seconds=2**40)  # nanoseconds in 64 bits do not reach it


def value(arm: str, content: Any) -> pb.MxValue:
    if isinstance(content, list):
        array: Any = {f"{arm}s": {"values": content}}
        return pb.MxValue(array_value=pb.MxArray(**array))
    return pb.MxValue(**{arm: content})


@pytest.fixture
async def remote(tmp_path: Any) -> AsyncIterator[Remote]:
    file = tmp_path / "galaxy.csv"
    file.write_text(GALAXY)
    gateway = SimulatedGateway(galaxy_file=str(file))
    async with gateway, Peer(gateway.endpoint) as peer:
        yield await peer.registered()


async def outcome(remote: Remote, name: str, written: pb.MxValue, *, bulk: bool) -> str:
    """Write a value; return why it is refused, or nothing."""
    (item,) = await remote.add(name)
    if bulk:
        entry = pb.WriteBulkEntry(item_handle=item, value=written)
        reply = await remote.invoke("write_bulk", entries=[entry])
        (result,) = reply.write_bulk.results
        assert result.was_successful == (not result.error_message)
        hresult, message = result.hresult, result.error_message
    else:
        reply = await remote.invoke("write", item_handle=item, value=written)
        assert (reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE) == bool(
            reply.diagnostic_message
        )
        hresult, message = reply.hresult, reply.diagnostic_message
    assert hresult == (E_INVALIDARG if message else 0)
    return message


async def read(remote: Remote, name: str) -> pb.MxValue:
    (result,) = await remote.read(name)
    assert result.was_successful
    return result.value


TAKEN = [
    ("b", "bool_value", True, "bool_value", True),
    ("i", "int32_value", -3, "int32_value", -3),
    ("i", "int64_value", 2**31 - 1, "int32_value", 2**31 - 1),
    ("f", "float_value", 0.5, "float_value", 0.5),
    ("f", "double_value", 0.1, "float_value", float(np.float32(0.1))),
    ("f", "double_value", float("inf"), "float_value", float("inf")),
    ("f", "int32_value", 7, "float_value", 7.0),
    ("d", "double_value", 0.1, "double_value", 0.1),
    ("d", "float_value", 0.5, "double_value", 0.5),
    ("d", "int64_value", 2**40, "double_value", 2.0**40),
    ("s", "string_value", "on", "string_value", "on"),
    ("t", "timestamp_value", MOMENT, "timestamp_value", MOMENT),
    ("t", "timestamp_value", FAR, "timestamp_value", FAR),
    ("bs", "bool_value", [True, False], "bool_values", [True, False]),
    ("is", "int64_value", [1, -2], "int32_values", [1, -2]),
    ("fs", "double_value", [0.5, 1e9], "float_values", [0.5, 1e9]),
    ("ds", "int32_value", [1, 2], "double_values", [1.0, 2.0]),
    ("ss", "string_value", ["x", ""], "string_values", ["x", ""]),
    ("ts", "timestamp_value", [MOMENT, FAR], "timestamp_values", [MOMENT, FAR]),
]


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("case", TAKEN)
async def test_an_attribute_takes_its_type(
    remote: Remote, case: tuple[str, str, Any, str, Any], bulk: bool
) -> None:
    name, arm, content, kept_in, kept = case
    name = f"A.{name}[]" if isinstance(content, list) else f"A.{name}"
    assert await outcome(remote, name, value(arm, content), bulk=bulk) == ""
    got = await read(remote, name)
    if isinstance(content, list):
        assert got.array_value.WhichOneof("values") == kept_in
        assert list(getattr(got.array_value, kept_in).values) == kept
        assert got.array_value.element_data_type == got.data_type
    else:
        assert got.WhichOneof("kind") == kept_in
        assert getattr(got, kept_in) == kept


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        ("b", "int32_value", 1, "b is of type Boolean, not an int32"),
        ("i", "double_value", 1.0, "i is of type Integer, not a double"),
        ("i", "int64_value", 2**31, "i is of type Integer, not an int64"),
        ("i", "bool_value", True, "i is of type Integer, not a bool"),
        ("f", "double_value", 1e39, "f is of type Float, not a double"),
        ("f", "string_value", "1", "f is of type Float, not a string"),
        ("d", "string_value", "1", "d is of type Double, not a string"),
        ("d", "timestamp_value", MOMENT, "d is of type Double, not a timestamp"),
        ("d", "double_value", [1.0], "d is of type Double, not an array"),
        ("s", "double_value", 1.0, "s is of type String, not a double"),
        ("t", "string_value", "now", "t is of type Time, not a string"),
        ("d", "is_null", True, "d is of type Double, not no value"),
        ("ds[]", "double_value", 1.0, "ds is an array of 2 elements, not a double"),
        ("ds[]", "double_value", [1.0], "ds is an array of 2 elements, not 1 elements"),
        ("ds[]", "string_value", ["1", "2"], "ds is an array of Double, not of a string"),
        ("is[]", "int64_value", [1, 2**31], "is is an array of Integer, not of an int64"),
        ("fs[]", "double_value", [1.0, 1e39], "fs is an array of Float, not of a double"),
        ("bs[]", "int32_value", [1, 0], "bs is an array of Boolean, not of an int32"),
    ],
)
async def test_an_attribute_refuses_another_type(
    remote: Remote, case: tuple[str, str, Any, str], bulk: bool
) -> None:
    name, arm, content, complaint = case
    before = await read(remote, f"A.{name}")
    message = await outcome(remote, f"A.{name}", value(arm, content), bulk=bulk)
    assert message == f"Value does not fall within the expected range: {complaint}."
    assert await read(remote, f"A.{name}") == before


async def test_entries_that_fit_are_written_beside_those_that_do_not(remote: Remote) -> None:
    items = await remote.add("A.d", "A.i", "A.f", "A.secured")
    reply = await remote.write([items[0], items[1], 999, items[2], items[3]], [1.5] * 5)
    messages = [result.error_message for result in reply.write_bulk.results]
    assert [bool(message) for message in messages] == [False, True, True, False, True]
    assert "Integer" in messages[1]
    assert "999" in messages[2]
    assert "secured" in messages[4]
    assert await remote.numbers("A.d", "A.secured") == [1.5, 0.0]


async def test_attributes_begin_with_nothing_of_their_type(remote: Remote) -> None:
    scalars = [await read(remote, f"A.{name}") for name in "bifdst"]
    assert [each.WhichOneof("kind") for each in scalars] == [
        "bool_value",
        "int32_value",
        "float_value",
        "double_value",
        "string_value",
        "timestamp_value",
    ]
    assert not any(getattr(each, str(each.WhichOneof("kind"))) for each in scalars[:5])
    assert scalars[5].timestamp_value == Timestamp()
    array = await read(remote, "A.ss[]")
    assert list(array.array_value.string_values.values) == ["", ""]


async def test_only_the_file_s_attributes_are_tags(remote: Remote) -> None:
    known = ["A.d", "A.ds[]", "A.ds"]
    unknown = ["A.other", "B.d", "A", "A.d[]", "a.d", "A.", ".d"]
    handles = await remote.add(*known, *unknown)
    assert all(handles[: len(known)])
    assert handles[len(known) :] == [0] * len(unknown)


async def test_an_array_is_written_by_its_bare_name_since_era_3(tmp_path: Any) -> None:
    file = tmp_path / "galaxy.csv"
    file.write_text(GALAXY)
    for era, kept in ((3, [1.0, 2.0]), (2, [0.0, 0.0])):
        gateway = SimulatedGateway(galaxy_file=str(file), era=era)
        async with gateway, Peer(gateway.endpoint) as peer:
            remote = await peer.registered()
            assert await outcome(remote, "A.ds", value("double_value", [1.0, 2.0]), bulk=True) == ""
            got = await read(remote, "A.ds[]")
            assert list(got.array_value.double_values.values) == kept


async def test_security_is_the_attribute_s_own(remote: Remote) -> None:
    for name, detail in (("free", 0), ("d", 0), ("secured", 1012), ("verified", 1013)):
        (item,) = await remote.add(f"A.{name}")
        reply = await remote.invoke("write", item_handle=item, value=value("double_value", 1.0))
        assert reply.statuses[0].detail == detail


async def test_the_generated_galaxy_has_types_and_other_tags_have_none() -> None:
    async with SimulatedGateway() as gateway, Peer(gateway.endpoint) as peer:
        remote = await peer.registered()
        tanks = (f"Tank_{number:05}.Temperature" for number in range(101))
        tank = next(tank for tank in tanks if gateway.galaxy.attribute(tank) is not None)
        assert "Float" in await outcome(remote, tank, value("string_value", "hot"), bulk=True)
        for content in ("hot", "cold"):
            written = value("string_value", content)
            assert await outcome(remote, "Other.Temperature", written, bulk=True) == ""
        written = value("double_value", 1.0)
        assert await outcome(remote, "Other.Temperature", written, bulk=True) == ""


NUMBERS = {
    ValueKind.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueKind.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueKind.DOUBLE: st.floats(allow_nan=False),
    ValueKind.FLOAT: st.floats(width=32, allow_nan=False),
    ValueKind.BOOL: st.integers(0, 1),
}


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", *DATA_TYPES]),
            st.sampled_from(sorted(NUMBERS)).flatmap(
                lambda kind: st.tuples(st.just(kind), NUMBERS[ValueKind(kind)])
            ),
        ),
        max_size=20,
    )
)
def test_many_rows_fit_as_each_would_alone(rows: list[tuple[str, tuple[int, Any]]]) -> None:
    """Numbers go through a few numpy operations together; each is checked by itself here."""
    declared = [declared_kind(Attribute("x", DATA_TYPES[name])) if name else 0 for name, _ in rows]
    payload = [
        number if isinstance(number, int) else int(np.array([number]).view(np.int64)[0])
        for _, (_, number) in rows
    ]
    count = len(rows)
    values = Values(
        np.array([kind for _, (kind, _) in rows], np.uint8),
        np.array(payload, np.int64),
        np.full(count, 192, np.int32),
        np.zeros(count, np.int64),
        {},
    )
    fitted, refused = fit(
        np.array(declared, np.uint8), values, lambda row: Attribute("x", DATA_TYPES[rows[row][0]])
    )
    for row, (name, (kind, number)) in enumerate(rows):
        whole = kind in (ValueKind.INT32, ValueKind.INT64)
        floating = kind in (ValueKind.FLOAT, ValueKind.DOUBLE)
        overflows = float(np.finfo(np.float32).max) < abs(number) < math.inf
        takes = {
            "": True,
            "Boolean": kind == ValueKind.BOOL,
            "Integer": whole and -(2**31) <= number < 2**31,
            "Float": whole or (floating and not overflows),
            "Double": whole or floating,
        }.get(name, False)
        assert (row not in refused) == takes
        if takes:
            message = fitted.message(row)[0]
            kept = getattr(message, str(message.WhichOneof("kind")))
            # A whole number beyond 2**53 is rounded, as Python rounds it.
            expected = {"Float": np.float32, "Double": float}.get(name, lambda same: same)(number)
            assert kept == expected
            if name:
                assert fitted.kind[row] == DATA_TYPES[name].kind
