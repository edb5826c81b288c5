"""The journal's file: what is written is found again, whatever happened in between."""

from __future__ import annotations

import gc
import shutil
import tempfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import outcomes, repeatable

from langgraph_hpc_fanout.journal.log import FILE, Log, log_at
from langgraph_hpc_fanout.records import Failure, Outcome


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def log(directory):
    return Log(directory)


def answer(index, value="x", key=None, **more):
    return Outcome(key or f"k{index}", index, ok=True, value=value, attempts=1, **more)


def failed(index, key=None):
    return Outcome(key or f"k{index}", index, ok=False, error=Failure("timeout", "too slow"))


def write(log, *some, run="r", scope=""):
    for outcome in some:
        log.append(run, scope, outcome.index, outcome)
    log.flush()


def reopened(log):
    """What another process would see."""
    other = Log(log.directory)
    other.refresh()
    return other


def found(log, *keys, scope=""):
    """The values that a log knows for these keys."""
    hits = [log.find(scope, key) for key in keys]
    return [None if hit is None else hit[1].value for hit in hits]


# -- writing and reading ----------------------------------------------------------------------


def test_nothing_is_written_before_the_first_flush(log, directory):
    log.append("r", "", 0, answer(0))
    assert log.find("", "k0") is None
    assert not directory.exists()
    log.flush()
    assert found(log, "k0") == ["x"]


def test_a_flush_with_nothing_to_write_makes_no_directory(log, directory):
    log.flush()
    log.refresh()
    assert list(log.outcomes("r")) == []
    assert not directory.exists()


@repeatable
@given(st.lists(outcomes, max_size=4))
def test_outcomes_come_back_as_they_were(drawn):
    some = [replace(each, index=index) for index, each in enumerate(drawn)]
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory))
        write(log, *some)
        assert list(log.outcomes("r")) == some
        assert list(reopened(log).outcomes("r")) == some


def test_outcomes_come_in_input_order_and_those_that_are_missing_are_passed_over(log):
    write(log, answer(5, "f"), answer(0, "a"))
    write(log, answer(3, "d"))
    for each in (log, reopened(log)):
        assert [(one.index, one.value) for one in each.outcomes("r")] == [
            (0, "a"),
            (3, "d"),
            (5, "f"),
        ]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, None, [0, 1, 2, 3]), (1, 3, [1, 2]), (2, 99, [2, 3]), (4, 9, []), (2, 2, [])],
)
def test_a_range_of_outcomes(log, start, stop, expected):
    write(log, *(answer(index) for index in range(4)))
    assert [each.index for each in log.outcomes("r", start, stop)] == expected


def test_runs_are_kept_apart(log):
    write(log, answer(0, "old"), run="a")
    write(log, answer(0, "new"), run="b")
    assert [each.value for each in log.outcomes("a")] == ["old"]
    assert [each.value for each in log.outcomes("b")] == ["new"]
    assert list(log.outcomes("c")) == []


def test_of_two_outcomes_of_an_item_the_last_counts(log):
    write(log, failed(0))
    write(log, answer(0))
    assert [each.ok for each in reopened(log).outcomes("r")] == [True]


# One line is read in pieces of 8 KiB: shorter, longer and exactly as long as one and as two.
@pytest.mark.parametrize("length", [4000, 8191, 8192, 8193, 16384, 16385, 100_000])
def test_long_outcomes(log, length):
    write(log, answer(0, ""), answer(1, "after"))
    overhead = len((log.directory / FILE).read_bytes().split(b"\n")[0]) + 1
    long = answer(0, "y" * (length - overhead))
    write(log, long, answer(1, "after"), run="s")
    line = (log.directory / FILE).read_bytes().split(b"\n")[2]
    assert len(line) + 1 == length
    assert list(log.outcomes("s")) == [long, answer(1, "after")]


# -- the look-up ------------------------------------------------------------------------------


