"""Lanes: limits held, bundles filled, bad endpoints survived."""

from __future__ import annotations

import asyncio
import math

import pytest
from scripted import (
    CoarseLoop,
    Dispatch,
    Items,
    Scripted,
    ask,
    fail,
    in_virtual_time,
    most_in_a_window,
    now,
)

from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Usage
from langgraph_hpc_fanout.testing.virtual_time import VirtualTimeLoop

# Limits


@pytest.mark.parametrize("concurrency", [1, 2, 7, 64])
@in_virtual_time
async def test_the_limit_of_concurrency_is_reached_and_never_passed(concurrency):
    a = Scripted("a", latency=lambda call: 1.0 + call.number % 3, concurrency=concurrency)
    await ask(300, a)
    assert a.peak == concurrency
    assert now() == pytest.approx(600 / concurrency, rel=0.05, abs=3.0)


@pytest.mark.parametrize("bundle", [2, 8, 100])
@in_virtual_time
async def test_concurrency_counts_requests_not_bundles(bundle):
    a = Scripted("a", latency=lambda call: 1.0 + call.number % 3, concurrency=20, bundle=bundle)
    items = await ask(300, a)
    assert items.kinds == {None: 300}
    assert a.peak == 20
    assert max(len(calls) for calls in a.bundles) == min(bundle, 20)


@in_virtual_time
async def test_what_a_probe_has_asked_counts_against_the_rate():
    a = Scripted("a", concurrency=9, requests="2/s", probe=lambda _: Health(ok=True, requests=6))
    await ask(4, a)
    assert a.times[0] == pytest.approx(3.0, abs=0.1)
    assert a.times[-1] == pytest.approx(4.5, abs=0.1)


@pytest.mark.parametrize("rate", [0.5, 1, 7, 30, 1000])
@in_virtual_time
async def test_the_rate_of_requests_holds_in_every_window(rate):
    count = max(20, int(rate * 5))
    a = Scripted("a", latency=0.3, concurrency=2000, requests=f"{rate}/s")
    items = await ask(count, a)
    assert items.kinds == {None: count}
    burst = max(1, int(rate * 0.1))
    for seconds in (1.0, 3.0):
        assert most_in_a_window(a.times, seconds) <= math.ceil(rate * seconds) + burst
    assert now() == pytest.approx(count / rate, rel=0.1, abs=2.0)


@in_virtual_time
async def test_the_rate_is_per_minute_too_and_a_burst_can_be_asked_for():
    a = Scripted("a", latency=0.3, requests="300/min", burst=5, concurrency=100)
    await ask(100, a)
    assert a.times[:5] == [0.0] * 5
    assert most_in_a_window(a.times, 60.0) <= 305


@pytest.mark.parametrize("bundle", [3, 8])
@in_virtual_time
async def test_the_rate_of_requests_counts_requests_not_bundles(bundle):
    a = Scripted("a", latency=0.3, requests="50/s", concurrency=100, bundle=bundle)
    items = await ask(250, a)
    assert items.kinds == {None: 250}
    assert most_in_a_window(a.times, 1.0) <= 55
    assert now() == pytest.approx(5.0, abs=0.5)
    assert max(len(calls) for calls in a.bundles) == min(bundle, 5)


@in_virtual_time
async def test_the_rate_of_tokens_holds_in_every_window():
    """Each reserves 100 tokens and uses as many."""
    a = Scripted("a", latency=0.3, uses=100, concurrency=100)
    a.limits = type(a.limits)(concurrency=100, tokens="1000/s")
    items = await ask(Items(100, max_tokens=100), a)
    assert items.kinds == {None: 100}
    assert most_in_a_window(a.times, 1.0) <= 20  # what was saved up, and a second's worth
    assert most_in_a_window(a.times, 5.0) <= 60
    assert now() == pytest.approx(9.3, abs=0.5)


@in_virtual_time
async def test_tokens_that_were_reserved_but_not_used_are_given_back():
    a = Scripted("a", latency=0.0)
    a.limits, a.uses = type(a.limits)(concurrency=1, tokens="1000/s"), 50
    await ask(Items(100, max_tokens=500), a)
    assert now() == pytest.approx(4.5, abs=0.6)


