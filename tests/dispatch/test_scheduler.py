"""The scheduler: every item gets one last word, wherever and however often it must be asked."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque

import pytest
import uvloop
from scripted import CoarseLoop, Dispatch, Items, Scripted, ask, fail, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.reasons import explain
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import Action, Health
from langgraph_hpc_fanout.records import Failure

NO_JITTER = Retry(base=1e-9, cap=1e-9)
"""Backs off for next to nothing."""


def on(key, said, *, times=1_000_000):
    """A script that says something to the first attempts at one item."""
    return lambda call: said if call.key == key and call.nth <= times else None


def first(count, said):
    """A script that says something to the first requests."""
    return lambda call: said if call.number < count else None


# Who gets what


@in_virtual_time
async def test_every_item_is_answered_once():
    a, b = Scripted("a"), Scripted("b")
    items = await ask(100, a, b)
    assert set(items.answers) == {str(number) for number in range(100)}
    assert items.kinds == {None: 100}
    assert len(a.calls) + len(b.calls) == 100
    assert {answer.attempts for answer in items.answers.values()} == {1}


@in_virtual_time
async def test_who_is_faster_is_asked_more():
    fast, slow = Scripted("fast", latency=1.0), Scripted("slow", latency=9.0)
    items = await ask(200, fast, slow)
    assert items.lanes == {"fast": 180, "slow": 20}
    assert now() == pytest.approx(45.0)


@in_virtual_time
async def test_lanes_take_only_what_they_serve():
    a, b, both = Scripted("a", models=["m"]), Scripted("b", models=["n"]), Scripted("both")
    both.served = {"m": "x/m", "n": "x/n"}
    async with Dispatch(a, b, both) as dispatch:
        m, n = await asyncio.gather(dispatch.ask(50), dispatch.ask(Items(50, model="n")))
    assert m.kinds == n.kinds == {None: 50}
    assert set(m.lanes) == {"a", "both"}
    assert set(n.lanes) == {"b", "both"}


@in_virtual_time
async def test_two_jobs_take_turns():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        many = Items(100, prefix="many")
        dispatch.add(many)
        await asyncio.sleep(10)
        few = await dispatch.ask(Items(10, prefix="few"))
    assert now() == pytest.approx(20.0)
    assert len(few.answers) == 10
    assert len(many.answers) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("most", [1, 3, 7, 100])
@in_virtual_time
async def test_a_job_may_have_a_limit_below_its_lanes(most):
    a, b = Scripted("a", concurrency=4), Scripted("b", concurrency=4, latency=0.5)
    async with Dispatch(a, b) as dispatch:
        items = Items(60)
        await dispatch.ask(items, concurrency=most)
    assert len(items.answers) == 60
    running = sorted(
        [
            *((t, 1) for t in a.times),
            *((t, 1) for t in b.times),
            *((t + 1.0, -1) for t in a.times),
            *((t + 0.5, -1) for t in b.times),
        ]
    )
    at_once = list(itertools.accumulate(step for _, step in running))
    assert max(at_once) == min(most, 8)


@in_virtual_time
async def test_a_limited_job_goes_on_in_another_lane_when_one_stops():
    tired = Scripted("tired", concurrency=2, script=on("0", fail("rate_limited", retry_after=60)))
    other = Scripted("other", concurrency=2)
    async with Dispatch(tired, other) as dispatch:
        items = await dispatch.ask(20, concurrency=2)
    assert len(items.answers) == 20
    assert now() < 30


@in_virtual_time
async def test_nobody_is_asked_for_no_items():
    a = Scripted("a")
    async with Dispatch(a) as dispatch:
        dispatch.add(Items(0))
        await asyncio.sleep(60)
        assert dispatch.scheduler.busy
    assert a.calls == []


# Failures


@in_virtual_time
async def test_what_fails_is_tried_elsewhere_at_once():
    bad = Scripted("bad", latency=1.0, script=lambda call: "transient", concurrency=1)
    good = Scripted("good", latency=10.0, concurrency=2)
    async with Dispatch(bad, good) as dispatch:
        items = await dispatch.ask(2, retry=Retry(base=1000, cap=1000))
    # One item each. The first fails after a second, when `good` still has a slot.
    assert good.times == [0.0, 1.0]
    assert bad.times == [0.0]
    assert items.lanes == {"good": 2}
    assert items.answers["0"].attempts == 2


@in_virtual_time
async def test_the_same_lane_waits_for_the_backoff():
    a = Scripted("a", script=on("0", fail("transient", retry_after=30.0), times=1))
    items = await ask(1, a)
    assert a.times == pytest.approx([0.0, 31.0])
    assert items.answers["0"].ok


@in_virtual_time
async def test_backoff_doubles_with_jitter_up_to_its_cap():
    a = Scripted("a", latency=0, script=on("0", "transient"))
    items = await ask(1, a, retry=Retry(attempts=200, base=1.0, cap=8.0))
    assert items.answers["0"].kind == "transient"
    gaps = [later - sooner for sooner, later in zip(a.times, a.times[1:], strict=False)]
    assert gaps[0] < 1.0
    assert gaps[1] < 2.0
    assert max(gaps) < 8.0 + 1e-5
    assert max(gaps) > 7.0
    assert min(gaps[10:]) < 1.0
    assert sum(gaps[10:]) / len(gaps[10:]) == pytest.approx(4.0, rel=0.2)


@in_virtual_time
async def test_the_slot_is_free_during_a_backoff():
    a = Scripted("a", script=on("0", fail("transient", retry_after=100.0), times=1), concurrency=1)
    items = await ask(50, a)
    assert items.answers["0"].at == pytest.approx(102.0)
    others = [answer.at for key, answer in items.answers.items() if key != "0"]
    assert max(others) == pytest.approx(50.0)


@in_virtual_time
async def test_each_lane_has_its_own_backoff():
    """An item that failed at two lanes goes back to each when that lane's own time is over."""
    a = Scripted("a", latency=0, script=first(1, fail("transient", retry_after=50.0)))
    b = Scripted("b", latency=1, script=first(2, fail("transient", retry_after=5.0)))
    items = await ask(1, a, b)
    assert a.times == pytest.approx([0.0])
    assert b.times == pytest.approx([0.0, 6.0, 12.0])
    assert items.answers["0"].attempts == 4


