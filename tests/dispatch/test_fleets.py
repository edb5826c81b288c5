"""The production scheduler over whole fleets, simulated, with faults of every kind."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from scripted import Dispatch, Items, now

from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.testing.schedules import (
    BackendGone,
    Cold,
    Dead,
    Flapping,
    Frozen,
    Slow,
    Storm,
    WalltimeEnd,
)
from langgraph_hpc_fanout.testing.simulated import Workload, fleet
from langgraph_hpc_fanout.testing.virtual_time import run

# No request takes nearly as long as a timeout, even where all is three times slower.
SHORT = Workload(median=2.0, sigma=0.5, seed=1)
RETRY = Retry(timeout=60.0)


class Counted(Items):
    """A client that checks each last word as it comes and keeps no more than counts."""

    def __init__(self, count, retry, *, may_hedge):
        super().__init__(count)
        self.retry = retry
        self.twice = 2 if may_hedge else 1
        self.settled = bytearray(count)
        self.outcomes = Counter()
        self.attempts = 0

    def settle(self, ticket, reply, lane, seconds):
        number = int(ticket.tag)
        assert not self.settled[number], f"item {number} was settled twice"
        assert self.aborted is None, "settled after the end"
        self.settled[number] = True
        self.attempts += ticket.attempts
        assert ticket.faults <= self.retry.attempts * self.twice
        if reply.failure is None:
            assert reply.body["choices"][0]["message"]["content"] == ticket.tag
            assert reply.usage.completion_tokens == SHORT.tokens(SHORT.seconds(ticket.tag))
            self.outcomes["ok"] += 1
        else:
            self.outcomes[reply.failure.kind] += 1
        if self.outcomes.total() == self.count:
            self.done.set()


def ask_all(endpoints, count, *, retry=RETRY, may_hedge=False, within=3600.0, policy=Policy()):
    """Ask for so many items; checks what must hold whatever goes wrong.

    Args:
        within: Seconds of virtual time after which something waits for ever.

    Returns:
        The client, and when the last item was settled or the job aborted.
    """

    async def main():
        items = Counted(count, retry, may_hedge=may_hedge)
        async with Dispatch(*endpoints, policy=policy) as dispatch:
            async with asyncio.timeout(within):
                await dispatch.ask(items, retry=retry, may_hedge=may_hedge)
            end = now()
            await asyncio.sleep(0.001)
            assert all(lane.in_flight == 0 for lane in dispatch.scheduler.lanes)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something waits for ever"
        return items, end

    items, end = run(main())
    assert items.settled.count(1) == items.outcomes.total()
    assert all(endpoint.peak <= endpoint.limits.concurrency for endpoint in endpoints)
    assert sum(endpoint.in_flight for endpoint in endpoints) == 0
    return items, end


def answer_all(endpoints, count, **options):
    """Ask for so many items, all of which must have their right answer; returns when they had."""
    items, end = ask_all(endpoints, count, **options)
    assert items.aborted is None
    assert items.outcomes == {"ok": count}, "each has one outcome, and all are right"
    assert sum(endpoint.asked for endpoint in endpoints) == items.attempts
    return end


ITEMS = 2_000


def small(*, shares=(), faults=()):
    """50 endpoints with four slots each, which take half a minute when nothing is wrong."""
    return fleet(50, slots=4, workload=SHORT, shares=dict(shares), faults=faults, models="m")


@pytest.mark.parametrize("may_hedge", [False, True])
@pytest.mark.parametrize(
    ("wrong", "most_seconds"),
    [
        pytest.param({}, 35.0, id="nothing"),
        pytest.param({"shares": {Dead(): 0.2}}, 45.0, id="some are dead"),
        pytest.param({"shares": {Dead(start=8.0): 0.2}}, 45.0, id="some die"),
        # One timeout of a minute, and for what goes to one on trial another.
        pytest.param({"shares": {Frozen(start=8.0): 0.2}}, 200.0, id="some freeze"),
        pytest.param({"shares": {BackendGone(): 0.2}}, 200.0, id="some gateways have no server"),
        pytest.param({"shares": {Slow(factor=3.0): 0.2}}, 60.0, id="some are slow"),
        pytest.param({"shares": {Slow(5.0, factor=10.0): 0.2}}, 120.0, id="some slow down"),
        pytest.param({"shares": {Flapping(up=7.0, down=3.0): 0.5}}, 90.0, id="half come and go"),
        # Backoffs are up to 30 s, so that is how long after a storm the last are asked.
        pytest.param({"faults": [Storm(5.0, 35.0)]}, 100.0, id="429 storm"),
        pytest.param(
            {"faults": [Storm(5.0, 35.0, retry_after=10.0)]}, 80.0, id="429 storm, Retry-After"
        ),
        pytest.param({"shares": {WalltimeEnd(10.0): 0.5}}, 90.0, id="half end with their job"),
        # They are back before the fourth probe.
        pytest.param({"faults": [WalltimeEnd(10.0, 11.5)]}, 60.0, id="all end and come back"),
    ],
)
def test_a_small_fleet_in_which_something_goes_wrong(wrong, most_seconds, may_hedge):
    endpoints = small(**wrong)
    end = answer_all(endpoints, ITEMS, may_hedge=may_hedge)
    assert end < most_seconds
    assert sum(endpoint.asked for endpoint in endpoints) <= ITEMS * 1.25


def test_without_faults_nothing_is_asked_twice():
    endpoints = small()
    answer_all(endpoints, ITEMS)
    assert sum(endpoint.asked for endpoint in endpoints) == ITEMS
    assert sum(endpoint.written for endpoint in endpoints) == sum(
        SHORT.tokens(SHORT.seconds(str(number))) for number in range(ITEMS)
    )


def test_hedges_cost_no_more_than_their_share():
    endpoints = small(shares={Slow(5.0, factor=10.0): 0.2})
    answer_all(endpoints, ITEMS, may_hedge=True)
    needed = sum(SHORT.tokens(SHORT.seconds(str(number))) for number in range(ITEMS))
    written = sum(endpoint.written for endpoint in endpoints)
    assert needed < written <= needed * 1.04  # what is lost of both twins counts


def test_who_has_a_cold_start_of_twelve_minutes_joins_when_it_is_over():
    endpoints = small(shares={Cold(until=720.0): 0.98})
    end = answer_all(endpoints, ITEMS)
    assert 720.0 < end < 720.0 + 60.0, "one alone would take nineteen minutes"
    assert sum(endpoint.answered > 0 for endpoint in endpoints) == len(endpoints)


@pytest.mark.parametrize(
    "fault",
    [Cold(until=720.0), WalltimeEnd(start=10.0)],
    ids=["cold start of all", "walltime end of all"],
)
def test_when_nobody_is_left_the_job_ends_and_says_why(fault):
    endpoints = small(faults=[fault])
    items, end = ask_all(endpoints, ITEMS)
    assert end < fault.start + 60.0 + 30.0
    assert set(items.outcomes) <= {"ok"}, "what is not answered can be asked again"
    assert len(items.aborted) == len(endpoints)
    assert {failure.kind for failure in items.aborted} == {"cold"}
    assert all(fault.why in failure.message for failure in items.aborted)


@pytest.mark.parametrize("may_hedge", [False, True])
def test_what_only_fails_is_asked_as_often_as_the_retry_policy_says(may_hedge):
    endpoints = small(faults=[BackendGone(after=1.0)])
    items, _ = ask_all(endpoints, 200, retry=Retry(attempts=3), may_hedge=may_hedge)
    assert items.outcomes == {"transient": 200}
    assert sum(endpoint.asked for endpoint in endpoints) == items.attempts == 3 * 200


EVERYTHING = {
    Dead(start=5.0): 0.03,
    Frozen(start=5.0): 0.02,
    BackendGone(): 0.02,
    Slow(factor=3.0): 0.05,
    Slow(start=8.0, factor=20.0): 0.02,
    Flapping(up=20.0, down=5.0): 0.05,
    Storm(start=4.0, until=30.0): 0.05,
    Storm(start=4.0, until=30.0, retry_after=5.0): 0.05,
    Cold(until=720.0): 0.10,
    WalltimeEnd(start=15.0): 0.20,
}


def test_the_next_job_after_a_walltime_end_of_all_can_be_waited_for():
    endpoints = small(faults=[WalltimeEnd(10.0, 720.0)])
    retry = Retry(timeout=60.0, patience=3_600.0)
    end = answer_all(endpoints, ITEMS, retry=retry, policy=Policy(absence=3_600.0))
    assert 720.0 < end < 720.0 + 60.0


@pytest.mark.parametrize("may_hedge", [False, True])
def test_two_thousand_endpoints_of_which_every_other_has_a_fault(may_hedge):
    endpoints = fleet(2_000, slots=4, workload=SHORT, shares=EVERYTHING, models="m", seed=3)
    # Of 50,000 some meet a frozen endpoint five times.
    end = answer_all(endpoints, 50_000, may_hedge=may_hedge, retry=Retry(attempts=8, timeout=60.0))
    assert end < 400.0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_thousand_endpoints_and_a_million_items():
    endpoints = fleet(2_000, slots=4, workload=SHORT, shares=EVERYTHING, models="m", seed=4)
    end = answer_all(endpoints, 1_000_000, may_hedge=True)
    assert end < 1200.0
