"""Runs that a reducer asks for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langgraph_hpc_fanout import FanOutError, FanOutNode, FunctionEndpoint, Journal, Prompt
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.runs.levels import Levels

MERGE = Prompt("Merge {summaries}")


class Groups(Rows):
    """Groups in memory."""

    def __init__(self, *texts):
        rows = [BadRow("nothing there") if text is None else {"summaries": text} for text in texts]
        super().__init__(rows, "level 1")


@pytest.fixture
def echo(pool_over):
    asked = []

    def answer(request):
        asked.append(request)
        return request.body["messages"][-1]["content"]

    pool = pool_over(FunctionEndpoint(answer))
    pool.asked = asked
    return pool


def levels(pool, events=None, context=None, **options):
    node = FanOutNode("xs", Prompt("{x}", samples=2), pool=pool, key="x", trace=3, **options)
    return Levels(node.plan, context, {}, (events if events is not None else []).append)


def test_each_group_is_asked_once(echo):
    events = []
    results = levels(echo, events).ask(Groups("a", "b", None), MERGE, "reduce_level_1", None)
    assert [each.value for each in results] == ["Merge a", "Merge b", None]
    assert list(results)[2].error.message == "nothing there"
    assert len(echo.asked) == 2
    assert {event["node"] for event in events} == {"reduce_level_1"}
    assert events[-1]["done"] == events[-1]["total"] == 3


def test_no_groups_need_nobody(echo):
    assert list(levels(echo).ask(Groups(), MERGE, "reduce_level_1", None)) == []


def test_a_journal_knows_them_again(echo, tmp_path):
    for _ in range(2):
        results = levels(echo, journal=Journal(tmp_path)).ask(Groups("a"), MERGE, "level", None)
        assert results.journal == str(tmp_path)
        assert [each.value for each in results] == ["Merge a"]
    assert len(echo.asked) == 1


def test_another_pool(echo, pool_over):
    other = pool_over(FunctionEndpoint(lambda request: "other"))
    results = levels(echo).ask(Groups("a"), MERGE, "level", other)
    assert [each.value for each in results] == ["other"]
    assert echo.asked == []


def test_a_context_overrides_its_prompt(echo):
    levels(echo, context={"temperature": 0.2}).ask(Groups("a"), MERGE, "level", None)
    assert echo.asked[0].body["temperature"] == 0.2
    with pytest.raises(FanOutError, match="level: the context's temperature=-1 cannot be used"):
        levels(echo, context={"temperature": -1}).ask(Groups("a"), MERGE, "level", None)


def test_cancelled_in_mid_level(pool_over):
    reached, leave = threading.Event(), threading.Event()

    def waits(request):
        reached.set()
        leave.wait(30)
        return "late"

    some = levels(pool_over(FunctionEndpoint(waits)))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(some.ask, Groups("a"), MERGE, "level", None)
        assert reached.wait(10)
        some.cancel()
        with pytest.raises(FanOutError, match="level was cancelled"):
            asked.result(10)
        leave.set()


def test_cancelled_between_two_levels(echo):
    some = levels(echo)
    some.ask(Groups("a"), MERGE, "level_1", None)
    some.cancel()
    with pytest.raises(FanOutError, match="level_2 was cancelled"):
        some.ask(Groups("a"), MERGE, "level_2", None)
    assert len(echo.asked) == 1


def test_nobody_serves_it(echo):
    with pytest.raises(FanOutError, match="gpt"):
        levels(echo).ask(Groups("a"), Prompt("{summaries}", model="gpt"), "level", None)