@in_virtual_time
async def test_a_backoff_is_not_cut_short_by_another_lanes():
    a = Scripted("a", latency=0, script=first(1, fail("transient", retry_after=5.0)))
    b = Scripted("b", latency=1, script=first(1, fail("transient", retry_after=50.0)))
    await ask(1, a, b)
    assert a.times == pytest.approx([0.0, 5.0])
    assert b.times == pytest.approx([0.0])


@in_virtual_time
async def test_the_last_of_the_attempts_is_the_last_word():
    a = Scripted("a", script=lambda call: fail("transient", f"Number {call.nth}."))
    items = await ask(3, a, retry=Retry(attempts=3))
    assert [answer.reply.failure.message for answer in items.answers.values()] == ["Number 3."] * 3
    assert [answer.attempts for answer in items.answers.values()] == [3] * 3
    assert len(a.calls) == 9


@in_virtual_time
async def test_one_attempt_is_one():
    a, b = Scripted("a", script=lambda call: "transient"), Scripted("b", latency=100)
    items = await ask(4, a, b, retry=Retry(attempts=1))
    assert len(a.calls) + len(b.calls) == 4
    assert items.kinds[None] == len(b.calls)


@pytest.mark.parametrize("kind", ["permanent", "budget", "invalid_output", "cancelled"])
@in_virtual_time
async def test_the_items_own_fault_ends_it_at_once(kind):
    a, b = Scripted("a", script=on("0", kind)), Scripted("b", script=on("0", kind))
    items = await ask(20, a, b)
    assert items.kinds == {kind: 1, None: 19}
    assert items.answers["0"].attempts == 1
    assert len(a.calls) + len(b.calls) == 20


@in_virtual_time
async def test_a_refused_token_ends_the_job_at_once():
    a = Scripted("a", latency=100)
    b = Scripted("b", latency=1, script=lambda call: fail("auth", "b says 401."))
    items = await ask(100, a, b)
    assert now() == pytest.approx(1.0)
    assert [failure.message for failure in items.aborted] == ["b says 401."]
    assert all(call.cancelled for call in a.calls)
    assert items.answers == {}


@in_virtual_time
async def test_a_token_refused_by_the_probe_ends_the_job():
    denied = Failure("auth", "b says 401.", 401, False, "b")
    a, b = Scripted("a", latency=100), Scripted("b", probe=lambda number: denied)
    items = await ask(100, a, b)
    assert items.aborted == [denied]
    assert now() == pytest.approx(0.0)