@in_virtual_time
async def test_more_tokens_than_reserved_are_paid_later():
    a = Scripted("a", latency=0.01)
    a.limits, a.uses = type(a.limits)(concurrency=1, tokens="1000/s"), 500
    await ask(Items(20, max_tokens=50), a)
    assert now() == pytest.approx(9.0, abs=1.0)


@in_virtual_time
async def test_failed_attempts_cost_no_tokens():
    a = Scripted("a", latency=0, script=lambda call: "permanent")
    a.limits = type(a.limits)(concurrency=1, tokens="1000/s")
    await ask(Items(100, max_tokens=500), a)
    assert now() == pytest.approx(0.0, abs=1e-3)


@in_virtual_time
async def test_a_request_larger_than_the_bucket_goes_when_it_is_full():
    a = Scripted("a", latency=0.0, uses=3000)
    a.limits = type(a.limits)(concurrency=4, tokens="1000/s")
    await ask(Items(5, max_tokens=3000), a)
    assert a.times == pytest.approx([0.0, 3.0, 6.0, 9.0, 12.0], abs=0.01)


@in_virtual_time
async def test_both_rates_hold():
    a = Scripted("a", latency=0.0, uses=100)
    a.limits = type(a.limits)(concurrency=4, tokens="1000/s", requests="5/s")
    await ask(Items(50, max_tokens=100), a)
    assert now() == pytest.approx(9.8, abs=0.3)
    a.limits = type(a.limits)(concurrency=4, tokens="1000/s", requests="50/s")
    started = now()
    await ask(Items(50, max_tokens=100), a)
    assert now() - started == pytest.approx(4.0, abs=0.3)


@in_virtual_time
async def test_an_item_that_backs_off_takes_no_permit_of_the_rate():
    """Nothing else is left, so the lane must not spend its permits on asking for nothing."""
    waits = iter([fail("transient", retry_after=10.0), fail("transient", retry_after=10.5)])
    a = Scripted("a", latency=0.0, requests="1/s", script=lambda call: next(waits, None))
    await ask(2, a)
    assert a.times == pytest.approx([0.0, 1.0, 10.0, 11.5], abs=1e-3)


@in_virtual_time
async def test_a_closed_job_frees_a_lane_that_waits_for_its_rate():
    a = Scripted("a", latency=0.0, requests="1/min")
    async with Dispatch(a) as dispatch:
        items = Items(5)
        job = dispatch.add(items)
        await asyncio.sleep(10)
        dispatch.scheduler.remove(job)
        await asyncio.sleep(600)
        assert len(a.calls) == 1
        assert (await dispatch.ask(Items(1, prefix="late"))).kinds == {None: 1}


# Pulling


@pytest.mark.parametrize("limits", [{}, {"bundle": 5}])
@in_virtual_time
async def test_an_instant_endpoint_does_not_starve_the_loop(limits):
    a = Scripted("a", latency=0, **limits)
    turns, most = 0, 0
    items = Items(3000)

    async def other():
        nonlocal turns, most
        done = 0
        while not items.done.is_set():
            await asyncio.sleep(0)
            turns += 1
            most, done = max(most, len(items.answers) - done), len(items.answers)

    async with Dispatch(a) as dispatch:
        await asyncio.gather(other(), dispatch.ask(items))
    assert turns > 100
    assert most <= 40
    assert now() == 0.0


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("limits", [{}, {"requests": "1000/s"}])
@in_virtual_time
async def test_a_client_that_has_nothing_yet_is_asked_again_after_a_refresh(concurrency, limits):
    a = Scripted("a", concurrency=concurrency, **limits)
    async with Dispatch(a) as dispatch:
        items = Items(0)
        items.count = 10
        job = dispatch.add(items)
        await asyncio.sleep(5)
        assert a.calls == []
        items.keys.extend(str(number) for number in range(10))
        await asyncio.sleep(5)
        assert a.calls == []
        items.done.clear()
        dispatch.scheduler.refresh(job)
        await items.done.wait()
    assert min(a.times) == pytest.approx(10.0, abs=0.01)
    assert items.kinds == {None: 10}


@pytest.mark.parametrize("concurrency", [1, 2])
@in_virtual_time
async def test_a_refresh_is_heard_while_the_last_worker_leaves(concurrency):
    """A run that finds many answers in its journal refreshes before the worker is gone."""

    class Slow(Items):
        def feed(self, most):
            self.turn = getattr(self, "turn", 0) + 1
            if self.turn % 2:
                asyncio.get_running_loop().call_soon(dispatch.scheduler.refresh, self.job)
                return []
            return super().feed(1)

    a = Scripted("a", concurrency=concurrency)
    async with Dispatch(a) as dispatch:
        items = Slow(5)
        items.job = dispatch.add(items)
        await items.done.wait()
    assert items.kinds == {None: 5}


