"""Look-ups: each key is asked once, whoever comes with it and when."""

from __future__ import annotations

import asyncio

import pytest
from hosts import Host
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import Journal
from langgraph_hpc_fanout.records import Failure, Outcome
from langgraph_hpc_fanout.runs.answers import ASKED, Answers, _Owners
from langgraph_hpc_fanout.runs.keeper import Known
from langgraph_hpc_fanout.tasks.keys import content_key

FAULT = Failure("permanent", "no")


def always(outcome):
    return True


class Asking:
    """Looks places up as a run does, and answers those that are to be asked."""

    def __init__(self, count, run="run", journal=None):
        self.host = Host(count)
        (self.shard,) = self.host.shards
        self.keeper = self.host.keeper(journal, run)
        self.answers = Answers(run, self.keeper)
        self.under_way = {}
        self.waiting = {}

    def look_up(self, place, key, asked=None, accepts=always):
        """What is known; "waits", "ask", or an outcome's value or failure."""
        found = self.answers.look_up((self.shard, place), key, asked, accepts)
        if found is None:
            self.under_way[key] = place, asked
            return "ask"
        if isinstance(found, Known):
            return found.outcome.value if found.outcome.ok else found.outcome.error
        return found

    def settle(self, key, *, ok=True):
        """Answer what is under way; returns the places that waited."""
        place, asked = self.under_way.pop(key)
        meta = {} if asked is None else {ASKED: asked}
        error = None if ok else FAULT
        value = f"{key} at {place}" if ok else None
        outcome = Outcome(key, place, ok, value, error, attempts=1, meta=meta)
        self.keeper.keep(self.shard, place, outcome)
        return [offset for _, offset in self.answers.settle(key)]


@repeatable
@given(
    keys=st.lists(st.sampled_from("abc"), max_size=20),
    settled=st.lists(st.tuples(st.integers(0, 20), st.booleans())),
)
def test_each_key_is_asked_once_and_answered_everywhere(keys, settled):
    asking = Asking(len(keys))
    outcomes, waiting = {}, {}
    pending = list(settled)
    for place, key in enumerate(keys):
        found = asking.look_up(place, key)
        if key in outcomes:
            assert found == outcomes[key]
        elif key in waiting:
            assert found == "waits"
            waiting[key].append(place)
        else:
            assert found == "ask"
            waiting[key] = []
        while pending and pending[0][0] <= place and asking.under_way:
            _, ok = pending.pop(0)
            asked, (first, _) = next(iter(asking.under_way.items()))
            assert asking.settle(asked, ok=ok) == waiting.pop(asked)
            outcomes[asked] = f"{asked} at {first}" if ok else FAULT
    assert set(asking.under_way) == set(waiting)


@repeatable
@given(questions=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=20))
def test_a_key_of_ones_own_belongs_to_the_first_question(questions):
    asking = Asking(len(questions))
    first = {}
    for place, (key, question) in enumerate(questions):
        found = asking.look_up(place, key, content_key(question))
        owner, owners_question = first.setdefault(key, (place, question))
        if question != owners_question:
            assert found.message == (
                f"Item {place} has the key {key!r} of item {owner} and asks something else; "
                "give each item a key of its own."
            )
        else:
            assert found == ("ask" if owner == place else "waits")


def test_an_answer_that_does_not_count_is_asked_anew():
    asking = Asking(3)
    asking.look_up(0, "k")
    asking.settle("k")
    assert asking.look_up(1, "k") == "k at 0"
    assert asking.look_up(2, "k", accepts=lambda outcome: False) == "ask"


def test_a_key_that_nobody_waits_for():
    assert Asking(1).answers.settle("k") == []


def in_journal(journal, *steps):
    """Several runs, one after another, each in the journal."""

    async def main():
        results = []
        for run, step in steps:
            asking = Asking(8, run, journal)
            await asking.keeper.open()
            results.append(step(asking))
            await asking.keeper.close()
        return results

    return asyncio.run(main())


def answer(ok=True, place=0, key="k", question="q"):
    def step(asking):
        found = asking.look_up(place, key, content_key(question))
        if found == "ask":
            asking.settle(key, ok=ok)
        return found

    return step


@pytest.mark.parametrize("retry", [True, False])
def test_failures_of_other_runs_are_asked_again_or_kept(tmp_path, retry):
    journal = Journal(tmp_path, retry_failures=retry)
    _, again, resumed = in_journal(
        journal, ("one", answer(ok=False)), ("two", answer(ok=False)), ("two", answer())
    )
    assert (again, resumed) == (("ask", "ask") if retry else (FAULT, FAULT))


def test_what_another_run_answered_counts_though_the_question_has_changed(tmp_path):
    _, found = in_journal(
        Journal(tmp_path), ("one", answer()), ("two", answer(place=3, question="another"))
    )
    assert found == "k at 0"


def test_a_run_that_goes_on_knows_the_owners_of_its_keys(tmp_path):
    """Of items whose branches have ended before, so that nobody looks them up again."""
    _, other, same = in_journal(
        Journal(tmp_path),
        ("one", answer()),
        ("one", answer(place=3, question="another")),
        ("one", answer(place=4)),
    )
    assert "Item 3 has the key 'k' of item 0" in other.message
    assert same == "k at 0"


def test_a_failure_of_another_question_is_none_of_this(tmp_path):
    journal = Journal(tmp_path, retry_failures=False)
    _, found = in_journal(
        journal, ("one", answer(ok=False)), ("two", answer(question="another", place=1))
    )
    assert found == "ask"


def test_owners_are_kept_in_a_small_table():
    owners = _Owners()
    asked = content_key("q")
    for number in range(100_000):
        assert owners.claim(f"key {number}", asked, number) is None
    assert owners.claim("key 7", content_key("another"), 100_000) == 7
    assert owners._table.nbytes <= 32 * 100_000
