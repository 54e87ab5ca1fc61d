"""Handles, values and commands of the simulated gateway, over real gRPC."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from tests.simulator_client import Peer, Remote, double, kind_of, take

E_INVALIDARG = -2147024809


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with SimulatedGateway() as gateway, Peer(gateway.endpoint) as peer:
        yield peer


@pytest.fixture
async def remote(peer: Peer) -> Remote:
    return await peer.registered()


def assert_ok(reply: pb.MxCommandReply) -> None:
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK, reply
    assert reply.hresult == 0


def assert_failed(reply: pb.MxCommandReply, detail: int = 0) -> None:
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_MXACCESS_FAILURE, reply
    assert reply.hresult == E_INVALIDARG
    assert reply.WhichOneof("payload") is None
    (status,) = reply.statuses
    assert (status.success, status.detail) == (0, detail)
    assert status.category == pb.MX_STATUS_CATEGORY_CONFIGURATION_ERROR
    assert status.diagnostic_text == reply.diagnostic_message != ""


def stamp(year: int, nanos: int = 0) -> Timestamp:
    message = Timestamp(nanos=nanos)
    message.seconds = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    return message


def time_value(message: Timestamp) -> pb.MxValue:
    return pb.MxValue(
        data_type=pb.MX_DATA_TYPE_TIME, variant_type="VT_DATE", timestamp_value=message
    )


# Replies


async def test_a_reply_repeats_session_correlation_and_kind(remote: Remote) -> None:
    for command in ("ping", "register", "add_item", "write_bulk", "query_active_alarms"):
        reply = await remote.invoke(command)
        assert reply.session_id == remote.session_id
        assert reply.correlation_id == "c-1"
        assert reply.kind == kind_of(command)


async def test_register_answers_as_the_recorded_reply_does(peer: Peer) -> None:
    remote = await peer.open()
    reply = await remote.invoke("register", client_name="line-4")
    assert_ok(reply)
    handle = reply.register.server_handle
    assert handle > 0
    assert reply.return_value.data_type == pb.MX_DATA_TYPE_INTEGER
    assert reply.return_value.variant_type == "VT_I4"
    assert reply.return_value.int32_value == handle
    (status,) = reply.statuses
    assert (status.success, status.category) == (1, pb.MX_STATUS_CATEGORY_OK)


async def test_ping_answers_without_a_payload(remote: Remote) -> None:
    reply = await remote.invoke("ping", message="hello")
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert reply.WhichOneof("payload") is None


async def test_session_state_and_worker_info(remote: Remote) -> None:
    reply = await remote.invoke("get_session_state")
    assert reply.session_state.state == pb.SESSION_STATE_READY
    reply = await remote.invoke("get_worker_info")
    assert reply.worker_info.worker_process_id > 0
    assert reply.worker_info.mxaccess_progid


@pytest.mark.parametrize("kind", [0, 9999])
async def test_a_kind_nobody_knows_is_an_invalid_request(remote: Remote, kind: int) -> None:
    request = pb.MxCommandRequest.FromString(
        pb.MxCommandRequest(session_id=remote.session_id).SerializeToString()
    )
    request.command.kind = kind  # type: ignore[assignment]
    reply = await remote.send(request)
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST
    assert reply.protocol_status.message.startswith("Unsupported MXAccess command kind")


@pytest.mark.parametrize("command", ["register", "write_bulk", "read_bulk"])
async def test_a_kind_without_its_payload_is_an_invalid_request(
    remote: Remote, command: str
) -> None:
    request = pb.MxCommandRequest(session_id=remote.session_id)
    request.command.kind = kind_of(command)
    for payload in (None, "ping"):
        if payload is not None:
            getattr(request.command, payload).SetInParent()
        reply = await remote.send(request)
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_INVALID_REQUEST


# Handles


async def test_server_handles_differ(peer: Peer) -> None:
    remote = await peer.open()
    handles = [(await remote.invoke("register")).register.server_handle for _ in range(3)]
    assert len(set(handles)) == 3


async def test_adding_a_name_twice_makes_two_items_of_one_tag(remote: Remote) -> None:
    first, second = await remote.add("Tank.Level", "Tank.Level")
    assert first != second
    await remote.write([first, second], [1.0, 2.0])
    assert await remote.numbers("Tank.Level") == [2.0]


async def test_add_item_returns_its_handle_twice(remote: Remote) -> None:
    reply = await remote.invoke("add_item", item_definition="Tank.Level")
    assert_ok(reply)
    assert reply.add_item.item_handle == reply.return_value.int32_value > 0


@pytest.mark.parametrize(
    ("definition", "context"), [("Level", "Tank"), (".Level", "Tank."), ("Tank.Level", "")]
)
async def test_add_item2_joins_context_and_name(
    remote: Remote, definition: str, context: str
) -> None:
    reply = await remote.invoke("add_item2", item_definition=definition, item_context=context)
    assert_ok(reply)
    await remote.write([reply.add_item2.item_handle], [4.5])
    assert await remote.numbers("Tank.Level") == [4.5]


@pytest.mark.parametrize("name", ["A.B", "A.B.C", "Area 1.Volume Flow Rate", "Größe.Wert", "A.B[]"])
async def test_any_dotted_name_is_accepted(remote: Remote, name: str) -> None:
    assert (await remote.add(name))[0] > 0


@pytest.mark.parametrize("name", ["", "A", ".", "A.", ".B", "A..B", "A. B", "A.B\n"])
async def test_a_name_that_is_not_dotted_is_unresolved(remote: Remote, name: str) -> None:
    assert_failed(await remote.invoke("add_item", item_definition=name), detail=1003)


async def test_only_the_given_tags_are_accepted() -> None:
    async with (
        SimulatedGateway(tags=["A.x", "plain", "A.x"]) as gateway,
        Peer(gateway.endpoint) as peer,
    ):
        remote = await peer.registered()
        reply = await remote.invoke("add_item_bulk", tag_addresses=["A.x", "A.y", "plain"])
        good, refused, plain = reply.add_item_bulk.results
        assert good.was_successful
        assert plain.was_successful
        assert not refused.was_successful
        assert refused.item_handle == 0
        assert refused.tag_address == "A.y"
        assert "A.y" in refused.error_message
        assert_failed(await remote.invoke("add_item", item_definition="A.y"), detail=1003)
        assert [result.was_successful for result in await remote.read("A.y", "A.x")] == [
            False,
            True,
        ]


async def test_a_wrong_server_handle_fails_each_command(remote: Remote) -> None:
    for wrong in (remote.server + 1, 0, -1):
        for command in ("unregister", "add_item", "add_item2", "advise", "write"):
            assert_failed(await remote.invoke(command, server_handle=wrong))
        for command in ("add_item_bulk", "subscribe_bulk", "read_bulk"):
            reply = await remote.invoke(command, server_handle=wrong, tag_addresses=["A.x"])
            (result,) = getattr(reply, command).results
            assert not result.was_successful
            assert str(wrong) in result.error_message


@pytest.mark.parametrize(
    "command",
    [
        "remove_item",
        "advise",
        "un_advise",
        "advise_supervisory",
        "write",
        "write2",
        "write_secured",
        "write_secured2",
    ],
)
async def test_a_wrong_item_handle_fails_each_command(remote: Remote, command: str) -> None:
    (item,) = await remote.add("A.x")
    for wrong in (item + 1, 0, -1, 2**31 - 1, -(2**31)):
        assert_failed(await remote.invoke(command, item_handle=wrong))
    assert_ok(await remote.invoke(command, item_handle=item))


async def test_another_sessions_handles_are_refused(peer: Peer, remote: Remote) -> None:
    other = await peer.registered()
    (own,) = await other.add("A.own")
    (item,) = await remote.add("A.x")
    for session in (remote, other):
        owner = remote if session is other else other
        theirs = item if session is other else own
        for server in (session.server, owner.server):
            fields = {"server_handle": server, "item_handle": theirs}
            assert_failed(await session.invoke("advise", **fields))
            assert_failed(await session.invoke("write", value=double(1.0), **fields))
            entries = [pb.WriteBulkEntry(item_handle=theirs, value=double(1.0))]
            reply = await session.invoke("write_bulk", server_handle=server, entries=entries)
            assert not reply.write_bulk.results[0].was_successful
            assert str(theirs) in reply.write_bulk.results[0].error_message
        assert_failed(await session.invoke("unregister", server_handle=owner.server))
        name = {"server_handle": owner.server, "item_definition": "A.y"}
        assert_failed(await session.invoke("add_item", **name))
    assert await remote.numbers("A.x", "A.own") == [0.0, 0.0]


async def test_a_sessions_handles_follow_one_another_and_are_found_again(peer: Peer) -> None:
    for first in (1, 10_000_001, 20_000_001):
        remote = await peer.registered()
        assert remote.server == first
        items = await remote.add(*(f"A.x{n}" for n in range(200)))
        assert items == list(range(first, first + 200))
        stream = await remote.stream()
        await remote.write([items[199], items[0]], [2.0, 1.0])
        events = await take(stream, 2)
        assert [event.item_handle for event in events] == [items[199], items[0]]
        assert {event.server_handle for event in events} == {first}
        await remote.invoke("advise", item_handle=items[7])
        (read,) = await remote.read("A.x7")
        assert read.item_handle == (await take(stream, 1))[0].item_handle == items[7]


async def test_after_two_hundred_sessions_handles_begin_again(
    peer: Peer,
) -> None:
    numbers = []
    for _ in range(201):
        remote = await peer.registered()
        numbers.append(remote.server)
        await remote.close()
    assert len(set(numbers)) == 200
    assert max(numbers) < 2**31
    assert numbers[200] == numbers[0] == 1


async def test_a_removed_item_is_refused_and_its_handle_not_reused(remote: Remote) -> None:
    first, second = await remote.add("A.x", "A.y")
    assert_ok(await remote.invoke("remove_item", item_handle=second))
    assert_failed(await remote.invoke("remove_item", item_handle=second))
    assert (await remote.add("A.z"))[0] not in (first, second)
    reply = await remote.write([first, second], [1.0, 2.0])
    assert [r.was_successful for r in reply.write_bulk.results] == [True, False]


async def test_unregister_forgets_its_items_and_no_others(remote: Remote) -> None:
    (gone,) = await remote.add("A.x")
    kept_server = (await remote.invoke("register")).register.server_handle
    reply = await remote.invoke("add_item", server_handle=kept_server, item_definition="A.y")
    kept = reply.add_item.item_handle
    assert_ok(await remote.invoke("unregister"))
    assert_failed(await remote.invoke("unregister"))
    assert_failed(await remote.invoke("advise", item_handle=gone))
    assert_failed(await remote.invoke("advise", item_handle=kept))
    assert_ok(await remote.invoke("advise", server_handle=kept_server, item_handle=kept))


async def test_more_items_than_the_first_tables_hold(remote: Remote) -> None:
    names = [f"A.x{i}" for i in range(3000)]
    items = await remote.add(*names)
    assert len(set(items)) == 3000
    await remote.write(items, range(3000))
    assert await remote.numbers(*names) == list(range(3000))


# Many items


async def test_bulk_results_keep_order_and_name_the_entry_that_failed(remote: Remote) -> None:
    first, second = await remote.add("A.x", "A.y")
    for command in ("advise_item_bulk", "un_advise_item_bulk", "remove_item_bulk"):
        reply = await remote.invoke(command, item_handles=[first, 77, second])
        results = getattr(reply, command).results
        assert [r.item_handle for r in results] == [first, 77, second]
        assert [r.was_successful for r in results] == [True, False, True]
        assert [r.tag_address for r in results] == ["A.x", "", "A.y"]
        assert [r.server_handle for r in results] == [remote.server] * 3
        assert "77" in results[1].error_message
        assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK


async def test_subscribe_bulk_gives_handles_and_unsubscribe_takes_them(remote: Remote) -> None:
    items = await remote.subscribe("A.x", "bad", "A.y")
    assert items[1] == 0
    assert [r.was_cached for r in await remote.read("A.x", "A.y")] == [True, True]
    reply = await remote.invoke("unsubscribe_bulk", item_handles=[items[0], items[2]])
    assert all(r.was_successful for r in reply.unsubscribe_bulk.results)
    assert [r.was_cached for r in await remote.read("A.x", "A.y")] == [False, False]
    assert_failed(await remote.invoke("advise", item_handle=items[0]))


@pytest.mark.parametrize(
    "command",
    [
        "add_item_bulk",
        "advise_item_bulk",
        "remove_item_bulk",
        "un_advise_item_bulk",
        "subscribe_bulk",
        "unsubscribe_bulk",
        "write_bulk",
        "write2_bulk",
        "write_secured_bulk",
        "write_secured2_bulk",
        "read_bulk",
    ],
)
async def test_an_empty_bulk_has_a_payload_without_results(remote: Remote, command: str) -> None:
    reply = await remote.invoke(command)
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert reply.WhichOneof("payload") == command
    assert len(getattr(reply, command).results) == 0


# Values


VALUES = {
    "bool": pb.MxValue(data_type=pb.MX_DATA_TYPE_BOOLEAN, variant_type="VT_BOOL", bool_value=True),
    "int32": pb.MxValue(
        data_type=pb.MX_DATA_TYPE_INTEGER, variant_type="VT_I4", int32_value=-(2**31)
    ),
    "int64": pb.MxValue(
        data_type=pb.MX_DATA_TYPE_INTEGER, variant_type="VT_I8", int64_value=2**63 - 1
    ),
    "float": pb.MxValue(data_type=pb.MX_DATA_TYPE_FLOAT, variant_type="VT_R4", float_value=0.1),
    "double": double(-1.5e300),
    "string": pb.MxValue(
        data_type=pb.MX_DATA_TYPE_STRING, variant_type="VT_BSTR", string_value="läuft"
    ),
    "time": time_value(stamp(2024, 123_456_789)),
    "time before 1970": time_value(stamp(1930, 1)),
    "time beyond nanoseconds": time_value(stamp(2500)),
    "raw": pb.MxValue(
        data_type=pb.MX_DATA_TYPE_UNKNOWN, variant_type="VT_RECORD", raw_value=b"\0\xff"
    ),
    "array": pb.MxValue(
        data_type=pb.MX_DATA_TYPE_DOUBLE,
        variant_type="VT_ARRAY|VT_R8",
        array_value=pb.MxArray(
            element_data_type=pb.MX_DATA_TYPE_DOUBLE,
            dimensions=[2],
            double_values=pb.DoubleArray(values=[1.0, 2.0]),
        ),
    ),
    "null": pb.MxValue(data_type=pb.MX_DATA_TYPE_NO_DATA, variant_type="VT_NULL", is_null=True),
}


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_written_alone_is_read_back(remote: Remote, name: str) -> None:
    (item,) = await remote.add("A.x")
    assert_ok(await remote.invoke("write", item_handle=item, value=VALUES[name]))
    (result,) = await remote.read("A.x")
    assert result.value == VALUES[name]
    assert result.quality == 192


async def test_values_written_in_bulk_are_read_back(remote: Remote) -> None:
    names = [f"A.x{i}" for i in range(len(VALUES))]
    items = await remote.add(*names)
    for order in (1, -1):  # the second round replaces each value by one of another type
        values = list(VALUES.values())[::order]
        entries = [
            pb.WriteBulkEntry(item_handle=item, value=value)
            for item, value in zip(items, values, strict=True)
        ]
        reply = await remote.invoke("write_bulk", entries=entries)
        assert all(result.was_successful for result in reply.write_bulk.results)
        assert [result.value for result in await remote.read(*names)] == values


async def test_a_null_is_one_whatever_arm_it_has(remote: Remote) -> None:
    alone, in_bulk = await remote.add("A.x", "A.y")
    value = pb.MxValue(is_null=True, double_value=2.5)
    assert_ok(await remote.invoke("write", item_handle=alone, value=value))
    await remote.invoke("write_bulk", entries=[pb.WriteBulkEntry(item_handle=in_bulk, value=value)])
    assert [result.value for result in await remote.read("A.x", "A.y")] == [VALUES["null"]] * 2
    # Nor is the time of a write one then.
    time = pb.MxValue(is_null=True, timestamp_value={"seconds": 7})
    assert_ok(
        await remote.invoke("write2", item_handle=alone, value=double(1.0), timestamp_value=time)
    )
    entry = pb.Write2BulkEntry(item_handle=in_bulk, value=double(1.0), timestamp_value=time)
    await remote.invoke("write2_bulk", entries=[entry])
    for result in await remote.read("A.x", "A.y"):
        assert result.value == double(1.0)
        assert result.source_timestamp.seconds > 1_600_000_000


async def test_a_new_tag_is_a_good_zero(remote: Remote) -> None:
    (result,) = await remote.read("A.fresh")
    assert result.was_successful
    assert result.value == double(0.0)
    assert result.quality == 192
    assert result.source_timestamp.seconds > 1_600_000_000


async def test_all_sessions_see_one_tag(peer: Peer, remote: Remote) -> None:
    other = await peer.registered()
    await remote.write(await remote.add("A.x"), [1.0])
    await other.write(await other.add("A.x"), [2.0])
    assert await remote.numbers("A.x") == await other.numbers("A.x") == [2.0]


async def test_of_repeated_handles_the_last_value_stays(remote: Remote) -> None:
    x, y = await remote.add("A.x", "A.y")
    await remote.write([x, y, x, x], [1.0, 2.0, 3.0, 4.0])
    assert await remote.numbers("A.x", "A.y") == [4.0, 2.0]


async def test_bulk_write_entries_that_fail_do_not_hold_up_the_others(remote: Remote) -> None:
    x, y = await remote.add("A.x", "A.y")
    reply = await remote.write([0, x, 99, y, -1], [1.0, 2.0, 3.0, 4.0, 5.0])
    results = reply.write_bulk.results
    assert reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK
    assert [r.item_handle for r in results] == [0, x, 99, y, -1]
    assert [r.was_successful for r in results] == [False, True, False, True, False]
    assert [r.hresult for r in results] == [E_INVALIDARG, 0, E_INVALIDARG, 0, E_INVALIDARG]
    assert "99" in results[2].error_message
    assert [len(r.statuses) for r in results] == [1, 0, 1, 0, 1]
    assert await remote.numbers("A.x", "A.y") == [2.0, 4.0]


async def test_failed_entries_before_a_string_do_not_shift_it(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    entries = [
        pb.WriteBulkEntry(item_handle=99, value=VALUES["string"]),
        pb.WriteBulkEntry(item_handle=item, value=VALUES["array"]),
    ]
    await remote.invoke("write_bulk", entries=entries)
    assert (await remote.read("A.x"))[0].value == VALUES["array"]


async def test_a_bulk_write_with_a_wrong_server_handle_fails_every_entry(remote: Remote) -> None:
    (item,) = await remote.add("A.x")
    for wrong in (0, -1, remote.server + 1):
        reply = await remote.invoke(
            "write_bulk",
            server_handle=wrong,
            entries=[pb.WriteBulkEntry(item_handle=item, value=double(1.0))],
        )
        assert not reply.write_bulk.results[0].was_successful
    assert await remote.numbers("A.x") == [0.0]


def sparse_array(
    data_type: Any, total_length: int, *elements: tuple[int, dict[str, Any]]
) -> pb.MxValue:
    sparse = pb.MxSparseArray(element_data_type=data_type, total_length=total_length)
    for index, fields in elements:
        sparse.elements.add(index=index, value=pb.MxValue(**fields))
    return pb.MxValue(sparse_array_value=sparse)


SPARSE_REFUSED = {
    "no type": sparse_array(0, 3),
    "no length": sparse_array(pb.MX_DATA_TYPE_DOUBLE, 0),
    "beyond its length": sparse_array(pb.MX_DATA_TYPE_DOUBLE, 2, (2, {"double_value": 1.0})),
    "twice": sparse_array(
        pb.MX_DATA_TYPE_DOUBLE, 2, (1, {"double_value": 1.0}), (1, {"double_value": 1.0})
    ),
    "another type": sparse_array(pb.MX_DATA_TYPE_DOUBLE, 2, (1, {"string_value": "1"})),
    "no value": sparse_array(pb.MX_DATA_TYPE_DOUBLE, 2, (1, {})),
    "too long for memory": sparse_array(pb.MX_DATA_TYPE_DOUBLE, 2**32 - 1),
}


@pytest.mark.parametrize("reason", SPARSE_REFUSED)
async def test_a_sparse_array_that_is_wrong_is_refused(remote: Remote, reason: str) -> None:
    sparse = SPARSE_REFUSED[reason]
    x, y = await remote.add("A.x", "A.y")
    assert_failed(await remote.invoke("write", item_handle=x, value=sparse))
    entries = [
        pb.WriteBulkEntry(item_handle=x, value=sparse),
        pb.WriteBulkEntry(item_handle=y, value=double(2.0)),
    ]
    reply = await remote.invoke("write_bulk", entries=entries)
    assert [r.was_successful for r in reply.write_bulk.results] == [False, True]
    assert "expected range" in reply.write_bulk.results[0].error_message
    assert await remote.numbers("A.x", "A.y") == [0.0, 2.0]


async def test_the_sparse_arrays_of_a_request_may_not_grow_without_end(remote: Remote) -> None:
    items = await remote.add(*(f"A.x{n}" for n in range(4)))
    lengths = (600_000, 400_001, 400_000, 1)
    entries = [
        pb.WriteBulkEntry(item_handle=item, value=sparse_array(pb.MX_DATA_TYPE_INTEGER, length))
        for item, length in zip(items, lengths, strict=True)
    ]
    results = (await remote.invoke("write_bulk", entries=entries)).write_bulk.results
    assert [r.was_successful for r in results] == [True, False, True, False]
    for result, told in ((results[1], "400001 elements"), (results[3], "may have 0 more")):
        assert "expected range" in result.error_message
        assert told in result.error_message
    (read,) = await remote.read("A.x2")
    assert list(read.value.array_value.dimensions) == [400_000]
    for length, accepted in ((1_000_000, True), (1_000_001, False)):
        sparse = sparse_array(pb.MX_DATA_TYPE_INTEGER, length)
        reply = await remote.invoke("write", item_handle=items[3], value=sparse)
        assert (reply.protocol_status.code == pb.PROTOCOL_STATUS_CODE_OK) == accepted


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("data_type", "arm", "given", "expected"),
    [
        (pb.MX_DATA_TYPE_BOOLEAN, "bool_value", True, [False, True, False]),
        (pb.MX_DATA_TYPE_INTEGER, "int32_value", 7, [0, 7, 0]),
        (pb.MX_DATA_TYPE_INTEGER, "int64_value", 2**40, [0, 2**40, 0]),
        (pb.MX_DATA_TYPE_FLOAT, "float_value", 1.5, [0.0, 1.5, 0.0]),
        (pb.MX_DATA_TYPE_DOUBLE, "double_value", 2.5, [0.0, 2.5, 0.0]),
        (pb.MX_DATA_TYPE_STRING, "string_value", "x", ["", "x", ""]),
        (pb.MX_DATA_TYPE_TIME, "timestamp_value", stamp(2024), [Timestamp(), stamp(2024), None]),
    ],
)
async def test_a_sparse_array_is_expanded_and_the_rest_reset(  # noqa: PLR0917
    remote: Remote, data_type: Any, arm: str, given: Any, expected: list[Any], bulk: bool
) -> None:
    (item,) = await remote.add("A.x")
    await remote.invoke("write", item_handle=item, value=VALUES["array"])
    sparse = sparse_array(data_type, 3, (1, {arm: given}))
    if bulk:
        entries = [pb.WriteBulkEntry(item_handle=item, value=sparse)]
        reply = await remote.invoke("write_bulk", entries=entries)
        assert reply.write_bulk.results[0].was_successful
    else:
        assert_ok(await remote.invoke("write", item_handle=item, value=sparse))
    array = (await remote.read("A.x"))[0].value.array_value
    assert array.element_data_type == data_type
    assert list(array.dimensions) == [3]
    assert list(getattr(array, f"{arm}s").values) == [
        e or Timestamp() if "time" in arm else e for e in expected
    ]


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("write", {"user_id": 3}),
        ("write2", {"timestamp_value": time_value(stamp(2024, 500)), "user_id": 3}),
        ("write_secured", {"current_user_id": 3, "verifier_user_id": 4}),
        (
            "write_secured2",
            {
                "current_user_id": 3,
                "verifier_user_id": 4,
                "timestamp_value": time_value(stamp(2024, 500)),
            },
        ),
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
async def test_every_write_command_writes_and_stamps(
    remote: Remote, command: str, fields: dict[str, Any], bulk: bool
) -> None:
    (item,) = await remote.add("A.x")
    if bulk:
        name = "".join(part.capitalize() for part in command.split("_"))
        entry = getattr(pb, f"{name}BulkEntry")(item_handle=item, value=double(7.5), **fields)
        reply = await remote.invoke(f"{command}_bulk", entries=[entry])
        assert reply.WhichOneof("payload") == f"{command}_bulk"
        assert getattr(reply, f"{command}_bulk").results[0].was_successful
    else:
        assert_ok(await remote.invoke(command, item_handle=item, value=double(7.5), **fields))
    (result,) = await remote.read("A.x")
    assert result.value == double(7.5)
    if "timestamp_value" in fields:
        assert result.source_timestamp == stamp(2024, 500)
    else:
        age = np.datetime64("now") - np.datetime64(result.source_timestamp.seconds, "s")
        assert abs(age) < np.timedelta64(60, "s")


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_write2_without_a_time_is_as_of_now(remote: Remote, bulk: bool) -> None:
    (item,) = await remote.add("A.x")
    if bulk:
        entry = pb.Write2BulkEntry(item_handle=item, value=double(1.0))
        await remote.invoke("write2_bulk", entries=[entry])
    else:
        await remote.invoke("write2", item_handle=item, value=double(1.0))
    (result,) = await remote.read("A.x")
    assert result.source_timestamp.seconds > 1_600_000_000


# Reads


async def test_a_read_is_cached_where_this_server_handle_advised_the_tag(
    peer: Peer, remote: Remote
) -> None:
    (item,) = await remote.add("A.x")
    assert [r.was_cached for r in await remote.read("A.x")] == [False]
    await remote.invoke("advise", item_handle=item)
    (result,) = await remote.read("A.x")
    assert result.was_cached
    assert result.item_handle == item
    assert result.tag_address == "A.x"
    other = await peer.registered()
    assert [r.was_cached for r in await other.read("A.x")] == [False]
    await remote.invoke("un_advise", item_handle=item)
    assert [r.was_cached for r in await remote.read("A.x")] == [False]


async def test_a_read_of_a_bad_name_fails_that_entry_only(remote: Remote) -> None:
    bad, good = await remote.read("bad", "A.x")
    assert not bad.was_successful
    assert bad.error_message
    assert bad.statuses[0].detail == 1003
    assert good.was_successful


async def test_ten_thousand_tags_are_read_in_one_request(remote: Remote) -> None:
    names = [f"A.x{i}" for i in range(10_000)]
    items = await remote.add(*names)
    await remote.write(items, range(10_000))
    assert await remote.numbers(*names) == list(range(10_000))
