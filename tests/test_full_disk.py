"""A disk that is full: nothing more is sent, nothing is forgotten, and it goes on from there."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections import Counter

import pytest
from graphs import build, molecules, right_answers
from journals import python

from langgraph_hpc_fanout import FanOutError, Journal, Limits, OpenAIEndpoint, Results
from langgraph_hpc_fanout.testing.fleet import Fault

# What a file may hold at most stands for a disk that is full.
PROGRAM = """
import json, resource, sys
from graphs import build, molecules
from langgraph_hpc_fanout import FanOutError, Journal, Limits, OpenAIEndpoint, Pool

def room(size):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))

def say(data):
    print(json.dumps(data), flush=True)

url, directory, task = sys.argv[1:]
pool = Pool(OpenAIEndpoint(url, limits=Limits(concurrency=8)))

def ask(molecule):
    return pool.chat_model().invoke(f"Is {molecule['smiles']} soluble?").content

how = {"task": ask, "version": "1", "task_concurrency": 8} if task == "call" else {}
graph = build(None if how else pool, journal=Journal(directory), **how)
given = {"molecules": molecules(300)}
"""
FULL = """
room(20_000)
try:
    graph.invoke(given)
except FanOutError as error:
    say(str(error))
    say([outcome.index for outcome in error.outcomes if outcome.ok])
"""
ROOM_AGAIN = """
input()
room(None)
"""
GO_ON = """
state = graph.invoke(given)
say([state["predictions"], state["report"]["cached"]])
"""


def start(script, fleet, journal, task="prompt"):
    return python(PROGRAM + script, fleet.urls[0], journal, task)


def said(program):
    return json.loads(program.stdout.readline())


def asked(fleet):
    return Counter(row.prompt for row in fleet.record().requests)


@pytest.mark.parametrize("task", ["prompt", "call"])
def test_nothing_more_is_sent_and_the_same_process_goes_on(fake_fleet, tmp_path, task):
    fleet = fake_fleet(latency=0.02)
    with start(FULL + ROOM_AGAIN + GO_ON, fleet, tmp_path / "run", task) as program:
        why, answered = said(program), said(program)
        served = asked(fleet)
        assert "run cannot be written" in why
        assert "File too large" in why
        assert "Make room and run again" in why
        assert len(answered) == served.total() < 150
        program.stdin.write("\n")
        program.stdin.flush()
        predictions, cached = said(program)
    assert right_answers(predictions, molecules(300))
    assert cached == len(answered)
    assert set(asked(fleet).values()) == {1}


def test_what_waits_in_memory_is_written_at_the_end_of_the_process(fake_fleet, tmp_path):
    fleet = fake_fleet(latency=0.02)
    with start(FULL + ROOM_AGAIN, fleet, tmp_path / "run") as program:
        _, answered = said(program), said(program)
        program.communicate("\n", timeout=60)
    written = [outcome.index for outcome in Results.of(tmp_path / "run")]
    assert written == answered


def test_another_process_asks_what_is_not_on_disk(fake_fleet, tmp_path):
    fleet = fake_fleet(latency=0.02)
    with start(FULL + ROOM_AGAIN, fleet, tmp_path / "run") as program:
        said(program)
        program.kill()
    written = len(list(Results.of(tmp_path / "run")))
    assert 20 < written < 150
    fleet.reset_record()
    with start(GO_ON, fleet, tmp_path / "run") as program:
        predictions, cached = said(program)
    assert right_answers(predictions, molecules(300))
    assert cached == written
    assert fleet.record().served == 300 - written


class Disk(logging.Handler):
    """A disk that is full, until it is cleared; perhaps as soon as a run says that it stopped."""

    def __init__(self, monkeypatch, *, is_cleared):
        super().__init__()
        self.is_full = True
        self.said = []
        self._is_cleared = is_cleared
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(logging.getLogger("langgraph_hpc_fanout"), "handlers", [self])

    def pwrite(self, *arguments):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwrite(*arguments)

    def emit(self, record):
        self.said.append(record.getMessage())
        if self._is_cleared and "Nothing more is sent until it can be." in self.said[-1]:
            self.is_full = False


@pytest.fixture(params=["prompt", "call"])
def half_slow(request, fake_fleet, pool_over, tmp_path):
    """A graph of which every second item takes long, and its fleet."""
    slow = Fault("slow", when=lambda body: int(number_in(body)) % 2, seconds=1.5)
    fleet = fake_fleet(latency=0.02, faults=(slow,))
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8)))

    def ask(molecule):
        return pool.chat_model().invoke(f"Is {molecule['smiles']} soluble?").content

    how = {"task": ask, "version": "1", "task_concurrency": 8} if request.param == "call" else {}
    return build(None if how else pool, journal=Journal(tmp_path / "run"), **how), fleet


def number_in(body):
    return re.search(r"C(\d+)", body["messages"][-1]["content"])[1]


def test_room_that_comes_back_while_requests_are_under_way(half_slow, monkeypatch, tmp_path):
    graph, fleet = half_slow
    disk = Disk(monkeypatch, is_cleared=True)
    state = graph.invoke({"molecules": molecules(40)})
    assert right_answers(state["predictions"], molecules(40))
    assert set(asked(fleet).values()) == {1}
    assert [said.rpartition(": ")[2] for said in disk.said if "again" in said][-1:] == [
        "the journal can be written again."
    ]
    assert len(list(Results.of(tmp_path / "run"))) == 40


def test_what_is_under_way_is_taken_before_it_ends(half_slow, monkeypatch):
    graph, fleet = half_slow
    disk = Disk(monkeypatch, is_cleared=False)
    with pytest.raises(FanOutError, match="No space left on device") as caught:
        graph.invoke({"molecules": molecules(40)})
    answered = list(caught.value.outcomes)
    assert len(answered) == fleet.record().served < 40
    assert any(outcome.index % 2 for outcome in answered), "what took long"
    disk.is_full = False
    state = graph.invoke({"molecules": molecules(40)})
    assert right_answers(state["predictions"], molecules(40))
    assert set(asked(fleet).values()) == {1}
