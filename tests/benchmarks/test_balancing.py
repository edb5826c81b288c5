"""The benchmark of balancing: contenders answer all, and nobody beats the ideal."""

from __future__ import annotations

import random

import pytest

from benchmarks.cases import balancing
from benchmarks.contenders import choosing
from benchmarks.contenders.balancing import at_random, in_turn, of_two
from benchmarks.sample import in_fresh_process
from langgraph_hpc_fanout.testing.simulated import fleet


@pytest.mark.parametrize("name", balancing._CONTENDERS)
def test_a_contender_answers_all_and_repeats_itself(name):
    contender = balancing._CONTENDERS[name]
    trial = balancing._try(contender, 50, 1)
    assert trial.ideal < trial.nearly <= trial.all
    assert 0.0 <= trial.extra < 0.1
    again = balancing._try(contender, 50, 1)
    assert (again.nearly, again.all, again.extra) == (trial.nearly, trial.all, trial.extra)
    assert balancing._try(contender, 50, 2).ideal != trial.ideal


def test_slots_of_the_dead_do_not_count_and_those_of_the_slow_a_third():
    assert balancing._capacity(100) == pytest.approx(16 * (100 - 2 - 5 + 5 / 3))


def test_policies_choose_as_their_names_say():
    endpoints, rng = fleet(3), random.Random(1)
    assert [in_turn(endpoints, number, rng) for number in (0, 1, 2, 3)] == [
        *endpoints,
        endpoints[0],
    ]
    assert {at_random(endpoints, 0, rng) for _ in range(100)} == set(endpoints)
    endpoints[0].in_flight = 5
    chosen = [of_two(endpoints, 0, rng) for _ in range(900)]
    assert chosen.count(endpoints[0]) == pytest.approx(100, abs=40), "only against itself"


def test_offers_are_measured():
    sample = in_fresh_process(choosing.offer, 20, 100)
    assert (sample.items, sample.lost) == (100, 0)
    assert 0 < sample.cpu_per_item < 10_000
