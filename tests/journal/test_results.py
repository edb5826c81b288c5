"""Results: the outcomes of a run in input order, wherever they are kept."""

from __future__ import annotations

import gc

import pytest

from langgraph_hpc_fanout import Failure, FanOutError, Journal, Outcome, Results, reducers
from langgraph_hpc_fanout.journal import log as log_module
from langgraph_hpc_fanout.journal.columns import to_columns

OUTCOMES = [
    Outcome("a", 0, ok=True, value="A"),
    Outcome("b", 1, ok=False, error=Failure("timeout", "too slow")),
    Outcome("c", 2, ok=True, value="C"),
    Outcome("d", 3, ok=True, value="D"),
]


def shard(start, stop, **where):
    ok = sum(outcome.ok for outcome in OUTCOMES[start:stop])
    return {"start": start, "stop": stop, "ok": ok, "failed": stop - start - ok, **where}


def inline(start, stop):
    return shard(start, stop, outcomes=to_columns(OUTCOMES[start:stop]))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    for outcome in reversed(OUTCOMES):
        journal.log.append("r", "", outcome.index, outcome)
        journal.log.append(
            "another run", "", outcome.index, Outcome("z", outcome.index, ok=True, value="Z")
        )
    journal.log.flush()
    return journal


def in_journal(journal, start, stop):
    return shard(start, stop, journal=str(journal.directory))


def test_outcomes_in_graph_state():
    results = Results("r", [inline(0, 2), inline(2, 4)])
    assert (results.run, results.journal) == ("r", None)
    assert (len(results), results.ok, results.failed) == (4, 3, 1)
    assert repr(results) == "Results('r', 3 ok, 1 failed)"
    assert list(results) == OUTCOMES


def test_outcomes_in_a_journal(journal):
    results = Results("r", [in_journal(journal, 0, 3), in_journal(journal, 3, 4)])
    assert results.journal == str(journal.directory)
    assert (len(results), results.ok, results.failed) == (4, 3, 1)
    assert list(results) == OUTCOMES


def test_a_run_that_outgrew_graph_state_half_way(journal):
    assert list(Results("r", [inline(0, 1), in_journal(journal, 1, 4)])) == OUTCOMES


@pytest.mark.parametrize("kept", ["in state", "in a journal"])
def test_they_can_be_read_as_often_as_one_likes(journal, kept):
    results = Results("r", [inline(0, 4) if kept == "in state" else in_journal(journal, 0, 4)])
    first = iter(results)
    assert next(first) == OUTCOMES[0]
    assert list(results) == OUTCOMES
    assert list(results) == OUTCOMES
    assert list(first) == OUTCOMES[1:]


def test_a_reference_opens_the_results_again(journal):
    reference = reducers.reference(Results("r", [in_journal(journal, 0, 4)]))
    assert reference == {
        "run": "r",
        "journal": str(journal.directory),
        "total": 4,
        "ok": 3,
        "failed": 1,
    }
    results = Results.open(reference)
    assert (len(results), results.ok, results.failed) == (4, 3, 1)
    assert list(results) == OUTCOMES
    assert results.reference() == reference


def test_outcomes_in_state_cannot_be_referred_to():
    with pytest.raises(ValueError, match="give FanOutNode one"):
        Results("r", [inline(0, 4)]).reference()


def test_a_run_of_nothing():
    results = Results("r", [inline(0, 0)])
    assert (len(results), list(results)) == (0, [])
    assert results.reference()["total"] == 0


def test_a_journal_that_is_gone(tmp_path):
    reference = {"run": "r", "journal": str(tmp_path / "gone"), "total": 1, "ok": 1, "failed": 0}
    with pytest.raises(FileNotFoundError, match=r"journal .*gone of run r is gone\.$"):
        Results.open(reference)


def test_the_reference_of_an_empty_run_opens_empty_results(tmp_path):
    journal = Journal(tmp_path / "never written")
    journal.log.flush()
    reference = Results("r", [in_journal(journal, 0, 0)]).reference()
    assert list(Results.open(reference)) == []


def test_the_journal_is_indexed_once_for_all_shards(journal, monkeypatch):
    class Counted(log_module.Log):
        made = 0

        def __init__(self, directory):
            Counted.made += 1
            super().__init__(directory)

    results = Results("r", [in_journal(journal, index, index + 1) for index in range(4)])
    journal._log = None
    gc.collect()
    monkeypatch.setattr(log_module, "Log", Counted)
    assert list(results) == OUTCOMES
    assert Counted.made == 1


def test_what_is_appended_later_is_seen(journal):
    reference = {"journal": str(journal.directory), "total": 1, "ok": 1, "failed": 0}
    results = Results.open({"run": "r2", **reference})
    with pytest.raises(FanOutError, match="has 0 of the 1 outcomes that run r2 reported"):
        list(results)
    journal.log.append("r2", "", 0, OUTCOMES[0])
    journal.log.flush()
    assert list(results) == OUTCOMES[:1]


@pytest.mark.parametrize("kept", ["in state", "in a journal", "in both"])
@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (0, 1), (3, 9), (2, 2), (4, 9)])
def test_a_slice_of_the_outcomes(journal, kept, start, stop):
    shards = {
        "in state": [inline(0, 3), inline(3, 4)],
        "in a journal": [in_journal(journal, 0, 3), in_journal(journal, 3, 4)],
        "in both": [inline(0, 2), in_journal(journal, 2, 4)],
    }
    assert list(Results("r", shards[kept]).slice(start, stop)) == OUTCOMES[start:stop]
