"""Segments: files of lines, read in blocks and one by one."""

from __future__ import annotations

import gc
import os

import pytest
from open_files import open_files

from langgraph_hpc_fanout.journal import segments
from langgraph_hpc_fanout.journal.segments import Readers, SegmentFile


@pytest.fixture
def path(tmp_path):
    return segments.path_of(tmp_path, 1)


def test_segments_are_listed_by_number_and_other_files_are_not(tmp_path):
    assert segments.sizes(tmp_path) == {}
    for number in (10, 9, 1_000_000):
        SegmentFile(segments.path_of(tmp_path, number)).write(0, b"x" * number)
    for name in ("notes.txt", "a.jsonl", "000001.jsonl.gz"):
        (tmp_path / segments.DIRECTORY / name).write_bytes(b"x")
    assert list(segments.sizes(tmp_path).items()) == [(9, 9), (10, 10), (1_000_000, 1_000_000)]


def test_a_segment_is_never_anothers(path):
    SegmentFile(path)
    with pytest.raises(FileExistsError):
        SegmentFile(path)


def test_what_is_written_again_is_written_over(path):
    file = SegmentFile(path)
    file.write(0, b"one\n")
    file.write(4, b"tw")
    file.write(4, bytearray(b"two\nthree\n"))
    file.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_disk_that_takes_a_little_at_a_time(path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    SegmentFile(path).write(2, b"0123456789")
    assert path.read_bytes() == b"\0\0" + b"0123456789"


@pytest.mark.parametrize("block", [1, 7, 8, 9, 1000])
def test_blocks_are_whole_lines_whatever_their_size(path, block, monkeypatch):
    monkeypatch.setattr(segments, "_BLOCK", block)
    text = b"one\n\nthe third line is longer\nfour\ntorn"
    SegmentFile(path).write(0, text)
    for start in (0, 4, 5):
        found = list(segments.blocks(path, start))
        assert b"".join(each.data for each in found) == text[start:-4]
        assert all(each.data.endswith(b"\n") for each in found)
        assert [each.start for each in found] == [
            start + sum(len(before.data) for before in found[:number])
            for number in range(len(found))
        ]
    assert list(segments.blocks(path, len(text) - 4)) == []


# One line is read in pieces of 8 KiB: shorter, longer and exactly as long as one and as two.
@pytest.mark.parametrize("length", [0, 4000, 8191, 8192, 8193, 16384, 16385, 100_000])
def test_a_line_of_any_length(tmp_path, path, length):
    SegmentFile(path).write(0, b"before\n" + b"y" * length + b"\nafter\ntorn")
    readers = Readers(tmp_path)
    assert readers.line(1, 7) == b"y" * length
    assert readers.line(1, 8 + length) == b"after"
    assert readers.line(1, 14 + length) is None
    assert readers.line(1, 1 << 39) is None


def test_few_segments_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_MOST_OPEN", 2)
    for number in range(1, 6):
        SegmentFile(segments.path_of(tmp_path, number)).write(0, b"%d\n" % number)
    gc.collect()
    readers = Readers(tmp_path)
    for _ in range(2):
        assert [readers.line(number, 0) for number in range(1, 6)] == [b"1", b"2", b"3", b"4", b"5"]
    assert open_files(tmp_path) == 2
    with pytest.raises(FileNotFoundError):
        readers.line(6, 0)
    del readers
    gc.collect()
    assert open_files(tmp_path) == 0
