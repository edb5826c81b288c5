import itertools

from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.endpoints.globus_compute.quota import Quota


def turns_of(arrivals, quota):
    """When each of the calls is made that ask at these times, one after another."""
    turns, free = [], 0.0
    for arrival in arrivals:
        now = max(arrival, free)
        free = now + quota.reserve(now)
        turns.append(free)
    return turns


def test_twelve_one_item_fan_outs_in_a_row_do_not_wait():
    """Each takes half a second or more, the least that a round trip takes."""
    quota = Quota()
    delays = [quota.reserve(0.55 * number) for number in range(12)]
    assert delays[:9] == [0.0] * 9
    assert max(delays) < 0.05


def test_a_burst_goes_out_at_once_and_then_keeps_a_distance():
    turns = turns_of([0.0] * 30, Quota())
    assert turns[:9] == [0.0] * 9
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns[8:18])]
    assert all(0 < gap < 1 for gap in gaps)


@given(
    gaps=st.lists(st.floats(0, 3), max_size=120),
    calls=st.integers(1, 30),
    window=st.floats(0.5, 20),
)
def test_no_window_ever_has_more_calls_than_allowed(gaps, calls, window):
    turns = turns_of(itertools.accumulate(gaps), Quota(calls, window))
    for first, over in zip(turns, turns[calls:], strict=False):
        assert over - first >= window * (1 - 1e-9)
    assert turns == sorted(turns)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_nobody_waits_a_second_for_company_while_the_quota_is_not_used_up(gaps):
    quota, made, free = Quota(), [], 0.0
    for arrival in itertools.accumulate(gaps):
        now = max(arrival, free)
        delay = quota.reserve(now)
        if sum(turn > now - 10.0 for turn in made) < 18:
            assert delay < 1.0
        free = now + delay
        made.append(free)
