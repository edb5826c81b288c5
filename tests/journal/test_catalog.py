"""The catalog: what is put one by one is what is read in at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from journals import content_key
from properties import repeatable

from langgraph_hpc_fanout.journal import line, scan
from langgraph_hpc_fanout.journal.catalog import Catalog, RunRecord
from langgraph_hpc_fanout.journal.location import OK, pack
from langgraph_hpc_fanout.journal.segments import Block

kinds = st.sampled_from([line.VALUE, line.ERROR, line.AGAIN, line.STILL])
told = st.lists(st.tuples(kinds, st.integers(1, 2), st.integers(0, 30), st.integers(0, 9)))


@repeatable
@given(told)
def test_what_is_put_one_by_one_is_what_is_read_in_at_once(lines):
    by_one, at_once, data = Catalog(), Catalog(), b""
    for catalog in (by_one, at_once):
        for number in (1, 2):
            catalog.begin(7, number, f"run{number}", {"number": number})
    for kind, number, place, asked in lines:
        digest = content_key(asked)
        at = pack(7, len(data), ok=kind in (line.VALUE, line.AGAIN))
        by_one.put(f"run{number}", place, at)
        if kind in (line.VALUE, line.ERROR):
            by_one.index.put(line.fingerprint_of(digest), at)
        data += line.encode(kind, number, place, digest, b'{"a":1}')
    if data:
        at_once.put_all(7, scan.heads_of(Block(0, data)))
    assert at_once.runs() == by_one.runs()
    for asked in range(10):
        assert at_once.best(content_key(asked)) == by_one.best(content_key(asked))
    for run in ("run1", "run2"):
        for place in range(40):
            assert at_once.at_place(run, place) == by_one.at_place(run, place)


def test_runs_are_in_the_order_in_which_they_began():
    catalog = Catalog()
    assert catalog.runs() == []
    catalog.begin(1, 1, "b", {})
    catalog.begin(1, 2, "a", {})
    catalog.put("b", 4, pack(1, 0))
    catalog.put("b", 2, pack(1, 9, ok=True))
    catalog.begin(2, 1, "b", {"again": True})
    assert catalog.runs() == [RunRecord("b", {"again": True}, 5, 1, 1), RunRecord("a", {}, 0, 0, 0)]
    assert [each.outcomes for each in catalog.runs()] == [2, 0]
    assert [catalog.run_of(*each) for each in [(1, 1), (1, 2), (2, 1), (2, 2)]] == [*"bab", ""]


def test_an_answer_whose_run_is_not_known_is_found_by_its_question():
    catalog = Catalog()
    answered = line.encode(line.VALUE, 5, 0, content_key(1), b'{"index":0}')
    catalog.put_all(1, scan.heads_of(Block(0, answered)))
    assert catalog.best(content_key(1)) == pack(1, 0) | OK
    assert catalog.runs() == []


def test_a_place_takes_about_8_bytes():
    catalog = Catalog()
    catalog.begin(1, 1, "r", {})
    for place in range(10_000):
        catalog.put("r", place, pack(1, place))
    assert len(catalog.places("r")) <= 11_250
    catalog.put("r", 1_000_000, pack(1, 0))
    assert len(catalog.places("r")) == 1_000_001


def test_notes_are_kept_in_order():
    catalog = Catalog()
    catalog.note(5)
    noted = line.encode(line.NOTED, 0, 0, line.NO_DIGEST, b'{"note":"a"}')
    catalog.put_all(1, scan.heads_of(Block(0, noted * 2)))
    assert catalog.notes() == [5, pack(1, 0), pack(1, len(noted))]
