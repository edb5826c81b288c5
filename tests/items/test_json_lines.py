"""JSON Lines: what was written is read, whatever line is broken, however it is sliced."""

from __future__ import annotations

import gzip
import os

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_files import open_files
from properties import jsons, repeatable
from sources import (
    COMPRESSED,
    bounds,
    check_slices,
    everything,
    read_by_a_child,
    read_by_two_threads,
    scratch,
    write,
)

from langgraph_hpc_fanout import JsonLines
from langgraph_hpc_fanout.items import json_lines, lines
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import BadRow, SourceError


def written(path, rows):
    return write(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))


@pytest.fixture(params=COMPRESSED)
def many(request, tmp_path):
    """3,000 rows, so that there are marks among them."""
    return JsonLines(written(tmp_path / f"x.jsonl{request.param}", range(3000)))


@repeatable
@given(st.lists(jsons, max_size=20), bounds, st.sampled_from(COMPRESSED))
def test_what_was_written_is_read(rows, cuts, suffix):
    with scratch() as directory:
        source = JsonLines(written(directory / f"x.ndjson{suffix}", rows))
        assert everything(source) == rows
        check_slices(source, cuts)


@pytest.mark.parametrize("start", [0, 1, 1023, 1024, 1025, 2999])
def test_slices_begin_anywhere(many, start):
    assert list(many.read(start, 3000)) == list(range(start, 3000))
    again = reopen(many.reference(start, 3000))
    assert list(again.read(start, 3000)) == list(range(start, 3000))


def test_a_slice_goes_on_where_the_last_one_ended(many, tmp_path):
    assert len(many) == 3000
    for start in range(0, 2990, 10):
        assert list(many.read(start, start + 10)) == list(range(start, start + 10))
        assert open_files(tmp_path) == 1
    assert list(many.read(2990, 3000)) == list(range(2990, 3000))
    assert open_files(tmp_path) == 0


def test_few_files_stay_open(many, tmp_path):
    assert len(many) == 3000
    for start in range(0, 2000, 100):
        assert next(iter(many.read(start, start + 1))) == start
        assert list(many.read(start, start + 2)) == [start, start + 1]
    assert open_files(tmp_path) <= 4
    del many


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"", []),
        (b"\n \r\n\t\n", []),
        (b"1", [1]),
        (b"1\r\n2\r\n", [1, 2]),
        (b"\n\n1\n\n\n2", [1, 2]),
        (b"\xef\xbb\xbf1\n2\n", [1, 2]),
        (b"\xef\xbb\xbf", []),
    ],
)
def test_ends_of_lines(tmp_path, suffix, data, rows):
    source = JsonLines(write(tmp_path / f"x.jsonl{suffix}", data))
    assert everything(source) == rows
    check_slices(source)


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON (unexpected end of data, column 2)"),
        (b'{"a": NaN}', "no JSON (unexpected character, expected a JSON value, column 7)"),
        (b'"\xff"', "not UTF-8 (byte 2)"),
        (b'"\\ud800"', "no JSON (no low surrogate in string, column 2)"),
        (b"1 2", "no JSON (unexpected content after document, column 3)"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, monkeypatch, line, why, at):
    monkeypatch.chdir(tmp_path)
    rows = [b"1", b"2", b"3", b"4", b"5"]
    rows[at] = line
    write(tmp_path / "x.jsonl", b"\n".join([b"", *rows]))
    source = JsonLines("x.jsonl")
    expected = [1, 2, 3, 4, 5]
    expected[at] = BadRow(f"x.jsonl, line {at + 2}: {why}")
    assert everything(source) == expected
    check_slices(source)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_line_that_is_too_long_is_not_held_in_memory(tmp_path, monkeypatch, suffix):
    for module in (lines, json_lines):
        monkeypatch.setattr(module, "MOST_BYTES", 8)
    source = JsonLines(write(tmp_path / f"x.jsonl{suffix}", b"1\n" + b"1" * 100 + b"\n22\n"))
    one, long, last = everything(source)
    assert (one, last) == (1, 22)
    assert "line 2: longer than" in long.reason
    check_slices(source)


# -- files that are not there, change, or are damaged --------------------------------------


def test_nothing_is_touched_before_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = JsonLines("x.jsonl")
    assert (source.name, source.fields(), repr(source)) == ("x.jsonl", None, "JsonLines('x.jsonl')")
    monkeypatch.chdir("/")
    with pytest.raises(SourceError, match=rf"^x\.jsonl is not there: no such file as {tmp_path}/x"):
        len(source)
    written(tmp_path / "x.jsonl", [1])
    assert everything(source) == [1]


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be read: Is a directory\.$"):
        len(JsonLines(tmp_path))


@pytest.mark.parametrize(
    ("now", "says"), [(b"1\n2\n3\n", r"size 4 -> 6"), (b"1\n3\n", "the time of writing")]
)
def test_a_file_that_changed_since_it_was_counted(tmp_path, now, says):
    path = written(tmp_path / "x.jsonl", [1, 2])
    source = JsonLines(path)
    reference = source.reference(0, 2)
    path.write_bytes(now)
    os.utime(path, (1, 1))
    says = rf"x\.jsonl has changed since the run began \({says}\); start a new run, answered items"
    with pytest.raises(SourceError, match=says):
        everything(source)
    with pytest.raises(SourceError, match=says):
        reopen(reference)
    path.unlink()
    with pytest.raises(SourceError, match="is not there"):
        everything(source)
    with pytest.raises(SourceError, match="is not there"):
        reopen(reference)


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = written(tmp_path / "x.jsonl", range(5))
    items = JsonLines(path).read(0, 5)
    assert next(items) == 0
    written(path, range(6))
    with pytest.raises(SourceError, match="has changed"):
        list(items)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_off(tmp_path, suffix):
    path = written(tmp_path / f"x.jsonl{suffix}", range(100_000))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"cannot be read after line \d+ \(.*\); is it cut off"):
        len(JsonLines(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_as_its_name_says(tmp_path, suffix):
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(b"1\n")
    with pytest.raises(SourceError, match=r"cannot be read after line 0"):
        len(JsonLines(path))


def test_a_file_of_several_compressed_parts(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"1\n2") + gzip.compress(b"3\n4\n"))
    assert everything(JsonLines(path)) == [1, 23, 4]


# -- threads and processes ---------------------------------------------------------------------


def test_two_threads(many):
    first, second = read_by_two_threads(many)
    assert first == second == list(range(3000))


def test_a_forked_process_has_a_place_of_its_own(many):
    assert list(many.read(0, 1000)) == list(range(1000))
    assert read_by_a_child(many, 1000, 2000) == list(range(1000, 2000))
    assert list(many.read(1000, 3000)) == list(range(1000, 3000))


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_link_to_a_file_of_another_name(tmp_path, suffix):
    write(tmp_path / f"blob{suffix}", b'{"a": 1}\n').rename(tmp_path / "blob")
    (tmp_path / f"x.jsonl{suffix}").symlink_to("blob")
    source = JsonLines(tmp_path / f"x.jsonl{suffix}")
    assert everything(source) == [{"a": 1}]
    check_slices(source)
