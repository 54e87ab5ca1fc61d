"""Slots number keys as they come, in any portions, without doing old work again."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mxfast.slots import Slots, grown

KEYS = st.integers(0, 40) | st.sampled_from([-(2**63), -1, 2**31, 2**63 - 2])


@given(st.lists(st.lists(KEYS, max_size=30), max_size=40))
def test_keys_are_numbered_in_the_order_in_which_they_come(portions: list[list[int]]) -> None:
    slots = Slots()
    expected: dict[int, int] = {}
    for portion in portions:
        for key in portion:
            expected.setdefault(key, len(expected))
        numbers = slots.of(np.array(portion, np.int64))
        assert numbers.dtype == np.int64
        assert numbers.tolist() == [expected[key] for key in portion]
        assert len(slots) == len(expected)


def test_keys_that_come_one_at_a_time_are_not_copied_each_time() -> None:
    count = 3000
    slots = Slots()
    copied, held = 0, None
    for key in np.random.default_rng(1).permutation(count).tolist():
        slots.of(np.array([key]))
        if slots._keys is not held:
            held = slots._keys
            copied += len(held)
    assert copied < 4 * count


def test_keys_that_are_looked_up_again_leave_the_dict() -> None:
    slots = Slots()
    slots.of(np.arange(100))
    new = np.arange(100, 120)
    for _ in range(10):
        assert slots.of(new).tolist() == new.tolist()
    assert len(slots._keys) == 121
    assert slots._recent == {}


@given(st.integers(0, 50), st.integers(0, 200))
def test_an_array_grows_to_at_least_twice_its_length(had: int, length: int) -> None:
    array: Any = np.arange(1, had + 1, dtype=np.int32)
    larger = grown(array, length)
    assert larger.dtype == np.int32
    assert larger[:had].tolist() == array.tolist()
    assert not larger[had:].any()
    assert len(larger) >= length
    if length <= had:
        assert larger is array
    else:
        assert len(larger) >= 2 * had
