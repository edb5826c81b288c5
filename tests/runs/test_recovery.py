"""Requests that are worked on elsewhere when their run ends: another run gets their replies."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter

import orjson
import pytest
from graphs import State, build, molecules, right_answers
from langgraph.graph import END, START, StateGraph

from langgraph_hpc_fanout import (
    Budget,
    FanOutNode,
    FunctionEndpoint,
    Journal,
    Limits,
    Prompt,
    ReduceNode,
    add_fan_out,
)
from langgraph_hpc_fanout.endpoints.protocol import (
    Bundling,
    FateUnknownError,
    Health,
    Sent,
)
from langgraph_hpc_fanout.records import Failure, Reply, Usage
from langgraph_hpc_fanout.runs import asking
from langgraph_hpc_fanout.runs.passbook import NOTE as USED
from langgraph_hpc_fanout.runs.recovery import NOTE


class Site:
    """Where bundles are worked on, whatever becomes of those who sent them.

    While it is `closed`, results wait there; the first who fetches one has it.
    """

    def __init__(self):
        self.closed = False
        self.asked = Counter()
        self.results = {}
        self.fetched = []
        self.left = []
        self._numbers = itertools.count()

    def work(self, requests):
        """Answer a bundle; returns what its sender gets to know of it."""
        questions = [request.body["messages"][-1]["content"] for request in requests]
        self.asked.update(questions)
        task = f"task-{next(self._numbers)}"
        keys = tuple(request.key for request in requests)
        replies = [Reply(at, _body(text), None, Usage(0, 3)) for at, text in enumerate(questions)]
        self.results[task] = dict(zip(keys, replies, strict=True))
        return Sent(task, "group", keys, time.time())


def _body(text):
    message = {"role": "assistant", "content": f"Yes: {text}"}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "model": "m"}


class Door:
    """An endpoint to a site."""

    limits = Limits(concurrency=64)

    def __init__(self, site, *, name="site", bundle=4):
        self.site = site
        self.name = name
        self.models = {"m": "m"}
        self.bundling = Bundling(bundle, min_items=bundle, max_bundles=64)
        self.listeners = []

    async def open(self):
        pass

    async def close(self):
        pass

    async def probe(self):
        return Health(ok=True)

    def listen(self, listener):
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def send(self, requests):
        sent = self.site.work(requests)
        for listener in list(self.listeners):
            await asyncio.to_thread(listener, [sent])
        self.site.left.append(sent)
        if self.site.closed:
            await asyncio.Event().wait()
        for reply in self.site.results.pop(sent.task_id).values():
            yield reply

    async def reattach(self, sent):
        for bundle in sent:
            self.site.fetched.append(bundle.task_id)
            await asyncio.sleep(0.01)
            for key, reply in self.site.results.pop(bundle.task_id, {}).items():
                yield key, reply


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def door_to(pool_over):
    return lambda site, **how: pool_over(Door(site, **how))


@pytest.fixture
def cut_off(door_to):
    """Run a graph until its bundles are under way, and end it there."""

    def cut(site, count, graph_over, sent=None):
        async def main():
            run = asyncio.create_task(
                graph_over(door_to(site)).ainvoke({"molecules": molecules(count)})
            )
            before = len(site.left)
            while sum(len(each.keys) for each in site.left[before:]) < (sent or count):
                await asyncio.sleep(0.01)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        site.closed = True
        asyncio.run(main())
        site.closed = False

    return cut


@pytest.fixture
def graph_over(tmp_path):
    """Makes a graph with a journal over a pool."""
    return lambda pool, **how: build(pool, journal=Journal(tmp_path / "run"), **how)


def test_what_was_under_way_is_fetched_and_nothing_asked_twice(site, cut_off, graph_over, door_to):
    cut_off(site, 40, graph_over)
    state = graph_over(door_to(site)).invoke({"molecules": molecules(60)})
    assert right_answers(state["predictions"], molecules(60))
    assert set(site.asked.values()) == {1}
    assert len(site.asked) == 60
    assert site.results == {}
    report = state["report"]
    assert (report["ok"], report["cached"], report["attempts"]) == (60, 0, 60)
    assert report["tokens"]["completion"] == 180


def test_what_is_gone_is_asked_again(site, cut_off, graph_over, door_to):
    cut_off(site, 16, graph_over)
    site.results.pop("task-0")
    state = graph_over(door_to(site)).invoke({"molecules": molecules(16)})
    assert right_answers(state["predictions"], molecules(16))
    assert Counter(site.asked.values()) == {1: 12, 2: 4}


def test_a_request_that_failed_there_is_asked_again(site, cut_off, graph_over, door_to):
    cut_off(site, 4, graph_over)
    (replies,) = site.results.values()
    key = next(iter(replies))
    replies[key] = Reply(0, failure=Failure("timeout", "It was too slow."))
    state = graph_over(door_to(site)).invoke({"molecules": molecules(4)})
    assert right_answers(state["predictions"], molecules(4))
    assert sorted(site.asked.values()) == [1, 1, 1, 2]


def test_what_the_answer_used_is_estimated_with_the_prompt(site, cut_off, graph_over, door_to):
    cut_off(site, 1, graph_over)
    ((task, replies),) = site.results.items()
    ((key, reply),) = replies.items()
    guess = Usage(0, 3, estimated=True)
    site.results[task] = {key: Reply(0, reply.body, None, guess, None, 1.5, 2)}
    report = graph_over(door_to(site)).invoke({"molecules": molecules(1)})["report"]
    assert report["tokens"]["prompt"] > 3
    assert report["attempts"] == 2


def test_who_cannot_be_asked_ends_nothing(site, cut_off, graph_over, door_to, monkeypatch, caplog):
    cut_off(site, 8, graph_over)

    async def broken(self, sent):
        raise OSError("no route")
        yield

    monkeypatch.setattr(Door, "reattach", broken)
    state = graph_over(door_to(site)).invoke({"molecules": molecules(8)})
    assert right_answers(state["predictions"], molecules(8))
    assert set(site.asked.values()) == {2}
    assert "site: bundles of an earlier process are asked again" in caplog.text


@pytest.mark.parametrize("at_once", [1, 64])
def test_what_may_be_under_way_fails_and_is_not_asked(
    site, cut_off, graph_over, door_to, monkeypatch, at_once
):
    """Also what the run comes to when it is known that nothing is known."""
    cut_off(site, 8, graph_over)
    fetch = Door.reattach

    async def unknown(self, sent):
        raise FateUnknownError(Failure("transient", "Nobody knows.", None, True))
        yield

    monkeypatch.setattr(Door, "reattach", unknown)
    monkeypatch.setattr(asking, "_LOOKED_AT", at_once)
    state = graph_over(door_to(site)).invoke({"molecules": molecules(12)})
    assert state["predictions"][:8] == [None] * 8
    assert {each["error"]["kind"] for each in state["failures"]} == {"transient"}
    assert {each["error"]["message"] for each in state["failures"]} == {"Nobody knows."}
    monkeypatch.setattr(Door, "reattach", fetch)
    state = graph_over(door_to(site)).invoke({"molecules": molecules(12)})
    assert right_answers(state["predictions"], molecules(12))
    assert set(site.asked.values()) == {1}


def test_a_run_leaves_alone_what_others_have_sent(site, cut_off, graph_over, door_to):
    """One after another in a loop, say, of which the second was cut off."""
    graph_over(door_to(site)).invoke({"molecules": molecules(8)})
    toxic = Prompt("Is {smiles} toxic?")
    cut_off(site, 8, lambda pool: graph_over(pool, task=toxic))
    pool = door_to(site)
    graph_over(pool).invoke({"molecules": molecules(12)})
    assert site.fetched == []
    graph_over(pool, task=toxic).invoke({"molecules": molecules(8)})
    assert set(site.asked.values()) == {1}


def test_what_a_deadline_leaves_unasked_is_not_fetched(
    site, cut_off, graph_over, door_to, monkeypatch
):
    """The service forgets what it has handed out, and nobody would keep it."""
    cut_off(site, 8, graph_over)
    site.closed = True
    monkeypatch.setattr(Door, "limits", Limits(concurrency=4))
    items = [*molecules(208)[8:], *molecules(8)]  # too many to be looked at ahead of need
    state = graph_over(door_to(site), deadline=0.5).invoke({"molecules": items})
    assert state["report"]["failures"] == {"timeout": 208}
    assert site.fetched == []


def test_a_request_that_was_sent_twice_takes_the_first_answer(site, cut_off, graph_over, door_to):
    cut_off(site, 4, graph_over)
    first = site.results.pop("task-0")
    cut_off(site, 4, graph_over)
    site.results["task-0"] = dict(list(first.items())[:2])
    state = graph_over(door_to(site)).invoke({"molecules": molecules(4)})
    assert right_answers(state["predictions"], molecules(4))
    assert site.fetched == ["task-0", "task-0", "task-1"]
    assert (state["report"]["total"], state["report"]["attempts"]) == (4, 4)
    assert set(site.asked.values()) == {2}


def test_what_came_along_is_kept_for_a_later_run(site, cut_off, graph_over, door_to):
    cut_off(site, 8, graph_over)
    graph = graph_over(door_to(site))
    graph.invoke({"molecules": molecules(1)})
    assert site.fetched == ["task-0"]
    state = graph.invoke({"molecules": molecules(8)})
    assert right_answers(state["predictions"], molecules(8))
    assert state["report"]["cached"] == 1
    assert site.fetched == ["task-0", "task-1"]
    assert set(site.asked.values()) == {1}


def test_a_run_that_ends_waits_for_nothing(site, cut_off, graph_over, door_to, monkeypatch):
    cut_off(site, 8, graph_over)
    waiting, left = [], []

    async def endless(self, sent):
        waiting.append(sent)
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.append(sent)

    async def main():
        run = asyncio.create_task(graph_over(door_to(site)).ainvoke({"molecules": molecules(8)}))
        while not waiting:
            await asyncio.sleep(0.01)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        while not left:
            await asyncio.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(Door, "reattach", endless)
        asyncio.run(main())
    graph_over(door_to(site)).invoke({"molecules": molecules(8)})
    assert set(site.asked.values()) == {1}


def toxic_and_soluble(pool, journal):
    """A graph of two fan-outs, side by side, whose items have the same keys of the user's."""
    builder = StateGraph(State)
    for name, into in (("toxic", "predictions"), ("soluble", "failures")):
        task = Prompt(f"Is {{smiles}} {name}?")
        node = FanOutNode("molecules", task, pool=pool, name=name, journal=journal, key="smiles")
        gather = ReduceNode(node, into=into, name=f"gather_{name}")
        add_fan_out(builder, node, gather, after=START, before=END)
    return builder.compile()


