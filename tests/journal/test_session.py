"""A session: lines have their places from the beginning, and get there in segments of its own."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout.journal import line, unwritten
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.location import unpack
from langgraph_hpc_fanout.journal.owner import Ownership
from langgraph_hpc_fanout.journal.segments import path_of
from langgraph_hpc_fanout.journal.session import Session

BODY = b'{"a":1}'


@pytest.fixture
def begun():
    return []


@pytest.fixture
def session(tmp_path, begun):
    ownership = Ownership.claim(tmp_path, takeover=False, clock=lambda: 1e9)
    return Session(tmp_path, ownership, 7, lambda *told: begun.append(told))


def add(session, run="r", place=0):
    return session.add(line.VALUE, run, place, line.NO_DIGEST, BODY, ok=True)


def store(session):
    for part in session.unwritten.take():
        session.store(part)
        session.unwritten.written(part)


def test_lines_get_where_they_were_said_to_be(session, tmp_path):
    session.begin("r", {})
    where = [unpack(add(session, place=place)) for place in range(3)]
    assert not path_of(tmp_path, 7).exists()
    store(session)
    store(session)
    data = path_of(tmp_path, 7).read_bytes()
    assert session.ends == {7: len(data)}
    for place, (segment, offset) in enumerate(where):
        assert segment == 7
        assert line.decode(data[offset : data.index(b"\n", offset)]).place == place


def test_runs_are_numbered_anew_in_each_segment(session, begun, monkeypatch):
    session.begin("r", {"name": "screen"})
    session.begin("s", {})
    session.begin("r", {"name": "late"})
    assert begun == [(7, 1, "r", {"name": "screen"}), (7, 2, "s", {})]
    monkeypatch.setattr(unwritten, "SEGMENT_BYTES", 1)
    assert unpack(add(session, "s"))[0] == 8
    assert begun[2:] == [(8, 1, "s", {})]
    store(session)
    assert session.has_made(7)
    assert session.has_made(8)


def test_a_run_that_has_not_begun_has_no_lines(session, begun):
    with pytest.raises(KeyError):
        add(session)
    assert (len(session.unwritten), begun) == (0, [])


def test_anothers_segment_is_left_alone(session, tmp_path):
    path_of(tmp_path, 7).parent.mkdir()
    path_of(tmp_path, 7).write_bytes(b"theirs")
    session.begin("r", {})
    for _ in range(2):
        with pytest.raises(JournalError, match=r"000007\.jsonl was made by another process"):
            store(session)
    assert not session.has_made(7)
    assert path_of(tmp_path, 7).read_bytes() == b"theirs"
