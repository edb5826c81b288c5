"""Spools: what came from a generator or from state is read as a checkpoint would give it back."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from open_files import open_files
from properties import is_plain, jsons, repeatable
from sources import (
    bounds,
    check_slices,
    everything,
    read_by_a_child,
    read_by_two_threads,
    scratch,
)

from langgraph_hpc_fanout.items import spool as module
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import BadRow, SourceError
from langgraph_hpc_fanout.items.spool import Spool, spool


@pytest.fixture
def many(tmp_path):
    return spool(({"n": n} for n in range(5000)), tmp_path, "r1")


@repeatable
@given(st.lists(jsons, max_size=40), bounds)
def test_what_was_written_is_read(rows, cuts):
    with scratch() as directory:
        source = spool(iter(rows), directory, "r1")
        assert everything(source) == rows
        check_slices(source, cuts)


def test_whatever_a_checkpoint_holds_comes_back(tmp_path):
    rows = [
        HumanMessage("Hello", id="1"),
        AIMessage("Hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "2"}]),
        {"day": datetime.date(2026, 1, 2), "id": uuid.UUID(int=7)},
        {1, 2},
        b"\xff",
        None,
        float("inf"),
        {1: "one"},
    ]
    assert everything(spool(rows, tmp_path, "r1")) == rows
    assert everything(spool([("a", 1)], tmp_path, "r2")) == [["a", 1]]


@pytest.mark.parametrize("start", [0, 1, 15, 16, 1039, 1040, 4999])
def test_slices_begin_anywhere(many, start):
    expected = [{"n": n} for n in range(start, 5000)]
    assert list(many.read(start, 5000)) == expected
    assert list(reopen(many.reference(start, 5000)).read(start, 5000)) == expected


def test_frames_are_about_a_megabyte(tmp_path):
    source = spool(("x" * 300_000 for _ in range(40)), tmp_path, "r1")
    firsts = source.survey.firsts
    assert firsts[1] == 16
    assert {stop - start for start, stop in pairwise(firsts[1:])} == {3}
    check_slices(source, [1, 17, 20, 23])


def test_a_file_is_open_while_slices_follow_one_another(many, tmp_path):
    for start in range(0, 5000, 100):
        assert [each["n"] for each in many.read(start, start + 100)] == [*range(start, start + 100)]
    assert open_files(tmp_path) == 0


def test_a_spool_of_the_same_name_takes_the_place_of_the_old_one(tmp_path):
    old = spool([1], tmp_path, "r1")
    reference = old.reference(0, 1)
    assert everything(spool([1, 2], tmp_path, "r1")) == [1, 2]
    with pytest.raises(SourceError, match=r"r1\.spool has changed since the run began"):
        everything(old)
    with pytest.raises(SourceError, match=r"r1\.spool has changed since the run began"):
        reopen(reference)


def test_a_reference_is_small_and_plain(many, tmp_path):
    reference = many.reference(1000, 2000)
    assert is_plain(reference)
    assert reference["path"] == str(tmp_path / "items" / "r1.spool")
    assert len(str(reference)) < 400


# -- what cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 15, 16, 3000])
def test_an_item_that_no_checkpoint_can_hold_is_named(tmp_path, at):
    rows = [{"n": n} for n in range(4000)]
    rows[at] = range(3)
    says = rf"^Item {at} is a range that cannot be written down, as no checkpoint could hold it \("
    with pytest.raises(SourceError, match=says):
        spool(rows, tmp_path, "r1")
    assert list((tmp_path / "items").iterdir()) == []


def test_what_the_generator_raises_comes_through(tmp_path):
    def rows():
        yield from range(100)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        spool(rows(), tmp_path, "r1")
    assert list((tmp_path / "items").iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        spool([1], tmp_path / "file", "r1")


def test_a_disk_that_takes_no_more(tmp_path):
    script = f"""
import os, pathlib, resource
from langgraph_hpc_fanout.items.spool import spool

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    spool(range(1_000_000), pathlib.Path({str(tmp_path)!r}), "r1")
except OSError as error:
    print(error.strerror, os.listdir({str(tmp_path / "items")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "File too large []\n"


def test_a_process_that_is_killed_leaves_no_spool(tmp_path):
    script = f"""
import itertools, pathlib, sys
from langgraph_hpc_fanout.items.spool import spool

def rows():
    for number in itertools.count():
        if number == 100_000:
            print("under way", flush=True)
        yield {{"n": number}}

spool(rows(), pathlib.Path({str(tmp_path)!r}), "r1")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"under way\n"
        child.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "items").iterdir()
    assert left.suffix == ".partial"
    with pytest.raises(SourceError, match=r"is no whole file of items \(it does not end like"):
        len(Spool(left))


# -- what cannot be read ---------------------------------------------------------------------


def test_a_damaged_frame_fails_its_own_items(many):
    offsets, firsts = many.survey.offsets, many.survey.firsts
    with many.path.open("r+b") as file:
        file.seek(offsets[1] + 5)
        file.write(b"\xff\xff")
    source = Spool(many.path)
    items = everything(source)
    bad = items[firsts[1] : firsts[2]]
    assert set(map(type, bad)) == {BadRow}
    assert f"r1.spool, byte {offsets[1]}: {offsets[2] - offsets[1]} bytes are damaged" in str(bad)
    rest = [*range(firsts[1]), *range(firsts[2], 5000)]
    assert [each["n"] for each in items if not isinstance(each, BadRow)] == rest
    check_slices(source, [10, 100, 1100])


@pytest.mark.parametrize("length", [0, 7, 8, 30, 1000, -1])
def test_a_file_that_is_cut_off(many, length):
    data = many.path.read_bytes()
    many.path.write_bytes(data[:length])
    with pytest.raises(SourceError, match=r"is no whole file of items \(it does not (begin|end)"):
        len(Spool(many.path))


def test_a_damaged_table(many):
    data = bytearray(many.path.read_bytes())
    data[-module._END.size - 1] ^= 1
    many.path.write_bytes(data)
    with pytest.raises(SourceError, match=r"its table is damaged"):
        len(Spool(many.path))


def test_a_spool_that_was_deleted(many):
    many.path.unlink()
    for again in (lambda: everything(many), lambda: len(Spool(many.path))):
        with pytest.raises(SourceError, match=r"r1\.spool is not there: no such file as /"):
            again()


def test_a_directory_is_no_spool(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be read: Is a directory\.$"):
        len(Spool(tmp_path))


def test_threads_and_forks(many):
    first, second = read_by_two_threads(many, 99)
    assert first == second == everything(many)
    assert [each["n"] for each in many.read(0, 1000)] == list(range(1000))
    assert [each["n"] for each in read_by_a_child(many, 1000, 2000)] == list(range(1000, 2000))
    assert [each["n"] for each in many.read(1000, 5000)] == list(range(1000, 5000))
