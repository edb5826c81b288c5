"""What is not yet written: lines keep the places they were given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.journal import unwritten
from langgraph_hpc_fanout.journal.unwritten import Unwritten

steps = st.lists(
    st.one_of(
        st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"")),
        st.just("rotate"),
        st.just("write"),
    ),
    max_size=20,
)


@repeatable
@given(steps)
def test_lines_are_read_until_they_are_written_where_they_were_said_to_be(steps):
    lines, given_out, disk = Unwritten(3), {}, {}
    for step in steps:
        if step == "rotate":
            lines.rotate()
        elif step == "write":
            for part in lines.take():
                assert part.start == len(disk.get(part.segment, b""))
                disk[part.segment] = disk.get(part.segment, b"") + part.data
                lines.written(part)
            assert len(lines) == 0
        else:
            given_out[lines.segment, lines.add(step + b"\n")] = step
        for (segment, offset), text in given_out.items():
            here = lines.read(segment, offset)
            assert here == text or disk[segment][offset:].startswith(text + b"\n")
    assert len(lines) == sum(len(part.data) for part in lines.take())


def test_what_is_added_while_others_are_written_comes_after_them():
    lines = Unwritten(1)
    lines.add(b"one\n")
    (part,) = lines.take()
    assert lines.add(b"two\n") == 4
    assert (bytes(part.data), part.end) == (b"one\n", 4)
    again, more = lines.take()
    assert again is part
    lines.written(part)
    lines.written(more)
    assert (len(lines), lines.take(), lines.add(b"three\n")) == (0, [], 8)


def test_a_segment_is_full_at_its_size(monkeypatch):
    monkeypatch.setattr(unwritten, "SEGMENT_BYTES", 8)
    lines = Unwritten(1)
    lines.add(b"one\n")
    assert not lines.is_full
    lines.add(b"two\n")
    assert lines.is_full
    lines.rotate()
    assert (lines.segment, lines.is_full, lines.add(b"three\n")) == (2, False, 0)
