"""Items: rows of tags and handles, looked up either way, selected, and bound anew."""

from typing import Any

import numpy as np
import pytest

from mxfast import HandleChanges, Item, Items, MxAccessError
from mxfast.items import Binding

TAGS = ["Tank1.Level", "Tank2.Level", "Bad.Tag", "Tank3.Level"]
HANDLES = [70, 5, 0, 12]


def make(tags: list[str] = TAGS, handles: list[int] = HANDLES) -> Items:
    column = np.empty(len(tags), object)
    column[:] = tags
    failed = {tag: "no such tag" for tag, handle in zip(tags, handles, strict=True) if handle == 0}
    return Items(Binding(3, column, np.array(handles, np.int32), failed))


def changed(lost: set[int]) -> HandleChanges:
    """Return what handles became: those of a new session are a hundred more."""
    changes = HandleChanges()
    changes.servers = {3: 8}
    changes.keys = {(3, old): (8, old + 100) for old in HANDLES if old and old not in lost}
    changes.failed = {"Tank2.Level": "gone"}
    return changes


def test_rows_are_those_given_and_a_refused_tag_keeps_its_row() -> None:
    items = make()
    assert len(items) == 4
    assert items.server_handle == 3
    assert items.tags.tolist() == TAGS
    assert items.item_handle.dtype == np.int32
    assert items.item_handle.tolist() == HANDLES
    assert items.ok.tolist() == [True, True, False, True]
    assert items.failed == {"Bad.Tag": "no such tag"}
    assert repr(items) == "<Items of 4 tags, 1 not subscribed>"
    assert list(items) == [*map(Item, TAGS, HANDLES)]
    assert items[-1] == Item("Tank3.Level", 12)
    assert "Tank1.Level" in items
    assert "Tank9.Level" not in items
    with pytest.raises(MxAccessError, match=r"1 of 4 tags .* index 2, Bad\.Tag: no such tag") as e:
        items.raise_for_failure()
    assert e.value.result is items
    items[items.ok].raise_for_failure()
    with pytest.raises(IndexError):
        items[4]


def test_lookups_go_both_ways_also_as_arrays() -> None:
    items = make()
    assert items.handle_of("Tank2.Level") == 5
    assert items.handle_of("Bad.Tag") == 0
    assert items.tag_of(70) == "Tank1.Level"
    assert items.handles_of(["Tank3.Level", "Tank3.Level"]).tolist() == [12, 12]
    assert items.handles_of([]).tolist() == []
    assert items.tags_of([12, 70]).tolist() == ["Tank3.Level", "Tank1.Level"]
    # As with the handles of events, some of which may be of other items.
    rows = items.rows_of(np.array([5, 6, 0, 99, 70], np.int32))
    assert rows.tolist() == [1, -1, -1, -1, 0]
    assert items.rows_of([]).tolist() == []
    with pytest.raises(KeyError, match=r"'Tank9\.Level' is no tag of these items"):
        items.handle_of("Tank9.Level")
    with pytest.raises(KeyError, match="item handle 6 is none of these items"):
        items.tags_of([5, 6])
    with pytest.raises(KeyError, match="item handle 0"):
        items.tag_of(0)


def test_no_items() -> None:
    items = make([], [])
    assert len(items) == 0
    assert items.rows_of([1, 2]).tolist() == [-1, -1]
    assert items.failed == {}
    items.raise_for_failure()
    assert repr(items) == "<Items of 0 tags>"


@pytest.mark.parametrize(
    "rows", [slice(1, None), [3, 1], np.array([True, False, True, True]), np.array([2])]
)
def test_a_selection_is_items_of_those_rows(rows: Any) -> None:
    items = make()
    some = items[rows]
    assert isinstance(some, Items)
    assert some.tags.tolist() == np.array(TAGS, object)[rows].tolist()
    assert some.item_handle.tolist() == np.array(HANDLES)[rows].tolist()
    assert set(some.failed) == {"Bad.Tag"} & set(some.tags)
    for row, item in enumerate(some):
        assert some.handle_of(item.tag) == item.item_handle
        assert some.rows_of([item.item_handle]).tolist() == [row if item.item_handle else -1]
    assert list(some[::-1][::-1]) == list(some)


def test_columns_are_read_only() -> None:
    items = make()
    for column in (items.item_handle, items.tags, items[1:].item_handle, items[1:].tags):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]


def test_new_handles_reach_items_and_their_selections_and_tags_stay() -> None:
    items = make()
    some = items[[3, 1]]
    old = items.item_handle
    assert items.rows_of([70]).tolist() == [0]
    assert some.rows_of([5]).tolist() == [1]
    items._binding.rebind(changed(lost={5}))
    assert items.server_handle == some.server_handle == 8
    assert items.tags.tolist() == TAGS
    assert items.item_handle.tolist() == [170, 0, 0, 112]
    assert some.item_handle.tolist() == [112, 0]
    assert items.failed == {"Tank2.Level": "gone", "Bad.Tag": "no such tag"}
    assert items.rows_of([70, 170]).tolist() == [-1, 0]
    assert some.rows_of([112, 5]).tolist() == [0, -1]
    assert items.handle_of("Tank3.Level") == 112
    # What was taken before is as it was.
    assert old.tolist() == HANDLES