def test_failures_are_no_answers(log):
    write(log, failed(0))
    assert found(log, "k0") == [None]
    write(log, answer(0))
    write(log, failed(0))
    assert found(log, "k0") == ["x"]
    assert found(reopened(log), "k0") == ["x"]


def test_the_newest_answer_to_a_key_is_found(log):
    write(log, answer(0, "old", key="k"))
    write(log, answer(1, "new", key="k"))
    assert found(log, "k") == ["new"]
    assert found(reopened(log), "k") == ["new"]


def test_scopes_are_kept_apart(log):
    write(log, answer(0, "a", key="k"), scope="screen")
    write(log, answer(0, "b", key="k"), scope="rank")
    assert found(log, "k", scope="screen") == ["a"]
    assert found(log, "k", scope="rank") == ["b"]
    assert found(log, "k") == [None]


def test_an_answer_of_another_item_is_reused(log):
    write(log, answer(0, "a", meta={"raw": "b"}, endpoint="e", latency=2.0), run="old")
    at, _ = log.find("", "k0")
    log.reuse("new", 7, at)
    log.flush()
    for each in (log, reopened(log)):
        (outcome,) = each.outcomes("new")
        assert (outcome.index, outcome.value, outcome.attempts) == (7, "a", 0)
        assert outcome.meta == {"raw": "b", "cached": True}
        assert [one.meta for one in each.outcomes("old")] == [{"raw": "b"}]
        assert each.find("", "k0")[0] == at


def test_an_answer_of_the_same_item_in_an_earlier_run_is_reused(log):
    write(log, answer(0, "a"), run="old")
    at, _ = log.find("", "k0")
    log.reuse("new", 0, at)
    log.flush()
    (outcome,) = log.outcomes("new")
    assert (outcome.index, outcome.value) == (0, "a")
    assert (outcome.attempts, outcome.meta) == (0, {"cached": True})


# -- torn tails -------------------------------------------------------------------------------

LINES = [answer(0, "ünsere 水"), failed(1), answer(2, "c")]


def test_a_torn_tail_costs_its_line_only_wherever_it_is_torn(tmp_path):
    whole = Log(tmp_path / "whole")
    ends = [0]
    for outcome in LINES:
        write(whole, outcome)
        ends.append((whole.directory / FILE).stat().st_size)
    data = (whole.directory / FILE).read_bytes()
    assert len(data) == ends[-1] > 400

    torn = tmp_path / "torn"
    torn.mkdir()
    for cut in range(len(data) + 1):
        (torn / FILE).write_bytes(data[:cut])
        complete = LINES[: sum(end <= cut for end in ends) - 1]
        log = Log(torn)
        log.refresh()
        assert list(log.outcomes("r")) == complete, cut
        write(log, answer(3, "new"))
        for each in (log, reopened(log)):
            assert list(each.outcomes("r")) == [*complete, answer(3, "new")], cut
            known = {one.key: one.value for one in complete if one.ok}
            assert found(each, "k0", "k1", "k2", "k3") == [
                known.get("k0"),
                None,
                known.get("k2"),
                "new",
            ], cut
        lines = (torn / FILE).read_bytes().splitlines()
        assert [orjson.loads(line)["outcome"]["key"] for line in lines] == [
            *(one.key for one in complete),
            "k3",
        ], cut


def test_a_tail_of_zeros_is_torn(log):
    write(log, LINES[0])
    with (log.directory / FILE).open("ab") as file:
        file.write(bytes(300))
    other = reopened(log)
    write(other, LINES[2])
    assert list(reopened(log).outcomes("r")) == [LINES[0], LINES[2]]


def test_a_reader_leaves_a_line_alone_that_is_being_written(log):
    write(log, LINES[0])
    file = log.directory / FILE
    line = file.read_bytes().replace(b'"k0"', b'"k1"').replace(b'"index":0', b'"index":1')
    for half in (line[:40], line[40:]):
        with file.open("ab") as writer:
            writer.write(half)
        reader = reopened(log)
    assert found(reader, "k0", "k1") == ["ünsere 水"] * 2


