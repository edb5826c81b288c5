"""A program with a fan-out over batches and a journal, to be killed and started again.

Arguments: the gateway's URL, a token, a directory, how many items, and when it kills itself:
"noted" (after the note, before the submit), "submitted" (after the submit) or "never".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FirstBatchEndpoint, Journal, Pool, Prompt
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes

submit = BatchRoutes.submit


def die():
    os.kill(os.getpid(), signal.SIGKILL)


async def die_before(*_):
    die()


async def die_after(*arguments):
    await submit(*arguments)
    die()


def main(url, token, directory, count, moment):
    if moment != "never":
        BatchRoutes.submit = die_before if moment == "noted" else die_after
    endpoint = FirstBatchEndpoint(
        "sophia", model="gpt-oss-120b", directory=directory, base_url=url, token=token, poll=0.05
    )
    items = molecules(int(count))
    with Pool(endpoint) as pool:
        graph = build(
            pool,
            task=Prompt("Is {smiles} soluble?", max_tokens=64),
            journal=Journal(Path(directory) / "run"),
        )
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        state = graph.invoke({"molecules": items})
    right = right_answers(state["predictions"], items)
    sys.stdout.write(json.dumps({"right": right, "report": state["report"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
