"""Folding: any reducer."""

from __future__ import annotations

from some_outcomes import MIXED

from langgraph_hpc_fanout import reducers


def test_fold_starts_from_the_initial_value_every_time():
    count = reducers.fold(lambda total, outcome: total + outcome.ok, 0)
    assert [count(MIXED), count(MIXED), count([])] == [2, 2, 0]


def test_fold_goes_in_input_order():
    join = reducers.fold(lambda text, outcome: text + (outcome.value or "-"), "")
    assert join(MIXED) == "a-c"
