"""Recall on virtual time, over a service whose tasks end when a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError
from langgraph_hpc_fanout.endpoints.globus_compute.losses import Ledger, Losses
from langgraph_hpc_fanout.endpoints.globus_compute.recall import Recall
from langgraph_hpc_fanout.endpoints.globus_compute.service import Landed
from langgraph_hpc_fanout.endpoints.protocol import Sent
from langgraph_hpc_fanout.records import Failure, Reply
from langgraph_hpc_fanout.testing.virtual_time import run

LOSSES = Losses(
    factor=3.0, grace=5.0, unproven=100.0, silence=20.0, offline=40.0, deadline=10_000.0
)
UNKNOWN = Landed(error=LookupError("Unknown task id"))


class Tasks:
    """Tasks that end at given times, and are forgotten once that was told."""

    def __init__(self, ends, size=100):
        self.ends = dict(ends)
        self.size = size
        self.asked = []
        self.told = Counter()
        self.errors = []

    async def find(self, tasks):
        self.asked.append(list(tasks))
        await asyncio.sleep(0.1)
        if self.errors:
            raise self.errors.pop()
        return {task: self._tell(task) for task in tasks if self.ends.get(task, 0) <= now()}

    def _tell(self, task):
        if self.ends.pop(task, None) is None:
            return UNKNOWN
        self.told[task] += 1
        return Landed(task, size=self.size)


def now():
    return asyncio.get_running_loop().time()


def sent_of(*tasks):
    """Bundles that were sent in the order of their names."""
    keys = [(f"{task}-0", f"{task}-1") for task in tasks]
    return [
        Sent(task, "group", k, at=float(ord(task[0]))) for task, k in zip(tasks, keys, strict=True)
    ]


def recall_of(tasks, ledger=None):
    ledger = ledger or Ledger(LOSSES)

    def unpack(sent, flight, landed):
        if landed.error is not None:
            return ()
        ledger.land(flight, 1.0, now())
        return [(key, Reply(at, {"of": sent.task_id})) for at, key in enumerate(sent.keys)]

    return Recall(tasks.find, ledger, unpack, lambda: None)


async def keys_of(recall, sent):
    return sorted([key async for key, _ in recall.replies(sent)])


def test_what_has_ended_comes_at_once_and_the_rest_when_it_ends():
    tasks = Tasks({"a": 0, "b": 50})

    async def main():
        return [(key, now()) async for key, _ in recall_of(tasks).replies(sent_of("a", "b"))]

    (_, first), _, (_, later), _ = found = run(main)
    assert [key for key, _ in found] == ["a-0", "a-1", "b-0", "b-1"]
    assert first == pytest.approx(0.1)
    assert 50 <= later < 50 + 31


def test_what_the_service_has_forgotten_is_not_waited_for():
    recall = recall_of(Tasks({"b": 0}))
    assert run(keys_of(recall, sent_of("a", "b", "c"))) == ["b-0", "b-1"]


def test_no_bundles():
    tasks = Tasks({})
    assert run(keys_of(recall_of(tasks), [])) == []
    assert tasks.asked == []


def test_two_who_wait_for_a_bundle_both_get_it_and_it_is_fetched_once():
    tasks = Tasks({"a": 5, "b": 5, "c": 5})

    async def main():
        recall = recall_of(tasks)
        later = asyncio.create_task(keys_of(recall, sent_of("b", "c")))
        return await keys_of(recall, sent_of("a", "b")), await later

    assert run(main) == (["a-0", "a-1", "b-0", "b-1"], ["b-0", "b-1", "c-0", "c-1"])
    assert tasks.told == {"a": 1, "b": 1, "c": 1}


def test_a_bundle_that_is_named_twice_comes_once():
    assert run(keys_of(recall_of(Tasks({"a": 1})), sent_of("a", "a"))) == ["a-0", "a-1"]


def test_who_leaves_takes_nothing_from_others_and_the_last_ends_it():
    tasks, ledger = Tasks({"a": 400, "b": 10**6}), Ledger(LOSSES)

    async def main():
        recall = recall_of(tasks, ledger)
        leaver = asyncio.create_task(keys_of(recall, sent_of("a", "b")))
        stayer = asyncio.create_task(keys_of(recall, sent_of("a")))
        await asyncio.sleep(3)
        leaver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaver
        assert [each.task_id for each in recall.awaited] == ["a"]
        assert await stayer == ["a-0", "a-1"]
        assert recall.awaited == ledger.flights == []
        asked = len(tasks.asked)
        await asyncio.sleep(1_000)
        return len(tasks.asked) - asked

    assert run(main) == 0


def test_closing_ends_every_wait_at_once():
    async def main():
        recall = recall_of(Tasks({"a": 10**6}))
        waits = [asyncio.create_task(keys_of(recall, sent_of("a"))) for _ in range(2)]
        await asyncio.sleep(7)
        recall.close()
        found = await asyncio.gather(*waits)
        return found, now()

    assert run(main) == ([[], []], 7)


def test_a_bundle_that_later_ones_overtook_is_given_up_when_its_time_is_up():
    tasks = Tasks({"a": 10**6, "b": 50})

    async def main():
        return await keys_of(recall_of(tasks), sent_of("a", "b")), now()

    keys, ended = run(main)
    assert keys == ["b-0", "b-1"]
    assert 50 < ended < 50 + 31 + 5 + 31


def test_order_counts_and_not_who_asks_first():
    """When b is back, a must have begun, though somebody wanted it later; c may wait in a queue."""
    tasks = Tasks({"a": 10**6, "b": 50, "c": 1_000})

    async def main():
        recall = recall_of(tasks)
        waits = [keys_of(recall, sent_of(task)) for task in "cba"]
        return await asyncio.gather(*waits)

    assert run(main) == [["c-0", "c-1"], ["b-0", "b-1"], []]


def test_nothing_is_given_up_unseen():
    """It ended in time, and was only not asked for in time."""
    ledger = Ledger(LOSSES)
    tasks = Tasks({"a": 20})

    async def main():
        recall = recall_of(tasks, ledger)
        waiting = asyncio.create_task(keys_of(recall, sent_of("a")))
        await asyncio.sleep(19)
        ledger.land(ledger.send(1, 18.0), 0.1, 18.5)
        assert ledger.lost(30.0)
        return await waiting

    assert run(main) == ["a-0", "a-1"]


def test_an_endpoint_that_stays_offline_ends_it():
    ledger = Ledger(LOSSES)

    async def main():
        recall = recall_of(Tasks({"a": 0, "b": 10**6}), ledger)
        waiting = asyncio.create_task(keys_of(recall, sent_of("a", "b")))
        await asyncio.sleep(5)
        ledger.status(online=False, now=5.0)
        return await waiting, now()

    keys, ended = run(main)
    assert keys == ["a-0", "a-1"]
    assert 45 < ended < 45 + 31


def test_at_the_latest_the_deadline_ends_it():
    async def main():
        return await keys_of(recall_of(Tasks({"a": 10**6})), sent_of("a")), now()

    keys, ended = run(main)
    assert keys == []
    assert 10_000 < ended < 10_000 + 31


def test_a_service_that_cannot_be_asked_for_a_while():
    tasks = Tasks({"a": 0})
    tasks.errors = [ParcelError(Failure("cold", "The service: 503", 503)) for _ in range(3)]
    assert run(keys_of(recall_of(tasks), sent_of("a"))) == ["a-0", "a-1"]
    assert len(tasks.asked) == 4


def test_a_service_that_does_not_let_us_in_ends_it():
    tasks = Tasks({"a": 0})
    tasks.errors = [ParcelError(Failure("auth", "The service: 401", 401))]
    assert run(keys_of(recall_of(tasks), sent_of("a"))) == []


def test_another_bundle_is_asked_for_at_once_in_the_middle_of_a_pause():
    async def main():
        recall = recall_of(Tasks({"a": 10**6, "b": 0}))
        waiting = asyncio.create_task(keys_of(recall, sent_of("a")))
        await asyncio.sleep(100)
        assert await keys_of(recall, sent_of("b")) == ["b-0", "b-1"]
        waiting.cancel()
        return now()

    assert run(main) < 100.5


@pytest.mark.parametrize(("size", "most"), [(100, 32), (8_000_000, 4), (20_000_000, 4)])
def test_results_of_one_answer_have_room(size, most):
    """Until one has been seen they may be large."""
    names = [f"t{number}" for number in range(200)]
    tasks = Tasks(dict.fromkeys(names, 0), size)
    assert len(run(keys_of(recall_of(tasks), sent_of(*names)))) == 400
    assert len(tasks.asked[0]) == 4
    assert max(map(len, tasks.asked)) == most
    if size > 8_000_000:
        assert len(tasks.asked[1]) == 1


def test_a_thousand_bundles_leave_requests_for_others():
    """At most one a second on average, though all of them are looked at in 30 minutes."""
    names = [f"t{number}" for number in range(1_000)]
    tasks = Tasks(dict.fromkeys(names, 9_000))

    async def main():
        waiting = asyncio.create_task(keys_of(recall_of(tasks), sent_of(*names)))
        await asyncio.sleep(3_600)
        waiting.cancel()

    run(main)
    times = Counter(task for asked in tasks.asked for task in asked)
    assert len(tasks.asked) <= 3_600
    assert min(times.values()) >= 4


@given(
    ends=st.lists(st.one_of(st.none(), st.floats(0, 300)), max_size=40),
    waiters=st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=4),
)
def test_everybody_gets_all_that_can_be_had_and_it_is_fetched_once(ends, waiters):
    """None is a task that the service has forgotten."""
    tasks = Tasks({f"t{n}": end for n, end in enumerate(ends) if end is not None})
    there = set(tasks.ends)
    wanted = [sorted(f"t{n}" for n in each if n < len(ends)) for each in waiters]

    async def main():
        recall = recall_of(tasks, Ledger(Losses(grace=1_000.0)))
        waits = (keys_of(recall, sent_of(*each)) for each in wanted)
        return await asyncio.gather(*waits)

    expected = [
        sorted(k for t in each if t in there for k in (f"{t}-0", f"{t}-1")) for each in wanted
    ]
    assert run(main) == expected
    assert all(count == 1 for count in tasks.told.values())