@pytest.mark.parametrize("loop", [VirtualTimeLoop, CoarseLoop])
def test_a_pause_ends_although_its_timer_rings_early(loop):
    async def main():
        a = Scripted("a", concurrency=1)
        a.script = lambda call: fail("overloaded", retry_after=1.0004) if call.number == 0 else None
        b = Scripted("b", concurrency=1, latency=100.0)
        b.health = lambda number: asyncio.sleep(1.5, result=True)  # takes what a was refused
        items = await ask(20, a, b)
        assert items.lanes == {"a": 19, "b": 1}

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_backoffs_end_although_their_timers_ring_early():
    async def main():
        a = Scripted("a", concurrency=1, latency=0.0002)
        a.script = lambda call: fail("transient", retry_after=1.0004) if call.nth == 1 else None
        await ask(20, a)
        assert now() == pytest.approx(1.0, abs=0.05)

    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        runner.run(main())


# Bad endpoints


@in_virtual_time
async def test_an_endpoint_that_raises_loses_only_what_it_has_not_answered():
    a = Scripted("a", bundle=5, concurrency=5)
    a.script = lambda call: ValueError("oops") if call.number == 2 else None
    items = await ask(5, a)
    assert items.kinds == {None: 5}
    assert sorted(answer.attempts for answer in items.answers.values()) == [1, 1, 2, 2, 2]
    assert len(a.calls) == 8


@in_virtual_time
async def test_what_an_endpoint_raises_is_in_the_failure():
    a = Scripted("a", script=lambda call: ValueError("oops"))
    items = await ask(1, a, retry=Retry(attempts=2))
    assert items.answers["0"].kind == "transient"
    assert items.answers["0"].reply.failure.message == "a raised ValueError: oops"


@in_virtual_time
async def test_an_endpoint_that_cannot_even_begin_is_survived():
    a = Scripted("a")
    a.send = lambda requests: None
    items = await ask(20, a, retry=Retry(attempts=2))
    assert items.kinds == {"transient": 20}
    assert "a raised TypeError" in items.answers["0"].reply.failure.message


@in_virtual_time
async def test_an_endpoint_that_ends_early_loses_the_rest():
    a = Scripted("a", script=lambda call: "end" if call.number == 1 else None, bundle=3)
    items = await ask(3, a)
    assert items.kinds == {None: 3}
    assert sorted(answer.attempts for answer in items.answers.values()) == [1, 2, 2]


@in_virtual_time
async def test_an_endpoint_that_says_nothing_exhausts_the_attempts():
    a = Scripted("a", script=lambda call: "end")
    items = await ask(2, a, retry=Retry(attempts=3))
    assert items.kinds == {"transient": 2}
    assert items.answers["0"].reply.failure.message == "a ended without a reply."
    assert len(a.calls) == 6


@pytest.mark.parametrize("bundle", [1, 4])
@in_virtual_time
async def test_only_the_first_of_two_replies_counts(bundle):
    a = Scripted("a", script=lambda call: "twice", bundle=bundle)
    items = await ask(20, a)
    assert items.kinds == {None: 20}
    assert len(a.calls) == 20


@in_virtual_time
async def test_a_reply_to_nothing_is_passed_over():
    a = Scripted("a", script=lambda call: "elsewhere" if call.nth == 1 else None, bundle=2)
    items = await ask(4, a)
    assert items.kinds == {None: 4}
    assert len(a.calls) == 8


@pytest.mark.parametrize("attempts", [1, 3])
@in_virtual_time
async def test_an_endpoint_that_is_cancelled_from_within_does_not_lose_the_lane(attempts):
    """A future that a library cancels raises CancelledError in who waits for it."""
    a = Scripted(
        "a",
        concurrency=1,
        script=lambda call: asyncio.CancelledError() if call.nth == 1 else None,
    )
    items = await ask(5, a, retry=Retry(attempts=attempts, base=1e-9))
    assert items.kinds == ({"transient": 5} if attempts == 1 else {None: 5})


