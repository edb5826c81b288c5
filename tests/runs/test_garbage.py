"""The garbage collector's thresholds around runs."""

from __future__ import annotations

import gc

import pytest
from graphs import build, molecules

from langgraph_hpc_fanout.runs import garbage


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_relaxed_while_any_run_is_live():
    garbage.relax()
    garbage.relax()
    assert gc.get_threshold()[0] == 50_000
    garbage.restore()
    assert gc.get_threshold()[0] == 50_000
    garbage.restore()
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("set_by_the_user", [(0, 10, 10), (100_000, 10, 10)])
def test_what_the_user_set_higher_stays(set_by_the_user):
    gc.set_threshold(*set_by_the_user)
    garbage.relax()
    assert gc.get_threshold() == set_by_the_user
    garbage.restore()
    assert gc.get_threshold() == set_by_the_user


def test_a_disabled_collector_stays_so():
    gc.disable()
    try:
        garbage.relax()
        assert gc.get_threshold() == (700, 10, 10)
        garbage.restore()
    finally:
        gc.enable()


def test_what_the_user_sets_during_a_run_stays():
    garbage.relax()
    gc.set_threshold(1234, 5, 5)
    garbage.restore()
    assert gc.get_threshold() == (1234, 5, 5)


@pytest.mark.parametrize("works", [True, False])
def test_a_run_restores_them_however_it_ends(fake_fleet, pool_over, works):
    seen = []
    fleet = fake_fleet(
        api_key=None if works else "key",
        answer=lambda body: seen.append(gc.get_threshold()) or "yes",
    )
    graph = build(pool_over(fleet.urls))
    try:
        graph.invoke({"molecules": molecules(3)})
    except Exception:
        assert not works
    else:
        assert {threshold[0] for threshold in seen} == {50_000}
    assert gc.get_threshold() == (700, 10, 10)