def test_ones_own_keys_mean_different_things_in_different_fan_outs(
    site, cut_off, door_to, tmp_path
):
    journal = Journal(tmp_path / "run")
    cut_off(site, 10, lambda pool: toxic_and_soluble(pool, journal), sent=20)
    found = toxic_and_soluble(door_to(site), journal).invoke({"molecules": molecules(10)})
    assert all("toxic" in each for each in found["predictions"])
    assert right_answers(found["failures"], molecules(10))
    assert set(site.asked.values()) == {1}


def test_a_journal_notes_the_bundles_of_its_own_runs(site, door_to, tmp_path):
    """A second run asks while all that the first has asked is under way."""
    pool, journals = door_to(site), [Journal(tmp_path / name) for name in "ab"]
    own = set()

    async def main():
        first, second = (build(pool, journal=journal) for journal in journals)
        site.closed = True
        run = asyncio.create_task(first.ainvoke({"molecules": molecules(8)}))
        while sum(len(each.keys) for each in site.left) < 8:
            await asyncio.sleep(0.01)
        own.update(each.task_id for each in site.left)
        site.closed = False
        await second.ainvoke({"molecules": molecules(16)[8:]})
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    asyncio.run(main())
    of_first, of_second = (set(noted(journal)) for journal in journals)
    assert of_first == own
    assert of_second == {each.task_id for each in site.left} - own


