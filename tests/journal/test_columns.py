"""Columns: the way of outcomes through graph state."""

from __future__ import annotations

from dataclasses import replace

import orjson
from hypothesis import given
from hypothesis import strategies as st
from properties import counts, is_plain, outcomes, repeatable

from langgraph_hpc_fanout.journal.columns import from_columns, to_columns
from langgraph_hpc_fanout.records import Failure, Outcome, Usage


@repeatable
@given(st.lists(outcomes, max_size=5), counts)
def test_outcomes_survive_the_way_to_columns_and_back(drawn, start):
    consecutive = [replace(each, index=index) for index, each in enumerate(drawn, start)]
    columns = to_columns(consecutive)
    assert is_plain(columns)
    assert list(from_columns(columns, start)) == consecutive
    assert list(from_columns(orjson.loads(orjson.dumps(columns)), start)) == consecutive


@repeatable
@given(st.lists(outcomes, min_size=1, max_size=5))
def test_no_column_is_empty_and_all_are_of_one_length(drawn):
    columns = to_columns(drawn)
    assert {len(values) for values in columns.values()} == {len(drawn)}
    assert all(any(value is not None for value in values) for values in columns.values())


def test_a_field_that_no_outcome_has_takes_no_column():
    plain = [Outcome("a", 0, ok=True, value="x"), Outcome("b", 1, ok=True, value="y")]
    assert to_columns(plain) == {
        "key": ["a", "b"],
        "ok": [True, True],
        "value": ["x", "y"],
        "attempts": [0, 0],
        "latency": [0.0, 0.0],
    }


def test_values_that_are_false_are_kept():
    falsy = [
        Outcome("a", 0, ok=True, value=value, model="", endpoint="", finish_reason="")
        for value in ("", 0, False, [], {})
    ]
    back = list(from_columns(to_columns(falsy), 0))
    assert [each.value for each in back] == ["", 0, False, [], {}]
    assert [type(each.value) for each in back] == [str, int, bool, list, dict]
    assert {(each.model, each.endpoint, each.finish_reason) for each in back} == {("", "", "")}


def test_a_field_that_some_outcomes_have():
    some = [
        Outcome("a", 0, ok=True, value="x", usage=Usage(), model="m", meta={"raw": "y"}),
        Outcome("b", 1, ok=False, error=Failure("cold", "asleep", 503, True, "e"), attempts=2),
    ]
    columns = to_columns(some)
    assert columns["usage"] == [[0, 0, False], None]
    assert columns["meta"] == [{"raw": "y"}, None]
    assert columns["model"] == ["m", None]
    assert list(from_columns(columns, 0)) == some


def test_nothing():
    assert to_columns([]) == {"key": []}
    assert list(from_columns(to_columns([]), 7)) == []


def test_columns_are_copies():
    outcome = Outcome("a", 0, ok=True, meta={"raw": "x"})
    to_columns([outcome])["meta"][0]["raw"] = "changed"
    assert outcome.meta == {"raw": "x"}
