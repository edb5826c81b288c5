"""The condition of a lane: what probes and requests say of it, and what follows."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout.dispatch.health import Condition, State
from langgraph_hpc_fanout.endpoints.protocol import Health
from langgraph_hpc_fanout.records import Failure

WELL = Health(ok=True)
AWAY = Failure("cold", "a is away.")
FAULT = Failure("transient", "a answered 500.")


def hot():
    condition = Condition()
    condition.wake()
    condition.probed(WELL)
    assert condition.is_hot
    return condition


def ejected(condition):
    """Eject it as the scheduler does, and let its time pass; returns for how long it was."""
    while not condition.faulted():
        pass
    seconds = condition.eject(FAULT)
    assert condition.state is State.EJECTED
    assert condition.may_recover
    assert condition.end_ejection()
    assert condition.state is State.PROBING
    condition.probed(WELL)
    return seconds


def test_a_cold_lane_is_probed_when_somebody_wants_it():
    condition = Condition()
    assert condition.state is State.COLD
    assert condition.wake()
    assert condition.probed(WELL) is None
    assert condition.is_hot
    assert not condition.wake()


def test_probes_become_rare_and_a_lane_that_fails_them_is_dead():
    condition = Condition()
    away = Health(ok=False, failure=AWAY)
    assert [condition.probed(away) for _ in range(3)] == [0.2, 0.5, 1.0]
    assert condition.state is State.COLD
    assert [condition.probed(away) for _ in range(2)] == [15.0, 15.0]
    assert condition.state is State.DEAD
    assert condition.failure is AWAY
    assert not condition.may_recover
    assert condition.wake()  # somebody asks again
    assert (condition.state, condition.failure) == (State.PROBING, None)
    assert condition.probed(away) == 0.2


def test_a_refused_token_needs_no_second_probe():
    condition = Condition()
    refused = Health(ok=False, failure=Failure("auth", "401"))
    assert condition.probed(refused) is None
    assert condition.state is State.DEAD


def test_who_is_found_absent_is_probed_once_however_many_find_out():
    condition = hot()
    assert condition.chill(AWAY) == 0.0
    assert condition.state is State.PROBING
    assert condition.chill(AWAY) is None


def test_who_is_well_only_when_probed_is_dead_for_a_while():
    condition = hot()
    for _ in range(3):
        assert condition.chill(AWAY) == 0.0
        condition.probed(WELL)
    assert condition.chill(AWAY) == 15.0
    assert condition.state is State.DEAD


def test_an_answer_forgives_absences():
    condition = hot()
    for _ in range(10):
        assert condition.chill(AWAY) == 0.0
        condition.probed(WELL)
        condition.answered()


def test_five_faults_in_a_row_eject_and_an_answer_breaks_the_row():
    condition = hot()
    assert [condition.faulted() for _ in range(4)] == [False] * 4
    condition.answered()
    assert [condition.faulted() for _ in range(5)] == [False] * 4 + [True]


def test_each_ejection_is_longer_up_to_a_limit():
    condition = hot()
    assert [ejected(condition) for _ in range(12)] == [
        *range(30, 300, 30),
        *[300] * 3,
    ]


def test_after_an_ejection_one_request_decides():
    condition = hot()
    ejected(condition)
    assert condition.on_trial
    assert condition.faulted(), "one fault is enough now"
    condition.eject(FAULT)
    condition.end_ejection()
    condition.probed(WELL)
    condition.answered()
    assert not condition.on_trial
    assert not condition.faulted()
    assert ejected(condition) == 30.0, "it has made up for the earlier ones"


def test_faults_of_a_lane_that_does_not_pull_are_old():
    condition = hot()
    condition.chill(AWAY)
    assert not any(condition.faulted() for _ in range(20))


@pytest.mark.parametrize("end", ["drain", "close"])
def test_who_leaves_does_not_come_back(end):
    condition = hot()
    for _ in range(5):
        condition.faulted()
    condition.eject(FAULT)
    getattr(condition, end)()
    assert not condition.end_ejection()
    assert not condition.wake()
    assert not condition.may_recover
    condition.close()
    condition.drain()
    assert condition.state is State.CLOSED
