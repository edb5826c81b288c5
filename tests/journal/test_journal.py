"""A journal: a directory, named once and opened when needed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from journals import answer, write

from langgraph_hpc_fanout import Journal


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
    write(one.log, answer(0))
    assert [each.value for each in other.log.outcomes("r")] == ["x"]


def test_a_temporary_journal_is_named_after_its_run(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    journal = Journal.temporary("run-1")
    assert journal.directory == Path(tmp_path, f"langgraph-hpc-fanout-{os.getuid()}", "run-1")
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_a_journal_is_kept(tmp_path):
    plain = Journal(tmp_path / "a")
    assert (plain.takeover, plain.retry_failures, plain.cache) == (False, True, ())
    told = Journal(tmp_path / "a", takeover=True, retry_failures=False, cache=tmp_path / "b")
    assert (told.takeover, told.retry_failures, told.cache) == (True, False, (tmp_path / "b",))


def test_caches_are_other_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Journal("a", cache="b").cache == (tmp_path / "b",)
    several = Journal("a", cache=(each for each in ["b", Path("c")]))
    assert several.cache == (tmp_path / "b", tmp_path / "c")
    with pytest.raises(ValueError, match=r"/a is the journal itself; name others as its cache"):
        Journal("a", cache=["b", "./a"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"directory": 7}, "a directory is a string or a path, not int"),
        ({"directory": "a", "cache": [None]}, "a directory is a string or a path, not NoneType"),
        ({"directory": "a", "cache": 7}, "'int' object is not iterable"),
        ({"directory": "a", "takeover": "no"}, "takeover must be True or False, not 'no'"),
        ({"directory": "a", "retry_failures": 0}, "retry_failures must be True or False, not 0"),
    ],
)
def test_arguments_of_another_type(arguments, says):
    with pytest.raises(TypeError, match=says):
        Journal(**arguments)
