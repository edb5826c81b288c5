"""The log: what was appended is found again, whatever happened in between."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import tempfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import (
    answer,
    content_key,
    failed,
    found,
    held,
    python,
    reopened,
    segment_files,
    values,
    write,
)
from properties import outcomes, repeatable

from langgraph_hpc_fanout.journal import unwritten
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.line import digest_of
from langgraph_hpc_fanout.journal.location import unpack
from langgraph_hpc_fanout.journal.log import Log, log_at
from langgraph_hpc_fanout.journal.owner import FILE as OWNER
from langgraph_hpc_fanout.journal.segments import Readers


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def log(directory):
    return Log(directory)


# -- writing and reading ----------------------------------------------------------------------


def test_what_is_appended_is_found_before_it_is_written(log):
    with held(log):
        log.begin("r", {})
        at = log.append("r", "", 0, answer(0))
        assert log.unwritten > 100
        assert not (log.directory / "segments").exists()
        hit = log.find("", "k0")
        assert (hit.at, hit.run, hit.place, hit.outcome) == (at, "r", 0, answer(0))
        assert log.read(at) == answer(0)
        assert list(log.outcomes("r")) == [answer(0)]
        log.flush()
        assert log.unwritten == 0
        assert log.find("", "k0") == hit
        assert reopened(log).find("", "k0") == hit


def test_one_who_writes_nothing_leaves_no_segment(log, directory):
    log.refresh()
    assert (log.runs(), log.unwritten, directory.exists()) == ([], 0, False)
    log.flush()
    log.release()
    assert not directory.exists()
    with held(log):
        log.flush()
    assert [path.name for path in directory.iterdir()] == ["journal.json"]


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
    assert log.count("r", start, 99 if stop is None else stop) == len(expected)


def test_whether_a_question_is_answered(log):
    """Also one that was answered before it failed, and by whoever reads the journal later."""
    write(log, answer(0, key=content_key(0)), failed(1, key=content_key(1)))
    write(log, failed(0, key=content_key(0)))
    write(log, answer(2, key="mine"), scope="fan-out")
    for each in (log, reopened(log)):
        assert [each.is_answered("", content_key(number)) for number in range(3)] == [
            True,
            False,
            False,
        ]
        assert each.is_answered("fan-out", "mine")
        assert each.is_answered("", digest_of("fan-out", "mine"))
        assert not each.is_answered("", "mine")


def test_runs_are_kept_apart(log):
    write(log, answer(0, "old"), run="a")
    write(log, answer(0, "new"), answer(1, "more"), run="b")
    for each in (log, reopened(log)):
        assert [values(each, run) for run in "abc"] == [["old"], ["new", "more"], []]
        assert [(record.run, record.outcomes) for record in each.runs()] == [("a", 1), ("b", 2)]


def test_a_run_says_what_it_is_about_once_in_a_session(log):
    with held(log):
        log.begin("r", {"name": "screen"})
        log.begin("r", {"name": "something else"})
    for each in (log, reopened(log)):
        (record,) = each.runs()
        assert (record.run, record.about, record.outcomes) == ("r", {"name": "screen"}, 0)
    assert len(segment_files(log)[0].read_bytes().splitlines()) == 1


def test_what_cannot_be_written_as_json_changes_nothing(log):
    with held(log):
        for refused in (
            lambda: log.begin("r", {"a": object()}),
            lambda: log.append("r", "", 0, answer(0, object())),
            lambda: log.note("a", {"b": object()}),
        ):
            with pytest.raises(TypeError):
                refused()
        assert (log.unwritten, log.runs(), list(log.notes("a"))) == (0, [], [])
        with pytest.raises(KeyError):
            log.append("r", "", 0, answer(0))  # it has not begun


def test_of_two_outcomes_of_an_item_the_last_counts(log):
    write(log, failed(0))
    write(log, answer(0))
    for each in (log, reopened(log)):
        assert [one.ok for one in each.outcomes("r")] == [True]


def test_notes_come_back_by_kind(log):
    with held(log):
        log.note("spool", {"items": 3})
        log.note("task", {"id": "a"})
        log.note("spool", {"items": 4})
        assert list(log.notes("spool")) == [{"items": 3}, {"items": 4}]
    other = reopened(log)
    assert list(other.notes("spool")) == [{"items": 3}, {"items": 4}]
    assert list(other.notes("task")) == [{"id": "a"}]
    assert list(other.notes("nothing")) == []
    assert other.runs() == []


def test_a_segment_that_is_full_is_followed_by_another(log, monkeypatch):
    monkeypatch.setattr(unwritten, "SEGMENT_BYTES", 1000)
    some = [answer(index) for index in range(40)]
    with held(log):
        log.begin("r", {"name": "screen"})
        log.begin("s", {"name": "rank"})
        for each in some:
            log.append("r", "", each.index, each)
            log.append("s", "", each.index, each)
            log.note("n", {"index": each.index})
            if each.index % 7 == 0:
                log.flush()
        assert list(log.outcomes("r")) == list(log.outcomes("s")) == some
    assert len(segment_files(log)) > 5
    assert all(path.stat().st_size < 1700 for path in segment_files(log))
    other = reopened(log)
    assert list(other.outcomes("r")) == list(other.outcomes("s")) == some
    assert [each["index"] for each in other.notes("n")] == list(range(40))
    assert [(each.about["name"], each.outcomes) for each in other.runs()] == [
        ("screen", 40),
        ("rank", 40),
    ]


# -- the look-up ------------------------------------------------------------------------------


def test_an_answer_is_found_before_failures_and_the_newest_of_either(log):
    write(log, failed(0, message="first"), failed(0, message="second"))
    for each in (log, reopened(log)):
        assert each.find("", "k0").outcome == failed(0, message="second")
    write(log, answer(0, "old"))
    write(log, answer(0, "new"), failed(0))
    for each in (log, reopened(log)):
        assert found(each, "k0") == ["new"]


def test_scopes_are_kept_apart(log):
    write(log, answer(0, "a", key="k"), scope="screen")
    write(log, answer(0, "b", key="k"), scope="rank")
    for each in (log, reopened(log)):
        assert found(each, "k", scope="screen") == ["a"]
        assert found(each, "k", scope="rank") == ["b"]
        assert found(each, "k") == [None]


def test_another_question_with_the_same_fingerprint_is_not_found(log):
    one, other = "a" * 16 + "0" * 16, "a" * 16 + "1" * 16
    write(log, answer(0, "one", key=one))
    assert found(log, one, other) == ["one", None]
    write(log, answer(1, "other", key=other))
    assert found(log, one, other) == [None, "other"]
    assert values(reopened(log)) == ["one", "other"]


# -- used again -------------------------------------------------------------------------------


def test_an_answer_of_another_item_is_used_again(log):
    (at,) = write(log, answer(0, "a", meta={"raw": "b"}, endpoint="e", latency=2.0), run="old")
    with held(log):
        log.begin("new", {})
        log.reuse("new", 7, at, {"model": "m"})
    for each in (log, reopened(log)):
        (outcome,) = each.outcomes("new", per_item=3, samples=2)
        assert (outcome.index, outcome.sample, outcome.value, outcome.attempts) == (2, 1, "a", 0)
        assert outcome.meta == {"raw": "b", "model": "m", "cached": True}
        assert [one.meta for one in each.outcomes("old")] == [{"raw": "b"}]
        assert each.find("", "k0").at == at
        assert [(one.ok, one.failed) for one in each.runs()] == [(1, 0), (1, 0)]


def test_a_failure_that_is_kept_stays_one(log):
    (at,) = write(log, failed(0), run="old")
    with held(log):
        log.begin("new", {})
        log.reuse("new", 0, at)
    for each in (log, reopened(log)):
        (outcome,) = each.outcomes("new")
        assert (outcome.ok, outcome.error, outcome.meta) == (
            False,
            failed(0).error,
            {"cached": True},
        )
        assert [(one.ok, one.failed) for one in each.runs()] == [(0, 1), (0, 1)]


def test_a_place_that_has_its_own_answer_stays_as_it_is(log):
    (at,) = write(log, answer(0, "a"))
    size = segment_files(log)[0].stat().st_size
    with held(log):
        log.begin("r", {})
        log.flush()
        log.reuse("r", 0, at)
        assert log.unwritten == 0
        log.reuse("r", 0, at, {"model": "m"})
    for each in (log, reopened(log)):
        assert list(each.outcomes("r")) == [answer(0, "a", meta={"model": "m"})]
    assert segment_files(log)[0].stat().st_size == size


def test_an_answer_is_used_again_before_it_is_written(log):
    with held(log):
        log.begin("r", {})
        at = log.append("r", "", 0, answer(0, "a"))
        log.reuse("r", 1, at)
        assert [(each.index, each.value) for each in log.outcomes("r")] == [(0, "a"), (1, "a")]
    assert values(reopened(log)) == ["a", "a"]


# -- damage -----------------------------------------------------------------------------------


def test_a_line_that_was_damaged_behind_the_logs_back_is_not_taken_for_an_answer(log):
    (at,) = write(log, answer(0, "a"))
    (file,) = segment_files(log)
    sound = file.read_bytes()
    says = rf"{file} is damaged at byte {unpack(at)[1]}, or gone\. Run the graph again"
    for damaged in (sound.replace(b'"a"', b'"b"'), sound[:-5]):
        file.write_bytes(damaged)
        assert log.find("", "k0") is None
        with pytest.raises(JournalError, match=says):
            log.read(at)
        with pytest.raises(JournalError, match=says):
            list(log.outcomes("r"))
    file.unlink()
    late = Log(log.directory)
    late._intake = log._intake  # what one knows that has not opened the segment yet
    late._intake.readers = Readers(log.directory)
    assert late.find("", "k0") is None
    with pytest.raises(JournalError, match=says):
        late.read(at)


# -- owning -----------------------------------------------------------------------------------


def test_what_is_not_held_is_not_written(log):
    for refused in (
        lambda: log.begin("r", {}),
        lambda: log.append("r", "", 0, answer(0)),
        lambda: log.note("a", {}),
        lambda: log.reuse("r", 0, 1),
    ):
        with pytest.raises(JournalError, match="is not held by this process; acquire it first"):
            refused()


def test_it_is_held_until_it_was_released_as_often_as_it_was_acquired(log, directory):
    log.acquire()
    log.acquire()
    log.release()
    assert (directory / OWNER).exists()
    log.begin("r", {})
    log.release()
    assert not (directory / OWNER).exists()
    with pytest.raises(JournalError, match="not held"):
        log.begin("r", {})


def test_another_waits_its_turn_and_reads_what_was_written_meanwhile(log):
    other = Log(log.directory)
    with held(log):
        with pytest.raises(JournalError, match=f"is being written by process {os.getpid()} on"):
            other.acquire()
        log.begin("r", {})
        log.append("r", "", 0, answer(0, "a"))
    with held(other):
        assert found(other, "k0") == ["a"]
        other.begin("r", {})
        other.append("r", "", 1, answer(1, "b"))
    log.refresh()
    assert values(log) == ["a", "b"]
    assert [path.name for path in segment_files(log)] == ["000001.jsonl", "000002.jsonl"]


def test_readers_see_what_is_flushed_while_it_is_being_written(log):
    reader = Log(log.directory)
    with held(log):
        log.begin("r", {})
        for index in range(5):
            log.append("r", "", index, answer(index, index))
            reader.refresh()
            assert values(reader) == list(range(index))
            log.flush()
            reader.refresh()
            assert values(reader) == list(range(index + 1))


def test_one_who_was_taken_over_notices_and_still_keeps_its_answers(log):
    other = Log(log.directory)
    log.acquire()
    log.begin("r", {})
    log.append("r", "", 0, answer(0, "a"))
    log.flush()
    log.append("r", "", 1, answer(1, "b"))
    with held(other, takeover=True):
        other.begin("r", {})
        other.append("r", "", 2, answer(2, "c"))
        owner = (log.directory / OWNER).read_bytes()
        for refused in (log.flush, log.acquire, log.release):
            with pytest.raises(JournalError, match="was taken over by process"):
                refused()
        assert (log.directory / OWNER).read_bytes() == owner
        with pytest.raises(JournalError, match="is being written by"):
            log.acquire()
    assert values(reopened(log)) == ["a", "b", "c"]
    with held(log):
        assert values(log) == ["a", "b", "c"]


def test_one_who_was_taken_over_before_it_wrote_makes_no_segment(log):
    other = Log(log.directory)
    log.acquire()
    log.begin("r", {})
    log.append("r", "", 0, answer(0, "ours"))
    with held(other, takeover=True):
        other.begin("r", {})
        other.append("r", "", 1, answer(1, "theirs"))
        with pytest.raises(JournalError, match="was taken over"):
            log.release()
    for each in (log, reopened(log)):
        each.refresh()
        assert found(each, "k0", "k1") == [None, "theirs"]
        assert values(each) == ["theirs"]


def test_a_segment_of_ours_that_another_has_made_is_left_alone(log):
    log.acquire()
    log.begin("r", {})
    (log.directory / "segments").mkdir()
    (log.directory / "segments" / "000001.jsonl").write_bytes(b"theirs")
    for refused in (log.flush, log.release):
        with pytest.raises(JournalError, match=r"000001\.jsonl was made by another process"):
            refused()
    assert segment_files(log)[0].read_bytes() == b"theirs"


def test_it_gives_signs_of_life_when_it_flushes(directory):
    now = [1_700_000_000.0]
    log = Log(directory, clock=lambda: now[0])
    with held(log):
        for seconds, sign in [(5, 0), (30, 30), (35, 30), (90, 90)]:
            now[0] = 1_700_000_000.0 + seconds
            log.flush()
            told = json.loads((directory / OWNER).read_bytes())
            assert told["heartbeat"] - 1_700_000_000 == sign


def test_many_threads_may_write_and_flush_and_look(log):
    log.acquire()
    trouble = []

    def work(thread):
        try:
            log.acquire()
            log.begin(f"run{thread}", {})
            for number in range(50):
                outcome = answer(number, thread, key=f"{thread}/{number}")
                log.append(f"run{thread}", "", number, outcome)
                if number % 5 == 0:
                    log.flush()
                    log.refresh()
                assert found(log, f"{thread}/{number}") == [thread]
            log.release()
        except Exception as error:
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    log.release()
    for each in (log, reopened(log)):
        for thread in range(4):
            assert values(each, f"run{thread}") == [thread] * 50
            assert found(each, f"{thread}/49") == [thread]


KILLED = """
import sys, time
from pathlib import Path
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Outcome
log = Log(Path(sys.argv[1]))
log.acquire()
log.begin("r", {})
for index in range(10**6):
    log.append("r", "", index, Outcome(f"k{index}", index, ok=True, value="x" * 500))
    if index % 100 == 99:
        log.flush()
        print(index + 1, flush=True)
