"""The index: what a dict of the greatest values would say, in a third of the memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.journal.index import Index

# Few sections, so that they fill; the ends of the range, where homes are first and last.
fingerprints = st.one_of(
    st.integers(1, 40),
    st.integers(2**64 - 40, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 2000).map(lambda number: (number << 26) + 1),
)
values = st.integers(1, 2**64 - 1)
entries = st.lists(st.tuples(fingerprints, values), max_size=80)


def put_all(index, some):
    keys, values = zip(*some, strict=True) if some else ((), ())
    index.put_all(np.array(keys, np.uint64), np.array(values, np.uint64))


def expected(some):
    best = {}
    for key, value in some:
        best[key] = max(value, best.get(key, 0))
    return best


def assert_holds(index, best):
    assert len(index) == len(best)
    assert {key: index.get(key) for key in best} == best
    assert all(index.get(key ^ 1 << 25) == best.get(key ^ 1 << 25, 0) for key in best)


@pytest.fixture(params=[0, 4096], ids=["at once", "one by one"])
def few(request, monkeypatch):
    monkeypatch.setattr("langgraph_hpc_fanout.journal.index._FEW", request.param)
    monkeypatch.setattr("langgraph_hpc_fanout.journal.index._LEAST", 4)


@repeatable
@given(st.lists(st.tuples(st.sampled_from(["put", "put_all"]), entries), max_size=4))
def test_it_holds_the_greatest_value_of_each_fingerprint(steps):
    index, seen = Index(), []
    for how, some in steps:
        if how == "put":
            for key, value in some:
                index.put(key, value)
        else:
            put_all(index, some)
        seen += some
    assert_holds(index, expected(seen))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("count", [0, 1, 500, 5000])
def test_many_at_once_are_like_many_one_by_one(count):
    random = np.random.default_rng(1)
    keys = random.integers(1, 2**64 - 1, count, dtype=np.uint64).tolist()
    some = [(key, number + 1) for number, key in enumerate(keys)]
    index = Index()
    put_all(index, some[: count // 2])
    put_all(index, some[count // 3 :])
    assert_holds(index, expected(some))


def test_a_crowd_at_one_home_runs_over_the_end_of_its_section():
    index = Index()
    crowd = [(2**64 - 1 - number, number + 1) for number in range(300)]
    for key, value in crowd:
        index.put(key, value)
    assert_holds(index, dict(crowd))


def test_an_entry_takes_at_most_32_bytes_at_any_time():
    random = np.random.default_rng(2)
    keys = random.integers(1, 2**64 - 1, 100_000, dtype=np.uint64)
    index = Index()
    for count, key in enumerate(keys.tolist(), 1):
        index.put(key, 1)
        if count > 50_000 and count % 100 == 0:
            assert index.nbytes <= 32 * count
    at_once = Index()
    at_once.put_all(keys, keys)
    assert at_once.nbytes <= 32 * len(keys)
