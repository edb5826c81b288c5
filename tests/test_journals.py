"""What a journal does for a graph: failures kept, answers of others, keys, owners."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import orjson
import pytest
from graphs import build, molecules, right_answers
from journals import python

from langgraph_hpc_fanout import (
    FanOutError,
    Journal,
    Limits,
    OpenAIEndpoint,
    Prompt,
    Results,
    reducers,
)
from langgraph_hpc_fanout.testing.fleet import Fault

REFUSED = Fault("http_400", contains="C3 ")


def asked(fleet):
    return Counter(row.prompt for row in fleet.record().requests)


def run(pool, journal, items, **options):
    return build(pool, journal=journal, **options).invoke({"molecules": items})


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [True, False])
def test_failures_are_asked_again_or_kept(fake_fleet, pool_over, tmp_path, retry):
    once = Fault("http_400", contains="C3 ", times=1)
    fleet = fake_fleet(faults=(once,))
    pool = pool_over(fleet.urls)
    journal = Journal(tmp_path / "run", retry_failures=retry)
    first = run(pool, journal, molecules(6))
    assert first["report"]["failures"] == {"permanent": 1}
    state = run(pool, journal, molecules(6))
    assert asked(fleet)["Is C3 soluble?"] == 1 + retry
    assert state["report"]["ok"] == 5 + retry
    assert state["report"]["cached"] == 6 - retry
    if not retry:
        (kept,), (failure,) = state["failures"], first["failures"]
        assert kept["error"] == failure["error"]
        assert kept["meta"] == {"cached": True}


def test_a_failure_that_was_kept_is_asked_again_when_that_is_wanted_later(
    fake_fleet, pool_over, tmp_path
):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C3 ", times=1),))
    pool = pool_over(fleet.urls)
    for retry in (False, False, True, False):
        state = run(pool, Journal(tmp_path / "run", retry_failures=retry), molecules(6))
    assert right_answers(state["predictions"], molecules(6))
    assert fleet.record().served == 7


# -- other journals ----------------------------------------------------------------------------


def test_answers_of_other_journals_are_copied_and_not_paid_for(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C3 ", times=1),))
    pool = pool_over(fleet.urls)
    run(pool, Journal(tmp_path / "one"), molecules(6))
    run(pool, Journal(tmp_path / "two"), molecules(12)[8:])
    fleet.reset_record()
    both = Journal(tmp_path / "three", cache=[tmp_path / "one", tmp_path / "two"])
    state = run(pool, both, molecules(12))
    assert right_answers(state["predictions"], molecules(12))
    assert set(asked(fleet)) == {f"Is C{number} soluble?" for number in (3, 6, 7)}
    report = state["report"]
    assert (report["cached"], report["attempts"], report["tokens"]["prompt"]) == (9, 3, 12)

    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(tmp_path / "two")
    again = run(pool, Journal(tmp_path / "three"), molecules(12))
    assert again["predictions"] == state["predictions"]
    assert again["report"]["cached"] == 12


def test_a_cache_that_is_not_there(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    with pytest.raises(FanOutError, match=r"There is no journal .*none to be a cache"):
        run(pool_over(fleet.urls), Journal(tmp_path / "run", cache=tmp_path / "none"), molecules(3))
    assert fleet.record().arrived == 0
    assert not (tmp_path / "run" / "owner.json").exists()


# -- equal questions ---------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["journal", "state"])
def perhaps_a_journal(request, tmp_path):
    return Journal(tmp_path / "run") if request.param else None


@pytest.mark.parametrize("samples", [1, 3])
def test_equal_questions_are_asked_once(fake_fleet, pool_over, perhaps_a_journal, samples):
    fleet = fake_fleet(latency=0.01, faults=(REFUSED,))
    # The first ones wait for each other; the last come when all is answered.
    items = molecules(4) * 20 + molecules(200) + molecules(4)
    state = run(
        pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8))),
        perhaps_a_journal,
        items,
        task=Prompt("Is {smiles} soluble?", samples=samples),
        reduce={"reducer": reducers.outcomes},
    )
    assert set(asked(fleet).values()) == {samples}
    assert fleet.record().served == 200 * samples
    outcomes = state["predictions"]
    places = [(outcome["index"], outcome["sample"]) for outcome in outcomes]
    assert places == [(index, sample) for index in range(284) for sample in range(samples)]
    for outcome in outcomes:
        smiles = items[outcome["index"]]["smiles"]
        assert outcome["ok"] is (smiles != "C3")
        assert not outcome["ok"] or f"Is {smiles} soluble?" in outcome["value"]
    report = state["report"]
    assert (report["total"], report["failed"]) == (284 * samples, 22 * samples)
    assert report["cached"] == 84 * samples
    assert report["attempts"] == 200 * samples


def test_equal_calls_of_a_function_are_made_once_where_a_journal_knows_them(tmp_path):
    calls = Counter()

    def double(number):
        calls[number] += 1
        if number == 3:
            raise ValueError("three")
        return 2 * number

    items = [1, 2, 3, 1, 2, 3] * 10
    journal = Journal(tmp_path / "run")
    state = run(None, journal, items, task=double, version="1", task_concurrency=4)
    assert state["predictions"] == [2, 4, None] * 20
    assert calls == {1: 1, 2: 1, 3: 1}
    assert state["report"]["cached"] == 57


# -- keys of one's own -------------------------------------------------------------------------

TWINS = [
    {"id": "a", "smiles": "C0"},
    {"id": "b", "smiles": "C1"},
    {"id": "a", "smiles": "C2"},
    {"id": "a", "smiles": "C0"},
]


def soluble(molecule):
    return f"Is {molecule['smiles']} soluble?"


@pytest.mark.parametrize("retry", [True, False])
@pytest.mark.parametrize("task", [Prompt("Is {smiles} soluble?"), soluble], ids=["prompt", "call"])
def test_two_items_of_one_key_that_ask_different_things(
    fake_fleet, pool_over, tmp_path, task, retry
):
    fleet = fake_fleet(latency=0.01)
    pool = pool_over(fleet.urls)
    journal = Journal(tmp_path / "run", retry_failures=retry)
    for times in range(3):
        state = run(pool, journal, TWINS, task=task, key="id")
        zero, one, two, same = state["predictions"]
        assert "Is C0 soluble?" in zero
        assert same == zero
        assert "Is C1 soluble?" in one
        assert two is None
        (failure,) = state["failures"]
        assert failure["key"] == "a"
        assert failure["error"]["message"] == (
            "Item 2 has the key 'a' of item 0 and asks something else; "
            "give each item a key of its own."
        )
        assert state["report"]["cached"] == (3 if times else 1)
    assert "Is C2 soluble?" not in asked(fleet)


def test_a_failure_of_one_key_is_no_failure_of_another_item(fake_fleet, pool_over, tmp_path):
    """The journal holds the conflict's failure under the key of both."""
    fleet = fake_fleet(faults=(Fault("http_400", contains="C0 ", times=1),))
    pool = pool_over(fleet.urls)
    journal = Journal(tmp_path / "run", retry_failures=False)
    run(pool, journal, TWINS[:3], key="id")
    state = run(pool, journal, TWINS[:3], key="id")
    failures = {each["index"]: each["error"]["message"] for each in state["failures"]}
    assert "has the key" not in failures.get(0, "")
    assert "has the key 'a' of item 0" in failures[2]


