"""Progress: what is counted, and the event that shows it."""

from __future__ import annotations

import orjson
import pytest
from properties import is_plain

from langgraph_hpc_fanout.records import Failure, Outcome, Usage
from langgraph_hpc_fanout.watch.progress import EVENT_TYPE, EVENT_VERSION, Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    progress = Progress("screen", "run-1", clock)
    progress.total = 10
    return progress


def answer(endpoint="a", attempts=1, usage=None):
    return Outcome("k", 0, ok=True, endpoint=endpoint, attempts=attempts, usage=usage)


def failure(kind, attempts=1, endpoint="a"):
    error = Failure(kind, "no")
    return Outcome("k", 0, ok=False, error=error, attempts=attempts, endpoint=endpoint)


KNOWN = Outcome("k", 0, ok=True, attempts=0)
NEVER_SENT = failure("permanent", attempts=0, endpoint=None)


def test_it_counts_every_kind_of_outcome(progress):
    progress.count(answer("a", usage=Usage(10, 4)))
    progress.count(answer("b", usage=Usage(20, 5)))
    progress.count(answer("a"))
    progress.count(failure("timeout"))
    progress.count(failure("timeout", endpoint="b"))
    progress.count(KNOWN)
    progress.count(NEVER_SENT)
    assert (progress.done, progress.ok, progress.cached) == (7, 4, 1)
    assert progress.failures == {"timeout": 2, "permanent": 1}
    assert progress.endpoints == {"a": 3, "b": 2}
    assert (progress.prompt_tokens, progress.completion_tokens) == (30, 9)


def test_what_the_journal_knew_costs_no_tokens_and_no_endpoint(progress):
    progress.count(Outcome("k", 0, ok=True, attempts=0, endpoint="a", usage=Usage(5, 5)))
    assert progress.endpoints == {}
    assert (progress.prompt_tokens, progress.completion_tokens) == (0, 0)


def test_the_event_of_a_run_that_has_just_begun(progress):
    assert progress.event(3) == {
        "type": EVENT_TYPE,
        "v": EVENT_VERSION,
        "node": "screen",
        "run": "run-1",
        "total": 10,
        "done": 0,
        "ok": 0,
        "failed": {},
        "cached": 0,
        "in_flight": 3,
        "seconds": 0.0,
        "remaining_seconds": None,
        "tokens": {"prompt": 0, "completion": 0},
        "endpoints": {},
    }


def test_the_event_is_a_copy_of_plain_data(progress):
    progress.count(failure("cold"))
    event = progress.event(0)
    assert is_plain(event)
    assert orjson.loads(orjson.dumps(event)) == event
    progress.count(failure("cold"))
    assert (event["failed"], event["endpoints"]) == ({"cold": 1}, {"a": 1})


def test_the_remaining_time_follows_from_what_was_asked_not_from_what_was_known(progress, clock):
    for _ in range(4):
        progress.count(KNOWN)
    clock.now += 1.0
    assert progress.event(0)["remaining_seconds"] is None
    progress.count(answer())
    progress.count(failure("timeout"))
    clock.now += 3.0
    event = progress.event(0)
    assert event["seconds"] == 4.0
    assert event["remaining_seconds"] == 8.0  # 4 items to go at 2 items in 4 s


def test_nothing_remains_at_the_end(progress, clock):
    for _ in range(10):
        progress.count(answer())
    clock.now += 2.0
    event = progress.event(0)
    assert (event["done"], event["remaining_seconds"]) == (10, 0.0)


def test_seconds_are_rounded_to_milliseconds(progress, clock):
    clock.now += 1.23456
    assert progress.event(0)["seconds"] == 1.235


def test_an_event_tells_what_is_waited_for_while_it_is(progress):
    progress.total = 1
    assert "waiting" not in progress.event(0)
    progress.waiting_for = "The model is queued."
    assert progress.event(0)["waiting"] == "The model is queued."
    progress.count(Outcome("k", 0, ok=True, attempts=1))
    assert "waiting" not in progress.event(0), "it is done"