@in_virtual_time
async def test_what_follows_from_a_failure_may_differ_by_endpoint():
    """At one endpoint a timeout leaves the request running, so that it is not asked again."""
    odd = Scripted("odd", models=["m"], script=lambda call: "hang")
    odd.actions = {"timeout": Action.GIVE_UP}
    usual = Scripted("usual", models=["n"], script=lambda call: "hang")
    async with Dispatch(odd, usual) as dispatch:
        retry = Retry(timeout=5.0, attempts=3, base=1e-9)
        asked = [dispatch.ask(Items(1, model=model), retry=retry) for model in "mn"]
        at_odd, at_usual = await asyncio.gather(*asked)
    assert at_odd.answers["0"].attempts == 1
    assert at_usual.answers["0"].attempts == 3


# Being turned away


@pytest.mark.parametrize("kind", ["rate_limited", "overloaded"])
@in_virtual_time
async def test_being_turned_away_costs_no_attempt(kind):
    a = Scripted("a", latency=0, script=on("0", kind, times=20))
    items = await ask(1, a, retry=Retry(attempts=1, base=1.0, cap=1.0))
    assert items.answers["0"].ok
    assert items.answers["0"].attempts == 21


@in_virtual_time
async def test_patience_ends():
    a = Scripted("a", latency=0, script=lambda call: fail("overloaded", retry_after=10.0))
    items = await ask(1, a, retry=Retry(patience=35.0))
    assert a.times == pytest.approx([0.0, 10.0, 20.0, 30.0])
    assert items.answers["0"].kind == "overloaded"
    assert now() == pytest.approx(30.0)


@in_virtual_time
async def test_patience_starts_anew_when_the_server_lets_it_in():
    said = deque([fail("overloaded", retry_after=5.0), fail("transient"), fail("overloaded")])
    a = Scripted("a", latency=20, script=lambda call: said.popleft() if said else None)
    items = await ask(1, a, retry=Retry(patience=10.0, base=1.0))
    assert items.answers["0"].ok
    assert items.answers["0"].attempts == 4


@in_virtual_time
async def test_retry_after_holds_the_whole_lane():
    a = Scripted("a", script=first(1, fail("rate_limited", retry_after=30.0)), concurrency=1)
    b = Scripted("b", latency=10.0, concurrency=1)
    items = await ask(10, a, b)
    assert [moment for moment in a.times if 1.0 < moment < 31.0 - 1e-5] == []
    assert a.times[1] == pytest.approx(31.0)
    assert items.kinds == {None: 10}


@in_virtual_time
async def test_a_retry_after_beyond_patience_holds_the_lane_all_the_same():
    a = Scripted("a", latency=0, script=first(1, fail("rate_limited", retry_after=3600.0)))
    items = await ask(5, a, retry=Retry(patience=60.0))
    assert items.kinds == {"rate_limited": 1, None: 4}
    assert a.times[1:] == pytest.approx([3600.0] * 4)


@in_virtual_time
async def test_what_wakes_a_model_waits_for_it_whatever_its_patience():
    def probe(number):
        if number == 0 or now() >= 700.0:
            return True
        cold = Failure("cold", "It is being loaded.", None, True, "a")
        return Health(ok=False, failure=cold, retry_after=60.0)

    a = Scripted("a", script=first(4, fail("cold", retry_after=720.0)), probe=probe)
    items = await ask(5, a, retry=Retry(patience=60.0))
    assert items.kinds == {None: 5}
    assert now() >= 700.0


# Time


def trying_last(name="a", **settings):
    scripted = Scripted(name, **settings)
    scripted.actions = {"timeout": Action.TRY_LAST}
    return scripted


@pytest.mark.parametrize("order", ["input", "longest_first", "by_prefix"])
@in_virtual_time
async def test_what_is_tried_last_waits_for_all_others(order):
    lanes = [trying_last(name, script=on("3", "timeout", times=1)) for name in "ab"]
    async with Dispatch(*lanes) as dispatch:
        items = await dispatch.ask(200, order=order)
    assert items.kinds == {None: 200}
    calls = [call for lane in lanes for call in lane.calls]
    others = max(call.at for call in calls if call.key != "3")
    first, *again = sorted(call.at for call in calls if call.key == "3")
    assert first < others
    assert again
    assert min(again) >= others


