"""The scheduler as a state machine: anything may happen at any time, and these things always hold.

Every item has exactly one outcome; in flight is never above a limit; budgets are never overshot;
spend equals confirmed usage plus the reservations of unconfirmed attempts; nothing waits for ever;
no request outlives its run.
"""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from properties import repeatable
from scripted import Dispatch, Items, Scripted, fail, now

from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Health
from langgraph_hpc_fanout.records import Failure
from langgraph_hpc_fanout.testing.virtual_time import VirtualTimeLoop

RESERVED = 281
"""Tokens that are reserved for a request of `Items`; it uses ten."""
MOODS = {
    "well": None,
    "failing": "transient",
    "refusing": fail("rate_limited", retry_after=3.0),
    "busy": "overloaded",
    "frozen": "hang",
    "gone": "cold",
    "starting": "cold",
    "broken off": "end",
    "picky": "permanent",
}
moods = st.sampled_from(["well"] * 5 + list(MOODS))
budgets = st.one_of(
    st.none(),
    st.builds(Budget, tokens=st.integers(300, 5_000)),
    st.builds(Budget, requests=st.integers(1, 60)),
    st.builds(Budget, usd=st.floats(0.001, 0.01)),
)
retries = st.builds(
    Retry,
    attempts=st.integers(1, 4),
    timeout=st.sampled_from([5.0, 40.0]),
    patience=st.sampled_from([1.0, 60.0]),
    base=st.sampled_from([0.01, 1.0]),
)


class Moody(Scripted):
    """An endpoint whose mood may change, and which knows what it has really answered."""

    def __init__(self, name, mood, concurrency, latency, tags):
        super().__init__(name, latency=latency, concurrency=concurrency, script=self.answer)
        self.health = self.look
        self.mood = mood
        self.price = Price(input=1, output=1)
        self.tags = tags
        self.said = {}

    def look(self, number):
        if self.mood == "starting":
            return Health(ok=False, failure=Failure("cold", "Starting."), retry_after=60.0)
        return self.mood != "gone"

    def answer(self, call):
        self.said[call.number] = MOODS[self.mood]
        return self.said[call.number]

    @property
    def answered(self):
        """How many good answers it has given to somebody who still listened."""
        return sum(
            said is None and not self.calls[number].cancelled for number, said in self.said.items()
        )


