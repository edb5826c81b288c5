"""Reducers that keep outcomes or their values, or say where they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, outcomes, repeatable
from some_outcomes import MIXED, good

from langgraph_hpc_fanout import Outcome, reducers
from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.reducers import allowance


def test_collect_keeps_input_order_and_says_none_where_an_item_failed():
    assert reducers.collect(iter(MIXED)) == ["a", None, "c"]
    assert reducers.collect([]) == []


def test_collect_refuses_what_is_too_much_for_state(monkeypatch):
    monkeypatch.setattr(allowance, "STATE_BYTES", 2**20)
    half = "x" * 2**19
    assert reducers.collect([good(0, half), good(1, half)]) == [half, half]
    with pytest.raises(ValueError, match=r"more than 1 MB.*reducers\.reference.*Results\.open"):
        reducers.collect([good(0, half), good(1, half), good(2, "x")])


def test_collect_stops_reading_when_it_is_too_much(monkeypatch):
    monkeypatch.setattr(allowance, "STATE_BYTES", 100)
    read = []

    def stream():
        for index in range(1000):
            read.append(index)
            yield good(index, "x" * 10)

    with pytest.raises(ValueError, match="too much for graph state"):
        reducers.collect(stream())
    assert len(read) == 11


@pytest.mark.parametrize("value", ["水" * 600, ["x" * 600] * 3])
def test_collect_counts_bytes(monkeypatch, value):
    monkeypatch.setattr(allowance, "STATE_BYTES", 1000)
    with pytest.raises(ValueError, match="too much for graph state"):
        reducers.collect([good(0, value)])


def test_reference_says_where_the_outcomes_are():
    shard = {"start": 0, "stop": 3, "ok": 2, "failed": 1, "journal": "/runs/a"}
    assert reducers.reference(Results("r", [shard])) == {
        "run": "r",
        "journal": "/runs/a",
        "total": 3,
        "ok": 2,
        "failed": 1,
    }


def test_reference_needs_the_results_of_a_run_with_a_journal():
    with pytest.raises(TypeError, match="takes the Results of a run"):
        reducers.reference(MIXED)
    shard = {"start": 0, "stop": 3, "ok": 2, "failed": 1, "outcomes": to_columns(MIXED)}
    with pytest.raises(ValueError, match="without a journal"):
        reducers.reference(Results("r", [shard]))


@repeatable
@given(st.lists(outcomes, max_size=5))
def test_outcomes_are_plain_and_whole(some):
    data = reducers.outcomes(iter(some))
    assert is_plain(data)
    assert [Outcome.from_dict(each) for each in data] == some


def test_by_key_lets_the_last_answer_count_and_no_failure_hide_one():
    some = [
        Outcome("a", 0, ok=True, value=1),
        Outcome("a", 1, ok=True, value=2),
        Outcome("a", 2, ok=False),
        Outcome("b", 3, ok=False),
        Outcome("c", 4, ok=False),
        Outcome("c", 5, ok=True, value=3),
    ]
    assert reducers.by_key(some) == {"a": 2, "b": None, "c": 3}


@pytest.mark.parametrize("reducer", [reducers.outcomes, reducers.by_key])
def test_whatever_goes_into_state_has_a_bound(monkeypatch, reducer):
    monkeypatch.setattr(allowance, "STATE_BYTES", 2000)
    assert len(reducer([good(0, "x" * 1000)])) == 1
    with pytest.raises(ValueError, match=r"too much for graph state; use reducers\.reference"):
        reducer(good(n, "x" * 1000) for n in range(3))


def test_by_key_counts_what_it_keeps(monkeypatch):
    monkeypatch.setattr(allowance, "STATE_BYTES", 100)
    some = [Outcome("a", n, ok=True, value="x" * 40 + str(n)) for n in range(9)]
    assert reducers.by_key(some) == {"a": "x" * 40 + "8"}
