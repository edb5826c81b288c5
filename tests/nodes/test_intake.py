"""Where items come from, and what branches are told of where they are."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from langgraph.errors import GraphInterrupt
from properties import is_plain

from langgraph_hpc_fanout import FanOutError, Journal, JsonLines, Parquet, Sweep
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import SourceError
from langgraph_hpc_fanout.nodes.intake import HEAD, Intake, state_value

ALONE = {}
IN_A_THREAD = {"configurable": {"thread_id": "1"}}
LONG = [{"text": "x" * 3000, "n": n} for n in range(100)]


@pytest.fixture
def papers(tmp_path):
    path = tmp_path / "papers.jsonl"
    path.write_text("".join(f'{{"title": "T{n}"}}\n' for n in range(5)))
    return path


@pytest.fixture
def intake(tmp_path):
    return lambda items: Intake("screen", items, Journal(tmp_path / "run"))


def everything(source):
    return list(source.read(0, len(source)))


def spools(tmp_path):
    return list((tmp_path / "run" / "items").glob("*"))


def found_again(given):
    """What another process reads."""
    reference = given.kept.reference(0, len(given.kept))
    assert is_plain(reference)
    return everything(reopen(reference))


@pytest.mark.parametrize("config", [ALONE, IN_A_THREAD], ids=["alone", "in a thread"])
@pytest.mark.parametrize(
    "make",
    [
        lambda items, path: "xs",
        lambda items, path: items,
        lambda items, path: tuple(items),
        lambda items, path: lambda state: state["xs"],
        lambda items, path: lambda state: (each for each in items),
        lambda items, path: lambda state: dict(enumerate(items)).values(),
        lambda items, path: str(path),
        lambda items, path: path,
        lambda items, path: JsonLines(path),
        lambda items, path: lambda state: JsonLines(path),
        lambda items, path: lambda state: str(path),
    ],
)
def test_whatever_they_are_given_as_they_come_in_order_and_again(intake, papers, make, config):
    items = [{"title": f"T{n}"} for n in range(5)]
    given = intake(make(items, papers)).find({"xs": items}, "r", config)
    assert everything(given.live) == items
    assert given.head() == items
    assert found_again(given) == items


def test_a_long_list_is_written_down_where_somebody_may_come_back(intake, tmp_path):
    given = intake("xs").find({"xs": LONG}, "r", IN_A_THREAD)
    assert [path.name for path in spools(tmp_path)] == ["r.spool"]
    assert given.live.ready
    assert len(str(given.kept.reference(0, 50))) < 500
    assert found_again(given) == LONG


def test_a_long_list_stays_where_it_is_without_a_thread(intake, tmp_path):
    given = intake("xs").find({"xs": LONG}, "r", ALONE)
    assert given.live is given.kept
    assert spools(tmp_path) == []
    assert given.whereabouts is None


def test_a_short_list_travels_with_its_branches(intake, tmp_path):
    given = intake("xs").find({"xs": LONG[:10]}, "r", IN_A_THREAD)
    assert given.kept.reference(2, 4)["rows"] == LONG[2:4]
    assert spools(tmp_path) == []


def test_items_may_be_of_any_weight(intake, tmp_path):
    odd = [{"n": 2**100, "text": "x" * 3000}] * 100
    given = intake("xs").find({"xs": odd}, "r", IN_A_THREAD)
    assert everything(given.live) == odd
    assert given.live is given.kept, "a checkpoint has no numbers of this size"


def test_a_long_list_that_no_checkpoint_could_hold_stays_in_state(intake, tmp_path):
    odd = [*LONG, {"text": "x" * 300_000, "pipe": os.pipe}]
    given = intake("xs").find({"xs": odd}, "r", IN_A_THREAD)
    assert given.live is given.kept
    assert spools(tmp_path) == []


def test_what_an_iterator_gives_is_written_down(intake, tmp_path):
    given = intake(lambda state: iter(LONG)).find({}, "r", ALONE)
    assert [path.name for path in spools(tmp_path)] == ["r.spool"]
    assert found_again(given) == everything(given.live) == LONG


def test_a_product_of_factors_of_every_kind(intake, papers, tmp_path):
    factors = {"paper": str(papers), "question": "qs", "odd/name": lambda state: iter("ab")}
    given = intake(factors).find({"qs": ["Who?", "Why?"]}, "r", IN_A_THREAD)
    assert len(given.live) == 20
    assert everything(given.live)[:3] == [
        {"paper": {"title": "T0"}, "question": "Who?", "odd/name": "a"},
        {"paper": {"title": "T0"}, "question": "Who?", "odd/name": "b"},
        {"paper": {"title": "T0"}, "question": "Why?", "odd/name": "a"},
    ]
    assert found_again(given) == everything(given.live)
    assert given.whereabouts is None, "the questions are in state only"
    assert [path.name for path in spools(tmp_path)] == ["r-2.spool"]


def test_a_factor_in_state_is_written_down_sooner(intake, tmp_path):
    given = intake({"a": "xs", "b": "xs"}).find({"xs": LONG[:10]}, "r", IN_A_THREAD)
    assert len(spools(tmp_path)) == 2
    assert len(str(given.kept.reference(0, 100))) < 1000
    assert found_again(given) == everything(given.live)


def test_whereabouts_are_for_those_who_come_later(intake, papers):
    given = intake(papers).find({}, "r", ALONE)
    assert everything(reopen(given.whereabouts)) == everything(given.live)


def test_a_source_is_looked_through_for_each_run(intake, papers):
    given = intake(JsonLines(papers))
    before = given.find({}, "r", ALONE).live
    assert len(before) == 5
    papers.write_text('{"title": "new"}\n')
    assert everything(given.find({}, "s", ALONE).live) == [{"title": "new"}]
    with pytest.raises(SourceError, match=r"papers\.jsonl has changed since the run began"):
        everything(before)


def test_the_first_items_show_what_fields_there_are(intake, papers):
    lines = ["no JSON\n", '{"title": "T"}\n'] * HEAD
    papers.write_text("".join(lines))
    given = intake(papers).find({}, "r", ALONE)
    head = given.head()
    assert head == [{"title": "T"}] * (HEAD // 2)
    assert given.examples(head) is head


def test_names_of_columns_are_enough(intake, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1], "text": ["x"]}), tmp_path / "x.parquet")
    given = intake(Parquet(tmp_path / "x.parquet")).find({}, "r", ALONE)
    assert given.examples([]) == [{"id": "", "text": ""}]


@dataclasses.dataclass
class State:
    xs: list


def test_which_keys_of_the_state_are_read(intake):
    assert intake("xs").state_keys() == ["xs"]
    assert intake("xs.jsonl").state_keys() == []
    assert intake([1]).state_keys() == []
    assert intake({"a": "xs", "b": "ys.csv", "c": "zs"}).state_keys() == ["xs", "zs"]
    assert intake(len).state_keys() is None
    assert intake({"a": "xs", "b": len}).state_keys() is None


@pytest.mark.parametrize("state", [{"xs": [1]}, State([1])], ids=type)
def test_a_state_of_any_class(state):
    assert state_value(state, "xs", "screen") == [1]
    with pytest.raises(FanOutError, match="screen: the state has no 'ys'; it has xs"):
        state_value(state, "ys", "screen")


# -- what is none -----------------------------------------------------------------------------


@pytest.mark.parametrize("items", [None, 7, b"xs", Sweep("xs"), {"a": 7}, {"a": {"b": "xs"}}])
def test_what_can_be_no_items_is_refused_at_once(intake, items):
    kind = type(items if not isinstance(items, dict) else items["a"]).__name__
    with pytest.raises(TypeError, match=f"takes a state key, a path, a source.*, not {kind}"):
        intake(items)


def test_a_product_of_nothing(intake):
    with pytest.raises(ValueError, match="has nothing to combine; name at least one source"):
        intake({})


@pytest.mark.parametrize("items", [iter([1]), {"a": iter([1])}], ids=["alone", "factor"])
def test_an_iterator_that_would_be_empty_the_second_time(intake, items):
    with pytest.raises(TypeError, match="is an iterator, which is empty after one run; give a fun"):
        intake(items)


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, 7, None, JsonLines("x.jsonl")])
def test_a_state_that_has_no_list(intake, value):
    kind = type(value).__name__
    with pytest.raises(FanOutError, match=rf"screen: state\['xs'\] is a {kind}; a list of items"):
        intake("xs").find({"xs": value}, "r", ALONE)


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, 7, None])
def test_a_function_that_gives_no_list(intake, value):
    kind = type(value).__name__
    with pytest.raises(FanOutError, match=rf"items\(state\) is a {kind}; a list of items is"):
        intake(lambda state: value).find({}, "r", ALONE)


def raises(state):
    raise FileNotFoundError("no such table")


def raises_later(state):
    yield from range(3)
    raise ConnectionError("the archive is away")


class RaisesLater:
    def __iter__(self):
        return raises_later({})


def test_what_the_users_code_raises_is_told(intake, tmp_path):
    says = r"items\(state\) raised FileNotFoundError\('no such table'\); nothing was sent"
    with pytest.raises(SourceError, match=says) as caught:
        intake(raises).find({}, "r", ALONE)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    for given in (raises_later, lambda state: RaisesLater()):
        says = r"raised ConnectionError\('the archive is away'\) after 3 items; nothing was sent"
        with pytest.raises(SourceError, match=says):
            intake(given).find({}, "r", ALONE)
    assert spools(tmp_path) == []


def test_what_sources_say_is_said_as_it_is(intake):
    with pytest.raises(SourceError, match=r"^gone\.jsonl is not there"):
        intake(lambda state: [len(JsonLines("gone.jsonl"))]).find({}, "r", ALONE)


@pytest.mark.parametrize("error", [GraphInterrupt(), FanOutError("mine")], ids=type)
def test_what_is_not_for_us_to_tell_passes(intake, error):
    def stops(state):
        raise error

    def stops_later(state):
        yield 1
        raise error

    for given in (stops, stops_later):
        with pytest.raises(type(error)):
            intake(given).find({}, "r", ALONE)


def test_items_that_cannot_be_written_down(intake, tmp_path):
    with pytest.raises(SourceError, match="Item 1 is a builtin_function_or_method that cannot be"):
        intake(lambda state: iter([1, os.pipe])).find({}, "r", ALONE)
    assert spools(tmp_path) == []


def test_items_without_a_journal_are_kept_among_the_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    given = Intake("screen", lambda state: iter([1]), None).find({}, "r", IN_A_THREAD)
    assert Path(given.kept.name).is_relative_to(tmp_path)
