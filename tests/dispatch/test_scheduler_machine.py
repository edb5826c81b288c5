"""The scheduler as a state machine: anything may happen at any time, and these things always hold.

Every item has exactly one outcome; in flight is never above a limit; budgets are never overshot;
spend equals confirmed usage plus the reservations of unconfirmed attempts; nothing waits for ever;
no request outlives its run; no lane that has left is sent anything; no job is given up that a lane
may serve. They hold for lanes that take requests one by one, and for those that gather bundles of
many, which nothing but deadlines ends, and what is in one of these is asked nowhere else.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from properties import repeatable
from scripted import Dispatch, Items, Scripted, fail

from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE
from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
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
    "failing, and says until when": fail("transient", retry_after=20.0),
    "patchy": None,
    "serving another": "cold",
}
_GONE = Health(ok=False, failure=Failure("cold", "It is gone.", None, True))
moods = st.sampled_from(["well"] * 5 + list(MOODS))
models = st.sampled_from([["m"], ["m"], ["m"], ["m", "n"], ["n"]])
some_tags = st.sampled_from([frozenset(), frozenset({"cloud"})])
opening = st.sampled_from([0.0, 0.0, 0.3, 5.0])
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
bundlings = st.builds(
    Bundling,
    st.sampled_from([7, 30, 1_000]),
    max_bundles=st.just(1),
    linger=st.sampled_from([0.0, 1.0]),
    queues=st.just(True),
    least=st.sampled_from([2, 10, 30]),
    share=st.sampled_from([0.1, 0.8, 1.0]),
)


class Moody(Scripted):
    """An endpoint whose mood may change, and which knows what it has really answered."""

    def __init__(
        self,
        name,
        mood="well",
        concurrency=3,
        latency=1.0,
        tags=frozenset(),
        models=("m",),
        opening=0.0,
        bundling=None,
    ):
        limits = {"concurrency": concurrency, "models": models, "bundling": bundling}
        super().__init__(name, latency=latency, script=self.answer, **limits)
        self.health = self.look
        self.mood = mood
        self.own = self.served
        self.opening = opening
        self.price = Price(input=1, output=1)
        self.tags = tags
        self.said = {}
        self.left_after = None

    async def look(self, number):
        await asyncio.sleep(self.opening)
        self.served = {"other": "other"} if self.mood == "serving another" else self.own
        if self.mood == "starting":
            return Health(ok=False, failure=Failure("cold", "Starting."), retry_after=60.0)
        return Health(ok=True) if self.mood != "gone" else _GONE

    def answer(self, call):
        is_lost = self.mood == "patchy" and call.number % 3 == 0
        self.said[call.number] = "transient" if is_lost else MOODS[self.mood]
        return self.said[call.number]

    @property
    def answered(self):
        """Keys of the good answers that it has given to somebody who still listened."""
        return [
            self.calls[number].key
            for number, said in self.said.items()
            if said is None and not self.calls[number].cancelled
        ]

    @property
    def under_way(self):
        """The bundles under way, as lists of calls; most endpoints have bundles of one."""
        return [calls for calls in self.bundles if any(call.end is None for call in calls)]

    @property
    def asked(self):
        """Keys that are being asked."""
        return {call.key for calls in self.under_way for call in calls if call.end is None}


class Watched(Items):
    """Items that know which lanes could have served them when their job was given up."""

    def watch(self, scheduler, job):
        self.scheduler, self.job, self.hopes = scheduler, job, []

    def abort(self, failures):
        super().abort(failures)
        if failures[0].kind != "budget":
            self.hopes = [lane for lane in self.scheduler.lanes if self.is_hope(lane)]

    def is_hope(self, lane):
        if lane.state is State.DEAD or not self.job.admits(lane.tags):
            return False
        is_unknown = lane.state is State.COLD or not (lane.serves or lane.condition.is_hot)
        return is_unknown or self.model in lane.serves


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
        first = self.moody()

        async def make():
            return Dispatch(first, policy=policy, budget=budget)

        self.dispatch = self.runner.run(make())

    def moody(self, **how):
        endpoint = Moody(f"lane {next(self.names)}", **how)
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
        model=st.sampled_from(["m", "m", "m", "n"]),
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
    def a_job_comes(self, count, model, retry, budget, deadline, how):
        purse = Purse(budget)

        async def add():
            items = Watched(count, model=model, prefix=f"job {len(self.work)}/")
            job = Job(items, model, retry, item_deadline=deadline, purse=purse, **how)
            items.watch(self.dispatch.scheduler, job)
            self.dispatch.scheduler.add(job)
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
        awaited = {ticket.tag for _, job, *_ in self.work for ticket in job.in_flight}
        for endpoint in self.endpoints:
            for calls in endpoint.under_way:
                keys = {call.key for call in calls}
                is_its = any(key.startswith(prefix) for key in keys)
                assert not is_its or keys & awaited, "a request outlives its run"

    @rule(
        mood=moods,
        concurrency=st.sampled_from([1, 4, 20]),
        latency=st.sampled_from([0.1, 1.0, 15.0]),
        tags=some_tags,
        models=models,
        opening=opening,
    )
    def a_lane_joins(self, **how):
        self.do(self.dispatch.scheduler.join, self.moody(**how))

    @rule(
        mood=moods,
        latency=st.sampled_from([0.1, 20.0, 60.0]),
        tags=some_tags,
        models=models,
        opening=opening,
        bundling=bundlings,
    )
    def a_lane_joins_that_gathers(self, bundling, **how):
        endpoint = self.moody(bundling=bundling, concurrency=bundling.max_items, **how)
        self.do(self.dispatch.scheduler.join, endpoint)

    @precondition(lambda self: len(self.here) > 1)
    @rule(number=st.integers(0))
    def a_lane_leaves(self, number):
        endpoint = self.here.pop(number % len(self.here))
        self.do(self.leave, endpoint)

    def leave(self, endpoint):
        endpoint.left_after = len(endpoint.calls)
        self.dispatch.scheduler.leave(self.dispatch.lanes[endpoint.name])

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

    @invariant()
    def bundles_are_as_they_should_be(self):
        for endpoint in self.endpoints:
            assert endpoint.left_after in (None, len(endpoint.calls)), "sent to who has left"
            assert all(len(calls) <= endpoint.bundling.max_items for calls in endpoint.bundles)
            if endpoint.bundling.queues:
                assert len(endpoint.under_way) <= endpoint.bundling.max_bundles
                others = [each for each in self.endpoints if each is not endpoint]
                assert not any(endpoint.asked & other.asked for other in others)

    @invariant()
    def nobody_is_given_up_who_may_be_served(self):
        for items, *_ in self.work:
            assert not items.hopes

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
                if endpoint.bundling.queues:
                    endpoint.thawed.set()  # what waits in a queue has no other end
            self.runner.run(self.end())
            self.check_end()
        finally:
            self.runner.run(self.dispatch.scheduler.close())
            self.runner.close()

    async def end(self):
        """Nothing is ill any more: all comes to its end, without a timer left behind."""
        slowest = max(endpoint.latency for endpoint in self.endpoints)
        # A lane too slow for a deadline is left alone after each item, five minutes at most.
        one_by_one = (slowest + 300.0) * sum(items.count for items, *_ in self.work)
        async with asyncio.timeout(2_000.0 + one_by_one):
            for number, (items, *_) in enumerate(self.work):
                if number not in self.cancelled:
                    await items.done.wait()
        for _, job, *_ in self.work:
            self.dispatch.scheduler.remove(job)
        await asyncio.sleep(0.02)  # what is being gathered is looked at each 10 ms

    def check_end(self):
        for number, (items, *_) in enumerate(self.work):
            if number not in self.cancelled and items.aborted is None:
                assert len(items.answers) == items.count
        pool = self.dispatch.scheduler.cashier.purse
        assert pool.reserved == NO_CHARGE
        assert all(purse.reserved == NO_CHARGE for _, _, purse, _ in self.work)
        assert pool.spent == sum((purse.spent for _, _, purse, _ in self.work), NO_CHARGE)
        assert pool.spent.requests == sum(len(each.calls) for each in self.endpoints)
        answered = self.count_confirmed()
        unconfirmed = pool.unconfirmed.unconfirmed
        assert pool.spent.tokens == 10 * answered + RESERVED * unconfirmed
        assert all(endpoint.in_flight == 0 for endpoint in self.endpoints)

    def count_confirmed(self):
        """Good answers of which the usage was counted.

        Of two that came for one item in the same instant, the second is not listened to: its
        request was given up, and paid for with its reservation, when the first was taken. So is
        one whose time is up while others of its bundle are waited for.
        """
        answers = Counter(key for endpoint in self.endpoints for key in endpoint.answered)
        outcomes = {key: each for items, *_ in self.work for key, each in items.answers.items()}
        return sum(
            int(outcomes[key].ok) if key in outcomes else count for key, count in answers.items()
        )


Fleet.TestCase.settings = settings(repeatable, max_examples=250, stateful_step_count=40)
TestFleet = Fleet.TestCase