@in_virtual_time
async def test_what_is_tried_last_fails_when_its_attempts_are_used_up():
    a = trying_last(script=on("3", "timeout"))
    items = await ask(20, a, retry=Retry(attempts=3))
    assert items.kinds == {None: 19, "timeout": 1}
    assert len(a.calls_of("3")) == 3


@in_virtual_time
async def test_what_has_a_deadline_is_not_left_for_the_end():
    a = trying_last(script=on("3", "timeout", times=1), concurrency=1)
    async with Dispatch(a) as dispatch:
        items = await dispatch.ask(200, item_deadline=20.0, retry=NO_JITTER)
    assert items.kinds == {None: 200}


@in_virtual_time
async def test_calls_that_have_nothing_to_do_with_each_other_do_not_wait_for_all_others():
    a = trying_last(script=on("3", "timeout", times=1), concurrency=1)
    async with Dispatch(a) as dispatch:
        items = await dispatch.ask(200, separate=True, retry=NO_JITTER)
    assert items.kinds == {None: 200}
    first, second = a.calls_of("3")
    assert second.at < first.at + 10.0


@in_virtual_time
async def test_what_is_tried_last_ends_with_its_job():
    a = trying_last(script=lambda call: "timeout" if call.number < 8 else "hang")
    async with Dispatch(a) as dispatch:
        asked = asyncio.ensure_future(dispatch.ask(100))
        await asyncio.sleep(30.0)
        asked.cancel()
    assert a.in_flight == 0


@in_virtual_time
async def test_an_attempt_that_takes_too_long_is_a_fault():
    a = Scripted("a", script=on("0", "hang", times=1))
    items = await ask(2, a, retry=Retry(timeout=7.0, base=1e-9))
    assert a.calls_of("0")[0].cancelled
    assert a.calls_of("0")[0].end == pytest.approx(7.0)
    assert items.answers["0"].at == pytest.approx(8.0, abs=1e-4)
    assert items.kinds == {None: 2}


@in_virtual_time
async def test_timeouts_exhaust_the_attempts():
    a = Scripted("a", script=on("0", "hang"))
    items = await ask(1, a, retry=Retry(timeout=7.0, attempts=3, base=1e-9))
    assert items.answers["0"].kind == "timeout"
    assert "a did not answer within 7.0 s" in items.answers["0"].reply.failure.message
    assert now() == pytest.approx(21.0, abs=1e-3)


@in_virtual_time
async def test_the_deadline_of_an_item_ends_what_is_in_flight():
    a = Scripted("a", script=on("0", "hang"))
    items = await ask(2, a, item_deadline=9.0)
    assert items.answers["0"].kind == "timeout"
    assert items.answers["0"].at == pytest.approx(9.0)
    assert a.calls_of("0")[0].cancelled
    assert len(a.calls_of("0")) == 1


@in_virtual_time
async def test_an_item_whose_deadline_has_passed_is_not_tried_elsewhere():
    a, b = Scripted("a", script=lambda call: "hang"), Scripted("b", latency=0)
    a.limits = b.limits = Scripted(concurrency=1).limits
    async with Dispatch(a, b) as dispatch:
        items = await dispatch.ask(2, item_deadline=9.0)
    assert items.kinds == {None: 1, "timeout": 1}
    assert (len(a.calls), len(b.calls)) == (1, 1)
    assert now() == pytest.approx(9.0)


def test_who_is_out_of_time_is_asked_nowhere_else_although_timers_ring_early():
    async def main():
        fleet = [Scripted(name, script=lambda call: "hang") for name in "ab"]
        items = await ask(4, *fleet, item_deadline=2.0004, retry=Retry(attempts=9))
        assert items.kinds == {"timeout": 4}
        assert sum(len(each.calls) for each in fleet) == 4

    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        runner.run(main())


@in_virtual_time
async def test_the_deadline_counts_from_the_first_attempt():
    a = Scripted("a", latency=1.0, concurrency=1)
    items = await ask(50, a, item_deadline=2.0)
    assert items.kinds == {None: 50}


@in_virtual_time
async def test_no_retry_is_begun_that_would_start_after_the_deadline():
    a = Scripted("a", script=lambda call: fail("transient", retry_after=10.0))
    items = await ask(1, a, item_deadline=10.5)
    assert items.answers["0"].kind == "transient"
    assert items.answers["0"].at == pytest.approx(1.0)


