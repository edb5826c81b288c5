"""Stats: what outcomes come to, and that parts add up to the whole."""

from __future__ import annotations

import functools
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, outcomes, repeatable
from some_outcomes import good

from langgraph_hpc_fanout.stats import ACCURACY, Sketch, Stats

many = st.lists(outcomes, max_size=8)
durations = st.lists(st.floats(1e-5, 1e7), min_size=1, max_size=60)


def sketch_of(values):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


def nearest_rank(values, share):
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@repeatable
@given(many, many)
def test_merging_is_commutative(some, others):
    a, b = Stats.of(some), Stats.of(others)
    assert a + b == b + a
    assert (a, b) == (Stats.of(some), Stats.of(others)), "a sum leaves its parts alone"


@repeatable
@given(many, many, many)
def test_merging_is_associative(some, others, more):
    a, b, c = map(Stats.of, (some, others, more))
    assert (a + b) + c == a + (b + c)


@repeatable
@given(st.lists(many, max_size=4))
def test_parts_add_up_to_the_whole(parts):
    whole = Stats.of(outcome for part in parts for outcome in part)
    assert functools.reduce(Stats.__add__, map(Stats.of, parts), Stats()) == whole


@repeatable
@given(many)
def test_a_dump_is_plain_and_loads_again(some):
    stats = Stats.of(some)
    dump = stats.dump()
    assert is_plain(dump)
    assert Stats.load(orjson.loads(orjson.dumps(dump))) == stats
    assert is_plain(stats.to_dict())


def test_a_dump_is_not_tied_to_what_was_dumped():
    stats = Stats.of([good(0, "a", endpoint="x", attempts=1)])
    dump = stats.dump()
    loaded = Stats.load(dump)
    stats.merge(stats)
    assert (stats.total, stats.endpoints) == (2, {"x": 2})
    assert Stats.load(dump) == loaded == Stats.of([good(0, "a", endpoint="x", attempts=1)])


@repeatable
@given(durations, st.floats(0, 1))
def test_a_quantile_is_right_within_one_percent(values, share):
    exact = nearest_rank(values, share)
    assert sketch_of(values).quantile(share) == pytest.approx(exact, rel=ACCURACY * 1.000001)


@repeatable
@given(durations)
def test_the_extremes_are_exact(values):
    sketch = sketch_of(values)
    assert (sketch.least, sketch.most) == (min(values), max(values))


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.25, 1e9])
def test_a_single_duration_is_known_exactly(seconds):
    assert sketch_of([seconds]).quantile(0.5) == seconds


def test_nothing_has_no_quantile():
    with pytest.raises(ValueError, match="Nothing was counted"):
        Sketch().quantile(0.5)


def test_a_dump_is_small():
    # A million latencies, spread from 50 ms to 10 minutes.
    spread = [0.05 * 1.01**n for n in range(945)]
    sketch = sketch_of(spread)
    for _ in range(10):
        sketch.merge(sketch)
    dump = Stats(total=sum(sketch.counts.values()), latency=sketch).dump()
    assert len(orjson.dumps(dump)) < 3_000


def test_a_dump_has_an_end_whatever_was_counted():
    sketch = sketch_of([0.0, 1e-300, 1e300])
    assert len(orjson.dumps(sketch.dump())) < 3_000
