"""Simulated endpoints: slots, seeded work, and each fault at its time."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import in_virtual_time, now

from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing.conformance import EndpointConformance
from langgraph_hpc_fanout.testing.schedules import (
    BackendGone,
    Cold,
    Dead,
    Flapping,
    Frozen,
    Schedule,
    Slow,
    Storm,
    WalltimeEnd,
)
from langgraph_hpc_fanout.testing.simulated import SimulatedEndpoint, Workload, fleet
from langgraph_hpc_fanout.testing.virtual_time import run

SECOND = Workload(median=1.0, sigma=0.0, tokens_per_second=10.0)


class TestConformance(EndpointConformance):
    """On a loop in real time, with work that is short."""

    @pytest.fixture
    def endpoint(self):
        self.simulated = SimulatedEndpoint(slots=16, workload=Workload(median=0.02, sigma=0.1))
        return self.simulated

    async def in_flight(self):
        return self.simulated.in_flight


def simulated(*faults, slots=2, workload=SECOND, **options):
    return SimulatedEndpoint("s", slots=slots, workload=workload, faults=faults, **options)


async def ask(endpoint, key="k", model="simulated"):
    """The one reply, and when it came."""
    (reply,) = [reply async for reply in endpoint.send([Request(key, model, {}, 3)])]
    return reply, now()


async def ask_at(endpoint, moment, key="k"):
    await asyncio.sleep(moment - now())
    return await ask(endpoint, key)


async def is_silent(endpoint, moment=0.0, seconds=1e6):
    """Whether a request that comes at this time is not answered for as long."""
    try:
        async with asyncio.timeout_at(moment + seconds):
            await ask_at(endpoint, moment)
    except TimeoutError:
        return True
    return False


def kind(answer):
    reply, _ = answer
    return None if reply.failure is None else reply.failure.kind


# -- work -------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_answer_is_its_requests_own_and_takes_its_time():
    endpoint = simulated()
    reply, end = await ask(endpoint, "CCO")
    assert reply.body["choices"][0]["message"]["content"] == "CCO"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 10)
    assert end == pytest.approx(1.0)
    assert (endpoint.asked, endpoint.answered, endpoint.written) == (1, 1, 10)


@given(st.text(max_size=8), st.integers(0, 2**32), st.floats(0.01, 100.0), st.floats(0.0, 2.0))
@repeatable
def test_a_request_is_the_same_work_everywhere(key, seed, median, sigma):
    work = Workload(median, sigma, seed=seed).seconds(key)
    assert 0 < work < math.inf
    assert Workload(median, sigma, seed=seed).seconds(key) == work
    double = Workload(2 * median, sigma, seed=seed).seconds(key)
    assert double == pytest.approx(2 * work)


def test_work_is_lognormal():
    work = Workload(median=5.0, sigma=0.8, seed=1)
    logs = [math.log(work.seconds(f"item {number}")) for number in range(20_000)]
    assert statistics.fmean(logs) == pytest.approx(math.log(5.0), abs=0.02)
    assert statistics.stdev(logs) == pytest.approx(0.8, rel=0.02)
    assert max(logs) > math.log(5.0) + 0.8 * 3.5, "it has its tail"
    other = Workload(median=5.0, sigma=0.8, seed=2)
    assert work.seconds("item 0") != other.seconds("item 0")


@in_virtual_time
async def test_more_than_its_slots_wait_in_their_order():
    endpoint = simulated(slots=2)
    answers = await asyncio.gather(*(ask(endpoint, str(number)) for number in range(5)))
    assert [end for _, end in answers] == pytest.approx([1.0, 1.0, 2.0, 2.0, 3.0])
    assert (endpoint.peak, endpoint.in_flight, endpoint.answered) == (5, 0, 5)


@in_virtual_time
async def test_who_leaves_gives_back_slot_and_place_in_the_queue():
    endpoint = simulated(slots=1)
    working, waiting, last = (asyncio.create_task(ask(endpoint)) for _ in range(3))
    await asyncio.sleep(0.5)
    waiting.cancel()
    working.cancel()
    reply, end = await last
    assert reply.failure is None
    assert end == pytest.approx(1.5)
    assert endpoint.written == pytest.approx(5 + 10), "half of an answer, and one"
    assert endpoint.in_flight == 0
    assert kind(await ask(endpoint)) is None


@in_virtual_time
async def test_a_slot_that_comes_as_who_waited_for_it_leaves_is_not_lost():
    endpoint = simulated(slots=1)
    working, waiting = (asyncio.create_task(ask(endpoint)) for _ in range(2))
    await working
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    _, end = await ask(endpoint)
    assert end == pytest.approx(2.0)


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.floats(0.0, 10.0), st.floats(0.001, 10.0) | st.none()), min_size=1, max_size=20
    ),
)
@repeatable
def test_slots_are_never_exceeded_and_all_come_back(slots, visits):
    endpoint = simulated(slots=slots, workload=Workload(median=2.0, sigma=0.5))

    async def visit(number, moment, patience):
        await asyncio.sleep(moment)
        try:
            async with asyncio.timeout(patience):
                return await ask(endpoint, str(number))
        except TimeoutError:
            assert patience is not None
            return None

    async def main():
        visits_ = [visit(number, *each) for number, each in enumerate(visits)]
        answers = await asyncio.gather(*visits_)
        begun = now()
        await asyncio.gather(*(ask(endpoint, "same") for _ in range(slots)))
        assert now() - begun == pytest.approx(endpoint.workload.seconds("same"), abs=1e-5)
        return answers

    answers = run(main())
    ends = [
        (end - endpoint.workload.seconds(str(number)), end)
        for number, answer in enumerate(answers)
        if answer is not None
        for _, end in [answer]
    ]
    for _, moment in ends:  # there is no busier moment than just before an end
        assert sum(begun + 1e-4 < moment <= end for begun, end in ends) <= slots
    assert endpoint.in_flight == 0


@in_virtual_time
async def test_a_model_that_it_does_not_serve_is_not_there():
    endpoint = simulated()
    assert kind(await ask(endpoint, model="other")) == "cold"
    assert (endpoint.in_flight, endpoint.written) == (0, 0)


def test_limits_are_the_slots_unless_told():
    assert simulated(slots=7).limits == Limits(concurrency=7)
    assert simulated(slots=7, limits=Limits(concurrency=9)).limits.concurrency == 9
    with pytest.raises(ValueError, match="at least 1"):
        simulated(slots=0)


# -- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Dead, WalltimeEnd])
@in_virtual_time
async def test_who_dies_loses_what_it_has_and_refuses_the_rest(fault):
    endpoint = simulated(fault(start=1.5, until=10.0), slots=1)
    answers = await asyncio.gather(*(ask(endpoint, str(number)) for number in range(3)))
    assert [kind(answer) for answer in answers] == [None, "transient", "transient"]
    assert [end for _, end in answers] == pytest.approx([1.0, 1.5, 1.5], abs=1e-4)
    assert endpoint.written == pytest.approx(10 + 5, abs=0.1)
    reply, end = await ask_at(endpoint, 5.0)
    assert (reply.failure.kind, end) == ("cold", 5.0)
    health = await endpoint.probe()
    assert health.failure.kind == "cold"
    assert kind(await ask_at(endpoint, 10.0)) is None
    assert (await endpoint.probe()).ok


@in_virtual_time
async def test_a_cold_start_of_twelve_minutes():
    endpoint = simulated(Cold(until=720.0))
    assert kind(await ask(endpoint)) == "cold"
    assert now() == 0.0
    health = await endpoint.probe()
    assert health.failure.message == "s is loading its model."
    reply, end = await ask_at(endpoint, 720.0)
    assert reply.failure is None
    assert end == pytest.approx(721.0)
    assert (await endpoint.probe()).ok


@in_virtual_time
async def test_who_is_frozen_never_answers_what_it_had_or_gets():
    endpoint = simulated(Frozen(start=0.5, until=100.0), slots=1)
    before = [is_silent(endpoint) for _ in range(2)]
    during = is_silent(endpoint, 50.0)
    after = ask_at(endpoint, 100.0)
    silent, silent_too, silent_as_well, answer = await asyncio.gather(*before, during, after)
    assert silent
    assert silent_too
    assert silent_as_well
    assert kind(answer) is None
    assert answer[1] == pytest.approx(101.0), "nobody holds its slot"
    assert endpoint.in_flight == 0


@in_virtual_time
async def test_who_is_frozen_does_not_answer_probes():
    endpoint = simulated(Frozen(until=100.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1000.0):
            await endpoint.probe()
    assert (await endpoint.probe()).ok


@in_virtual_time
async def test_a_gateway_without_its_server_answers_probes_and_504_after_a_minute():
    endpoint = simulated(BackendGone(start=0.5))
    assert (await endpoint.probe()).ok
    had, got = await asyncio.gather(ask(endpoint), ask_at(endpoint, 20.0))
    assert [kind(had), kind(got)] == ["transient", "transient"]
    assert had[0].failure.status == 504
    assert [had[1], got[1]] == pytest.approx([60.5, 80.0])
    assert (await endpoint.probe()).ok


@in_virtual_time
async def test_who_is_slow_takes_longer_while_it_is():
    endpoint = simulated(Slow(factor=3.0, start=10.5, until=20.0))
    ends = [end for _, end in [await ask(endpoint), await ask_at(endpoint, 10.0)]]
    assert ends == pytest.approx([1.0, 10.5 + 1.5])
    _, end = await ask_at(endpoint, 13.0)
    assert end == pytest.approx(16.0)
    _, end = await ask_at(endpoint, 18.5)
    assert end == pytest.approx(20.5), "half of it was done while it was slow"
    assert endpoint.written == 4 * 10


@in_virtual_time
async def test_what_is_written_by_who_is_slow_is_less():
    endpoint = simulated(Slow(factor=2.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await ask(endpoint)
    assert endpoint.written == pytest.approx(5.0)


@in_virtual_time
async def test_who_flaps_comes_and_goes():
    endpoint = simulated(Flapping(start=10.0, until=50.0, up=6.0, down=4.0))
    moments = [5.0, 10.0, 14.0, 15.5, 17.0, 19.9, 20.0, 27.0, 31.0, 46.0, 50.0, 57.0]
    said = await asyncio.gather(*(ask_at(endpoint, moment) for moment in moments))
    assert [kind(each) for each in said] == [
        *(None, None, None, "transient", "cold", "cold"),
        *(None, "cold", None, "cold", None, None),
    ]
    assert said[3][1] == pytest.approx(16.0)


@pytest.mark.parametrize("retry_after", [None, 7.0])
@in_virtual_time
async def test_a_storm_turns_away_who_comes_and_answers_who_is_there(retry_after):
    endpoint = simulated(Storm(start=0.5, until=10.0, retry_after=retry_after))
    there, refused = await asyncio.gather(ask(endpoint), ask_at(endpoint, 0.75))
    assert kind(there) is None
    reply, end = refused
    assert (reply.failure.kind, reply.failure.status) == ("rate_limited", 429)
    assert (reply.retry_after, end) == (retry_after, 0.75)
    assert (await endpoint.probe()).ok
    assert kind(await ask_at(endpoint, 10.0)) is None


@in_virtual_time
async def test_of_several_faults_each_has_its_part():
    endpoint = simulated(Slow(factor=2.0), Storm(start=3.0, until=4.0), Dead(start=9.0))
    moments = [0.0, 3.5, 5.0, 8.0, 9.5]
    said = await asyncio.gather(*(ask_at(endpoint, moment) for moment in moments))
    assert [kind(each) for each in said] == [None, "rate_limited", None, "transient", "cold"]
    assert [end for _, end in said] == pytest.approx([2.0, 3.5, 7.0, 9.0, 9.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slow(factor=0.0), "positive number"),
        (lambda: Slow(factor=math.inf), "positive number"),
        (lambda: Flapping(up=0.0), "positive numbers of seconds"),
        (lambda: Flapping(down=-1.0), "positive numbers of seconds"),
    ],
)
def test_faults_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


moments = st.floats(0.0, 1e4)
spans = st.tuples(moments, moments).map(sorted)
faults = st.one_of(
    st.builds(lambda span, factor: Slow(*span, factor=factor), spans, st.floats(0.1, 10.0)),
    st.builds(lambda span: Storm(*span), spans),
    st.builds(lambda span: Dead(*span), spans),
    st.builds(
        lambda span, up, down: Flapping(*span, up=up, down=down),
        spans,
        st.floats(0.1, 100.0),
        st.floats(0.1, 100.0),
    ),
)


@given(st.lists(faults, max_size=4), moments, st.floats(1e-3, 500.0))
@repeatable
def test_work_is_done_when_it_is_said_to_be(faults, begun, work):
    schedule = Schedule(faults)
    end, lost_by = schedule.finish(begun, work)
    assert end >= begun
    done = schedule.work_done(begun, end)
    if lost_by is None:
        assert done == pytest.approx(work, rel=1e-6, abs=1e-6)
    else:
        assert done <= work * (1 + 1e-9) + 1e-9
        assert lost_by in faults
        assert lost_by.ends_work
    # Time that is asked for in two parts is the same time.
    middle = (begun + end) / 2
    parts = schedule.work_done(begun, middle)
    assert 0.0 <= parts <= done + 1e-9


@given(faults, moments)
@repeatable
def test_between_two_changes_a_fault_stays_as_it_is(fault, moment):
    change = fault.next_change(moment)
    assert change > moment
    end = min(change, moment + 1e3)
    inner = [moment + (end - moment) * share for share in (0.01, 0.5, 0.99)]
    assert len({fault.is_on(each) for each in inner}) == 1


# -- fleets -----------------------------------------------------------------------------------


def test_a_fleet_has_its_shares_of_faults_and_repeats_itself():
    slow, dead = Slow(factor=3.0), Dead()
    end = WalltimeEnd(start=3600.0)

    def faults_of(seed):
        made = fleet(200, shares={slow: 0.05, dead: 0.02}, faults=[end], seed=seed, models="m")
        assert len({endpoint.name for endpoint in made}) == 200
        assert all(endpoint.models == {"m": "m"} for endpoint in made)
        assert all(endpoint._schedule.find(3600.0, WalltimeEnd) is end for endpoint in made)
        return [endpoint._schedule.find(0.0, Slow, Dead) for endpoint in made]

    found = faults_of(1)
    assert (found.count(slow), found.count(dead), found.count(None)) == (10, 4, 186)
    assert faults_of(1) == found
    assert faults_of(2) != found


def test_a_fleet_cannot_have_more_faults_than_endpoints():
    with pytest.raises(ValueError, match="faults for 12 endpoints"):
        fleet(10, shares={Slow(): 0.6, Dead(): 0.6})