@in_virtual_time
async def test_the_deadline_ends_an_item_that_waits_and_its_last_failure_stands():
    """The lane is busy with others when the item may go again."""
    a = Scripted("a", concurrency=1, latency=lambda call: 1.0 if call.key == "0" else 100.0)
    a.script = lambda call: (
        fail("transient", f"Number {call.nth}.", retry_after=1.0) if call.key == "0" else None
    )
    async with Dispatch(a) as dispatch:
        item = Items(1)
        dispatch.add(item, item_deadline=50.0, retry=Retry(attempts=100))
        await asyncio.sleep(8.5)  # the fifth attempt is under way
        dispatch.add(Items(5, prefix="other"))
        await item.done.wait()
    assert item.answers["0"].at == pytest.approx(50.0)
    assert item.answers["0"].reply.failure.message == "Number 5."
    assert len(a.calls_of("0")) == 5


@in_virtual_time
async def test_who_is_turned_away_for_long_is_answered_elsewhere():
    """The server's Retry-After is beyond patience and deadline, but another has room."""
    a = Scripted("a", latency=0, script=lambda call: fail("rate_limited", retry_after=3600.0))
    b = Scripted("b", concurrency=1)
    items = await ask(50, a, b, item_deadline=100.0)
    assert items.lanes == {"b": 50}
    assert len(a.calls) == 1


@in_virtual_time
async def test_patience_ends_also_while_an_item_waits():
    a = Scripted("a", script=lambda call: fail("rate_limited", retry_after=3600.0))
    b = Scripted("b", latency=100, concurrency=1)
    items = await ask(5, a, b, retry=Retry(patience=50.0))
    assert items.lanes == {"a": 4, "b": 1}
    assert {answer.at for answer in items.answers.values() if not answer.ok} == {51.0}


# Lanes that come and go


@in_virtual_time
async def test_a_cold_lane_stops_pulling_and_comes_back():
    a = Scripted(
        "a",
        concurrency=2,
        script=lambda call: "cold" if 10.0 <= call.at < 11.2 else None,
        probe=lambda number: number == 0 or now() > 11.5,
    )
    b = Scripted("b", latency=5.0)
    items = await ask(100, a, b)
    assert items.kinds == {None: 100}
    assert [moment for moment in a.times if 11.0 < moment < 11.5] == []
    assert max(a.times) > 20.0
    assert len(a.probes) == 4  # at 0, 11, 11.2 and 11.7 seconds


@in_virtual_time
async def test_the_others_go_on_without_a_dead_lane():
    a = Scripted("a", probe=lambda number: False)
    b = Scripted("b")
    items = await ask(100, a, b)
    assert items.lanes == {"b": 100}
    assert a.calls == []


@in_virtual_time
async def test_a_dead_lane_is_probed_now_and_then_and_joins_when_it_is_well():
    a = Scripted("a", probe=lambda number: now() > 60)
    b = Scripted("b", concurrency=1)
    items = await ask(100, a, b)
    assert items.kinds == {None: 100}
    assert 60 < min(a.times) < 62
    assert len([moment for moment in a.probes if 2 < moment < 60]) == 3


@in_virtual_time
async def test_a_lane_that_is_well_only_when_probed_is_given_up_for_a_while():
    a = Scripted("a", latency=0, script=lambda call: "cold" if call.at < 40 else None)
    b = Scripted("b", concurrency=1)
    items = await ask(100, a, b)
    assert items.kinds == {None: 100}
    assert items.lanes["a"] > 10
    assert len([moment for moment in a.times if moment < 40]) < 40


@in_virtual_time
async def test_a_job_that_no_lane_is_left_for_is_aborted_with_all_reasons():
    a = Scripted("a", probe=lambda number: Failure("cold", "a: connection refused"))
    b = Scripted("b", probe=lambda number: Failure("overloaded", "b: loading model"))
    items = await ask(10, a, b)
    assert [failure.message for failure in items.aborted] == [
        "a: connection refused",
        "b: loading model",
    ]
    assert 1.0 < now() < 3.0


@in_virtual_time
async def test_a_fleet_that_dies_in_the_middle_aborts_promptly():
    def script(call):
        return "cold" if call.at >= 10 else None

    fleet = [
        Scripted(name, script=script, probe=lambda number: now() < 10, concurrency=20)
        for name in "abc"
    ]
    async with Dispatch(*fleet, policy=Policy(absence=0.0)) as dispatch:
        items = await dispatch.ask(10_000)
    assert [failure.message for failure in items.aborted] == [
        "a is away.",
        "b is away.",
        "c is away.",
    ]
    assert 11.0 < now() < 14.0
    assert items.kinds == {None: 600}


