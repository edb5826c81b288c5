"""Windows: they find what a server can take, give way when it cannot, and nothing shakes them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from simulated_server import MEDIAN, SIGMA, Client, Server

from langgraph_hpc_fanout.dispatch.pacing.window import FIRST, MOST, Window

HOUR = 3600.0
SETTLED = {1: 2 * HOUR, 8: HOUR}
"""Seconds after which small servers have given enough answers to tell windows apart."""
BATCHING = {"knee": 0.5, "slowdown": 1.5}
"""Beyond half of its slots all requests get slower, by half when all are taken."""


def served(server, *windows, starts=0.0):
    """Let windows loose on a server, the second one later."""
    server.clients = [Client(window, starts * nth) for nth, window in enumerate(windows)]
    return server.clients


def mean_limit(client, since):
    limits = [limit for at, limit in client.limits if at >= since]
    return sum(limits) / len(limits)


def share_and_size(slots, settle, measure=900.0, **server):
    """Share of the best throughput after a while, and the mean window, in slots."""
    server = Server(slots, **server)
    (client,) = served(server, Window(None))
    server.run(settle)
    share = server.run(settle + measure)
    return share, mean_limit(client, settle) / slots


# -- one window finds its size ----------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 8, 64, 256, 1_000])
@pytest.mark.parametrize("kind", [{}, BATCHING], ids=["plain", "batching"])
def test_it_finds_the_slots_of_a_server_that_queues_in_silence(slots, kind):
    share, size = share_and_size(slots, SETTLED.get(slots, HOUR / 2), **kind)
    assert share >= 0.95
    assert 0.9 <= size <= 2


@pytest.mark.parametrize("slots", [1, 8, 64, 256, 1_000])
def test_it_stays_near_the_slots_of_a_server_that_refuses(slots):
    share, size = share_and_size(slots, 600.0, refuses=True)
    assert share >= 0.95
    assert 0.9 <= size <= 1.05


@pytest.mark.parametrize("slots", [1, 8, 64, 256, 1_000])
@pytest.mark.parametrize("kind", [{}, BATCHING], ids=["plain", "batching"])
def test_it_keeps_a_short_queue_where_the_gauge_is_read(slots, kind):
    share, size = share_and_size(slots, 600.0, gauge=True, **kind)
    assert share >= 0.99
    assert 1 <= size <= max(1.3, 1 + 1 / slots)  # one that waits is not too many


@pytest.mark.parametrize("kind", [{}, BATCHING, {"refuses": True}, {"gauge": True}], ids=str)
@pytest.mark.parametrize("slots", [64, 1_000])
def test_it_is_there_within_minutes(slots, kind):
    server = Server(slots, **kind)
    served(server, Window(None))
    server.run(240.0)
    assert server.run(480.0) >= 0.95


@pytest.mark.parametrize("slots", [8, 64, 1_000])
def test_it_does_without_counts_of_tokens(slots):
    share, size = share_and_size(slots, HOUR, tokens=False)
    assert share >= 0.95
    assert 0.9 <= size <= 2


def test_it_never_exceeds_what_no_client_needs():
    window = Window(None)
    server = Server(20_000, tokens=False)
    (client,) = served(server, window)
    server.run(400.0)
    assert max(limit for _, limit in client.limits) == MOST


@pytest.mark.parametrize("slots", [64, 256])
def test_trials_of_smaller_windows_are_rare(slots):
    server = Server(slots)
    (client,) = served(server, Window(None))
    server.run(HOUR)
    limits = [limit for at, limit in client.limits if at >= 900.0]
    assert sum(limit < 0.9 * slots for limit in limits) <= 0.14 * len(limits)


# -- what the user said -----------------------------------------------------------------------


def test_a_given_window_is_full_from_the_start_and_never_exceeded():
    server = Server(1_000)
    (client,) = served(server, Window(100))
    server.run(HOUR)
    assert client.window.limit == 100
    assert {limit for _, limit in client.limits} == {100}


def test_a_given_window_comes_down_when_it_must_and_back_up():
    server = Server(64, refuses=True)
    (client,) = served(server, Window(256))
    assert server.run(300.0) > 0.9
    assert mean_limit(client, 200.0) <= 70
    server.slots = 1_000
    server.run(1_200.0)
    assert client.window.limit == 256


# -- a server that changes --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, BATCHING, {"refuses": True}, {"gauge": True}], ids=str)
@pytest.mark.parametrize(("before", "after"), [(64, 32), (64, 128), (256, 128), (256, 512)])
def test_it_follows_a_server_whose_slots_halve_or_double(before, after, kind):
    server = Server(before, **kind)
    (client,) = served(server, Window(None))
    server.run(1_200.0)
    server.slots = after
    server.run(1_800.0)
    assert server.run(2_700.0) >= 0.94
    assert 0.9 <= mean_limit(client, 1_800.0) / after <= 2


def test_a_pace_that_jumps_brings_a_given_window_down_though_nothing_was_refused():
    server = Server(64)
    (client,) = served(server, Window(64))
    server.run(600.0)
    assert client.window.limit == 64
    server.slots = 16
    server.run(1_800.0)
    assert server.run(2_700.0) >= 0.95
    assert mean_limit(client, 1_800.0) <= 2 * 16


def answers(window, seconds, count, *, now=0.0, tokens=0, used=1.0):
    """Answers, one after another, of a server that has room for all; the time afterwards."""
    for _ in range(count):
        taken = seconds()
        now += taken / window.limit
        window.succeeded(now, taken, tokens, max(1, int(used * window.limit)))
    return now


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_lognormal_times_is_no_reason_to_come_down(seed):
    dice = random.Random(seed)
    window = Window(64)
    limits = []
    now = 0.0
    for _ in range(20_000):
        now = answers(window, lambda: dice.lognormvariate(0, SIGMA) * MEDIAN, 1, now=now)
        limits.append(window.limit)
    assert sum(limits) / len(limits) >= 0.99 * 64
    assert window._home == 64


def test_a_server_that_became_slower_for_good_is_given_as_much_as_before():
    dice = random.Random(1)
    window = Window(200)
    now = answers(window, lambda: dice.lognormvariate(0, SIGMA), 5_000)
    now = answers(window, lambda: dice.lognormvariate(2, SIGMA), 20_000, now=now)
    assert window.limit == 200


# -- refusals ---------------------------------------------------------------------------------


def test_a_burst_of_refusals_counts_once():
    window = Window(100)
    for number in range(50):
        window.overloaded(10.0 + number / 1e3, 0.05)
    assert window.limit == 80
    window.overloaded(11.2, 2.0)  # a timeout of a request that was sent before
    assert window.limit == 80
    window.overloaded(11.3, 0.01)
    assert window.limit == 64


def test_a_round_trip_is_as_long_as_answers_take():
    window = Window(100)
    now = answers(window, lambda: 20.0, 100)
    window.overloaded(now)
    window.overloaded(now + 19.0)
    assert window.limit == 80
    window.overloaded(now + 21.0)
    assert window.limit == 64


def test_refusals_never_close_a_window():
    window = Window(5)
    for now in range(100):
        window.overloaded(float(now))
    assert window.limit == 1


# -- the gauge --------------------------------------------------------------------------------


def test_one_reading_of_a_long_queue_is_chance_and_two_are_not():
    window = Window(100)
    now = answers(window, lambda: 5.0, 100)
    window.queued(now, 40)
    window.queued(now + 5, 0)
    window.queued(now + 10, 40)
    assert window.limit == 100
    window.queued(now + 15, 40)
    assert window.limit == 80


def test_a_queue_of_others_is_taken_away_in_proportion():
    window = Window(100)
    now = answers(window, lambda: 5.0, 100)
    for _ in range(2):
        window.queued(now, waiting=48, running=352)
    assert window.limit == 90  # a quarter of the 40 that are too many


def test_a_short_queue_keeps_the_server_full():
    window = Window(100)
    now = answers(window, lambda: 5.0, 100)
    for _ in range(10):
        window.queued(now, 8)
    assert window.limit == 100


# -- use, and several clients -----------------------------------------------------------------


def test_a_lane_that_is_half_idle_learns_nothing():
    window = Window(None)
    answers(window, lambda: 5.0, 10_000, used=0.5)
    assert window.limit == FIRST
    server = Server(1_000)
    (client,) = served(server, Window(None))
    client.demand = 40
    server.run(HOUR)
    assert max(limit for _, limit in client.limits) <= 2 * 40


@pytest.mark.parametrize("slots", [64, 256])
@pytest.mark.parametrize(
    ("kind", "ratio"), [({}, 3), ({"refuses": True}, 2), ({"gauge": True}, 1.5)], ids=str
)
def test_two_windows_share_a_server(slots, kind, ratio):
    server = Server(slots, seed=1, **kind)
    clients = served(server, Window(None), Window(None))
    server.run(HOUR / 2)
    before = [client.answered for client in clients]
    assert server.run(3 * HOUR / 2) >= 0.9
    least, most = sorted(client.answered - b for client, b in zip(clients, before, strict=True))
    assert most <= ratio * least
    assert sum(client.window.limit for client in clients) <= 12 * slots  # no race without end


@pytest.mark.parametrize(
    ("kind", "ratio"), [({}, 4), ({"refuses": True}, 4), ({"gauge": True}, 1.5)], ids=str
)
def test_a_newcomer_gets_in(kind, ratio):
    server = Server(64, seed=1, **kind)
    old, new = served(server, Window(None), Window(None), starts=600.0)
    server.run(2 * HOUR)
    before = new.answered, old.answered
    server.run(3 * HOUR)
    assert ratio * (new.answered - before[0]) >= old.answered - before[1]


# -- whatever comes ---------------------------------------------------------------------------

events = st.one_of(
    st.tuples(
        st.just("succeeded"), st.floats(0, 1e4), st.integers(0, 10_000), st.integers(1, 5_000)
    ),
    st.tuples(st.just("overloaded"), st.floats(0, 1e4)),
    st.tuples(st.just("queued"), st.integers(0, 10_000), st.integers(0, 10_000)),
)


@repeatable
@given(
    st.none() | st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 200), events), max_size=30),
)
def test_a_window_is_never_closed_and_never_exceeds_its_bound(most, happened):
    window, now = Window(most), 0.0
    for pause, times, (what, *arguments) in happened:
        for _ in range(times):
            now += pause
            getattr(window, what)(now, *arguments)
            assert isinstance(window.limit, int)
            assert 1 <= window.limit <= (MOST if most is None else most)


def test_a_window_in_words():
    assert repr(Window(64)) == "Window(64, home 64, at most 64)"
