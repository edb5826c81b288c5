"""Shared by all tests: the fleet's fixtures and pools that close."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout import Pool


@pytest.fixture
def pool_over():
    """A factory of pools that are closed when the test ends."""
    pools = []

    def make(endpoints):
        pools.append(Pool(endpoints))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