"""


def test_a_writer_that_is_killed_leaves_all_it_flushed_and_is_followed_at_once(log):
    writer = python(KILLED, log.directory)
    for _ in range(20):
        flushed = int(writer.stdout.readline())
    writer.kill()
    flushed = max([flushed, *map(int, writer.communicate()[0].split())])
    with held(log):
        kept = list(log.outcomes("r"))
        assert len(kept) >= flushed >= 2000
        assert [each.index for each in kept] == list(range(len(kept)))
        assert {each.value for each in kept} == {"x" * 500}
        log.begin("r", {})
        log.append("r", "", len(kept), answer(len(kept)))
    assert len(list(reopened(log).outcomes("r"))) == len(kept) + 1


FORKED = """
import os, sys
from pathlib import Path
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import log_at
from langgraph_hpc_fanout.records import Outcome
log = log_at(Path(sys.argv[1]))
log.acquire()
log.begin("r", {})
log.append("r", "", 0, Outcome("k0", 0, ok=True, value="parent"))
log._disk.acquire()  # as another thread of the parent might have
if os.fork() == 0:
    said = []
    for refused in (lambda: log.begin("r", {}), log.acquire):
        try:
            refused()
        except JournalError as error:
            said.append(str(error))
    log.flush()
    log.release()
    print(log.unwritten, log.find("", "k0"), *said, sep="|", flush=True)
    os._exit(0)
