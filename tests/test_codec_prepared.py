"""A prepared write says in each cycle what a fresh one would, whoever still holds the last."""

import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxfast import codec
from mxfast._generated import mxaccess_gateway_pb2 as pb
from tests import wire

DTYPES = ["float64", "float32", "bool"]


@st.composite
def cycles(draw):
    dtype = draw(st.sampled_from(DTYPES))
    handles = draw(st.lists(wire.handles, max_size=40))
    rows = st.lists(wire.ELEMENTS[dtype], min_size=len(handles), max_size=len(handles))
    arrays = [np.array(row, dtype) for row in draw(st.lists(rows, min_size=1, max_size=4))]
    options = draw(
        st.sampled_from([{}, {"user_id": 7}, {"secured_by": (1, 2)}, {"correlation_id": "c"}])
    )
    return handles, arrays, options


@given(cycles())
def test_each_cycle_has_the_bytes_of_a_fresh_request(case):
    handles, arrays, options = case
    prepared = codec.PreparedWriteBulk("session-1", 3, handles, arrays[0].dtype, **options)
    assert len(prepared) == len(handles)
    kept = []
    for values in arrays:
        kept.append(prepared.encode(values))
        wire.assert_written(
            kept[-1], wire.write_request("session-1", 3, handles, values, **options)
        )
        prepared.encode(values[::-1])  # held by nobody: may be written over
    for request, values in zip(kept, arrays, strict=True):
        assert request == codec.encode_write_bulk("session-1", 3, handles, values, **options)


def test_a_request_that_is_held_is_never_written_again():
    prepared = codec.PreparedWriteBulk("s", 1, np.arange(1, 1001))
    held = [prepared.encode(np.full(1000, float(cycle))) for cycle in range(10)]
    assert len({id(request) for request in held}) == 10
    for cycle, request in enumerate(held):
        expected = codec.encode_write_bulk("s", 1, np.arange(1, 1001), np.full(1000, float(cycle)))
        assert request == expected


def test_memory_that_nobody_holds_is_used_again():
    prepared = codec.PreparedWriteBulk("s", 1, np.arange(1, 1001))
    addresses = {id(prepared.encode(np.full(1000, float(cycle)))) for cycle in range(10)}
    assert len(addresses) == 1


@given(st.text(max_size=20), st.text(max_size=5), st.text(max_size=5))
def test_each_cycle_may_have_its_own_correlation_id(session, first, second):
    size = len(first.encode())
    prepared = codec.PreparedWriteBulk(session, 1, [1, 2], correlation_id=first)

    def fresh(values, correlation_id):
        return codec.encode_write_bulk(session, 1, [1, 2], values, correlation_id=correlation_id)

    if len(second.encode()) == size:
        assert prepared.encode([1.0, 2.0], second) == fresh([1.0, 2.0], second)
    else:
        with pytest.raises(ValueError, match=rf"correlation_id must have {size} bytes"):
            prepared.encode([1.0, 2.0], second)
    assert prepared.encode([3.0, 4.0], "x" * size) == fresh([3.0, 4.0], "x" * size)
    assert prepared.encode([5.0, 6.0]) == fresh([5.0, 6.0], first)


def test_a_hash_does_not_outlive_the_bytes():
    prepared = codec.PreparedWriteBulk("s", 1, [1])
    first = hash(prepared.encode([1.0]))
    assert hash(prepared.encode([2.0])) != first
    assert hash(prepared.encode([1.0])) == first


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("index", [0, 1, 2, 3, 998, 999])
def test_a_value_that_is_not_finite_is_named(dtype, index):
    prepared = codec.PreparedWriteBulk("s", 1, np.arange(10, 1010), dtype)
    values = np.ones(1000, dtype)
    held = prepared.encode(values)
    before = bytes(bytearray(held))
    values[index] = np.inf
    with pytest.raises(
        codec.EncodeError, match=rf"values\[{index}\] is inf \(item handle"
    ) as caught:
        prepared.encode(values)
    assert caught.value.index == index
    assert held == before
    values[index] = 5
    assert prepared.encode(values) == codec.encode_write_bulk("s", 1, np.arange(10, 1010), values)


def test_what_cannot_be_prepared_or_filled_in():
    with pytest.raises(TypeError, match="int64"):
        codec.PreparedWriteBulk("s", 1, [1], np.int64)
    with pytest.raises(TypeError, match="integers"):
        codec.PreparedWriteBulk("s", 1, [1.5])
    prepared = codec.PreparedWriteBulk("s", 1, [1, 2], np.float32)
    with pytest.raises(ValueError, match=r"shape \(2,\), not \(3,\)"):
        prepared.encode([1, 2, 3])
    with pytest.raises(ValueError, match=r"not \(1, 2\)"):
        prepared.encode([[1, 2]])
    with pytest.raises(TypeError, match="float64 do not fit in float32"):
        prepared.encode(np.array([1.0, 2.0]))
    handles = np.array([1, 2])
    prepared = codec.PreparedWriteBulk("s", 1, handles)
    handles[:] = 9  # the prepared request has a copy
    assert prepared.encode([3.0, 4.0]) == codec.encode_write_bulk("s", 1, [1, 2], [3.0, 4.0])


def test_threads_that_share_a_prepared_write():
    n = 20_000  # large enough for the GIL to be released
    handles = np.arange(1, n + 1)
    prepared = codec.PreparedWriteBulk("s", 1, handles)
    wrong: list[int] = []

    def work(number):
        values = np.full(n, float(number))
        expected = codec.encode_write_bulk("s", 1, handles, values)
        wrong.extend(cycle for cycle in range(50) if prepared.encode(values) != expected)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


BIG = st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 2, 2**53 + 2)


@given(st.lists(BIG, min_size=1, max_size=9))
@example([2**63 - 1])  # as a float it is beyond the integers
def test_integers_among_floats_arrive_or_are_named(numbers):
    prepared = codec.PreparedWriteBulk("s", 1, np.arange(1, len(numbers) + 1))
    lost = [index for index, number in enumerate(numbers) if int(float(number)) != number]
    unsigned = [np.uint64] * (min(numbers) >= 0)
    for dtype in (np.int64, *unsigned):
        values = np.array(numbers, dtype)
        if lost:
            with pytest.raises(codec.EncodeError, match=rf"values\[{lost[0]}\] is ") as caught:
                prepared.encode(values)
            assert (caught.value.index, caught.value.value) == (lost[0], numbers[lost[0]])
        else:
            request = pb.MxCommandRequest.FromString(prepared.encode(values))
            sent = [entry.value.double_value for entry in request.command.write_bulk.entries]
            assert [int(number) for number in sent] == numbers
