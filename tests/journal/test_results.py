"""Results: the outcomes of a run in input order, wherever they are kept."""

from __future__ import annotations

import gc
import pickle
from datetime import UTC, datetime

import pytest
from journals import answer, failed, held, write

from langgraph_hpc_fanout import Failure, FanOutError, Journal, Outcome, Results, reducers
from langgraph_hpc_fanout.journal import log as log_module
from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.summary import RunSummary

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
    write(journal.log, *reversed(OUTCOMES))
    write(journal.log, *(answer(each.index, "Z", key="z") for each in OUTCOMES), run="another run")
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
    with held(journal.log):
        pass
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
    write(journal.log, OUTCOMES[0], run="r2")
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


def test_results_travel_and_are_read_there(journal):
    results = Results("r", [in_journal(journal, 0, 4)])
    assert list(results) == OUTCOMES
    assert list(pickle.loads(pickle.dumps(results))) == OUTCOMES


# -- several places an item -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ({"samples": 2}, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        ({"per_item": 4}, [(0, 0), (0, 0), (0, 0), (0, 0)]),
        ({"per_item": 4, "samples": 2}, [(0, 0), (0, 1), (0, 0), (0, 1)]),
    ],
)
def test_places_are_those_of_items_and_samples(journal, layout, expected):
    with held(journal.log) as log:
        log.begin("cached", layout)
        for place, each in enumerate(OUTCOMES):
            log.reuse("cached", place, log.find("", each.key).at)
    shards = [in_journal(journal, 0, 4) | layout]
    for results in (
        Results("cached", shards),
        Results("inline", [inline(0, 4) | layout]),
        Results.open(Results("cached", shards).reference()),
        Results.of(journal.directory, "cached"),
    ):
        assert [(each.index, each.sample) for each in results] == expected


# -- what there is so far ---------------------------------------------------------------------


def test_what_a_run_has_so_far(journal):
    assert list(Results.of(journal.directory, "r")) == OUTCOMES
    newest = Results.of(str(journal.directory))
    assert (newest.run, newest.ok, newest.failed) == ("another run", 4, 0)
    with held(journal.log) as log:
        log.begin("r2", {})
        log.append("r2", "", 7, answer(7))
        log.append("r2", "", 3, failed(3))
        so_far = Results.of(journal.directory)
        assert (so_far.run, so_far.ok, so_far.failed) == ("r2", 1, 1)
        assert [each.index for each in so_far] == [3, 7]
        assert [each.index for each in Results.open(so_far.reference())] == [3, 7]
        log.append("r2", "", 5, answer(5))
        log.append("r2", "", 9, answer(9))
        assert [each.index for each in so_far] == [3, 5, 7]
        assert len(Results.of(journal.directory, "r2")) == 4


def test_a_journal_without_that_run(tmp_path, journal):
    with pytest.raises(FileNotFoundError, match=r"There is no journal .*gone\.$"):
        Results.of(tmp_path / "gone")
    with pytest.raises(JournalError, match=r"has no run 'x', only \['r', 'another run'\]\."):
        Results.of(journal.directory, "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match=r"empty has no run yet\."):
        Results.of(tmp_path / "empty")
    with pytest.raises(JournalError, match=r"has no run of a fan-out 'x', only of \[None\]\."):
        Results.of(journal.directory, name="x")
    with pytest.raises(JournalError, match=r"has no run 'r' of a fan-out 'x', only of \[None\]\."):
        Results.of(journal.directory, "r", name="x")
    with pytest.raises(FileNotFoundError, match=r"There is no journal .*gone\.$"):
        Results.runs(tmp_path / "gone")
    assert Results.runs(tmp_path / "empty") == []


SWEPT = {"fan_out": "screen", "total": 50, "samples": 2, "per_item": 8, "started": 1_700_000_000.5}
LEVEL = {"fan_out": "screen_reduce_level_1", "total": 5, "level_of": "screen"}


@pytest.fixture
def runs(tmp_path):
    log = Journal(tmp_path / "runs").log
    with held(log):
        log.begin("a", SWEPT)
        log.begin("b", {"fan_out": "other", "total": 3})
        log.begin("c", {"fan_out": "screen", "total": 7})
        log.begin("d", LEVEL)
        log.append("a", "", 399, answer(49))
        log.append("a", "", 0, failed(0))
    with held(log):
        log.begin("a", {"fan_out": "screen"})  # a run that is resumed says less of itself
    return log.directory


def test_the_runs_of_a_journal(runs):
    began = datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    assert Results.runs(runs) == [
        RunSummary("a", "screen", 400, 1, 1, began, None),
        RunSummary("b", "other", 3, 0, 0, None, None),
        RunSummary("c", "screen", 7, 0, 0, None, None),
        RunSummary("d", "screen_reduce_level_1", 5, 0, 0, None, "screen"),
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "c"),
        ({"name": "screen"}, "c"),
        ({"name": "other"}, "b"),
        ({"name": "screen_reduce_level_1"}, "d"),
        ({"run": "a"}, "a"),
        ({"run": "a", "name": "screen"}, "a"),
        ({"run": "d"}, "d"),
    ],
)
def test_the_newest_run_of_a_fan_out(runs, asked, found):
    assert Results.of(runs, **asked).run == found


def test_how_many_outcomes_a_run_is_to_have(runs, journal):
    so_far = Results.of(runs, "a")
    assert (len(so_far), so_far.expected) == (2, 400)
    assert Results.open(so_far.reference()).expected == 400
    assert pickle.loads(pickle.dumps(so_far)).expected == 400
    assert Results("r", [inline(0, 4)]).expected == 4
    with held(journal.log) as log:
        log.begin("untold", {"fan_out": "screen"})
    assert Results.of(journal.directory, "untold").expected is None
