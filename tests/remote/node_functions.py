"""Functions as users keep them on a node."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import dataclass

import openai

NOT_CALLABLE = 7
seen = []
lock = threading.Lock()


def double(item):
    return {"twice": 2 * item, "pid": os.getpid()}


async def double_async(item):
    await asyncio.sleep(0.001)
    return [2 * item]


def slow(item):
    time.sleep(0.3)
    return item


async def slow_async(item):
    await asyncio.sleep(0.3)
    return item


def misbehave(item):
    match item:
        case "value":
            raise ValueError("a bad\nvalue")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "cancelled":
            raise asyncio.CancelledError
        case "object":
            return object()
        case "nan":
            return {"score": float("nan")}
        case "hang":
            time.sleep(2)
        case "timeout":
            raise TimeoutError("theirs")
    return item


async def misbehave_async(item):
    if item == "hang":
        await asyncio.sleep(60)
    return misbehave(item)


def flaky(item):
    with lock:
        seen.append(item)
        if seen.count(item) < 3:
            raise ConnectionResetError(item)
    return item


def ask(item, client, model):
    assert isinstance(client, openai.OpenAI)
    said = client.chat.completions.create(model=model, messages=[{"role": "user", "content": item}])
    return [said.choices[0].message.content, id(client)]


async def ask_async(item, *, client=None, model=None, temperature=0):
    if client is None:
        return [item, model]
    assert isinstance(client, openai.AsyncOpenAI)
    said = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": item}], temperature=temperature
    )
    return [said.choices[0].message.content, id(client)]


class Caller:
    @staticmethod
    def shout(item):
        return item.upper()

    async def __call__(self, item):
        return item


caller = Caller()


@dataclass
class Point:
    x: int


def point(item):
    return Point(item)


def wants_more(item, pool):
    return item


def wants_nothing():
    return 1


def thread_of(item):
    return [threading.current_thread().name, asyncio.iscoroutinefunction(thread_of)]


async def thread_of_async(item):
    return threading.current_thread().name
