"""Shared by all tests: the fleet's fixtures and pools that close."""

from __future__ import annotations

import inspect
import signal

import pytest
from blockbuster import BlockBuster

from langgraph_hpc_fanout import Pool
from langgraph_hpc_fanout.testing import LocalLLM

_HARMLESS = ("os.path.", "threading.Lock.acquire")


def pytest_configure():
    """Programs of tests are to heed Ctrl-C, and shells let theirs in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def pool_over():
    """A factory of pools that are closed when the test ends."""
    pools = []

    def make(endpoints, **options):
        pools.append(Pool(endpoints, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def real_llm():
    """A real server with a small real model on loopback."""
    with LocalLLM(parallel=4) as llm:
        yield llm


@pytest.fixture(autouse=True)
def nothing_blocks(request):
    """In async tests, what blocks an event loop from within our code is an error.

    The dispatch loop's included; `langgraph dev` watches its own in the same way, and like it
    this lets pass what only looks at paths, and locks, which are held for moments.
    """
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    watch = BlockBuster("langgraph_hpc_fanout", excluded_modules=["langgraph_hpc_fanout.testing"])
    for name in [name for name in watch.functions if name.startswith(_HARMLESS)]:
        del watch.functions[name]
    watch.activate()
    yield
    watch.deactivate()
