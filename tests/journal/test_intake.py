"""Intake: what others wrote is read in, whatever became of it."""

from __future__ import annotations

import logging
import os
import shutil

import pytest
from journals import answer, content_key, failed, found, reopened, segment_files, values, write

from langgraph_hpc_fanout.journal.log import Log

LINES = [answer(0, "ünsere 水"), failed(1), answer(2, "c")]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "journal")


def test_many_blocks_are_read_in_a_few_at_a_time(log, monkeypatch):
    some = [answer(index, key=content_key(index)) for index in range(300)]
    write(log, *some)
    monkeypatch.setattr("langgraph_hpc_fanout.journal.segments._BLOCK", 500)
    monkeypatch.setattr("langgraph_hpc_fanout.journal.intake._LINES_AT_ONCE", 7)
    other = reopened(log)
    assert list(other.outcomes("r")) == some
    assert found(other, *(each.key for each in some)) == ["x"] * 300


def test_a_torn_tail_costs_its_line_only_wherever_it_is_torn(tmp_path, caplog):
    whole = Log(tmp_path / "whole")
    write(whole, *LINES)
    (file,) = segment_files(whole)
    data = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    torn = Log(tmp_path / "torn")
    for cut in range(0, len(data) + 1, 7):
        shutil.rmtree(torn.directory, ignore_errors=True)
        shutil.copytree(whole.directory, torn.directory)
        os.truncate(segment_files(torn)[0], cut)
        complete = LINES[: max(0, sum(end <= cut for end in ends) - 1)]
        log = reopened(torn)
        assert list(log.outcomes("r")) == complete, cut
        caplog.clear()
        write(log, answer(3, "new"))
        assert len(caplog.records) == (cut not in (0, *ends))
        for each in (log, reopened(log)):
            assert list(each.outcomes("r")) == [*complete, answer(3, "new")], cut
            known = {one.key: one.value for one in complete}
            assert found(each, "k0", "k2", "k3") == [known.get("k0"), known.get("k2"), "new"], cut
        assert segment_files(torn)[0].stat().st_size == cut


def test_a_reader_leaves_a_line_alone_that_is_being_written(log, caplog):
    write(log, LINES[0])
    (file,) = segment_files(log)
    data = file.read_bytes()
    reader = Log(log.directory)
    for end in (len(data) - 40, len(data)):
        file.write_bytes(data[:end])
        reader.refresh()
        assert found(reader, "k0") == (["ünsere 水"] if end == len(data) else [None])
    assert caplog.records == []


def test_damaged_lines_cost_no_others_and_are_told_of_once(log, caplog):
    write(log, *LINES, answer(3))
    (file,) = segment_files(log)
    begun, *lines = file.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b"nsere", b"NSERE")
    lines[2] = b"\n"
    file.write_bytes(b"".join([begun, *lines]))
    caplog.set_level(logging.WARNING)
    other = reopened(log)
    assert list(other.outcomes("r")) == [LINES[1], answer(3)]
    assert found(other, "k0", "k2", "k3") == [None, None, "x"]
    other.refresh()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"The journal {log.directory} has 2 damaged lines, the first in segment 1 at byte "
        f"{len(begun)}; what was there is asked again."
    )


def test_outcomes_of_a_run_whose_beginning_is_damaged_are_found_by_their_questions(log):
    write(log, answer(0, "a"))
    (file,) = segment_files(log)
    file.write_bytes(file.read_bytes().replace(b'"id":"r"', b'"id":"R"'))
    other = reopened(log)
    assert (other.runs(), values(other)) == ([], [])
    assert (other.find("", "k0").run, found(other, "k0")) == ("", ["a"])


def test_a_segment_that_is_gone(log):
    write(log, answer(0))
    shutil.rmtree(log.directory / "segments")
    other = Log(log.directory)
    other.refresh()
    assert other.find("", "k0") is None
    assert reopened(log).runs() == []


def test_a_journal_that_is_deleted_between_two_runs_begins_afresh(log):
    write(log, answer(0, "old"))
    assert found(log, "k0") == ["old"]
    shutil.rmtree(log.directory)
    write(log, *(answer(index, "new") for index in range(1, 4)))
    for each in (log, reopened(log)):
        assert found(each, "k0", "k1", "k3") == [None, "new", "new"]


def test_a_journal_that_another_made_anew_is_read_anew(log):
    write(log, answer(0, "old"))
    shutil.rmtree(log.directory)
    write(Log(log.directory), answer(0, "new"), answer(1, "more"))
    log.refresh()
    assert values(log) == ["new", "more"]
