"""Fit: what Arrow would take and lose a part of."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.journal.export.fit import misfit_of

POINT = pa.struct([("x", pa.int64()), ("tags", pa.list_(pa.string()))])

points = st.fixed_dictionaries(
    {"x": st.integers(-(2**63), 2**63 - 1) | st.none(), "tags": st.lists(st.text()) | st.none()}
)


@repeatable
@given(st.lists(points | st.none(), max_size=5))
def test_what_fits_comes_back_whole(values):
    misfit = misfit_of(POINT)
    assert [misfit(value) for value in values] == [None] * len(values)
    assert pa.array(values, POINT).to_pylist() == values


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 1.5),
        (POINT, {"x": 1, "y": 2}),
        (POINT, ""),
        (POINT, {"tags": "letters"}),
        (pa.list_(pa.int8()), [1, 1.5]),
        (pa.large_list(POINT), [{"x": 0.5}]),
    ],
)
def test_what_arrow_would_take_and_change(kind, value):
    assert pa.array([value], kind).to_pylist() != [value]
    assert misfit_of(kind)(value) is not None


@pytest.mark.parametrize("kind", [pa.string(), pa.bool_(), pa.timestamp("s")])
def test_types_that_lose_nothing(kind):
    assert misfit_of(kind) is None


def test_nothing_fits_everywhere():
    assert [misfit_of(kind)(None) for kind in (pa.int64(), POINT, pa.list_(POINT))] == [None] * 3
