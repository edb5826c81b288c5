"""Reducers: what a run's outcomes become in graph state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, outcomes, repeatable

from langgraph_hpc_fanout import Failure, Outcome, Usage, reducers
from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.journal.results import Results


def good(index, value, **more):
    return Outcome(f"k{index}", index, ok=True, value=value, **more)


def bad(index, kind="permanent", **more):
    return Outcome(f"k{index}", index, ok=False, error=Failure(kind, "no"), **more)


MIXED = [good(0, "a"), bad(1), good(2, "c")]


def test_collect_keeps_input_order_and_says_none_where_an_item_failed():
    assert reducers.collect(iter(MIXED)) == ["a", None, "c"]
    assert reducers.collect([]) == []


def test_collect_refuses_what_is_too_much_for_state(monkeypatch):
    monkeypatch.setattr(reducers, "COLLECT_BYTES", 2**20)
    half = "x" * 2**19
    assert reducers.collect([good(0, half), good(1, half)]) == [half, half]
    with pytest.raises(ValueError, match=r"more than 1 MB.*reducers\.reference.*Results\.open"):
        reducers.collect([good(0, half), good(1, half), good(2, "x")])


def test_collect_stops_reading_when_it_is_too_much(monkeypatch):
    monkeypatch.setattr(reducers, "COLLECT_BYTES", 100)
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
    monkeypatch.setattr(reducers, "COLLECT_BYTES", 1000)
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


def test_fold_starts_from_the_initial_value_every_time():
    count = reducers.fold(lambda total, outcome: total + outcome.ok, 0)
    assert [count(MIXED), count(MIXED), count([])] == [2, 2, 0]


def test_fold_goes_in_input_order():
    join = reducers.fold(lambda text, outcome: text + (outcome.value or "-"), "")
    assert join(MIXED) == "a-c"


scores = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=12)


@repeatable
@given(scores, st.integers(1, 15))
def test_top_k_is_the_stable_sort_of_the_successes(drawn, k):
    some = [
        good(index, (score, index)) if ok else bad(index) for index, (ok, score) in enumerate(drawn)
    ]
    successes = [outcome.value for outcome in some if outcome.ok]
    expected = sorted(successes, key=lambda value: -value[0])[:k]
    assert reducers.top_k(k, score=lambda outcome: outcome.value[0])(iter(some)) == expected


@repeatable
@given(scores)
def test_best_of_is_the_first_of_top_k(drawn):
    some = [
        good(index, (score, index)) if ok else bad(index) for index, (ok, score) in enumerate(drawn)
    ]

    def score(outcome):
        return outcome.value[0]

    best = reducers.best_of(score)(iter(some))
    assert ([] if best is None else [best]) == reducers.top_k(1, score)(iter(some))


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_keeps_at_least_one(k):
    with pytest.raises(ValueError, match=rf"top_k\(k={k}\)"):
        reducers.top_k(k, score=len)


def test_stats_of_nothing():
    assert reducers.stats([]) == {
        "total": 0,
        "ok": 0,
        "failed": 0,
        "failures": {},
        "cached": 0,
        "attempts": 0,
        "tokens": {"prompt": 0, "completion": 0, "estimated_items": 0},
        "endpoints": {},
        "latency": {},
    }


def test_stats_count_what_was_sent_and_what_was_known():
    some = [
        good(0, "a", endpoint="x", attempts=1, latency=1.0, usage=Usage(10, 5)),
        good(1, "b", endpoint="y", attempts=3, latency=3.0, usage=Usage(20, 6, estimated=True)),
        good(2, "c", endpoint="y", attempts=0, usage=Usage(9, 9), meta={"cached": True}),
        bad(3, "timeout", endpoint="x", attempts=5, latency=2.0),
        bad(4),
    ]
    report = reducers.stats(iter(some))
    assert is_plain(report)
    assert report == {
        "total": 5,
        "ok": 3,
        "failed": 2,
        "failures": {"timeout": 1, "permanent": 1},
        "cached": 1,
        "attempts": 9,
        "tokens": {"prompt": 30, "completion": 11, "estimated_items": 1},
        "endpoints": {"x": 2, "y": 1},
        "latency": {"p50": 2.0, "p95": 2.9, "max": 3.0},
    }


def test_stats_of_a_single_latency():
    report = reducers.stats([good(0, "a", endpoint="x", attempts=1, latency=0.25)])
    assert report["latency"] == {"p50": 0.25, "p95": 0.25, "max": 0.25}


def test_latencies_are_quantiles():
    some = [good(n, "a", endpoint="x", attempts=1, latency=float(n)) for n in range(101)]
    assert reducers.stats(some)["latency"] == {"p50": 50.0, "p95": 95.0, "max": 100.0}


# -- votes ------------------------------------------------------------------------------------


def samples(*ballots, index=0):
    return [
        bad(index, sample=number) if ballot is None else good(index, ballot, sample=number)
        for number, ballot in enumerate(ballots)
    ]


@pytest.mark.parametrize(
    ("ballots", "value", "share", "entropy"),
    [
        (["a", "a", "b"], "a", 2 / 3, 0.9183),
        (["a", "b"], "a", 0.5, 1.0),
        (["b", "a"], "b", 0.5, 1.0),
        (["a", "a"], "a", 1.0, 0.0),
        (["a", None, None], "a", 1.0, 0.0),
        ([None, None], None, 0.0, 0.0),
        ([{"x": 1, "y": 2}, {"y": 2, "x": 1}, 3], {"x": 1, "y": 2}, 2 / 3, 0.9183),
    ],
)
def test_samples_vote(ballots, value, share, entropy):
    (result,) = reducers.vote()(samples(*ballots))
    assert result["value"] == value
    assert result["share"] == pytest.approx(share)
    assert result["entropy"] == pytest.approx(entropy, abs=1e-4)
    assert result["samples"] == len(ballots)
    assert result["votes"] == sum(ballot is not None for ballot in ballots)
    assert is_plain(result)


def test_each_item_has_a_vote_of_its_own():
    outcomes = [*samples("a", "a"), *samples("b", None, index=1), *samples("c", "d", index=2)]
    assert [each["value"] for each in reducers.vote()(iter(outcomes))] == ["a", "b", "c"]
    assert reducers.vote()([]) == []


def test_too_small_a_share_abstains():
    ballots = samples("a", "a", "b")
    assert reducers.vote(abstain_below=0.6)(ballots)[0]["value"] == "a"
    assert reducers.vote(abstain_below=0.7)(ballots)[0]["value"] is None


def test_part_of_a_value_may_count():
    ballots = samples({"class": "a", "why": 1}, {"class": "a", "why": 2}, {"class": "b", "why": 3})
    (result,) = reducers.vote(of=lambda value: value["class"])(ballots)
    assert (result["value"], result["share"]) == ("a", pytest.approx(2 / 3))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="is no share from 0 to 1"):
        reducers.vote(abstain_below=share)


@repeatable
@given(st.lists(st.one_of(st.none(), st.sampled_from("abc")), min_size=1, max_size=9))
def test_votes_add_up(ballots):
    (result,) = reducers.vote()(samples(*ballots))
    given = [ballot for ballot in ballots if ballot is not None]
    assert result["votes"] == len(given)
    if given:
        assert given.count(result["value"]) == max(map(given.count, given))
        assert result["share"] == pytest.approx(given.count(result["value"]) / len(given))
        assert 0 <= result["entropy"] <= 1.585
