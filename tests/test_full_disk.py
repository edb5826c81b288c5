"""A disk that is full: nothing more is sent, nothing is forgotten, and it goes on from there."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from graphs import molecules, right_answers
from journals import python

from langgraph_hpc_fanout import Results
from langgraph_hpc_fanout.testing.fleet import Fault

# What a file may hold at most stands for a disk that is full.
PROGRAM = """
import json, resource, sys, threading, time
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
ROOM_WHEN_ASKED_FOR = """
import logging
heard = []

class Listener(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())
        if "Nothing more is sent until it can be" in heard[-1]:
            room(None)

logging.getLogger("langgraph_hpc_fanout").addHandler(Listener())
room(2_000)
"""
HEARD = """
say(heard)
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


@pytest.mark.parametrize("task", ["prompt", "call"])
def test_room_that_comes_back_while_requests_are_under_way(fake_fleet, tmp_path, task):
    fleet = fake_fleet(latency=0.02, faults=(Fault("slow", contains="C1 ", seconds=2.0),))
    script = ROOM_WHEN_ASKED_FOR + GO_ON + HEARD
    with start(script, fleet, tmp_path / "run", task) as program:
        (predictions, _), heard = said(program), said(program)
    assert right_answers(predictions, molecules(300))
    assert set(asked(fleet).values()) == {1}
    assert [line.rpartition(": ")[2] for line in heard[1:]] == ["the journal can be written again."]
    assert len(list(Results.of(tmp_path / "run"))) == 300