@in_virtual_time
async def test_a_probe_that_is_cancelled_from_within_is_a_bad_probe():
    a = Scripted("a", probe=lambda number: number > 0 or asyncio.CancelledError())
    items = await ask(5, a)
    assert items.kinds == {None: 5}


@in_virtual_time
async def test_a_probe_that_hangs_is_given_up():
    a = Scripted("a", probe=lambda number: asyncio.sleep(1e6))
    b = Scripted("b", probe=lambda number: False)
    items = await ask(5, a, b)
    assert items.aborted[0].message == "a did not answer a probe within 10 s."
    assert now() == pytest.approx(41.7)


@in_virtual_time
async def test_in_flight_is_counted_through_all_endings():
    says = [None, "transient", ValueError("x"), "end", "hang", "twice", "elsewhere", "permanent"]
    a = Scripted("a", bundle=3, concurrency=10, script=lambda call: says[call.number % len(says)])
    async with Dispatch(a) as dispatch:
        await dispatch.ask(100, retry=Retry(timeout=5))
        assert dispatch.lanes["a"].in_flight == 0
        assert a.in_flight == 0
        assert repr(dispatch.lanes["a"]) == "Lane('a', HOT, 0 in flight)"


# Bundles


@in_virtual_time
async def test_bundles_are_filled():
    a = Scripted("a", bundle=8, concurrency=64)
    await ask(100, a)
    assert sorted(map(len, a.bundles)) == [4] + [8] * 12


@in_virtual_time
async def test_replies_of_a_bundle_are_settled_as_they_come():
    a = Scripted("a", bundle=8, latency=lambda call: 1.0 + call.number)
    a.limits = type(a.limits)(concurrency=8)
    items = await ask(8, a)
    assert sorted(answer.at for answer in items.answers.values()) == pytest.approx(range(1, 9))


@in_virtual_time
async def test_what_fails_in_a_bundle_is_retried_alone():
    a = Scripted("a", bundle=8, script=lambda call: "transient" if call.number == 3 else None)
    a.limits = type(a.limits)(concurrency=64)
    items = await ask(8, a)
    assert [len(calls) for calls in a.bundles] == [8, 1]
    assert items.kinds == {None: 8}


@in_virtual_time
async def test_a_bundle_times_out_for_those_without_a_reply():
    a = Scripted("a", bundle=4, concurrency=8, latency=lambda call: 1.0 + (call.number == 3))
    a.script = lambda call: "hang" if call.number == 3 else None
    items = await ask(4, a, retry=Retry(timeout=5.0, base=1e-9))
    assert sorted(answer.at for answer in items.answers.values()) == pytest.approx(
        [1.0, 1.0, 1.0, 6.0], abs=1e-3
    )


@in_virtual_time
async def test_each_item_of_a_bundle_has_its_own_deadline():
    """An older item and a fresh one, in one bundle that hangs."""
    a = Scripted("a", bundle=2, concurrency=2)
    a.script = lambda call: "hang" if call.number else fail("overloaded", retry_after=5.0)
    async with Dispatch(a) as dispatch:
        old, new = Items(1, prefix="old"), Items(1, prefix="new")
        dispatch.add(old, item_deadline=20.0)
        await asyncio.sleep(5.0)
        dispatch.add(new, item_deadline=20.0)
        await old.done.wait()
        assert [len(calls) for calls in a.bundles] == [1, 2]
        assert (now(), a.in_flight) == (pytest.approx(20.0), 2)
        assert dispatch.lanes["a"].in_flight == 2
        await new.done.wait()
        assert now() == pytest.approx(26.0)
        assert dispatch.lanes["a"].in_flight == a.in_flight == 0
    assert old.answers["old0"].kind == new.answers["new0"].kind == "timeout"


@in_virtual_time
async def test_a_bundle_ends_with_the_last_who_waits_for_it():
    """One is answered, one is out of time: the send is cancelled for nobody's sake."""
    a = Scripted("a", bundle=2, concurrency=2)
    a.latency = lambda call: 4.0 if call.key == "long0" else 1000.0
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        long, short = Items(1, prefix="long"), Items(1, prefix="short")
        dispatch.add(long)
        dispatch.add(short, item_deadline=10.0)
        await asyncio.gather(long.done.wait(), short.done.wait())
        await asyncio.sleep(0.001)
        assert [len(calls) for calls in a.bundles] == [2]
        assert now() == pytest.approx(10.0, abs=0.01)
        assert a.in_flight == dispatch.lanes["a"].in_flight == 0


