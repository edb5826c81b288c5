"""A coordinator to be killed: it sends bundles and notes them, as a journal would.

Arguments: the stack's URL, the endpoint's id, the fleet's URL, the file of notes, a name, how
many bundles, requests in each, and settings of the endpoint as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict

from langgraph_hpc_fanout import GlobusComputeEndpoint
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing.globus.client import client_of


def chat(key):
    body = {"messages": [{"role": "user", "content": f"Is {key} soluble?"}], "max_tokens": 64}
    return Request(key, "default", body)


async def main(url, endpoint_id, fleet, notes, name, bundles, requests, settings):
    endpoint = GlobusComputeEndpoint(
        endpoint_id, url=fleet, client=client_of(url), **json.loads(settings)
    )
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(sent):
        os.write(file, b"".join(json.dumps(asdict(each)).encode() + b"\n" for each in sent))

    endpoint.listen(note)

    async def send(bundle):
        async for _ in endpoint.send([chat(f"{name}-{bundle}-{n}") for n in range(int(requests))]):
            pass

    async with asyncio.TaskGroup() as sending:
        for bundle in range(int(bundles)):
            sending.create_task(send(bundle))
            await asyncio.sleep(0.05)  # or they would leave in any order
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
