"""Receipts: the reducer of the private channel, and what is read from it."""

from __future__ import annotations

import copy
import time

from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.runs.receipts import (
    in_order,
    merge_receipts,
    missing_shards,
    new_run_id,
)


def receipts_of(run, *numbers, shards=20, mark=0):
    """What a branch, or several merged ones, report."""
    return {
        "run": run,
        "node": "screen",
        "shards": shards,
        "receipts": {str(number): receipt(number, mark) for number in numbers},
    }


def receipt(number, mark=0):
    return {"start": number, "stop": number + 1, "ok": mark, "failed": 0, "seconds": 0.5}


parts = st.builds(
    lambda numbers, mark: receipts_of("r", *numbers, mark=mark),
    st.sets(st.integers(0, 19), max_size=4),
    st.integers(0, 3),
)


def test_the_first_receipts_are_taken_as_they_are():
    new = receipts_of("r", 0)
    assert merge_receipts(None, new) == new
    assert merge_receipts({}, new) == new


@repeatable
@given(parts, parts, parts)
def test_merging_is_associative_within_a_run(a, b, c):
    left = merge_receipts(merge_receipts(a, b), c)
    right = merge_receipts(a, merge_receipts(b, c))
    assert left == right


@repeatable
@given(parts, parts)
def test_merging_is_idempotent_and_takes_the_newer_receipt_of_a_shard(a, b):
    merged = merge_receipts(a, b)
    assert merge_receipts(merged, b) == merged
    assert merge_receipts(a, a) == a
    assert merged["receipts"] == {**a["receipts"], **b["receipts"]}


@repeatable
@given(st.permutations(range(12)))
def test_branches_may_report_in_any_order(numbers):
    merged = None
    for number in numbers:
        merged = merge_receipts(merged, receipts_of("r", number, shards=12))
    assert missing_shards(merged) == []
    assert [each["start"] for each in in_order(merged)] == list(range(12))


@repeatable
@given(parts, parts, st.booleans())
def test_merging_changes_nothing_in_place(a, b, same_run):
    if not same_run:
        b = {**b, "run": "s"}
    before = copy.deepcopy((a, b))
    merged = merge_receipts(a, b)
    assert (a, b) == before
    if same_run:
        merged["receipts"]["99"] = receipt(99)
        assert (a, b) == before


def test_another_run_replaces_what_is_there():
    old, new = receipts_of("r", 0, 1, 2), receipts_of("s", 1)
    assert merge_receipts(old, new) == new


def test_missing_shards_are_named_in_order():
    assert missing_shards(receipts_of("r", 10, 2, 0, shards=12)) == [1, 3, 4, 5, 6, 7, 8, 9, 11]
    assert missing_shards(receipts_of("r", 0, shards=1)) == []


def test_receipts_come_in_the_order_of_numbers_not_of_texts():
    found = in_order(receipts_of("r", 10, 2, 11, 1, 0))
    assert [each["start"] for each in found] == [0, 1, 2, 10, 11]


def test_run_ids_differ_and_sort_by_time(monkeypatch):
    moments = iter([1, 15, 16, 10**18, 2 * 10**18])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    ids = [new_run_id() for _ in range(5)]
    assert ids == sorted(ids)
    monkeypatch.undo()
    assert len({new_run_id() for _ in range(100)}) == 100
