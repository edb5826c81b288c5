"""Pytest fixtures; load them with `pytest_plugins = ["langgraph_hpc_fanout.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from langgraph_hpc_fanout.testing.first.server import FirstFake
from langgraph_hpc_fanout.testing.fleet.server import FakeFleet

FirstFactory = Callable[..., FirstFake]
FleetFactory = Callable[..., FakeFleet]


@pytest.fixture
def fake_fleet() -> Iterator[FleetFactory]:
    """A function that starts a `FakeFleet` from its arguments; all stop after the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(FakeFleet(*arguments, **options))


@pytest.fixture
def first_fake() -> Iterator[FirstFactory]:
    """A function that starts a `FirstFake` from its arguments; all stop after the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(FirstFake(*arguments, **options))