def fleet_away(start, end):
    """Three endpoints that are all away for a time, such as between two jobs of a scheduler."""
    return [
        Scripted(
            name,
            script=lambda call: "cold" if start <= call.at < end else None,
            probe=lambda number: not start <= now() < end,
            concurrency=20,
        )
        for name in "abc"
    ]


@in_virtual_time
async def test_a_fleet_that_comes_back_in_time_is_waited_for():
    items = await ask(3_000, *fleet_away(10.0, 55.0))
    assert items.kinds == {None: 3_000}
    assert 55.0 < now() < 120.0


@in_virtual_time
async def test_a_fleet_that_does_not_come_back_is_waited_for_so_long():
    items = await ask(3_000, *fleet_away(10.0, math.inf))
    assert len(items.aborted) == 3
    assert now() == pytest.approx(10.0 + 60.0, abs=5.0)


@in_virtual_time
async def test_a_walltime_end_of_all_at_once_can_be_waited_for_as_long_as_it_takes():
    """The next job begins twelve minutes later, while patience with each item is longer."""
    async with Dispatch(*fleet_away(10.0, 730.0), policy=Policy(absence=3_600.0)) as dispatch:
        items = await dispatch.ask(3_000, retry=Retry(patience=3_600.0))
    assert items.kinds == {None: 3_000}
    assert 730.0 < now() < 800.0


def test_a_wait_for_absent_endpoints_ends_although_its_timer_rings_early():
    async def main():
        async with Dispatch(*fleet_away(10.0, math.inf), policy=Policy(absence=3.0004)) as dispatch:
            items = Items(3_000)
            job = dispatch.add(items)
            while job.lost_at is None:
                await asyncio.sleep(0.1)
            await items.done.wait()
            assert now() == pytest.approx(job.lost_at + 3.0, abs=0.1), "not with a later probe"

    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        runner.run(main())


@in_virtual_time
async def test_a_job_that_is_removed_is_not_waited_for():
    async with Dispatch(*fleet_away(10.0, math.inf)) as dispatch:
        items = Items(3_000)
        job = dispatch.add(items)
        await asyncio.sleep(30.0)
        dispatch.scheduler.remove(job)
        await asyncio.sleep(100.0)
    assert items.aborted is None


@in_virtual_time
async def test_a_job_for_a_model_that_nobody_serves_is_aborted():
    a, b = Scripted("a"), Scripted("b", models=["n", "o"])
    async with Dispatch(a, b) as dispatch:
        items = await dispatch.ask(Items(5, model="gpt-9"))
        assert [failure.message for failure in items.aborted] == [
            "a does not serve it, it serves m",
            "b does not serve it, it serves n, o",
        ]
        late = await dispatch.ask(Items(5, model="gpt-9"))
        assert len(late.aborted) == 2
        assert now() == pytest.approx(0.0)


@in_virtual_time
async def test_a_lane_that_lost_the_model_is_left_alone():
    """The probe finds the server well, but it serves something else now."""
    a = Scripted("a", script=lambda call: "cold" if call.at > 5 else None)
    b = Scripted("b", latency=3.0)

    def probe(number):
        if number:
            a.served = {"other": "other"}
        return True

    a.health = probe
    items = await ask(100, a, b)
    assert items.kinds == {None: 100}
    assert max(a.times) < 8


# Which model


@in_virtual_time
async def test_the_only_model_is_meant():
    async with Dispatch(Scripted("a"), Scripted("b")) as dispatch:
        assert await dispatch.scheduler.resolve(None) == "m"
        assert await dispatch.scheduler.resolve("m") == "m"


@in_virtual_time
async def test_one_of_several_models_must_be_named():
    async with Dispatch(Scripted("a"), Scripted("b", models=["n"])) as dispatch:
        with pytest.raises(LookupError, match=r"several models \(a: m; b: n\).*model="):
            await dispatch.scheduler.resolve(None)
        assert await dispatch.scheduler.resolve("n") == "n"


