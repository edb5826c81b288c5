"""A program with a fan-out over Globus Compute and a journal, to be killed and started again.

Arguments: the stack's URL, the endpoint's id, the fleet's URL, a directory, how many items, and
"checkpoints" for a checkpointer besides.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from graphs import build, molecules, right_answers
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_hpc_fanout import GlobusComputeEndpoint, Journal, Losses, Pool, Prompt
from langgraph_hpc_fanout.testing.globus.client import client_of

CONFIG = {"configurable": {"thread_id": "1"}}


def main(stack, endpoint_id, fleet, directory, count, *checkpoints):
    endpoint = GlobusComputeEndpoint(
        endpoint_id,
        url=fleet,
        client=client_of(stack),
        name="node",
        window=16,
        bundle_seconds=1.0,
        losses=Losses(grace=60.0),
    )
    items = molecules(int(count))
    with contextlib.ExitStack() as exits:
        pool = exits.enter_context(Pool(endpoint))
        saver = None
        if checkpoints:
            database = str(Path(directory) / "state.db")
            saver = exits.enter_context(SqliteSaver.from_conn_string(database))
        graph = build(
            pool,
            task=Prompt("Is {smiles} soluble?", max_tokens=64),
            journal=Journal(Path(directory) / "run"),
            checkpointer=saver,
        )
        is_resumed = saver is not None and saver.get_tuple(CONFIG) is not None
        state = graph.invoke(None if is_resumed else {"molecules": items}, CONFIG)
        told = {
            "right": right_answers(state["predictions"], items),
            "resumed": is_resumed,
            "recalled": endpoint.traffic.recalled,
            "report": state["report"],
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
