"""The watch over async tests: it would see our code block."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

import langgraph_hpc_fanout
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop

OURS = str(Path(langgraph_hpc_fanout.__file__).with_name("ours.py"))


def block():
    """What a module of ours would do that sleeps."""
    scope = {}
    exec(compile("import time\ndef block():\n    time.sleep(0)", OURS, "exec"), scope)
    scope["block"]()


async def test_on_the_callers_loop():
    with pytest.raises(BlockingError):
        block()


async def test_on_the_dispatch_loop():
    async def on_the_loop():
        block()

    with pytest.raises(BlockingError):
        await asyncio.wrap_future(dispatch_loop().submit(on_the_loop()))


def test_sync_tests_are_not_watched():
    block()