@in_virtual_time
async def test_an_unknown_model_is_told_with_what_there_is():
    async with Dispatch(Scripted("a"), Scripted("b", models=["n"])) as dispatch:
        with pytest.raises(LookupError) as caught:
            await dispatch.scheduler.resolve("gpt-9")
    assert str(caught.value) == (
        "No endpoint serves model 'gpt-9': a does not serve it, it serves m; "
        "b does not serve it, it serves n."
    )


@in_virtual_time
async def test_the_first_lane_that_serves_the_model_is_enough():
    slow = Scripted("slow", probe=lambda number: asyncio.sleep(5, result=True))
    async with Dispatch(Scripted("a"), slow) as dispatch:
        assert await dispatch.scheduler.resolve("m") == "m"
        assert now() == pytest.approx(0.0)
        assert await dispatch.scheduler.resolve(None) == "m"  # the other might serve more
        assert now() == pytest.approx(5.0)


@in_virtual_time
async def test_models_are_waited_for_while_anybody_may_have_them():
    late = Scripted("late", models=["n"], probe=lambda number: number == 2)
    async with Dispatch(Scripted("a"), late) as dispatch:
        assert await dispatch.scheduler.resolve("n") == "n"
        assert now() == pytest.approx(0.7)


@in_virtual_time
async def test_nobody_there_is_told_promptly():
    a = Scripted("a", probe=lambda number: Failure("cold", "a: connection refused."))
    b = Scripted("b", probe=lambda number: OSError("no route"))
    async with Dispatch(a, b) as dispatch:
        with pytest.raises(LookupError) as caught:
            await dispatch.scheduler.resolve(None)
    assert str(caught.value) == (
        "No endpoint can be used: a: connection refused; b could not be opened: OSError: no route."
    )
    assert now() < 3.0


@in_virtual_time
async def test_a_refused_token_is_told_before_anything_else():
    denied = Failure("auth", "b says 401.", 401, False, "b")
    a = Scripted("a", probe=lambda number: asyncio.sleep(60, result=True))
    async with Dispatch(a, Scripted("b", probe=lambda number: denied)) as dispatch:
        with pytest.raises(LookupError, match="b says 401"):
            await dispatch.scheduler.resolve("m")
        assert now() == pytest.approx(0.0)


@in_virtual_time
async def test_a_pool_that_was_dead_is_asked_again():
    there = False
    a = Scripted("a", probe=lambda number: there)
    async with Dispatch(a) as dispatch:
        with pytest.raises(LookupError):
            await dispatch.scheduler.resolve("m")
        there = True
        assert await dispatch.scheduler.resolve("m") == "m"
        assert (await dispatch.ask(5)).kinds == {None: 5}


def test_reasons_are_one_sentence():
    failures = [Failure("cold", "a is away."), Failure("cold", "b is away")]
    assert explain(failures, "m") == "No endpoint serves model 'm': a is away; b is away."


# Endings


@in_virtual_time
async def test_a_removed_job_is_cancelled_at_once_and_sends_nothing_more():
    a = Scripted("a", latency=100, concurrency=8)
    b = Scripted("b", latency=0.1, script=lambda call: "transient")
    async with Dispatch(a, b) as dispatch:
        items = Items(1000)
        job = dispatch.add(items, retry=Retry(attempts=1000))
        await asyncio.sleep(5)
        dispatch.scheduler.remove(job)
        settled, sent = len(items.answers), len(a.calls) + len(b.calls)
        await asyncio.sleep(0.001)
        assert a.in_flight == b.in_flight == 0
        assert all(call.cancelled and call.end == pytest.approx(5.0) for call in a.calls)
        await asyncio.sleep(1000)
        assert (len(items.answers), len(a.calls) + len(b.calls)) == (settled, sent)
        assert [lane.in_flight for lane in dispatch.scheduler.lanes] == [0, 0]
        assert not dispatch.scheduler.busy
        dispatch.scheduler.remove(job)
        assert (await dispatch.ask(8)).kinds == {None: 8}


@in_virtual_time
async def test_a_job_that_ends_as_attempts_time_out_ends_in_peace():
    """The timeouts have struck, but the senders have not heard of it yet."""
    a = Scripted("a", script=lambda call: "hang")
    async with Dispatch(a) as dispatch:
        items = Items(8)
        job = dispatch.add(items, retry=Retry(timeout=10.0))
        asyncio.get_running_loop().call_at(10.0, dispatch.scheduler.remove, job)
        await asyncio.sleep(20)
        assert items.answers == {}
        assert a.in_flight == 0
        assert len(a.calls) == 4
        assert not dispatch.scheduler.busy


