"""A pytest fixture; `pytest_plugins = ["langgraph_hpc_fanout.testing.globus.fixtures"]`."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from langgraph_hpc_fanout.testing.globus.stack import GlobusStack

    StackFactory = Callable[..., GlobusStack]


_LEFT_OPEN = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"


@pytest.fixture(scope="module")
def globus_stack(request: pytest.FixtureRequest) -> Iterator[StackFactory]:
    """A function that starts a `GlobusStack` from its arguments; all stop with the module.

    The tests of a module that ask with the same arguments share one stack. Each time it is
    handed out, its record is empty and no fault is left.

    The SDK leaves sockets open when it reconnects or ends; pytest may not blame a test of the
    module for them.
    """
    request.node.add_marker(pytest.mark.filterwarnings(_LEFT_OPEN))
    from langgraph_hpc_fanout.testing.globus.stack import GlobusStack  # noqa: PLC0415 - slow

    running: dict[str, GlobusStack] = {}
    with ExitStack() as stacks:

        def stack(*arguments: Any, **options: Any) -> GlobusStack:
            wanted = repr((arguments, sorted(options.items())))
            if wanted not in running:
                running[wanted] = stacks.enter_context(GlobusStack(*arguments, **options))
            running[wanted].service.reset()
            return running[wanted]

        yield stack
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