class Fleet(RuleBasedStateMachine):
    """Jobs and lanes that come and go, moods that change, time that passes."""

    @initialize(
        policy=st.builds(
            Policy,
            retries=st.sampled_from([0.0, 0.2]),
            ejected=st.sampled_from([0.0, 0.5, 1.0]),
            hedging=st.sampled_from([0.0, 0.02, 1.0]),
        ),
        # Without any budget of tokens, attempts that nobody confirms are counted and cost nothing.
        budget=st.builds(
            Budget, tokens=st.just(10**9), requests=st.one_of(st.none(), st.integers(20, 300))
        ),
    )
    def begin(self, policy, budget):
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.names = itertools.count()
        self.endpoints, self.here, self.work = [], [], []
        self.cancelled = set()
        self.pool_budget = budget
        first = self.moody("well", 3, 1.0, frozenset())

        async def make():
            return Dispatch(first, policy=policy, budget=budget)

        self.dispatch = self.runner.run(make())

    def moody(self, *how):
        endpoint = Moody(f"lane {next(self.names)}", *how)
        self.endpoints.append(endpoint)
        self.here.append(endpoint)
        return endpoint

    def do(self, function, *args, wait=0.0):
        async def main():
            result = function(*args)
            await asyncio.sleep(wait)
            return result

        return self.runner.run(main())

    # What may happen

    @rule(
        count=st.integers(0, 40),
        retry=retries,
        budget=budgets,
        deadline=st.sampled_from([None, None, 2.0, 50.0]),
        how=st.fixed_dictionaries(
            {
                "weight": st.sampled_from([0.5, 1.0, 3.0]),
                "may_hedge": st.booleans(),
                "order": st.sampled_from(["input", "longest_first", "by_prefix"]),
                "forbid": st.sampled_from([[], ["cloud"]]),
                "concurrency": st.sampled_from([None, 1, 5]),
            }
        ),
    )
    def a_job_comes(self, count, retry, budget, deadline, how):
        purse = Purse(budget)

        async def add():
            items = Items(count, prefix=f"job {len(self.work)}/")
            job = self.dispatch.add(items, retry=retry, item_deadline=deadline, purse=purse, **how)
            return items, job

        items, job = self.runner.run(add())
        self.work.append((items, job, purse, budget))

    @precondition(lambda self: self.work)
    @rule(number=st.integers(0))
    def a_job_is_cancelled(self, number):
        number %= len(self.work)
        _, job, *_ = self.work[number]
        self.do(self.dispatch.scheduler.remove, job, wait=0.001)
        self.cancelled.add(number)
        prefix = f"job {number}/"
        assert not any(
            call.end is None and call.key.startswith(prefix)
            for endpoint in self.endpoints
            for call in endpoint.calls
        ), "a request outlives its run"

    @rule(
        mood=moods,
        concurrency=st.sampled_from([1, 4, 20]),
        latency=st.sampled_from([0.1, 1.0, 15.0]),
        tags=st.sampled_from([frozenset(), frozenset({"cloud"})]),
    )
    def a_lane_joins(self, mood, concurrency, latency, tags):
        self.do(self.dispatch.scheduler.join, self.moody(mood, concurrency, latency, tags))

    @precondition(lambda self: len(self.here) > 1)
    @rule(number=st.integers(0))
    def a_lane_leaves(self, number):
        endpoint = self.here.pop(number % len(self.here))
        self.do(self.dispatch.scheduler.leave, self.dispatch.lanes[endpoint.name])

    @rule(number=st.integers(0), mood=moods)
    def a_mood_changes(self, number, mood):
        self.here[number % len(self.here)].mood = mood

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 7.0, 45.0, 400.0]))
    def time_passes(self, seconds):
        self.runner.run(asyncio.sleep(seconds))

    # What always holds

    @invariant()
    def nothing_is_above_its_limit(self):
        for endpoint in self.endpoints:
            assert endpoint.peak <= endpoint.limits.concurrency
        for _, job, purse, budget in self.work:
            assert len(job.in_flight) <= job.concurrency
            self.check_budget(purse, budget)
        self.check_budget(self.dispatch.scheduler.cashier.purse, self.pool_budget)

    def check_budget(self, purse, budget):
        for name in ("tokens", "requests", "usd"):
            if budget is not None and (most := getattr(budget, name)) is not None:
                assert getattr(purse.spent + purse.reserved, name) <= most

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            for endpoint in self.endpoints:
                endpoint.mood = "well"
            self.runner.run(self.end())
            self.check_end()
        finally:
            self.runner.run(self.dispatch.scheduler.close())
            self.runner.close()

    async def end(self):
        """Nothing is ill any more: all comes to its end, without a timer left behind."""
        began = now()
        for number, (items, *_) in enumerate(self.work):
            if number not in self.cancelled:
                await items.done.wait()
        one_by_one = 15.0 * sum(items.count for items, *_ in self.work)
        assert now() - began < 2_000.0 + one_by_one
        for _, job, *_ in self.work:
            self.dispatch.scheduler.remove(job)
        await asyncio.sleep(0.001)

    def check_end(self):
        for number, (items, *_) in enumerate(self.work):
            if number not in self.cancelled and items.aborted is None:
                assert len(items.answers) == items.count
        pool = self.dispatch.scheduler.cashier.purse
        assert pool.reserved == NO_CHARGE
        assert all(purse.reserved == NO_CHARGE for _, _, purse, _ in self.work)
        assert pool.spent == sum((purse.spent for _, _, purse, _ in self.work), NO_CHARGE)
        assert pool.spent.requests == sum(len(each.calls) for each in self.endpoints)
        answered = sum(endpoint.answered for endpoint in self.endpoints)
        unconfirmed = pool.unconfirmed.unconfirmed
        assert pool.spent.tokens == 10 * answered + RESERVED * unconfirmed
        assert all(endpoint.in_flight == 0 for endpoint in self.endpoints)


Fleet.TestCase.settings = settings(repeatable, max_examples=80, stateful_step_count=40)
TestFleet = Fleet.TestCase
