"""A program that may be killed at any moment and be started again: `mortal.py url dir how items`.

`how` is "journal", "checkpointer" or "both", where failures are kept. It says `ready` before its
graph begins, `reducing` in its reducer, and at its end the state.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from graphs import build, molecules
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_hpc_fanout import Journal, Limits, OpenAIEndpoint, Pool

LONG = "x" * 1000
"""Makes a list too long for branches to carry it."""
CONFIG = {"configurable": {"thread_id": "1"}}


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def slowly(outcomes):
    """What `collect` returns, at leisure."""
    say("reducing")
    values = []
    for outcome in outcomes:
        values.append(outcome.value)
        time.sleep(0.001)
    return values


def invoke(graph, items, config):
    """Go on where the thread stopped, or begin."""
    stopped = config and graph.get_state(config).next
    return graph.invoke(None if stopped else {"molecules": items}, config)


def main(url, directory, how, count):
    items = [{**item, "note": LONG} for item in molecules(count)]
    journal = Journal(directory / "journal", retry_failures=how == "journal")
    saver = SqliteSaver.from_conn_string(str(directory / "state.db"))
    with nullcontext() if how == "journal" else saver as checkpointer:
        graph = build(
            Pool(OpenAIEndpoint(url, limits=Limits(concurrency=8))),
            journal=None if how == "checkpointer" else journal,
            reduce={"reducer": slowly},
            checkpointer=checkpointer,
        )
        say("ready")
        state = invoke(graph, items, CONFIG if checkpointer else None)
    del state["molecules"]
    say(json.dumps(state))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
