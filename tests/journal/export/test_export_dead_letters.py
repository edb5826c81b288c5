"""Dead letters: the items that failed, with why."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from some_outcomes import MIXED, bad, good

from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.journal.export import to_dead_letters


class Numbers:
    """A source of the numbers from 0, of which some rows are bad; notes what it was asked for."""

    name = "numbers"
    ready = False

    def __init__(self, count, unreadable=()):
        self.count = count
        self.unreadable = unreadable
        self.reads = []
        self.rows = 0

    def __len__(self):
        return self.count

    def fields(self):
        return None

    def read(self, start, stop):
        self.reads.append(start)
        for row in range(start, stop):
            self.rows += 1
            yield BadRow(f"row {row}") if row in self.unreadable else row

    def anew(self):
        return self

    def reference(self, start, stop):
        raise NotImplementedError


def read(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_letter_has_the_item_and_why_it_failed(tmp_path):
    items = [{"smiles": "C"}, {"smiles": "CC"}, {"smiles": "CCC"}]
    assert to_dead_letters(iter(MIXED), tmp_path / "dead.jsonl", items) == 1
    (letter,) = read(tmp_path / "dead.jsonl")
    assert letter == {
        "item": {"smiles": "CC"},
        "index": 1,
        "key": "k1",
        "sample": 0,
        "failure": MIXED[1].error.to_dict(),
    }


def test_nothing_failed(tmp_path):
    assert to_dead_letters([good(0, "a")], tmp_path / "dead.jsonl", ["x"]) == 0
    assert read(tmp_path / "dead.jsonl") == []


@repeatable
@given(st.lists(st.integers(0, 9_999), max_size=8).map(sorted))
def test_letters_from_a_source_have_their_own_items(tmp_path_factory, indexes):
    path = tmp_path_factory.getbasetemp() / "dead.jsonl"
    to_dead_letters((bad(index) for index in indexes), path, Numbers(10_000))
    assert [letter["item"] for letter in read(path)] == indexes


def test_a_source_is_read_in_few_long_strides(tmp_path):
    source = Numbers(100_000)
    failed = [*range(0, 5000, 50), 90_000, 90_000, 90_001]
    to_dead_letters(map(bad, failed), tmp_path / "dead.jsonl", source)
    assert source.reads == [0, 90_000]
    assert source.rows < 5_000


def test_a_row_that_could_not_be_read_has_no_item(tmp_path):
    to_dead_letters([bad(0), bad(1)], tmp_path / "dead.jsonl", Numbers(2, unreadable={1}))
    first, second = read(tmp_path / "dead.jsonl")
    assert first["item"] == 0
    assert "item" not in second
    assert second["failure"]["message"] == "no"


@pytest.mark.parametrize("items", [["x"], Numbers(1)])
def test_items_of_another_run(tmp_path, items):
    with pytest.raises(ValueError, match="There are 1 items and an outcome of item 1: give the"):
        to_dead_letters([bad(1)], tmp_path / "dead.jsonl", items)
    assert list(tmp_path.iterdir()) == []


def test_an_item_without_a_json_form(tmp_path):
    with pytest.raises(ValueError, match=r"Item 0 \(set\) cannot be written as JSON"):
        to_dead_letters([bad(0)], tmp_path / "dead.jsonl", [{1}])


def test_a_path_is_no_items(tmp_path):
    with pytest.raises(TypeError, match=r"'papers\.jsonl'\) takes the items themselves"):
        to_dead_letters([bad(1)], tmp_path / "d.jsonl", "papers.jsonl")
    assert not (tmp_path / "d.jsonl").exists()
