"""What a run has used of its budget is in its journal, and little is written for that."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout import Budget
from langgraph_hpc_fanout.dispatch.costs.budget import Past, Purse
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.runs.passbook import NOTE, Passbook

ONE = Charge(requests=1)


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "journal")
    log.acquire()
    yield log
    log.release()


def spend(purse, now, charge=ONE):
    assert purse.reserve(charge, now)
    purse.settle(charge, charge)


def notes(log):
    return list(log.notes(NOTE))


def test_the_newest_note_of_the_run_counts(log):
    purse = Purse(Budget(requests=10, seconds=100))
    book = Passbook("mine")
    for now in (5.0, 6.0, 7.0):
        spend(purse, now)
        book.note(log, purse, now)
    other = Purse(None)
    spend(other, 0.0)
    Passbook("another").note(log, other, 8.0)
    assert len(notes(log)) == 4
    log.flush()
    assert Passbook("mine").past(log) == Past(Charge(requests=3), 2.0)
    assert Passbook("new").past(log) == Past(NO_CHARGE, 0.0)


def test_what_is_in_flight_counts_as_it_was_reserved(log):
    purse = Purse(Budget(tokens=100))
    assert purse.reserve(Charge(40, 5, 1), 0.0)
    book = Passbook("mine")
    book.note(log, purse, 1.0)
    assert book.past(log).charge == Charge(40, 5, 1)


def test_nothing_is_written_without_news(log):
    purse = Purse(None)
    book = Passbook("mine")
    book.note(log, purse, 0.0)
    book.note(log, purse, 1.0, at_once=True)
    assert notes(log) == []
    spend(purse, 2.0)
    for now in (2.0, 3.0, 4.0):
        book.note(log, purse, now)
    book.note(log, purse, 5.0, at_once=True)
    assert len(notes(log)) == 1


def test_time_alone_is_news_where_it_is_limited(log):
    """Of a run that waits for a model to start, say, or for what is in flight."""
    purse = Purse(Budget(seconds=100))
    book = Passbook("mine")
    spend(purse, 0.0)
    for now in (0.0, 1.0, 2.0):
        book.note(log, purse, now)
    assert book.past(log) == Past(ONE, 2.0)
    book.note(log, purse, 2.0078125, at_once=True)
    assert book.past(log) == Past(ONE, 2.0078125)


def test_what_leaves_at_once_is_noted_at_once(log):
    """And then nothing for as long as after any other note."""
    purse = Purse(None)
    book = Passbook("mine")
    spend(purse, 0.0)
    book.note(log, purse, 0.0)
    spend(purse, 1000.0, Charge(requests=150_000))
    book.note(log, purse, 1000.0, at_once=True)
    assert book.past(log).charge.requests == 150_001
    spend(purse, 1009.0)
    book.note(log, purse, 1009.0)
    assert book.past(log).charge.requests == 150_001
    book.note(log, purse, 1011.0)
    assert book.past(log).charge.requests == 150_002


def test_a_long_run_writes_little_and_a_kill_forgets_little(log):
    """Ten hours of one request a second, looked at twice a second."""
    purse = Purse(None)
    book = Passbook("mine")
    forgotten = 0.0
    for half_second in range(20 * 3600):
        now = half_second / 2
        if half_second % 2 == 0:
            spend(purse, now)
        book.note(log, purse, now)
        written = book.past(log).charge.requests if half_second % 7200 == 7199 else None
        if written is not None:
            forgotten = max(forgotten, 1 - written / purse.spent.requests)
    assert len(notes(log)) < 1000
    assert forgotten < 0.011
    spend(purse, 36_000.0)
    book.note(log, purse, 36_000.0, at_once=True)
    assert book.past(log).charge == purse.spent


def test_a_journal_of_somebody_else_takes_no_note(tmp_path):
    purse = Purse(None)
    spend(purse, 0.0)
    with pytest.raises(JournalError, match="not held by this process"):
        Passbook("mine").note(Log(tmp_path / "journal"), purse, 0.0)
