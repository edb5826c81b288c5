import itertools

from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.dispatch.factoring import Factoring
from langgraph_hpc_fanout.endpoints.protocol import Bundling


def sizes_of(waiting, bundling):
    factoring, sizes = Factoring(), []
    while waiting:
        size = min(factoring.size(waiting, bundling), waiting)
        sizes.append(size)
        waiting -= size
    return sizes


def test_bundles_are_large_first_and_small_at_the_end():
    sizes = sizes_of(5_000, Bundling(10_000, window=64, workers=2))
    assert sizes == [1216, 1216, 640, 640, 320, 320, 128, 128, 64, 64, 64, 64, 64, 64, 4, 4]


def test_what_fits_into_the_windows_goes_in_one_round():
    assert sizes_of(100, Bundling(1_000, window=64, workers=2)) == [50, 50]
    assert sizes_of(3, Bundling(1_000, window=64, workers=2)) == [2, 1]
    assert sizes_of(1, Bundling(1_000, window=64, workers=8)) == [1]


def test_bundles_that_would_be_over_at_once_are_larger():
    sizes = sizes_of(5_000, Bundling(10_000, window=64, min_items=640, workers=2))
    assert sizes == [1216, 1216, 640, 640, 640, 640, 4, 4]


def test_without_a_window_bundles_are_full():
    assert sizes_of(23, Bundling(5)) == [5, 5, 5, 5, 3]


def test_no_bundle_is_larger_than_the_endpoint_allows():
    assert max(sizes_of(100_000, Bundling(500, window=64, workers=2))) == 500


def test_a_round_begins_anew_when_more_comes():
    factoring, bundling = Factoring(), Bundling(10_000, window=10, workers=4)
    assert factoring.size(8, bundling) == 2
    assert factoring.size(8_000, bundling) == 1_000


@given(
    waiting=st.integers(1, 20_000),
    most=st.integers(2, 5_000),
    window=st.integers(1, 512),
    workers=st.integers(1, 64),
)
def test_sizes_never_grow_and_take_everything(waiting, most, window, workers):
    sizes = sizes_of(waiting, Bundling(most, window=window, workers=workers))
    assert sum(sizes) == waiting
    assert all(1 <= size <= most for size in sizes)
    assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))
    # The last round leaves no worker more to do than one window, or one item.
    assert sizes[-1] <= max(window, 1)
