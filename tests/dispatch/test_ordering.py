"""The order in which requests leave, among those that are looked at ahead."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable
from scripted import Dispatch, Items, Scripted, ask, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.job import Ticket
from langgraph_hpc_fanout.dispatch.ordering import queue_in
from langgraph_hpc_fanout.endpoints.chat import opening_of
from langgraph_hpc_fanout.records import Request

ORDERS = ["input", "longest_first", "by_prefix"]


def ticket(tag, tokens=10, text="x"):
    body = {"messages": [{"role": "user", "content": text}]}
    return Ticket(tag, Request(str(tag), "m", body, tokens, 10))


class Papers(Items):
    """Items with texts: `text` and `tokens` are functions of their numbers."""

    def __init__(self, count, text=lambda number: "x", tokens=lambda number: 10):
        super().__init__(count)
        self.text, self.tokens = text, tokens

    def feed(self, most):
        keys = [self.keys.popleft() for _ in range(min(most, len(self.keys)))]
        return [ticket(key, self.tokens(int(key)), self.text(int(key))) for key in keys]


@settings(repeatable)
@given(
    st.sampled_from(ORDERS),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 50)) | st.sampled_from(["one", "two"]),
        max_size=60,
    ),
)
def test_what_goes_in_comes_out_once_and_peek_tells_what(order, steps):
    queue, inside = queue_in(order, 16), []
    for number, step in enumerate(steps):
        if not isinstance(step, str):
            new = ticket(number, step[1], f"text {step[0]}")
            queue.extend([new])
            inside.append(new)
        elif inside:
            expected = queue.peek(step)
            assert queue.pop(step) is expected
            inside.remove(expected)
        assert len(queue) == len(inside)
    assert sorted(each.tag for each in queue.clear()) == sorted(each.tag for each in inside)
    assert len(queue) == 0


def test_the_longest_is_first_and_of_equals_the_one_that_came_first():
    queue = queue_in("longest_first", 16)
    queue.extend([ticket(0, 5), ticket(1, 9), ticket(2, 9), ticket(3, 1)])
    assert [queue.pop("lane").tag for _ in range(4)] == [1, 2, 0, 3]


def test_each_lane_stays_with_its_prefix_and_helps_another_at_the_end():
    queue = queue_in("by_prefix", 16)
    queue.extend(ticket(f"{text}{number}", text=text) for number in range(3) for text in "ab")
    got = [queue.pop(lane).tag for lane in ("one", "two", "one", "two", "one")]
    assert got == ["a0", "b0", "a1", "b1", "a2"]
    assert queue.pop("one").tag == "b2"


def test_the_opening_of_messages():
    said = [{"role": "system", "content": "abc"}, {"role": "user", "content": "defg"}]
    assert opening_of({"messages": said}, 100) == "abcdefg"
    assert opening_of({"messages": said}, 5) == "abcde"
    assert opening_of({"messages": said}, 2) == "ab"
    assert opening_of({}, 5) == ""


@pytest.mark.parametrize("order", ORDERS)
@in_virtual_time
async def test_all_is_asked_whatever_the_order(order):
    a = Scripted("a", script=lambda call: "transient" if call.nth == 1 else None)
    items = await ask(Papers(3_000), a, Scripted("b", concurrency=20), order=order)
    assert items.kinds == {None: 3_000}


@pytest.mark.parametrize("order", ORDERS)
@in_virtual_time
async def test_no_more_than_the_window_is_made_ahead(order):
    a = Scripted("a", concurrency=4)
    async with Dispatch(a) as dispatch:
        items = Papers(10_000)
        job = dispatch.add(items, order=order)
        await asyncio.sleep(60.0)
        assert 10_000 - len(items.keys) - len(items.answers) <= 1_024 + 64 + 4
        dispatch.scheduler.remove(job)


@in_virtual_time
async def test_longest_first_ends_sooner():
    """A list that happens to end with its longest item, on twenty slots."""
    seconds = [random.Random(number).lognormvariate(1.6, 0.8) for number in range(400)] + [90.0]

    async def took(order):
        a = Scripted("a", concurrency=20, latency=lambda call: seconds[int(call.key)])
        papers = Papers(401, tokens=lambda number: int(100 * seconds[number]))
        began = now()
        await ask(papers, a, order=order)
        return now() - began

    assert await took("input") > 180.0
    assert await took("longest_first") < 145.0, "400 items of 6.8 s on 20 slots are 137 s of work"


@in_virtual_time
async def test_by_prefix_sends_what_begins_alike_to_one_endpoint():
    """40 papers with 20 questions each; papers come in any order."""
    order = list(range(800))
    random.Random(1).shuffle(order)

    async def endpoints_a_paper(way):
        fleet = [Scripted(name, concurrency=5) for name in "abcd"]
        papers = Papers(800, text=lambda number: f"Paper {order[number] % 40}. " + "y" * 2_000)
        await ask(papers, *fleet, order=way)
        seen = defaultdict(Counter)
        for endpoint, call in itertools.chain.from_iterable(
            ((each, call) for call in each.calls) for each in fleet
        ):
            seen[order[int(call.key)] % 40][endpoint.name] += 1
        return sum(map(len, seen.values())) / 40

    assert await endpoints_a_paper("input") > 3.5
    assert await endpoints_a_paper("by_prefix") < 1.5