@in_virtual_time
async def test_a_client_may_end_its_job_from_within():
    """A run whose journal cannot be written closes its job while it settles or feeds."""

    class Fragile(Items):
        def settle(self, ticket, reply, lane, seconds):
            super().settle(ticket, reply, lane, seconds)
            if len(self.answers) == 10:
                dispatch.scheduler.remove(self.job)

    a = Scripted("a", latency=lambda call: 1.0 + call.number % 3)
    async with Dispatch(a) as dispatch:
        items = Fragile(100)
        items.job = dispatch.add(items)
        await asyncio.sleep(1000)
        assert len(items.answers) == 10
        assert len(a.calls) <= 14
        assert a.in_flight == 0


@pytest.mark.parametrize("limits", [{}, {"requests": "100/s"}])
@pytest.mark.parametrize("some", [True, False])
@in_virtual_time
async def test_a_client_may_end_its_job_while_it_feeds(limits, some):
    """A run that finds all its answers in the journal ends while it is asked for requests."""

    class Ends(Items):
        def feed(self, most):
            tickets = super().feed(most)
            dispatch.scheduler.remove(self.job)
            return tickets if some else []

    a = Scripted("a", **limits)
    async with Dispatch(a) as dispatch:
        ends, fine = Ends(100, prefix="ends"), Items(20)
        ends.job = dispatch.add(ends)
        dispatch.add(fine)
        await fine.done.wait()
        await asyncio.sleep(100)
        assert ends.answers == {}
        assert len(a.calls) == 20


@in_virtual_time
async def test_closing_ends_jobs_and_lanes():
    a, b = Scripted("a", latency=100), Scripted("b", probe=lambda number: False)
    async with Dispatch(a, b) as dispatch:
        items = Items(100)
        dispatch.add(items)
        await asyncio.sleep(10)
    assert [failure.message for failure in items.aborted] == ["The pool was closed."]
    assert a.in_flight == 0
    assert (a.closed, b.closed) == (1, 1)
    assert now() == pytest.approx(10.0)
    await asyncio.sleep(100)
    assert len(a.calls) == 4
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_closing_ends_who_waits_for_a_model():
    a = Scripted("a", probe=lambda number: asyncio.sleep(60, result=True))
    async with Dispatch(a) as dispatch:
        waiting = asyncio.create_task(dispatch.scheduler.resolve("m"))
        await asyncio.sleep(1)
    with pytest.raises(LookupError, match="a is closed"):
        await waiting
    assert now() == pytest.approx(1.0)


@in_virtual_time
async def test_a_closed_scheduler_takes_no_job():
    async with Dispatch(Scripted("a")) as dispatch:
        await dispatch.ask(1)
    items = Items(1)
    dispatch.add(items)
    assert [failure.message for failure in items.aborted] == ["a is closed"]
    assert not dispatch.scheduler.busy


@in_virtual_time
async def test_an_endpoint_that_cannot_close_does_not_keep_the_others():
    async def close():
        raise OSError("stuck")

    a, b = Scripted("a"), Scripted("b")
    a.close = close
    async with Dispatch(a, b) as dispatch:
        await dispatch.ask(5)
    assert b.closed == 1


def test_backoffs_too_short_for_a_timer_of_uvloop():
    """Its `call_at` for what is not in the future returns a handle that does not know when."""

    async def main():
        def script(call):
            return "transient" if call.nth < 3 else None

        a = Scripted("a", latency=0.0, script=script, bundle=8, concurrency=64)
        items = await ask(64, a, retry=Retry(base=1e-7))
        assert items.kinds == {None: 64}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


class Counting(Job):
    """A job that counts how often it is asked whether a lane may see its tickets."""

    asked = 0

    def admits(self, tags):
        self.asked += 1
        return super().admits(tags)


@in_virtual_time
async def test_a_lane_that_opens_is_all_that_is_looked_at():
    count = 300
    async with Dispatch(*(Scripted(f"{number}") for number in range(count))) as dispatch:
        job = Counting(Items(0), "m", Retry())
        dispatch.scheduler.add(job)
        await asyncio.sleep(1.0)
        assert all(lane.condition.is_hot for lane in dispatch.scheduler.lanes)
        assert job.asked < 10 * count
