"""Text files of a directory."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, repeatable
from sources import bounds, check_slices, everything, read_by_two_threads, scratch

from langgraph_hpc_fanout import TextFiles
from langgraph_hpc_fanout.items import texts
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import BadRow, SourceError

names = st.text(st.sampled_from("abé ._-"), min_size=1, max_size=5)


@repeatable
@given(st.dictionaries(names, st.text(max_size=8).filter(lambda it: it[:1] != "\ufeff")), bounds)
def test_what_was_written_is_read(files, cuts):
    with scratch() as directory:
        for name, text in files.items():
            (directory / f"x{name}.txt").write_bytes(text.encode("utf-8", "replace"))
        source = TextFiles(directory)
        found = {each["path"]: each["text"] for each in everything(source)}
        assert list(found) == sorted(f"x{name}.txt" for name in files)
        check_slices(source, cuts)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Three texts, one of them in a directory below, and what is no text."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "papers"
    (place / "below").mkdir(parents=True)
    (place / "below.txt").mkdir()
    for name in ("b.txt", "a.txt", "below/c.txt", "d.md"):
        (place / name).write_text(f"{name}\r\n", newline="")
    return place


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "below/c.txt"]),
        ("*", ["a.txt", "b.txt", "d.md"]),
        ("*.pdf", []),
    ],
)
def test_patterns(directory, pattern, found):
    source = TextFiles("papers", pattern)
    assert everything(source) == [{"path": name, "text": f"{name}\r\n"} for name in found]
    assert source.fields() == ("path", "text")
    check_slices(source)


def test_a_byte_order_mark_is_dropped(directory):
    (directory / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    assert everything(TextFiles("papers"))[0]["text"] == "x"


def test_a_reference_is_small_and_plain(directory):
    reference = TextFiles("papers").reference(0, 2)
    assert is_plain(reference)
    assert reference["options"] == {"pattern": "*.txt"}
    assert reference["stamp"][2] == 2


# -- files that cannot be read, and directories that change --------------------------------


def test_a_file_that_is_not_utf_8_fails_alone(directory):
    (directory / "b.txt").write_bytes(b"ab\xff")
    good, bad = everything(TextFiles("papers"))
    assert good["path"] == "a.txt"
    assert bad == BadRow(f"{directory}/b.txt: not UTF-8 (byte 3)")


def test_a_link_to_nowhere_fails_alone(directory):
    (directory / "a.txt").unlink()
    (directory / "a.txt").symlink_to("nowhere")
    source = TextFiles("papers")
    bad, good = everything(source)
    assert bad == BadRow(f"{directory}/a.txt: cannot be read (No such file or directory)")
    assert good["path"] == "b.txt"
    check_slices(source)


def test_a_name_that_is_not_utf_8_fails_alone(directory):
    (directory / os.fsdecode(b"\xff.txt")).write_text("x")
    *_, bad = everything(TextFiles("papers"))
    assert bad == BadRow(f"{directory}/\ufffd.txt: its name is not UTF-8")


def test_a_file_that_is_too_long_is_not_read(directory, monkeypatch):
    monkeypatch.setattr(texts, "MOST_BYTES", 3)
    bad, _ = everything(TextFiles("papers"))
    assert "/a.txt: cannot be read (longer than" in bad.reason


def test_a_file_that_changed_fails_alone_until_the_source_is_reopened(directory):
    source = TextFiles("papers")
    reference = source.reference(0, 2)
    (directory / "a.txt").write_text("another text")
    bad, good = everything(source)
    assert bad.reason.endswith("/a.txt: cannot be read (it has changed since the run began)")
    assert good["path"] == "b.txt"
    with pytest.raises(SourceError, match=r"^papers has changed since the run began \(size 14 ->"):
        reopen(reference)


def test_a_file_more(directory):
    reference = TextFiles("papers").reference(0, 2)
    (directory / "c.txt").touch()
    with pytest.raises(SourceError, match=r"has changed since the run began \(files 2 -> 3\)"):
        reopen(reference)


def test_a_file_with_another_name(directory):
    reference = TextFiles("papers").reference(0, 2)
    (directory / "a.txt").rename(directory / "c.txt")
    with pytest.raises(SourceError, match=r"has changed since the run began \(names or times"):
        reopen(reference)


@pytest.mark.parametrize("place", ["nowhere", "papers/a.txt"])
def test_what_is_no_directory(directory, place):
    with pytest.raises(SourceError, match=rf"^{place} is no directory \(looked for /.*/{place}\)"):
        len(TextFiles(place))


def test_two_threads(directory):
    source = TextFiles("papers", "**/*")
    first, second = read_by_two_threads(source, 1)
    assert first == second == everything(source)