def test_a_damaged_line_costs_no_other(log):
    write(log, *LINES)
    file = log.directory / FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"\0" + lines[1][1:] + lines[2])
    assert found(reopened(log), "k0", "k2") == ["ünsere 水", "c"]


# -- several writers --------------------------------------------------------------------------


def test_a_log_sees_what_another_has_appended(log):
    other = Log(log.directory)
    write(log, answer(0, "a"))
    write(other, answer(1, "b"))
    assert found(other, "k0", "k1") == ["a", "b"]
    write(log, answer(2, "c"))
    assert found(log, "k0", "k1", "k2") == ["a", "b", "c"]
    other.refresh()
    assert [each.value for each in other.outcomes("r")] == ["a", "b", "c"]


def test_many_threads_may_write(log):
    def work(thread):
        for number in range(50):
            outcome = answer(number, thread, key=f"{thread}/{number}")
            log.append(f"run{thread}", "", number, outcome)
            log.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in (log, reopened(log)):
        for thread in range(4):
            assert [one.value for one in each.outcomes(f"run{thread}")] == [thread] * 50
            assert found(each, f"{thread}/49") == [thread]


# -- trouble with the disk --------------------------------------------------------------------


def test_a_disk_that_refuses_makes_nothing_forgotten(log, directory):
    directory.write_text("in the way")
    log.append("r", "", 0, answer(0))
    for _ in range(2):
        with pytest.raises(OSError, match="journal"):
            log.flush()
    directory.unlink()
    log.append("r", "", 1, answer(1))
    log.flush()
    assert found(reopened(log), "k0", "k1") == ["x", "x"]


def test_a_full_disk_makes_nothing_forgotten(log, directory):
    directory.mkdir()
    (directory / FILE).symlink_to("/dev/full")
    log.append("r", "", 0, answer(0))
    with pytest.raises(OSError, match="No space left"):
        log.flush()
    assert found(log, "k0") == [None]
    (directory / FILE).unlink()
    log.flush()
    assert found(reopened(log), "k0") == ["x"]


def test_a_write_that_stopped_half_way_is_made_good(log):
    write(log, LINES[0])
    file = log.directory / FILE
    before = file.read_bytes()
    line = before.replace(b'"k0"', b'"k9"')
    for cut in (0, 1, len(line) // 2, len(line) - 1):
        file.write_bytes(before + line[:cut])
        writer = Log(log.directory)
        write(writer, LINES[2])
        assert list(reopened(log).outcomes("r")) == [LINES[0], LINES[2]]


def test_a_writer_makes_its_own_broken_write_good(log):
    write(log, LINES[0])
    with (log.directory / FILE).open("ab") as file:
        file.write(b'{"run":"r","sco')
    write(log, LINES[2])
    for each in (log, reopened(log)):
        assert list(each.outcomes("r")) == [LINES[0], LINES[2]]


def test_a_journal_that_was_deleted_starts_afresh(log):
    write(log, answer(0, "old"))
    assert found(log, "k0") == ["old"]
    shutil.rmtree(log.directory)
    write(log, *(answer(index, "new") for index in range(1, 4)))
    assert found(log, "k0", "k1", "k3") == [None, "new", "new"]
    assert found(reopened(log), "k0", "k1", "k3") == [None, "new", "new"]


def test_an_outcome_cut_off_behind_the_logs_back_is_an_error(log):
    write(log, answer(0), answer(1))
    file = log.directory / FILE
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(OSError, match="ends in the middle of an outcome"):
        log.find("", "k1")


# -- one log a directory ----------------------------------------------------------------------


def test_a_directory_has_one_log_in_a_process(tmp_path):
    one, again, other = (log_at(tmp_path / name) for name in ("a", "a", "b"))
    assert one is again
    assert one is not other
    write(one, answer(0))
    last = weakref.ref(one)
    del one, again
    gc.collect()
    assert last() is None
    anew = log_at(tmp_path / "a")
    anew.refresh()
    assert found(anew, "k0") == ["x"]
