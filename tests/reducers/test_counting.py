"""Counting: the report of a run."""

from __future__ import annotations

import pytest
from properties import is_plain
from some_outcomes import bad, good

from langgraph_hpc_fanout import Usage, reducers
from langgraph_hpc_fanout.stats import ACCURACY


def test_stats_of_nothing():
    assert reducers.stats([]) == {
        "total": 0,
        "ok": 0,
        "failed": 0,
        "failures": {},
        "cached": 0,
        "attempts": 0,
        "tokens": {"prompt": 0, "completion": 0, "estimated_items": 0},
        "usd": 0.0,
        "endpoints": {},
        "models": {},
        "latency": {},
    }


def test_stats_count_what_was_sent_and_what_was_known():
    some = [
        good(
            0, "a", endpoint="x", model="m", attempts=1, latency=1.0, usage=Usage(10, 5), cost=0.5
        ),
        good(
            1,
            "b",
            endpoint="y",
            model="m",
            attempts=3,
            latency=3.0,
            usage=Usage(20, 6, estimated=True),
            cost=0.25,
        ),
        good(2, "c", endpoint="y", model="m", attempts=0, usage=Usage(9, 9), meta={"cached": True}),
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
        "usd": 0.75,
        "endpoints": {"x": 2, "y": 1},
        "models": {"m": 2},
        "latency": {
            "p50": pytest.approx(2.0, rel=ACCURACY),
            "p95": pytest.approx(3.0, rel=ACCURACY),
            "max": 3.0,
        },
    }


def test_stats_of_a_single_latency():
    report = reducers.stats([good(0, "a", endpoint="x", attempts=1, latency=0.25)])
    assert report["latency"] == {"p50": 0.25, "p95": 0.25, "max": 0.25}
