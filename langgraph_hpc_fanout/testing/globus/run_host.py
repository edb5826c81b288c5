"""The process of a stack's host; run as a module."""

from __future__ import annotations

import importlib
import importlib.util
import os


def measure_coverage() -> None:
    """Take part in a coverage run: it names its settings to processes that it might miss.

    That is what coverage does for those of multiprocessing (coverage/multiproc.py).
    """
    settings = os.environ.get("COVERAGE_RCFILE")
    if settings and importlib.util.find_spec("coverage"):
        os.environ["COVERAGE_PROCESS_START"] = settings
        importlib.import_module("coverage").process_startup()
        del os.environ["COVERAGE_PROCESS_START"]


if __name__ == "__main__":
    measure_coverage()
    importlib.import_module("langgraph_hpc_fanout.testing.globus.host").main()
