"""The registry: which run a branch gets."""

from __future__ import annotations

import pytest
from langgraph.errors import ParentCommand
from langgraph.types import Command

from langgraph_hpc_fanout import FanOutError
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.runs.plan import Plan
from langgraph_hpc_fanout.runs.registry import Registry
from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.tasks.sweep import Variant


def plan_of(task):
    variants = (Variant(RunnableTask(task, None)),)
    return Plan("screen", variants, None, None, None, Retry(), None, None, None, 0)


def bubbles(item):
    raise ParentCommand(Command(graph="parent", goto="x"))


@pytest.mark.parametrize(("ending", "error"), [("bubble", ParentCommand), ("fail", FanOutError)])
def test_what_a_run_ended_with_is_for_its_own_invocation_only(ending, error):
    """Branches that never came for their shards must not find the old run's later."""
    plan = plan_of(bubbles)
    registry = Registry()
    run = Run("r", plan, {})
    for number in range(2):
        run.add(plan.shard(number, Rows([0, 1]), number, 1))
    registry.register(run)

    def claim(number, invocation):
        return registry.claim(
            "r",
            number,
            invocation,
            begin=lambda: Run("r", plan, {}),
            shard=lambda: plan.shard(number, Rows([0, 1]), number, 1),
        )

    _, shard = claim(0, "first")
    if ending == "fail":
        run.cancel("It was asked to.")
    run.start(None, {})
    with pytest.raises(error):
        shard.future.result(10)
    registry.release(run)
    with pytest.raises(error):
        claim(1, "first")
    again, shard = claim(1, "second")
    assert again is not run
    assert not shard.future.done()
