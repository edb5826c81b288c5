import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.endpoints.globus_compute.losses import Ledger, Losses

LOSSES = Losses(
    factor=3.0, grace=5.0, unproven=100.0, silence=20.0, offline=40.0, deadline=10_000.0
)


@pytest.fixture
def ledger():
    return Ledger(LOSSES)


def test_a_bundle_in_a_batch_schedulers_queue_is_not_lost(ledger):
    ledger.send(100, 0.0)
    ledger.send(100, 0.0)
    assert ledger.lost(9_999.0) == []


def test_a_bundle_that_a_later_one_overtook_is_lost_when_its_time_is_up(ledger):
    first = ledger.send(100, 0.0)
    second = ledger.send(100, 0.0)
    ledger.land(second, seconds=10.0, now=50.0)
    # It began by 40 at the latest, and may take three times ten seconds and five.
    assert first.begun == 40.0
    assert ledger.lost(75.0) == []
    assert ledger.lost(75.1) == [first]


def test_an_earlier_result_says_nothing_of_later_bundles(ledger):
    first = ledger.send(100, 0.0)
    second = ledger.send(100, 0.0)
    ledger.land(first, seconds=10.0, now=50.0)
    assert second.begun is None
    assert ledger.lost(9_000.0) == []


def test_larger_bundles_are_given_more_time_and_smaller_ones_no_less(ledger):
    ledger.land(ledger.send(100, 0.0), seconds=10.0, now=10.0)
    assert ledger.predict(100) == 10.0
    assert ledger.predict(400) == 40.0
    assert ledger.predict(1) == 10.0


def test_an_empty_bundle_proves_that_earlier_ones_have_begun(ledger):
    lost = ledger.send(100, 0.0)
    assert ledger.predict(100) is None
    ping = ledger.send(0, 30.0)
    ledger.land(ping, seconds=0.0, now=31.0)
    assert ledger.predict(100) is None
    assert ledger.lost(31.0 + 100.0 + 5.0) == []
    assert ledger.lost(31.0 + 100.0 + 5.1) == [lost]


def test_silence_is_asked_into_at_growing_distances(ledger):
    ledger.send(10, 0.0)
    asked = [now for now in range(200) if ledger.may_ask(float(now))]
    assert asked == [20, 40, 80, 160]
    ledger.land(ledger.send(10, 200.0), 1.0, 201.0)
    assert [now for now in range(201, 300) if ledger.may_ask(float(now))] == [221, 241, 281]


def test_nothing_is_asked_when_nothing_is_awaited_or_the_endpoint_is_offline(ledger):
    assert not ledger.may_ask(1_000.0)
    flight = ledger.send(10, 0.0)
    ledger.status(online=False, now=30.0)
    assert ledger.is_quiet(30.0)
    assert not ledger.may_ask(30.0)
    ledger.status(online=True, now=31.0)
    assert ledger.may_ask(31.0)
    ledger.drop(flight)
    assert not ledger.is_quiet(60.0)


def test_an_endpoint_that_is_offline_for_long_is_away_and_all_is_lost(ledger):
    before = ledger.send(10, 0.0)
    ledger.status(online=False, now=30.0)
    after = ledger.send(10, 31.0)
    ledger.status(online=False, now=60.0)
    assert ledger.lost(70.0) == []
    assert not ledger.is_away(70.0)
    assert ledger.lost(70.1) == [before, after]
    assert ledger.is_away(70.1)
    ledger.status(online=True, now=80.0)
    assert ledger.lost(5_000.0) == []
    assert not ledger.is_away(5_000.0)


def test_every_bundle_has_a_deadline(ledger):
    flight = ledger.send(10, 0.0)
    assert ledger.lost(10_000.0) == []
    assert ledger.lost(10_000.1) == [flight]


def test_a_late_result_is_learned_from_and_changes_nothing_else(ledger):
    flight = ledger.send(10, 0.0)
    ledger.drop(flight)
    ledger.land(flight, 4.0, 20.0)
    assert ledger.predict(10) == 4.0
    assert ledger.flights == []


def test_a_result_shows_that_the_endpoint_is_back(ledger):
    ledger.send(10, 0.0)
    ledger.status(online=False, now=30.0)
    ledger.land(ledger.send(10, 31.0), seconds=20.0, now=60.0)
    assert ledger.lost(75.0) == []


@pytest.mark.parametrize("name", ["factor", "grace", "unproven", "silence", "offline", "deadline"])
def test_a_number_that_is_not_positive(name):
    with pytest.raises(ValueError, match=rf"Losses\({name}=0\) must be positive"):
        Losses(**{name: 0})


@given(
    durations=st.lists(st.floats(0.1, 60), min_size=2, max_size=40),
    workers=st.integers(1, 8),
    queue=st.floats(0, 5_000),
)
def test_honest_workers_never_have_a_bundle_taken_for_lost(durations, workers, queue):
    """Whatever they wait for at first, as long as none takes three times as long as another."""
    longest = max(durations)
    durations = [max(each, longest / 3) for each in durations]
    ledger = Ledger(LOSSES)
    flights = [ledger.send(10, 0.0) for _ in durations]
    free = [queue] * workers
    ends = []
    for flight, seconds in zip(flights, durations, strict=True):
        free.sort()
        free[0] += seconds
        ends.append((free[0], seconds, flight))
    for end, seconds, flight in sorted(ends, key=lambda each: each[0]):
        assert flight not in ledger.lost(end)
        ledger.land(flight, seconds, end)


def test_bundles_of_an_earlier_process_come_before_all_of_this_one(ledger):
    mine = ledger.send(10, 0.0)
    first, second = ledger.adopt([(20, 7.0), (30, 8.0)], 5.0)
    assert ledger.flights == [first, second, mine]
    assert [flight.items for flight in ledger.flights] == [20, 30, 10]
    ledger.land(second, seconds=2.0, now=8.0)
    assert (first.begun, mine.begun) == (6.0, None)
    ledger.land(mine, seconds=100.0, now=110.0)
    assert first.begun == 6.0, "it was known to have begun"


def test_bundles_that_are_adopted_in_any_order_are_in_the_order_in_which_they_were_sent(ledger):
    mine = [ledger.send(10, 0.0), ledger.send(10, 1.0)]
    (third,) = ledger.adopt([(10, 9.0)], 5.0)
    second, first = ledger.adopt([(10, 8.0), (10, 7.0)], 6.0)
    assert ledger.flights == [first, second, third, *mine]


def test_a_bundle_of_this_process_proves_that_those_of_an_earlier_one_have_begun(ledger):
    (earlier,) = ledger.adopt([(10, 7.0)], 5.0)
    ledger.land(ledger.send(10, 6.0), seconds=10.0, now=50.0)
    assert earlier.begun == 40.0
    assert ledger.lost(75.1) == [earlier]
    assert ledger.adopt([], 80.0) == []
