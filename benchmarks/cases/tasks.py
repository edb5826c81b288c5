"""What kinds of tasks cost, each one call an item.

A `Prompt` goes straight to the lanes. With `schema=` each answer is read as JSON and checked.
A chain runs where LangGraph runs the node, with callbacks and a context for each item; its model
is either the pool's (`pool.chat_model`) or langchain-openai's `ChatOpenAI`, which is what the
chain would ask without a pool. All answers are the same short JSON text; the chains have 64 calls
under way at a time.
"""

from __future__ import annotations

from functools import partial

from benchmarks import fleets
from benchmarks.contenders import tasks
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process

_LATENCY = 0.02
_MOST_FOR_A_SCHEMA = 1.3
_LEAST_OF_CHAT_OPENAI = 1.5


def run(scale: Scale) -> Findings:
    """Let the four take turns at one fleet."""
    items, few = scale.pick(10_000, 4_000), scale.pick(2_000, 1_000)
    with fleets.fleet(_LATENCY, answer=tasks.ANSWER) as fleet:
        ask = partial(in_fresh_process, tasks.ask, fleet.urls)
        found = contest(
            scale.repeats,
            {
                "Prompt": partial(ask, items, kind="prompt"),
                "Prompt, schema": partial(ask, items, kind="schema"),
                "chain, pool.chat_model": partial(ask, few, kind="pool.chat_model"),
                "chain, ChatOpenAI": partial(ask, few, kind="ChatOpenAI"),
            },
        )
    plain, schema, ours, theirs = (series.cpu_per_item for series in found.values())
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio("with a schema / without", schema / plain, _MOST_FOR_A_SCHEMA),
            Ratio(
                "chain with ChatOpenAI / with pool.chat_model",
                theirs / ours,
                _LEAST_OF_CHAT_OPENAI,
                at_least=True,
            ),
        ),
    )
