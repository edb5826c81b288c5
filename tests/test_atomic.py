"""Small files: whole or not there, and made by one process only."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from langgraph_hpc_fanout import atomic


def test_a_file_is_made_once(tmp_path):
    path = tmp_path / "a"
    assert atomic.create(path, b"first", "1")
    assert not atomic.create(path, b"second", "2")
    assert path.read_bytes() == b"first"
    atomic.replace(path, b"third", "3")
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_threads_one_makes_the_file(tmp_path):
    path, made, barrier = tmp_path / "a", [], threading.Barrier(8)

    def work(name):
        barrier.wait()
        if atomic.create(path, name.encode(), name):
            made.append(name)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text()] == made
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_was_made_although_it_failed_counts(tmp_path, monkeypatch):
    link = os.link

    def twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert atomic.create(tmp_path / "a", b"first", "1")
    assert not atomic.create(tmp_path / "a", b"second", "2")


def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        atomic.create(tmp_path / "file" / "a", b"", "1")
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.replace(tmp_path / "a", b"", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "file"}


def test_a_file_system_that_syncs_no_directories_will_do(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    atomic.sync_directory(tmp_path)
