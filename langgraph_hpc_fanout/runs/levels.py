"""Runs that a reducer asks for: one level of a tree of summaries after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.items.source import Readable
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.records import FanOutError
from langgraph_hpc_fanout.runs.interrupt import INTERRUPTED
from langgraph_hpc_fanout.runs.plan import Plan
from langgraph_hpc_fanout.runs.receipts import new_run_id
from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.sweep import Variant
from langgraph_hpc_fanout.watch.reporter import Writer


class Levels:
    """Asks a prompt about a source and waits, with the pool, the journal and the retries of a plan.

    All levels together have the plan's budget once, besides what the fan-out itself has spent.

    Args:
        plan: Of the fan-out whose outcomes are reduced.
        context: What the user's context overrides, it overrides here, too.
        config: Settings of the reduce node's call.
        writer: Where progress goes.
    """

    def __init__(self, plan: Plan, context: Any, config: RunnableConfig, writer: Writer) -> None:
        self._plan = plan
        self._context = context
        self._config = config
        self._writer = writer
        self._run: Run | None = None
        self._purse = Purse(plan.budget, "tree")
        self._cancelled = False

    def ask(self, source: Readable, prompt: Prompt, name: str, pool: Pool | None) -> Results:
        """The outcomes of a prompt for each item of a source. Blocks.

        Raises:
            FanOutError: If the run cannot go on, or was cancelled; or the context overrides
                something with a value that cannot be.
        """
        plan = replace(
            self._plan,
            name=name,
            variants=(Variant(prompt),),
            pool=pool or self._plan.pool,
            key=None,
            trace=0,
            swept=(),
        ).adapted(self._context)
        about: Mapping[str, Any] = {
            "total": len(source),
            "items": source.name,
            "level_of": self._plan.name,
            "started": time.time(),
        }
        run = self._run = Run(new_run_id(), plan, {}, about, self._purse.next())
        shard = plan.shard(0, source, 0, len(source))
        run.add(shard)
        if self._cancelled:
            raise FanOutError(f"{name} was cancelled.")
        run.heed_ctrl_c = True
        run.watch(shard, self._writer)
        run.start(None, self._config)
        try:
            return Results(run.id, [shard.future.result()])
        except KeyboardInterrupt:
            run.cancel(INTERRUPTED, logging.WARNING)
            raise
        finally:
            self._purse = run.purse
            run.unwatch(shard)

    def cancel(self) -> None:
        """End what is under way, from another thread."""
        self._cancelled = True
        if self._run is not None:
            self._run.cancel(f"{self._run.plan.name} was cancelled.")