class RememberingLoop(VirtualTimeLoop):
    """Virtual time that knows its timers."""

    def __init__(self):
        super().__init__()
        self.timers = []

    def call_at(self, *args, **options):
        self.timers.append(super().call_at(*args, **options))
        return self.timers[-1]

    @property
    def last_timer(self):
        return max((timer.when() for timer in self.timers if not timer.cancelled()), default=0.0)


@pytest.mark.parametrize("said", [None, "end", "hang"])
def test_timers_of_a_bundle_end_with_it(said):
    async def main():
        a = Scripted("a", bundle=2, concurrency=2)
        a.script = lambda call: said if call.nth == 1 else None
        async with Dispatch(a) as dispatch:
            await dispatch.scheduler.resolve("m")
            short, long = Items(1, prefix="short"), Items(1, prefix="long")
            job = dispatch.add(short, retry=Retry(timeout=10_000.0))
            other = dispatch.add(long, retry=Retry(timeout=20_000.0))
            await asyncio.sleep(5.0)
            assert len(a.bundles[0]) == 2
            dispatch.scheduler.remove(job)
            dispatch.scheduler.remove(other)
            await asyncio.sleep(1.0)
            assert dispatch.lanes["a"].in_flight == 0
            assert asyncio.get_running_loop().last_timer < now() + 1_000.0

    with asyncio.Runner(loop_factory=RememberingLoop) as runner:
        runner.run(main())


@in_virtual_time
async def test_jobs_share_a_bundle_and_one_may_leave_it():
    a = Scripted("a", bundle=8, latency=100, concurrency=8)
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        left, right = Items(4, prefix="left"), Items(4, prefix="right")
        job = dispatch.add(left)
        dispatch.add(right)
        await asyncio.sleep(10)
        assert [len(calls) for calls in a.bundles] == [8]
        dispatch.scheduler.remove(job)
        await right.done.wait()
    assert left.answers == {}
    assert right.kinds == {None: 4}
    assert not any(call.cancelled for call in a.calls)
    assert now() == pytest.approx(100.0)


@in_virtual_time
async def test_a_bundle_that_nobody_waits_for_is_cancelled():
    a = Scripted("a", bundle=8, latency=100, concurrency=8)
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        jobs = [dispatch.add(Items(4, prefix=prefix)) for prefix in ("left", "right")]
        await asyncio.sleep(10)
        for job in jobs:
            dispatch.scheduler.remove(job)
        await asyncio.sleep(0.001)
        assert a.in_flight == 0
        assert all(call.cancelled for call in a.calls)


@in_virtual_time
async def test_a_bundle_is_cancelled_when_only_those_are_left_whose_job_is_gone():
    a = Scripted("a", bundle=2, concurrency=2)
    a.latency = lambda call: 20.0 if call.key == "stays0" else 100.0
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        stays = Items(1, prefix="stays")
        dispatch.add(stays)
        job = dispatch.add(Items(1, prefix="goes"))
        await asyncio.sleep(10)
        dispatch.scheduler.remove(job)
        await stays.done.wait()
        await asyncio.sleep(0.001)
        assert [len(calls) for calls in a.bundles] == [2]
        assert a.calls_of("goes0")[0].cancelled
        assert stays.kinds == {None: 1}
        assert a.in_flight == dispatch.lanes["a"].in_flight == 0


@pytest.mark.parametrize("limits", [{}, {"requests": "100/s"}])
@in_virtual_time
async def test_a_job_that_ends_while_a_bundle_is_filled_is_not_in_it(limits):
    class Ends(Items):
        def feed(self, most):
            if len(self.keys) == 2:
                dispatch.scheduler.remove(self.job)
            return super().feed(1)

    a = Scripted("a", bundle=8, concurrency=8, **limits)
    async with Dispatch(a) as dispatch:
        ends, fine = Ends(5, prefix="ends"), Items(3, prefix="fine")
        ends.job = dispatch.add(ends)
        dispatch.add(fine)
        await fine.done.wait()
        await asyncio.sleep(100)
    assert ends.answers == {}
    assert sorted(call.key for call in a.calls) == ["fine0", "fine1", "fine2"]


