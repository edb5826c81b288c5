"""Dead letters: the items that failed, with why."""

from __future__ import annotations

import weakref

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import held
from properties import repeatable
from some_outcomes import MIXED, bad, good

from langgraph_hpc_fanout import JsonLines, Results
from langgraph_hpc_fanout.items.source import BadRow, SourceError
from langgraph_hpc_fanout.journal.export import to_dead_letters
from langgraph_hpc_fanout.journal.log import Log


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
        "failures": [{"key": "k1", "sample": 0, **MIXED[1].error.to_dict()}],
    }


def test_an_item_has_one_letter_whatever_failed_of_it(tmp_path):
    coordinates = [{"prompt": "short"}, {"prompt": "long"}]
    outcomes = [
        make(index, kind, sample=sample, meta={"sweep": each})
        for index, makers in enumerate([(bad, bad), (good, good), (good, bad)])
        for each, make, kind in zip(coordinates, makers, ("timeout", "permanent"), strict=True)
        for sample in range(2)
    ]
    assert to_dead_letters(iter(outcomes), tmp_path / "dead.jsonl", ["a", "b", "c"]) == 2
    first, second = read(tmp_path / "dead.jsonl")
    assert (first["item"], first["index"]) == ("a", 0)
    assert [(each["sweep"], each["sample"], each["kind"]) for each in first["failures"]] == [
        ({"prompt": "short"}, 0, "timeout"),
        ({"prompt": "short"}, 1, "timeout"),
        ({"prompt": "long"}, 0, "permanent"),
        ({"prompt": "long"}, 1, "permanent"),
    ]
    assert (second["item"], len(second["failures"])) == ("c", 2)


class Item(dict):
    """A dict that can be watched."""


class Watched(Numbers):
    """Numbers as items, which are known as long as anybody holds them."""

    def __init__(self, count):
        super().__init__(count)
        self.made = []

    def read(self, start, stop):
        for row in super().read(start, stop):
            self.made.append(weakref.ref(item := Item(row=row)))
            yield item

    def held(self):
        return sum(each() is not None for each in self.made)


def test_letters_are_written_as_outcomes_come(tmp_path):
    source, read_by_then, held_by_then = Watched(1000), [], []

    def failing():
        for index in range(1000):
            read_by_then.append(source.rows)
            held_by_then.append(source.held())
            yield bad(index)

    assert to_dead_letters(failing(), tmp_path / "dead.jsonl", source) == 1000
    assert read_by_then == list(range(1000))
    assert max(held_by_then) <= 2


def test_nothing_failed(tmp_path):
    assert to_dead_letters([good(0, "a")], tmp_path / "dead.jsonl", ["x"]) == 0
    assert read(tmp_path / "dead.jsonl") == []


@repeatable
@given(st.lists(st.integers(0, 9_999), max_size=8).map(sorted))
def test_letters_from_a_source_have_their_own_items(tmp_path_factory, indexes):
    path = tmp_path_factory.getbasetemp() / "dead.jsonl"
    to_dead_letters((bad(index) for index in indexes), path, Numbers(10_000))
    assert [letter["item"] for letter in read(path)] == sorted(set(indexes))


def test_a_source_is_read_in_few_long_strides(tmp_path):
    source = Numbers(100_000)
    failed = [*range(0, 5000, 50), 90_000, 90_000, 90_001]  # of one item two samples
    to_dead_letters(map(bad, failed), tmp_path / "dead.jsonl", source)
    assert source.reads == [0, 90_000]
    assert source.rows < 5_000


def test_a_row_that_could_not_be_read_has_no_item(tmp_path):
    to_dead_letters([bad(0), bad(1)], tmp_path / "dead.jsonl", Numbers(2, unreadable={1}))
    first, second = read(tmp_path / "dead.jsonl")
    assert first["item"] == 0
    assert "item" not in second
    assert [each["message"] for each in second["failures"]] == ["no"]


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


# -- without items ----------------------------------------------------------------------------


@pytest.fixture
def papers(tmp_path):
    (tmp_path / "papers.jsonl").write_text('"a"\n"b"\n')
    return JsonLines(tmp_path / "papers.jsonl")


def results_about(tmp_path, source):
    """The results of a run of two items, the second of which failed; its journal read anew."""
    with held(Log(tmp_path / "journal")) as log:
        log.begin("r", {"fan_out": "screen", "total": 2, "source": source})
        log.append("r", "", 0, good(0, "A"))
        log.append("r", "", 1, bad(1))
    return Results.of(tmp_path / "journal")


def test_a_journal_knows_what_the_run_was_about(tmp_path, papers):
    results = results_about(tmp_path, papers.reference(0, 2))
    assert to_dead_letters(results, tmp_path / "dead.jsonl") == 1
    assert [letter["item"] for letter in read(tmp_path / "dead.jsonl")] == ["b"]


@pytest.mark.parametrize("given", [True, False])
def test_a_file_that_changed_since_the_run(tmp_path, papers, given):
    results = results_about(tmp_path, papers.reference(0, 2))
    (tmp_path / "papers.jsonl").write_text('"b"\n"a"\n"c"\n')
    items = [papers.anew()] if given else []
    with pytest.raises(SourceError, match=r"papers\.jsonl has changed since the run began \(size"):
        to_dead_letters(results, tmp_path / "dead.jsonl", *items)
    assert not (tmp_path / "dead.jsonl").exists()


def test_another_file_than_the_runs_may_be_given(tmp_path, papers):
    results = results_about(tmp_path, papers.reference(0, 2))
    (tmp_path / "papers.jsonl").unlink()
    (tmp_path / "moved.jsonl").write_text('"a"\n"b"\n')
    with pytest.raises(SourceError, match=r"papers\.jsonl is not there"):
        to_dead_letters(results, tmp_path / "dead.jsonl")
    assert to_dead_letters(results, tmp_path / "dead.jsonl", JsonLines(tmp_path / "moved.jsonl"))
    assert [letter["item"] for letter in read(tmp_path / "dead.jsonl")] == ["b"]


def test_nobody_knows_what_the_run_was_about(tmp_path):
    in_state = Results("r", [{"start": 0, "stop": 0, "ok": 0, "failed": 0}])
    for results, why in [
        (MIXED, "only the Results of a run with a journal tell where its items are;"),
        (in_state, "run r has no journal, which could tell where its items are;"),
        (results_about(tmp_path, None), r"the journal \S+/journal does not tell where the items"),
    ]:
        with pytest.raises(TypeError, match=r"items=\.\.\.\) is missing: " + why):
            to_dead_letters(results, tmp_path / "dead.jsonl")
    assert not (tmp_path / "dead.jsonl").exists()
