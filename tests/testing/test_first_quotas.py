"""Quotas, hosting and tokens of the FIRST fake, on a clock that the test holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.testing.first import ColdStart, Quotas, Times
from langgraph_hpc_fanout.testing.first.clock import Clock
from langgraph_hpc_fanout.testing.first.hosting import Hosting, Sight
from langgraph_hpc_fanout.testing.first.quotas import WINDOW, Gcra, Rate, Throttle, TokenWindow
from langgraph_hpc_fanout.testing.first.tokens import Tokens

steps = st.lists(st.floats(0.0, 2.0), max_size=80)


def moments(gaps: list[float]) -> list[float]:
    now, times = 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
    return times


# Rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", Rate(10, 1.0)), ("120/min", Rate(120, 60.0)), ("5/h", Rate(5, 3600.0))],
)
def test_rates_are_read(text, rate):
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "10", "0/s", "ten/s", "10/day", "-1/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="is no rate"):
        Rate.parse(text)


@pytest.mark.parametrize("name", ["user_tokens", "model_tokens", "batches"])
def test_quotas_of_nothing_are_refused(name):
    with pytest.raises(ValueError, match=name):
        Quotas(**{name: 0})


@given(steps, st.integers(1, 10))
def test_no_second_ever_lets_more_through_than_the_throttle_says(gaps, most):
    throttle = Throttle(Rate(most, 1.0))
    passed = [now for now in moments(gaps) if throttle.admit(now)]
    for first in passed:
        assert sum(first <= now < first + 1.0 for now in passed) <= most


@given(steps, st.integers(1, 10))
def test_the_throttle_refuses_only_after_a_full_second(gaps, most):
    throttle = Throttle(Rate(most, 1.0))
    passed: list[float] = []
    for now in moments(gaps):
        if throttle.admit(now):
            passed.append(now)
        else:
            assert sum(each > now - 1.0 for each in passed) == most


def test_refused_requests_do_not_count():
    throttle = Throttle(Rate(2, 1.0))
    assert [throttle.admit(now) for now in (0.0, 0.1, 0.2, 0.9, 1.05)] == [
        True,
        True,
        False,
        False,
        True,
    ]


# Windows of tokens


def test_a_window_begins_with_its_first_answer_and_ends_after_a_minute():
    window = TokenWindow()
    assert window.used(0.0) == 0
    window.add(30.0, 100)
    window.add(89.9, 50)
    assert window.used(89.9) == 150
    assert window.used(90.0) == 0
    window.add(120.0, 7)
    assert window.used(179.9) == 7
    assert window.totals == [150, 7]


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(0, 1000)), max_size=50))
def test_windows_hold_all_tokens_and_never_span_more_than_a_minute(answers):
    window = TokenWindow()
    began, now = -WINDOW, 0.0
    for gap, tokens in answers:
        now += gap
        if now >= began + WINDOW:
            assert window.used(now) == 0
            began = now
        window.add(now, tokens)
    assert sum(window.totals) == sum(tokens for _, tokens in answers)


# GCRA


@given(steps, st.integers(1, 20), st.floats(0.5, 20.0))
def test_gcra_never_lets_more_through_than_burst_and_rate(gaps, burst, rate):
    gcra = Gcra(rate, burst)
    passed: list[float] = []
    for now in moments(gaps):
        if not gcra.wait(now):
            gcra.take(now)
            passed.append(now)
    for place, first in enumerate(passed):
        for last, now in enumerate(passed[place:], place + 1):
            assert last - place <= burst + rate * (now - first) + 1e-6


@given(steps, st.integers(1, 5), st.floats(0.5, 5.0))
def test_gcra_says_how_long_to_wait(gaps, burst, rate):
    gcra = Gcra(rate, burst)
    for now in moments(gaps):
        wait = gcra.wait(now)
        if wait > 1e-8:
            assert gcra.wait(now + wait / 2) > 0
        assert gcra.wait(now + wait) < 1e-9
        if not wait:
            gcra.take(now)


def test_sums_of_floats_refuse_nobody():
    gcra = Gcra(2.0, 2)
    for now in (1.3272220904427667, 1.8272220904427667, 1.8272220904427667):
        assert gcra.wait(now) == 0.0
        gcra.take(now)
    assert gcra.wait(1.8272220904427667) == pytest.approx(0.5)


def test_what_was_reserved_and_not_used_comes_back():
    gcra = Gcra(10.0, 100.0)
    gcra.take(0.0, 100.0)
    assert gcra.wait(0.0, 50.0) == pytest.approx(5.0)
    gcra.take(0.0, -80.0)
    assert gcra.wait(0.0, 50.0) == 0.0


# Cold models


def hosting(state="cold", **times):
    return Hosting(state, ColdStart(queued=120.0, starting=600.0), Times(**times))


def test_a_cold_model_is_queued_then_starting_then_running_then_idle():
    model = hosting()
    assert model.phase(0.0) == "cold"
    assert model.submitted(10.0)
    assert [model.phase(now) for now in (10.0, 129.9, 130.0, 729.9, 730.0)] == [
        "queued",
        "queued",
        "starting",
        "starting",
        "running",
    ]
    assert model.phase(730.0 + 7199.0) == "running"
    assert model.phase(730.0 + 7200.0) == "cold"
    assert model.wakeups == 1


def test_work_keeps_a_model_loaded():
    model = hosting()
    model.wake(0.0)
    model.begin()
    assert model.phase(50_000.0) == "running"
    model.end(50_000.0)
    assert model.phase(57_199.0) == "running"
    assert model.phase(57_200.0) == "cold"


def test_only_one_burst_is_submitted_while_a_model_wakes():
    model = hosting()
    verdicts = []
    for now in (0.0, 0.1, 0.4, 0.6, 300.0, 600.5):
        verdicts.append(model.verdict(now))
        if verdicts[-1] == "submit":
            model.submitted(now)
    assert verdicts == ["submit", "submit", "submit", "not_ready", "not_ready", "submit"]
    assert model.wakeups == 1


def test_the_gateway_notices_a_loaded_model_up_to_a_minute_late():
    model = hosting(trigger=1000.0)
    model.submitted(0.0)
    assert model.verdict(700.0) == "not_ready"
    assert model.phase(721.0) == "running"
    assert model.verdict(759.0) == "not_ready"
    assert model.verdict(760.0) == "submit"


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.booleans()), min_size=1, max_size=60))
def test_what_the_gateway_believes_was_true_within_the_last_minute(looks):
    sight, now, seen = Sight(Times()), 0.0, []
    for gap, there in looks:
        now += gap
        seen.append((now, there))
        believed = sight.managers(now, there)
        assert believed in {truth for moment, truth in seen if moment > now - 60.0}


def test_an_offline_model_takes_nothing_and_a_hot_one_everything():
    assert hosting("offline").verdict(0.0) == "offline"
    hot = hosting("hot")
    for now in (0.0, 1.0, 100.0):
        assert hot.verdict(now) == "submit"
        assert not hot.submitted(now)
    assert hot.wakeups == 0


# Tokens


class Hand:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_tokens_expire_on_the_fakes_clock_and_are_counted():
    hand = Hand()
    tokens = Tokens(Clock(10.0, real=hand), life=100.0, login_life=1000.0)
    first, second = tokens.issue("alice"), tokens.issue("alice", life=50.0)
    tokens.issue("bob")
    assert first != second
    assert tokens.user(f"Bearer {first}") == ("alice", None)
    hand.now += 5.0
    assert tokens.user(f"Bearer {second}") == ("", "expired")
    assert tokens.user(f"Bearer {first}") == ("alice", None)
    hand.now += 5.0
    assert tokens.user(f"Bearer {first}") == ("", "expired")
    assert tokens.issued() == {"alice": 2, "bob": 1}
    assert tokens.seen() == {"alice": 2}


def test_policy_wants_a_new_log_in_and_no_token_helps():
    hand = Hand()
    tokens = Tokens(Clock(1.0, real=hand), life=1e9, login_life=1000.0)
    token = tokens.issue("alice")
    hand.now += 1000.0
    assert tokens.user(f"Bearer {token}") == ("", "policies")
    assert tokens.user(f"Bearer {tokens.issue('alice')}") == ("", "policies")
    tokens.log_in("alice")
    assert tokens.user(f"Bearer {token}") == ("alice", None)
    tokens.log_out("alice")
    assert tokens.user(f"Bearer {token}") == ("", "policies")


@pytest.mark.parametrize(
    ("header", "trouble"),
    [("", "missing"), ("Basic abc", "scheme"), ("Bearer", "inactive"), ("Bearer x", "inactive")],
)
def test_what_is_no_token_is_refused(header, trouble):
    assert Tokens(Clock(1.0), 1.0, 1.0).user(header) == ("", trouble)
