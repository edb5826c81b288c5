"""Files that are there whole or not at all."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys

import pytest

from langgraph_hpc_fanout.journal.export.files import replacing, write_lines


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "deeper" / "out"
    with replacing(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "out"
    path.write_bytes(b"older")

    def lines():
        yield b"half"
        raise error

    with pytest.raises(error):
        write_lines(path, lines())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_older_file(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"older")
    script = """
import os, signal, sys
from langgraph_hpc_fanout.journal.export.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"older"
    assert write_lines(path, [b"newer\n"]) == 1
    assert path.read_bytes() == b"newer\n"


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "out"
    with replacing(path) as first:
        with replacing(path) as second:
            second.write(b"second")
        first.write(b"first")
    assert path.read_bytes() == b"first"


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory; name a file in it"):
        write_lines(tmp_path, [])


def test_lines_are_counted(tmp_path):
    assert write_lines(tmp_path / "none", []) == 0
    assert write_lines(tmp_path / "two", [b"a\n", b"b\n"]) == 2


def test_gz_is_compressed_and_the_same_every_time(tmp_path):
    lines = [b"line\n"] * 10_000
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        assert write_lines(tmp_path / name, lines) == 10_000
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert len(packed) < 1000
    assert gzip.decompress(packed) == b"".join(lines)
    assert (tmp_path / "b.jsonl.gz").read_bytes() == packed


def test_other_compressions_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.zst files are not written.*\.gz"):
        write_lines(tmp_path / "out.jsonl.zst", [])
