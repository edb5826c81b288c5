"""What a Globus Compute task calls where this package is installed."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

from langgraph_hpc_fanout.dispatch.loop import LoopThread, dispatch_loop
from langgraph_hpc_fanout.remote.asking import ask_all
from langgraph_hpc_fanout.remote.bundle import (
    Bundle,
    BundleError,
    read_bundle,
    result_of,
    result_of_error,
)
from langgraph_hpc_fanout.remote.calling import call_all
from langgraph_hpc_fanout.remote.functions import load


def run(bundle: Any) -> dict[str, Any]:
    """Work on a bundle; may be called by several threads at once.

    What it needs (an event loop in a thread of its own, connections, knowledge of the servers)
    stays for the next call in this process.

    Args:
        bundle: What to do, see `langgraph_hpc_fanout.remote.bundle`.

    Returns:
        The result, whatever is wrong with the bundle, its requests or the servers.
    """
    began = time.monotonic()
    try:
        read = read_bundle(bundle)
        replies = _replies(read) if read.requests else []
    except BundleError as error:
        return result_of_error(error)
    except Exception as error:  # noqa: BLE001 - a task that raises loses all of its answers
        said = f"{type(error).__name__}: {error}"
        return result_of_error(BundleError(f"The worker failed: {said}", "transient"))
    return result_of(replies, time.monotonic() - began)


def _replies(bundle: Bundle) -> list[dict[str, Any]]:
    if bundle.function is not None:
        return call_all(bundle, load(bundle.function))
    return _wait(dispatch_loop(), ask_all(bundle))


def _wait(
    loop: LoopThread, replies: Coroutine[Any, Any, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The result of a coroutine on a loop, which ends with us."""
    asked = loop.submit(replies)
    try:
        return asked.result()
    except BaseException:  # the task itself is ended from outside, by its endpoint
        asked.cancel()
        raise