# -- several at once ---------------------------------------------------------------------------


async def test_two_runs_of_one_graph_at_once(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(latency=0.01)
    graph = build(pool_over(fleet.urls), journal=Journal(tmp_path / "run"))
    given = [molecules(300)[:200], molecules(300)[200:], []]
    states = await asyncio.gather(*(graph.ainvoke({"molecules": each}) for each in given))
    for items, state in zip(given, states, strict=True):
        assert right_answers(state["predictions"], items)
        assert state["report"]["total"] == len(items)
        assert state["report"]["cached"] == 0
    assert fleet.record().served == 300


class SlowRun:
    """A run that goes on until it is let go: only half of its items are answered before."""

    def __init__(self, directory):
        self.directory = directory
        self.graph = build(None, task=self._answer, version="1", journal=Journal(directory))
        self._let_go = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self._thread.start()
        while self._written() < 32:
            time.sleep(0.01)

    def end(self):
        """Let it end; returns its state, or its error."""
        self._let_go.set()
        self._thread.join()
        return self._ended

    def _written(self):
        segments = self.directory.glob("segments/*")
        return sum(segment.read_bytes().count(b'"kind":"value"') for segment in segments)

    def _answer(self, molecule):
        if int(molecule["smiles"][1:]) >= 32:
            self._let_go.wait(60)
        return soluble(molecule)

    def _go(self):
        try:
            self._ended = self.graph.invoke({"molecules": molecules(64)})
        except FanOutError as error:
            self._ended = error


@pytest.fixture
def slow_run(tmp_path):
    run = SlowRun(tmp_path / "run")
    yield run
    run.end()


OTHER = """
import sys
from graphs import build, molecules
from langgraph_hpc_fanout import FanOutError, Journal
journal = Journal(sys.argv[1], takeover=sys.argv[2] == "takeover")
graph = build(None, task=lambda molecule: molecule["smiles"], version="2", journal=journal)
try:
    print(graph.invoke({"molecules": molecules(3)})["predictions"])
except FanOutError as error:
    print(error)
"""


def said_by_another(script, *arguments):
    with python(script, *arguments) as program:
        return program.communicate(timeout=60)[0]


def test_a_journal_that_another_process_writes(slow_run):
    said = said_by_another(OTHER, slow_run.directory, "")
    assert f"is being written by process {os.getpid()} on" in said
    assert "takeover=True" in said
    assert right_answers(slow_run.end()["predictions"], molecules(64))


def test_a_journal_that_another_process_takes_over(slow_run):
    assert said_by_another(OTHER, slow_run.directory, "takeover") == "['C0', 'C1', 'C2']\n"
    error = slow_run.end()
    assert re.search(r"was taken over by (process \d+ on|a process that is done)", str(error))
    assert {outcome.index for outcome in error.outcomes} >= set(range(32))
    state = slow_run.graph.invoke({"molecules": molecules(64)})
    assert right_answers(state["predictions"], molecules(64))
    assert state["report"]["cached"] >= 32


READER = """
import sys, time
from langgraph_hpc_fanout import Results, reducers
while True:
    try:
        results = Results.of(sys.argv[1], name="screen")
    except Exception as error:  # it has not begun
        continue
    if len(results) >= 32:
        break
    time.sleep(0.05)
print([outcome.value for outcome in results] == [f"Is C{n} soluble?" for n in range(32)])
print(reducers.stats(results)["ok"], "of", results.expected)
"""


def test_readers_in_another_process_while_it_goes_on(slow_run):
    assert said_by_another(READER, slow_run.directory) == "True\n32 of 64\n"


def test_a_journal_tells_of_its_runs(tmp_path):
    graph = build(
        None,
        task=lambda molecule: molecule["smiles"],
        version="1",
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": lambda results: [results.run, results.expected]},
    )
    before = datetime.now(UTC)
    run, expected = graph.invoke({"molecules": molecules(3)})["predictions"]
    assert expected == 3
    (told,) = Results.runs(tmp_path / "run")
    assert (told.run, told.name, told.expected, told.ok) == (run, "screen", 3, 3)
    assert before <= told.started <= datetime.now(UTC)
    assert graph.invoke({"molecules": []})["predictions"][1] == 0


def test_a_journal_that_is_deleted_while_it_is_used(slow_run):
    shutil.rmtree(slow_run.directory)
    assert "was deleted while it was in use; run the graph again" in str(slow_run.end())
    state = slow_run.graph.invoke({"molecules": molecules(64)})
    assert right_answers(state["predictions"], molecules(64))
    assert len(list(Results.of(slow_run.directory))) == 64


FORKS = """
import os, sys, threading
from graphs import build, molecules
from langgraph_hpc_fanout import FanOutError, Journal
begun, let_go = threading.Event(), threading.Event()

def answer(molecule):
    begun.set()
    let_go.wait(60)
    return molecule["smiles"]

graph = build(None, task=answer, version="1", journal=Journal(sys.argv[1]))
states = []
parent = threading.Thread(
    target=lambda: states.append(graph.invoke({"molecules": molecules(20)}))
)
parent.start()
begun.wait(60)
if (child := os.fork()) == 0:
    try:
        graph.invoke({"molecules": molecules(20)})
    except FanOutError as error:
        os._exit(0 if f"is being written by process {os.getppid()} on" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
let_go.set()
parent.join()
print(states[0]["predictions"] == [f"C{n}" for n in range(20)])
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_write_its_parents_journal(tmp_path):
    assert said_by_another(FORKS, tmp_path / "run") == "0\nTrue\n"


ENDS = """
import asyncio, sys, threading
from pathlib import Path
from graphs import build, molecules
from langgraph_hpc_fanout import Journal
many = threading.Event()
directory = Path(sys.argv[1])

async def answer(molecule):
    number = int(molecule["smiles"][1:])
    while number >= 10 and not list(directory.glob("segments/*")):
        await asyncio.sleep(0.01)
    if number == 50:
        many.set()
    if number >= 30:
        await asyncio.sleep(60)
    return molecule["smiles"]

graph = build(None, task=answer, version="1", journal=Journal(directory), task_concurrency=21)
run = graph.ainvoke({"molecules": molecules(64)})
threading.Thread(target=asyncio.run, args=[run], daemon=True).start()
many.wait(60)
"""


def test_what_was_answered_when_the_program_ends_is_kept(tmp_path):
    said_by_another(ENDS, tmp_path / "run")
    assert [outcome.value for outcome in Results.of(tmp_path / "run")] == [
        f"C{number}" for number in range(30)
    ]


THREADS = """
import sys, threading, time
from graphs import build, molecules
from langgraph_hpc_fanout import FanOutError, Journal
begun = threading.Event()

def answer(molecule):
    if molecule["smiles"] == "C9":
        begun.set()
    time.sleep(0.02)
    return molecule["smiles"]

def run():
    try:
        graph.invoke({"molecules": molecules(300)})
    except FanOutError as error:
        print(error)

graph = build(None, task=answer, version="1", journal=Journal(sys.argv[1]), task_concurrency=2)
threading.Thread(target=run).start()
begun.wait(60)
"""


def test_a_program_that_ends_before_its_run_makes_no_failures(tmp_path):
    assert said_by_another(THREADS, tmp_path / "run").startswith(
        "The program ended before the run did. What was answered is kept in"
    )
    outcomes = list(Results.of(tmp_path / "run"))
    assert outcomes
    assert all(outcome.ok for outcome in outcomes)


# -- directories that are none -----------------------------------------------------------------


def test_a_journal_of_an_unknown_format(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    pool = pool_over(fleet.urls)
    run(pool, Journal(tmp_path / "run"), molecules(3))
    manifest = tmp_path / "run" / "journal.json"
    manifest.write_bytes(orjson.dumps({**orjson.loads(manifest.read_bytes()), "format": 99}))
    for journal in (Journal(tmp_path / "run"), Journal(tmp_path / "b", cache=tmp_path / "run")):
        with pytest.raises(FanOutError, match=r"is of format 99, written by .* reads format 1"):
            run(pool, journal, molecules(4))
    assert fleet.record().served == 3


@pytest.mark.parametrize("items", [molecules(3), iter(molecules(3))], ids=["list", "iterator"])
def test_a_read_only_directory(fake_fleet, pool_over, items):
    fleet = fake_fleet()
    graph = build(pool_over(fleet.urls), journal=Journal("/proc/run"), items=lambda state: items)
    with pytest.raises(FanOutError, match=r"/proc/run.*cannot be (written|kept)|cannot be kept"):
        graph.invoke({})
    assert fleet.record().arrived == 0
