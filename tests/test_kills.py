"""Kills at random moments, then the same program again, until it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest
from graphs import molecules, right_answers

from langgraph_hpc_fanout.journal.log import log_at
from langgraph_hpc_fanout.testing.fleet import Fault

UNANSWERABLE = Fault("http_400", contains="C7 ")
SLOW = [pytest.mark.slow, pytest.mark.timeout(1500)]
OWN = ("seconds", "latency", "cached", "attempts", "tokens", "endpoints", "models")
"""Of a report: what tells of the invocation that ended the run, and not of its items."""


class Mortal:
    """The program, as often as it is started."""

    def __init__(self, fleet, directory, how, count):
        self.journal = directory / "journal"
        self._fleet = fleet
        program = Path(__file__).with_name("mortal.py")
        directory.mkdir()
        self._environment = {**os.environ, "TMPDIR": str(directory)}
        self._command = [sys.executable, program, fleet.urls[0], directory, how, str(count)]
        self._process = None

    def start(self):
        """Start it; returns when its graph is about to begin."""
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            text=True,
        )
        assert self._said() == "ready"

    def end(self):
        """Let it go on to its end; returns the state."""
        *_, state = self._process.communicate(timeout=100)[0].splitlines()
        assert self._process.returncode == 0
        return json.loads(state)

    def kill(self, kind):
        """Kill it; returns when the fleet has noticed, too."""
        self._process.send_signal(kind)
        self._process.communicate(timeout=100)
        assert self._process.returncode != 0, "it had ended before"
        self._fleet.wait(lambda record: record.in_flight == 0)

    # Moments

    def some_time(self, chance):
        """Any moment: of opening, asking, writing."""
        time.sleep(chance.uniform(0, 0.4))

    def while_it_opens(self, chance):
        """The journal is about to be its own, or just is."""
        self._watch(self.journal.iterdir)
        time.sleep(chance.uniform(0, 0.01))

    def while_it_writes(self, chance):
        """A segment has grown by some more bytes, which may not be safe yet."""
        for _ in range(chance.randint(1, 8)):
            if not self._watch(
                lambda: (path.stat().st_size for path in self.journal.glob("segments/*"))
            ):
                break

    def while_it_reduces(self, chance):
        """All is answered; the reducer has read some of it."""
        assert self._said() == "reducing"
        time.sleep(chance.uniform(0, 0.2))

    def _said(self):
        return self._process.stdout.readline().strip()

    def _watch(self, look):
        """Whether what is there to be seen changes in time: its reducer takes longer."""
        before, end = self._seen(look), time.monotonic() + 0.2
        while (is_same := self._seen(look) == before) and time.monotonic() < end:
            time.sleep(0.0005)
        return not is_same

    @staticmethod
    def _seen(look):
        try:
            return list(look())
        except FileNotFoundError:
            return []


def on_disk(journal, *kinds):
    """The questions of which there are such lines, and how many of each."""
    lines = [
        json.loads(line)
        for segment in sorted(journal.glob("segments/*"))
        for line in segment.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    indices = [line["index"] for line in lines if line["kind"] in kinds]
    return Counter(f"Is C{index} soluble?" for index in indices)


def tokens_of(outcomes):
    """What was paid for these."""
    return sum(
        outcome.usage.total_tokens
        for outcome in outcomes
        if outcome.usage is not None and not outcome.meta.get("cached")
    )


def told(state):
    """A state without what depends on when it was asked for."""
    failures = [(each["index"], each["key"], each["error"]) for each in state["failures"]]
    report = {name: value for name, value in state["report"].items() if name not in OWN}
    return state["predictions"], failures, report


@pytest.mark.parametrize("how", ["journal", "both"])
@pytest.mark.parametrize(
    ("kills", "kind"),
    [
        (5, signal.SIGKILL),
        pytest.param(50, signal.SIGKILL, marks=SLOW),
        pytest.param(20, signal.SIGINT, marks=SLOW),
    ],
)
def test_what_is_killed_goes_on_where_it_was(fake_fleet, tmp_path, how, kills, kind):
    fleet = fake_fleet(latency=0.02, faults=(UNANSWERABLE,))
    count = 60 * kills
    undisturbed = Mortal(fleet, tmp_path / "undisturbed", how, count)
    undisturbed.start()
    expected = undisturbed.end()

    kinds = ["value"] if how == "journal" else ["value", "error"]
    chance = random.Random(kills)
    mortal = Mortal(fleet, tmp_path / "killed", how, count)
    moments = [mortal.while_it_opens, mortal.some_time, mortal.while_it_writes]
    moments = [*islice(cycle(moments), kills - 1), mortal.while_it_reduces]
    for moment in moments:
        with only_what_is_missing_is_asked(fleet, mortal.journal, kinds):
            mortal.start()
            moment(chance)
            mortal.kill(kind)
    with only_what_is_missing_is_asked(fleet, mortal.journal, kinds):
        mortal.start()
        state = mortal.end()

    assert told(state) == told(expected)
    assert state["predictions"].pop(7) is None
    assert right_answers(state["predictions"], molecules(7) + molecules(count)[8:])
    assert_paid_once(mortal.journal, state["report"], expected["report"])


def test_with_a_checkpointer_alone_it_goes_on_from_there(fake_fleet, tmp_path):
    never = Fault("hang", contains="C40 ", times=1)
    fleet = fake_fleet(latency=0.02, faults=(never,))
    mortal = Mortal(fleet, tmp_path / "killed", "checkpointer", 300)
    mortal.start()
    fleet.wait(lambda record: record.served >= 150)
    mortal.kill(signal.SIGKILL)
    before = fleet.record().served
    mortal.start()
    state = mortal.end()
    assert right_answers(state["predictions"], molecules(300))
    assert state["report"]["total"] == 300
    # How many branches were kept is up to LangGraph, which writes behind those that wait.
    assert fleet.record().served - before <= 300


@contextmanager
def only_what_is_missing_is_asked(fleet, journal, kinds):
    safe = on_disk(journal, *kinds)
    fleet.reset_record()
    yield
    asked = Counter(row.prompt for row in fleet.record().requests)
    assert not asked.keys() & safe.keys()
    assert set(asked.values()) <= {1}


def assert_paid_once(journal, report, expected):
    """Every answer was kept once, and paid for in one run."""
    kept = on_disk(journal, "value")
    assert kept.total() == len(kept) == expected["ok"]
    log = log_at(journal)
    log.refresh()
    paid = [tokens_of(log.outcomes(each.run)) for each in log.runs()]
    assert sum(paid) == sum(expected["tokens"].values())
    assert paid[-1] == sum(report["tokens"].values())
