"""A journal: a directory, named once and opened when needed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from langgraph_hpc_fanout import Journal, Outcome


def test_making_one_touches_no_disk(tmp_path):
    journal = Journal(tmp_path / "runs" / "screen")
    assert repr(journal) == f"Journal({str(tmp_path / 'runs' / 'screen')!r})"
    assert journal.log.find("", "k") is None
    assert list(tmp_path.iterdir()) == []


def test_a_relative_directory_stays_where_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal("screen")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert journal.directory == tmp_path / "screen"


def test_journals_of_one_directory_share_a_log(tmp_path):
    one, other = Journal(tmp_path / "a"), Journal(str(tmp_path / "a"))
    assert one.log is other.log
    one.log.append("r", "", 0, Outcome("k", 0, ok=True, value="x"))
    one.log.flush()
    assert [each.value for each in other.log.outcomes("r")] == ["x"]


def test_a_temporary_journal_is_named_after_its_run(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    journal = Journal.temporary("run-1")
    assert journal.directory == Path(tmp_path, "langgraph-hpc-fanout", "run-1")
    assert list(tmp_path.iterdir()) == []
