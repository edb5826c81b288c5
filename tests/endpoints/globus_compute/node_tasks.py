"""Functions that tests have called on the workers of an endpoint."""

from __future__ import annotations

import os
import time


def measure(item):
    if item == "bad":
        raise ValueError("no molecule")
    return {"length": len(item), "pid": os.getpid()}


async def ask(item, client, model):
    messages = [{"role": "user", "content": f"Is {item} soluble?"}]
    answer = await client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


def sleep(item):
    time.sleep(item)
    return item


def may_kill(item):
    if item == "poison":
        os.kill(os.getpid(), 9)
    return item
