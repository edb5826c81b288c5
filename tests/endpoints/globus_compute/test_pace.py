from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.endpoints.globus_compute.pace import Pace, parts_of


def test_nothing_is_known_at_first():
    bundling = Pace(window=64, workers=None, seconds=60.0).bundling()
    assert (bundling.max_items, bundling.window) == (256, 64)
    assert (bundling.workers, bundling.max_bundles) == (2, 4)
    assert bundling.queues


def test_bundles_are_made_to_last_as_long_as_asked():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 256, 8.0, 10_000, now=10.0)  # 32 a second
    assert pace.bundling().max_items == 1920
    for _ in range(20):
        pace.learn("a", 2_000, 500.0, 10_000, now=20.0)  # 4 a second
    assert 235 <= pace.bundling().max_items <= 245


def test_a_small_bundle_is_not_taken_for_a_slow_one():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 1, 6.4, 1_000, now=1.0)
    assert pace.bundling().max_items == 600
    pace.learn("a", 640, 64.0, 1_000, now=1.0)
    before = pace.bundling().max_items
    pace.learn("a", 1, 300.0, 1_000, now=1.0)
    assert pace.bundling().max_items == before


def test_a_bundle_keeps_its_worker_until_the_next_can_be_there():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 640, 2.0, 10_000, now=1.0)  # 320 a second
    assert pace.bundling().min_items == 480
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 640, 640.0, 10_000, now=1.0)
    assert pace.bundling().min_items == 64


def test_a_first_bundle_that_waited_for_its_server_does_not_make_the_next_ones_small():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 256, 900.0, 10_000, now=900.0)
    assert pace.bundling().max_items == 64
    for number in range(10):
        pace.learn("a", 64, 5.0, 10_000, now=900.0 + number)
    assert pace.bundling().max_items > 300


def test_answers_that_were_too_large_make_the_next_bundles_smaller():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.too_large(200)
    assert pace.bundling().max_items == 100


def test_workers_with_long_bundles_are_not_forgotten_between_them():
    pace = Pace(window=8, workers=None, seconds=600.0)
    for number in range(10):
        pace.learn(f"host:{number}", 8, 700.0, 100, now=60.0 * number)
    assert pace.workers == 10


def test_large_answers_make_small_bundles():
    pace = Pace(window=64, workers=2, seconds=60.0)
    pace.learn("a", 100, 0.1, 100 * 70_000, now=1.0)
    assert pace.bundling().max_items == 100


def test_every_worker_that_is_heard_of_makes_room_for_more_bundles():
    pace = Pace(window=8, workers=None, seconds=60.0)
    for number in range(10):
        pace.learn(f"host:{number}", 8, 1.0, 100, now=float(number))
    assert pace.bundling().max_bundles == 20
    pace.learn("host:0", 8, 1.0, 100, now=1_000.0)
    assert pace.bundling().max_bundles == 4
    assert Pace(8, workers=32, seconds=60.0).bundling().max_bundles == 64


@given(
    sizes=st.lists(st.integers(0, 100), max_size=80),
    most_bytes=st.integers(100, 400),
    most_items=st.integers(1, 20),
)
def test_parts_hold_everything_once_in_order_and_no_more_than_they_may(
    sizes, most_bytes, most_items
):
    parts = parts_of(sizes, most_bytes, most_items)
    assert [position for part in parts for position in part] == list(range(len(sizes)))
    for part in parts:
        assert 1 <= len(part) <= most_items
        assert sum(sizes[position] for position in part) <= most_bytes
