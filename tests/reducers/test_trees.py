"""Trees: how many levels of summaries there are, and what is in each group."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import write
from properties import repeatable
from some_outcomes import bad, good

from langgraph_hpc_fanout import Results
from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.reducers.trees import Groups, level_sizes, tree

numbers = st.integers(0, 10**9)
fan_ins = st.integers(2, 100)


@pytest.mark.parametrize(
    ("summaries", "fan_in", "sizes"),
    [(0, 8, []), (1, 8, []), (2, 8, [1]), (8, 8, [1]), (9, 8, [2, 1]), (100, 8, [13, 2, 1])],
)
def test_levels(summaries, fan_in, sizes):
    assert level_sizes(summaries, fan_in) == sizes


@repeatable
@given(numbers, fan_ins)
def test_levels_narrow_until_one_summary_is_left(summaries, fan_in):
    sizes = [summaries, *level_sizes(summaries, fan_in)]
    assert sizes[-1] == min(summaries, 1)
    for wide, narrow in pairwise(sizes):
        assert narrow < wide <= narrow * fan_in


@repeatable
@given(st.integers(1, 300), st.integers(2, 20))
def test_groups_are_even_and_cover_everything_once(summaries, fan_in):
    groups = list(Groups(["x"] * summaries, fan_in).read(0, -(-summaries // fan_in)))
    members = [group["members"] for group in groups]
    assert [place for first, last in members for place in range(first, last + 1)] == list(
        range(summaries)
    )
    sizes = {last - first + 1 for first, last in members}
    assert max(sizes) <= fan_in
    assert max(sizes) - min(sizes) <= 1
    assert fan_in == 2 or summaries == 1 or min(sizes) > 1, "nothing is summarised alone"


def results(outcomes):
    half = len(outcomes) // 2
    return Results(
        "r",
        [
            {
                "start": start,
                "stop": start + len(some),
                "ok": sum(each.ok for each in some),
                "failed": sum(not each.ok for each in some),
                "outcomes": to_columns(some),
            }
            for start, some in ((0, outcomes[:half]), (half, outcomes[half:]))
        ],
    )


def test_a_group_holds_numbered_texts_without_those_that_failed():
    groups = Groups(results([good(0, "A"), bad(1), good(2, {"b": 1}), bad(3), bad(4)]), 3, 2)
    assert (len(groups), groups.name, groups.ready) == (2, "level 2", False)
    first, second = groups.read(0, 2)
    assert first == {"summaries": "1. A", "level": 2, "members": [0, 1]}
    assert list(first) == ["summaries", "level", "members"]
    assert second["summaries"] == '1. {"b":1}'


def test_a_group_of_nothing_but_failures_is_a_bad_row():
    (group,) = Groups(results([bad(0), bad(1)]), 2).read(0, 1)
    assert group == BadRow("level 1: none of the summaries 0 to 1 is there")


@repeatable
@given(st.integers(0, 40), st.integers(2, 7), st.data())
def test_any_slice_is_a_part_of_the_whole(summaries, fan_in, data):
    groups = Groups([f"s{n}" for n in range(summaries)], fan_in)
    whole = list(groups.read(0, len(groups)))
    start = data.draw(st.integers(0, len(groups)))
    stop = data.draw(st.integers(start, len(groups)))
    assert list(groups.read(start, stop)) == whole[start:stop]


def test_only_what_is_asked_for_is_read(tmp_path):
    write(Log(tmp_path), *(good(n, f"s{n}") for n in range(100)))
    shard = {"start": 0, "stop": 100, "ok": 100, "failed": 0, "journal": str(tmp_path)}
    groups = Groups(Results("r", [shard]), 10)
    assert next(groups.read(3, 10))["summaries"].splitlines()[0] == "1. s30"


def test_leaves_are_not_held_in_memory(tmp_path):
    size = 20_000
    write(Log(tmp_path), *(good(n, f"{n} " + "x" * 1000) for n in range(size)))
    shard = {"start": 0, "stop": size, "ok": size, "failed": 0, "journal": str(tmp_path)}
    groups = Groups(Results("r", [shard]), 10)
    next(groups.read(0, 1))  # opens the journal
    tracemalloc.start()
    try:
        seen = sum(len(group["summaries"]) > 10_000 for group in groups.read(0, len(groups)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == size // 10
    assert peak < 2_000_000, "they are 20 MB"


def test_a_tree_merges_something():
    with pytest.raises(ValueError, match=r"no \{summaries\}, so it would merge nothing"):
        tree("Merge these, level {level}.")


@pytest.mark.parametrize("fan_in", [1, 0, -3])
def test_a_tree_must_narrow(fan_in):
    with pytest.raises(ValueError, match=f"fan_in={fan_in}: a group has at least two"):
        level_sizes(5, fan_in)
    with pytest.raises(ValueError, match=f"fan_in={fan_in}: a group has at least two"):
        Groups(["a"], fan_in)