os.wait()
log._disk.release()
log.release()
"""


def test_a_forked_child_owns_nothing(log):
    said, _ = python(FORKED, log.directory).communicate(timeout=60)
    unwritten, hit, begin, acquire = said.strip().split("|")
    assert (unwritten, hit) == ("0", "None")
    assert "is not held by this process" in begin
    assert "is being written by process" in acquire
    assert values(reopened(log)) == ["parent"]


# -- trouble with the disk --------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file/journal", "/proc/journal"])
def test_a_directory_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    log = Log(tmp_path / place)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"cannot be written: .* Name a directory that can"):
            log.acquire()
    log.release()


FULL = """
import json, resource, sys
from pathlib import Path
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Outcome
def answer(index):
    return Outcome(f"k{index}", index, ok=True, value="x" * 300)
log = Log(Path(sys.argv[1]))
log.acquire()
log.begin("r", {})
log.append("r", "", 0, answer(0))
log.flush()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, most))
for index in range(1, 20):
    log.append("r", "", index, answer(index))
refused = []
for trial in (log.flush, log.flush, log.release):
    try:
        trial()
    except OSError as error:
        refused.append(error.errno)
held = [log.unwritten, len(list(log.outcomes("r"))), log.find("", "k19").place]
print(json.dumps([refused, *held]), flush=True)
input()
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log.acquire()
log.append("r", "", 20, answer(20))
log.release()
print(log.unwritten, flush=True)
"""


def test_a_full_disk_makes_nothing_forgotten(log):
    writer = python(FULL, log.directory)
    refused, size, kept, place = json.loads(writer.stdout.readline())
    assert refused == [errno.EFBIG] * 3
    assert (size > 19 * 300, kept, place) == (True, 20, 19)
    assert (log.directory / OWNER).exists()
    reader = reopened(log)
    assert 0 < len(list(reader.outcomes("r"))) < 20
    assert writer.communicate("\n", timeout=60)[0] == "0\n"
    reader.refresh()
    assert [each.index for each in reader.outcomes("r")] == list(range(21))
    assert not (log.directory / OWNER).exists()


def test_one_whose_disk_was_full_to_the_end_and_who_was_taken_over_since_begins_anew(
    log, monkeypatch
):
    log.acquire()
    log.begin("r", {})
    log.append("r", "", 0, answer(0, "lost"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="No space left"):
            log.release()
    other = Log(log.directory)
    other.acquire(takeover=True)
    with pytest.raises(JournalError, match="is being written by"):
        log.acquire()
    other.release()
    write(log, answer(1, "new"))
    for each in (log, reopened(log)):
        assert found(each, "k0", "k1") == [None, "new"]


def refuse(descriptor, data, offset):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_journal_that_is_deleted_while_it_is_written(log):
    log.acquire()
    log.begin("r", {})
    log.append("r", "", 0, answer(0, "old"))
    log.flush()
    log.append("r", "", 1, answer(1, "old"))
    shutil.rmtree(log.directory)
    for refused in (log.flush, log.release):
        with pytest.raises(JournalError, match="was deleted while it was in use"):
            refused()
    write(log, answer(2, "new"))
    for each in (log, reopened(log)):
        assert values(each) == ["new"]


def test_an_unknown_format_is_refused_by_all_who_look(log):
    write(log, answer(0))
    manifest = log.directory / "journal.json"
    manifest.write_text(manifest.read_text().replace('"format":1', '"format":2'))
    for look in (Log(log.directory).refresh, log.refresh, log.acquire):
        with pytest.raises(JournalError, match="is of format 2"):
            look()
    assert not (log.directory / OWNER).exists()


def test_a_journal_that_cannot_be_read_is_given_up_again(log):
    write(log, answer(0))
    (file,) = segment_files(log)
    file.unlink()
    file.mkdir()
    with pytest.raises(JournalError, match=r"cannot be written: .*Is a directory"):
        Log(log.directory).acquire()
    assert not (log.directory / OWNER).exists()


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
