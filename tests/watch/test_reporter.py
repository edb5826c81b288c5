"""Who is told of a run's progress."""

from __future__ import annotations

import logging

import pytest

from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.watch import reporter as module
from langgraph_hpc_fanout.watch.progress import Progress
from langgraph_hpc_fanout.watch.reporter import Reporter

ANSWER = Outcome("k", 0, ok=True, attempts=1)


class Told:
    """A display that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def show(self, event):
        self.calls.append(("show", event["done"], event["total"]))

    def close(self, event):
        self.calls.append(("close", event["done"], event["total"]))


class Broken:
    def show(self, event):
        raise RuntimeError("The display is broken")

    close = show


@pytest.fixture
def progress():
    progress = Progress("screen", "run-1", lambda: 1000.0)
    progress.total = 1
    return progress


@pytest.fixture
def told(monkeypatch):
    told = Told()
    chosen = iter([told])  # a second choice would fail
    monkeypatch.setattr(module, "choose", lambda: next(chosen))
    return told


def test_a_display_is_told_all_and_the_end_once(progress, told):
    reporter = Reporter(progress, lambda: 0)
    reporter.join(0, lambda event: None)
    reporter.join(1, lambda event: None)
    reporter.show()
    reporter.show()
    progress.count(ANSWER)
    reporter.show(final=True)
    reporter.show()
    reporter.show(final=True)
    assert told.calls == [("show", 0, 1), ("show", 0, 1), ("close", 1, 1)]


def test_a_run_that_goes_on_after_its_end_is_shown_again(progress, told):
    reporter = Reporter(progress, lambda: 0)
    reporter.join(0, lambda event: None)
    progress.count(ANSWER)
    reporter.show(final=True)
    progress.total += 1
    reporter.show()
    progress.count(ANSWER)
    reporter.show(final=True)
    assert told.calls == [("close", 1, 1), ("show", 1, 2), ("close", 2, 2)]


def test_displays_and_writers_see_the_same_event(progress, monkeypatch):
    shown, written = [], []
    display = Told()
    display.show = shown.append
    monkeypatch.setattr(module, "choose", lambda: display)
    reporter = Reporter(progress, lambda: 7)
    reporter.join(0, written.append)
    reporter.show()
    assert shown == written == [progress.event(7)]


@pytest.mark.parametrize(
    "choose", [Broken, lambda: None, lambda: 1 / 0], ids=["broken", "none", "raises"]
)
def test_neither_a_display_nor_a_writer_breaks_the_run(progress, monkeypatch, caplog, choose):
    caplog.set_level(logging.INFO, "langgraph_hpc_fanout")
    monkeypatch.setattr(module, "choose", choose)
    written = []
    reporter = Reporter(progress, lambda: 0)
    reporter.join(0, lambda event: 1 / 0)
    reporter.show()
    reporter.leave(0)
    reporter.join(1, written.append)
    reporter.show(final=True)
    assert len(written) == 1
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("screen: 0/1 done")


def test_what_is_waited_for_is_streamed_once(progress):
    events = []
    reporter = Reporter(progress, lambda: 0)
    reporter.join(0, lambda event: events.append(event.get("waiting")))
    for words in (None, "queued", "queued", "starting", None):
        progress.waiting_for = words
        reporter.show()
    assert events == [None, "queued", "starting", None]
