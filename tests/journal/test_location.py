"""Locations: segment and offset in one number, whose order is that of their worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.journal.location import OK, pack, unpack

segments = st.integers(1, 2**23 - 1)
offsets = st.integers(0, 2**40 - 1)


@repeatable
@given(segments, offsets, st.booleans())
def test_what_was_packed_is_unpacked(segment, offset, ok):
    at = pack(segment, offset, ok=ok)
    assert unpack(at) == (segment, offset)
    assert bool(at & OK) is ok
    assert 0 < at < 2**64


@repeatable
@given(*[st.tuples(st.booleans(), segments, offsets)] * 2)
def test_an_answer_is_greater_than_a_failure_and_the_newer_than_the_older(one, other):
    def at(ok, segment, offset):
        return pack(segment, offset, ok=ok)

    assert (at(*one) < at(*other)) is (one < other)