def test_what_was_used_is_on_disk_with_the_bundles_that_are_under_way(site, door_to, tmp_path):
    """Else a process that is killed forgets what they cost, and nobody is charged for answers."""
    graph = build(door_to(site), journal=Journal(tmp_path), budget=Budget(requests=100))
    site.closed = True

    async def main():
        run = asyncio.create_task(graph.ainvoke({"molecules": molecules(40)}))
        while sum(len(each.keys) for each in site.left) < 40:
            await asyncio.sleep(0.01)
        (segment,) = (tmp_path / "segments").iterdir()
        lines = segment.read_bytes().splitlines()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        return lines

    used = sent = 0
    for line in map(orjson.loads, asyncio.run(main())):
        if line.get("note") == USED:
            used = line["data"]["used"]["requests"]
        elif line.get("note") == NOTE:
            sent += sum(map(len, line["data"]["tasks"].values()))
            assert used >= sent
    assert used == sent == 40


def noted(journal):
    """The tasks that a journal knows of."""
    journal.log.refresh()
    return [task for note in journal.log.notes(NOTE) for task in note["tasks"]]


def test_it_waits_for_an_endpoint_that_takes_its_time(
    site, cut_off, graph_over, pool_over, monkeypatch
):
    """Meanwhile another one is asked what no process has asked."""
    cut_off(site, 8, graph_over)
    slow, quick = Door(site), Door(Site(), name="quick")

    async def probe():
        while len(quick.site.left) < 2:
            await asyncio.sleep(0.01)
        return Health(ok=True)

    monkeypatch.setattr(slow, "probe", probe)
    named = Prompt("Is {smiles} soluble?", model="m")  # or it would wait to learn of all models
    graph = graph_over(pool_over([slow, quick]), task=named)
    state = graph.invoke({"molecules": molecules(16)})
    assert right_answers(state["predictions"], molecules(16))
    assert set(site.asked.values()) == {1}


