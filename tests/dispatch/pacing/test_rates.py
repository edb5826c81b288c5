"""Rolling rates and fixed windows: the quota is kept, and refusals teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.dispatch.pacing.rates import FixedWindow, RollingRate


def leave(rate, start, end, amount=1.0):
    """When requests leave that come as fast as they may; they use what was charged."""
    now, left = start, []
    while now < end:
        if (delay := rate.delay(now, amount)) > 0:
            now += max(delay, 1e-6)
        else:
            rate.charge(now, amount)
            left.append(now)
    return left


def window(quota=60, seconds=60.0, burst=1, *, by_answers=False):
    return FixedWindow(quota, seconds, burst, 0.0, by_answers=by_answers)


# -- rolling rates ----------------------------------------------------------------------------


def test_a_rate_that_nobody_refuses_is_the_bucket_s():
    assert len(leave(RollingRate(10.0, 1.0, 0.0), 0.0, 100.0)) == pytest.approx(1000, abs=2)


def test_a_refusal_makes_it_quiet_then_slower_then_as_fast_as_it_was():
    rate = RollingRate(10.0, 1.0, 0.0)
    rate.refused(0.0, None)
    left = leave(rate, 0.0, 300.0)
    assert left[0] == pytest.approx(2.0)
    per_second = [sum(begin <= at < begin + 20 for at in left) / 20 for begin in range(2, 282, 20)]
    assert per_second[0] == pytest.approx(9.3, abs=0.3)
    assert per_second[-1] == pytest.approx(10.0, abs=0.1)
    assert per_second == sorted(per_second)


def test_a_rate_grows_back_from_any_depth():
    rate = RollingRate(10.0, 1.0, 0.0)
    for second in range(0, 300, 3):
        rate.refused(second, None)
    assert repr(rate) == "RollingRate(0.5 of 10/s)"
    left = leave(rate, 300.0, 900.0)
    assert sum(at > 890 for at in left) == pytest.approx(100, abs=2)


def test_refusals_of_what_had_left_before_count_once():
    once, often = RollingRate(10.0, 1.0, 0.0), RollingRate(10.0, 1.0, 0.0)
    once.refused(0.0, None)
    for moment in range(8):
        often.refused(moment / 8, None)
    assert leave(once, 1.0, 50.0) == leave(often, 1.0, 50.0)


@pytest.mark.parametrize("rate", [RollingRate(10.0, 1.0, 0.0), window(), window(by_answers=True)])
def test_the_longest_wait_that_the_server_asks_for_holds(rate):
    rate.refused(0.0, 7.0)
    rate.refused(0.0, 30.0)
    rate.refused(1.0, 3.0)
    rate.refused(1.0, None)
    assert rate.delay(1.0, 1.0) == pytest.approx(29.0)
    assert rate.delay(30.0, 1.0) == 0.0


# -- fixed windows ----------------------------------------------------------------------------


@repeatable
@given(st.integers(2, 300), st.integers(1, 5), st.floats(0, 59))
def test_before_a_refusal_no_window_anywhere_holds_more_than_the_quota(quota, burst, pause):
    burst = min(burst, quota)
    rate = window(quota, burst=burst)
    left = leave(rate, 0.0, 90.0)
    left += leave(rate, left[-1] + pause, 240.0)
    for begin in left:
        assert sum(begin <= at < begin + 60 - 1e-4 for at in left) <= quota


@repeatable
@given(st.integers(100, 10_000), st.floats(1, 50))
def test_before_a_refusal_no_window_anywhere_holds_more_tokens_than_the_quota(quota, amount):
    rate = window(quota, burst=quota / 10, by_answers=True)
    left = leave(rate, 0.0, 150.0, amount)
    for begin in left:
        assert sum(begin <= at < begin + 60 for at in left) * amount <= quota + amount


@repeatable
@given(st.integers(10, 300), st.floats(1, 200))
def test_once_an_edge_is_known_each_window_holds_nearly_the_quota_and_no_more(quota, refused):
    rate = window(quota)
    leave(rate, 0.0, refused)
    rate.refused(refused, 5.0)
    edge = refused + 5.0
    left = leave(rate, refused, edge + 300.0)
    for begin in (edge + 60.0 * nth for nth in range(5)):
        count = sum(begin - 1e-5 <= at < begin + 60 - 1e-5 for at in left)
        assert 0.95 * quota - 1 <= count <= quota


def test_what_was_missed_in_a_window_is_made_up_for_in_it():
    rate = window(600)
    rate.refused(0.0, 1.0)
    leave(rate, 1.0, 21.0)
    late = leave(rate, 31.0, 61.0)  # nothing came for ten seconds
    assert 330 < len(late) < 400


def test_an_unknown_edge_is_looked_for_in_steps():
    rate = window()
    moments = []
    now = 0.0
    while now < 25.0:  # the server's window ends there
        now += rate.delay(now, 1.0)
        rate.charge(now, 1.0)
        now += 0.1
        if now < 25.0:
            rate.refused(now, None)
            moments.append(now)
    assert moments == pytest.approx([0.1, 5.2, 10.3, 15.4, 20.5])
    assert rate.delay(now, 1.0) < 1.0
    assert "until 85.5 s" in repr(rate)


def test_a_known_edge_is_waited_for_and_others_are_left_their_share():
    rate = window(600)
    rate.refused(0.0, 1.0)
    count = len(leave(rate, 1.0, 41.0))
    rate.refused(41.0, None)
    assert rate.delay(41.0, 1.0) == pytest.approx(20.0)
    left = leave(rate, 41.0, 541.0)
    per_window = [sum(begin <= at < begin + 60 for at in left) for begin in range(61, 541, 60)]
    assert per_window[0] == pytest.approx(count + 0.02 * 600, abs=3)
    assert per_window[-1] >= 595
    assert per_window == sorted(per_window)


def test_one_refusal_takes_no_more_than_half():
    rate = window(600)
    rate.refused(0.0, 1.0)
    leave(rate, 1.0, 16.0)
    rate.refused(16.0, None)
    assert "of 300 in 60 s" in repr(rate)


def test_answers_that_used_the_quota_up_end_the_window():
    rate = window(6000, burst=100, by_answers=True)
    rate.refused(0.0, 1.0)
    rate.charge(1.0, 50.0)
    assert rate.delay(2.0, 50.0) == 0.0
    rate.settle(2.0, 50.0, 6000.0)
    assert rate.delay(2.0, 50.0) == pytest.approx(60.0)  # the answer opened it


def test_a_window_opens_with_its_first_answer_not_with_a_failure():
    rate = window(6000, burst=100, by_answers=True)
    rate.refused(0.0, 1.0)
    rate.delay(1.0, 1.0)
    rate.settle(11.0, 50.0, 0.0)
    assert "until 61.0 s" in repr(rate)
    rate.settle(21.0, 50.0, 50.0)
    rate.settle(31.0, 50.0, 50.0)
    assert "100 of 6000 in 60 s, until 81.0 s" in repr(rate)


def test_answers_while_requests_are_held_open_no_window():
    rate = window(6000, burst=100, by_answers=True)
    rate.refused(0.0, 1.0)
    rate.delay(1.0, 1.0)
    rate.refused(2.0, None)
    rate.settle(3.0, 50.0, 50.0)
    assert rate.delay(3.0, 1.0) == pytest.approx(4.0)
    assert "until 7.0 s" in repr(rate)


def test_after_a_long_pause_the_window_is_the_one_we_are_in():
    rate = window()
    rate.refused(0.0, 1.0)
    rate.delay(1000.0, 1.0)
    assert "until 1021.0 s" in repr(rate)


def test_an_old_edge_is_looked_for_again():
    rate = window(600)
    rate.refused(0.0, 1.0)
    leave(rate, 1.0, 270.0)
    rate.refused(270.0, None)
    assert rate.delay(270.0, 1.0) == pytest.approx(5.0)


def test_a_window_in_words():
    assert repr(window()) == "FixedWindow(0 of 60 in 60 s, edge unknown)"
