"""Items in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, jsons, repeatable
from sources import bounds, check_slices, everything

from langgraph_hpc_fanout.items.rows import Rows


@repeatable
@given(st.lists(jsons, max_size=8), bounds)
def test_items_come_as_they_are(items, cuts):
    rows = Rows(items)
    assert everything(rows) == items
    check_slices(rows, cuts)


def test_a_reference_holds_its_own_items_only():
    rows = Rows(("a", "b", "c", "d"), "letters")
    reference = rows.reference(1, 3)
    assert reference == {
        "kind": "rows",
        "name": "letters",
        "first": 1,
        "rows": ["b", "c"],
        "count": 4,
    }
    assert is_plain(reference)


def test_what_is_known_without_reading():
    rows = Rows([{"a": 1}])
    assert rows.ready
    assert rows.fields() is None
    assert repr(rows) == "Rows('items', 1 items)"