def test_what_an_endpoint_has_that_may_not_be_asked_is_fetched(
    site, cut_off, graph_over, pool_over
):
    """Nothing new is sent there."""
    cut_off(site, 8, graph_over)
    far, near = Door(site), Door(Site(), name="near")
    far.tags = frozenset({"far"})
    graph = graph_over(pool_over([far, near]), forbid={"far"})
    state = asyncio.run(asyncio.wait_for(graph.ainvoke({"molecules": molecules(16)}), 10))
    assert right_answers(state["predictions"], molecules(16))
    assert set(site.asked.values()) == {1}
    assert (len(site.asked), len(near.site.asked)) == (8, 8)


def test_what_an_endpoint_has_that_leaves_is_asked_again(
    site, cut_off, graph_over, pool_over, monkeypatch, caplog
):
    cut_off(site, 8, graph_over)
    gone, near = Door(site), Door(Site(), name="near")
    pool = pool_over([gone, near])

    async def probe():
        await asyncio.sleep(0.1)
        await asyncio.to_thread(pool.remove, "site")
        await asyncio.Event().wait()

    monkeypatch.setattr(gone, "probe", probe)
    named = Prompt("Is {smiles} soluble?", model="m")
    state = graph_over(pool, task=named).invoke({"molecules": molecules(8)})
    assert right_answers(state["predictions"], molecules(8))
    assert site.fetched == []
    assert len(near.site.asked) == 8
    assert "has left the pool" in caplog.text


def test_what_an_endpoint_has_that_joined_is_fetched(site, graph_over, pool_over):
    """It joins a run whose endpoints had nothing that outlives a process."""

    began = threading.Event()

    async def busy(request):
        began.set()
        await asyncio.Event().wait()

    pool = pool_over(FunctionEndpoint(busy, models=["m"], limits=Limits(concurrency=2)))

    async def main():
        run = asyncio.create_task(graph_over(pool).ainvoke({"molecules": molecules(18)}))
        await asyncio.to_thread(began.wait)
        await asyncio.to_thread(pool.add, Door(site))
        while sum(len(each.keys) for each in site.left) < 16:
            await asyncio.sleep(0.01)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    site.closed = True
    asyncio.run(main())
    site.closed = False
    state = graph_over(pool_over(Door(site))).invoke({"molecules": molecules(18)})
    assert right_answers(state["predictions"], molecules(18))
    assert set(site.asked.values()) == {1}


def test_a_run_that_has_ended_hears_of_nobody(site, graph_over, pool_over):
    pool = pool_over(Door(site))
    graph_over(pool).invoke({"molecules": molecules(4)})
    late = Door(site, name="late")
    pool.add(late)
    assert [door.listeners for door in (*pool.endpoints, late)] == [[], [], []]


def test_an_endpoint_of_another_name_is_another_one(site, cut_off, graph_over, door_to):
    cut_off(site, 4, graph_over)
    graph_over(door_to(site, name="other")).invoke({"molecules": molecules(4)})
    assert site.fetched == []


def test_a_note_that_comes_too_late_is_no_fault(site, cut_off, graph_over, monkeypatch, caplog):
    caplog.set_level("DEBUG", "langgraph_hpc_fanout")
    told = []
    listen = Door.listen
    monkeypatch.setattr(Door, "listen", lambda *given: told.append(given[1]) or listen(*given))
    cut_off(site, 4, graph_over)
    (note,) = told
    end = time.monotonic() + 10
    while "could not be noted" not in caplog.text and time.monotonic() < end:
        note(site.left)  # until the journal is let go
    assert "could not be noted" in caplog.text