@in_virtual_time
async def test_a_bundle_is_cancelled_although_one_of_it_waits_for_its_next_try():
    a = Scripted(
        "a",
        bundle=2,
        concurrency=2,
        latency=lambda call: 1.0 if call.key == "left0" else 100.0,
        script=lambda call: fail("transient", retry_after=500.0) if call.key == "left0" else None,
    )
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        left, right = Items(1, prefix="left"), Items(1, prefix="right")
        dispatch.add(left)
        job = dispatch.add(right)
        await asyncio.sleep(10)
        dispatch.scheduler.remove(job)
        await asyncio.sleep(0.001)
        assert a.calls_of("right0")[0].cancelled
        assert a.in_flight == 0


# Health


@in_virtual_time
async def test_nothing_is_opened_before_it_is_needed():
    a = Scripted("a")
    async with Dispatch(a) as dispatch:
        await asyncio.sleep(60)
        assert (a.opened, a.probes) == (0, [])
        assert dispatch.lanes["a"].state is State.COLD
        await dispatch.ask(1)
        await dispatch.ask(Items(1, prefix="more"))
        assert (a.opened, len(a.probes)) == (1, 1)


@in_virtual_time
async def test_many_cold_replies_at_once_are_one_chill():
    a = Scripted("a", concurrency=64)
    a.script = lambda call: "cold" if call.number < 64 else None
    items = await ask(200, a)
    assert items.kinds == {None: 200}
    assert len(a.probes) == 2


@in_virtual_time
async def test_an_idle_pool_is_not_probed_for_ever():
    a, b = Scripted("a", probe=lambda number: False), Scripted("b")
    async with Dispatch(a, b) as dispatch:
        await dispatch.ask(100)
        await asyncio.sleep(100)
        probes = len(a.probes)
        await asyncio.sleep(10_000)
        assert len(a.probes) == probes


@in_virtual_time
async def test_usage_may_be_missing():
    a = Scripted("a")
    a.limits = type(a.limits)(concurrency=1, tokens="1000/s")
    a.uses = 0
    reply = a._replies(0, None)[0]
    assert reply.usage == Usage(0, 0)
    a._replies = lambda position, said: [type(reply)(position, body=reply.body)]
    a.latency = 0.0
    await ask(Items(30, max_tokens=100), a)
    assert now() == pytest.approx(2.0, abs=0.2)  # each is charged what it reserved


@in_virtual_time
async def test_a_lane_with_bundles_keeps_to_the_bundles_it_may_have_under_way():
    bundling = Bundling(1_000, window=8, workers=2, max_bundles=4)
    a = Scripted("a", bundling=bundling, concurrency=10_000)
    async with Dispatch(a) as dispatch:
        items = Items(2_000)
        dispatch.add(items)
        await asyncio.sleep(0.5)
        assert [len(bundle) for bundle in a.bundles] == [496, 496, 248, 248]
        await items.done.wait()
    assert items.kinds == {None: 2_000}
    assert [len(bundle) for bundle in a.bundles][-2:] == [8, 8]


@in_virtual_time
async def test_a_small_bundle_waits_a_moment_for_company():
    a = Scripted("a", bundling=Bundling(100, window=8, linger=0.05), concurrency=1_000)
    async with Dispatch(a) as dispatch:
        few = [Items(1, prefix=f"few {number}") for number in range(3)]
        for each in few:
            dispatch.add(each)
            await asyncio.sleep(0.01)
        for each in few:
            await each.done.wait()
        assert [len(bundle) for bundle in a.bundles] == [3]
        many = Items(8)
        began = asyncio.get_running_loop().time()
        dispatch.add(many)
        await many.done.wait()
        assert a.times[-1] == began


@in_virtual_time
async def test_an_endpoint_with_a_queue_keeps_the_timeout_itself():
    a = Scripted("a", bundling=Bundling(8, queues=True), latency=5_000.0)
    b = Scripted("b", models=["n"], bundling=Bundling(8), latency=5_000.0)
    async with Dispatch(a, b) as dispatch:
        patient = Items(4)
        hurried = Items(4, model="n")
        dispatch.add(patient)
        dispatch.add(hurried, retry=Retry(timeout=10.0, attempts=1))
        await patient.done.wait()
        await hurried.done.wait()
    assert patient.kinds == {None: 4}
    assert hurried.kinds == {"timeout": 4}
