"""Which display a run gets: what fits where the program runs, or what the user wants."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

from langgraph_hpc_fanout.watch.display.lines import StderrLines
from langgraph_hpc_fanout.watch.display.notebook import NotebookView
from langgraph_hpc_fanout.watch.display.protocol import Display
from langgraph_hpc_fanout.watch.display.terminal import TerminalBar

logger = logging.getLogger("langgraph_hpc_fanout")

VARIABLE = "HPC_FANOUT_PROGRESS"
"""The environment variable that says which display is wanted."""

_KINDS: dict[str, Callable[[], Display | None]] = {
    "bar": TerminalBar,
    "html": NotebookView,
    "lines": StderrLines,
    "off": lambda: None,
}
_loaded_in = os.getpid()


def choose() -> Display | None:
    """The display of a run, made in the branch that calls this."""
    return _KINDS[_kind()]()


def _kind() -> str:
    wish = _wish(os.environ.get(VARIABLE, ""))
    if wish in {"lines", "off"}:
        return wish
    if _is_child():
        return "lines"  # the terminal and the notebook belong to the parent
    if wish == "bar":
        return "bar"
    if _in_notebook():
        return "html"
    if wish == "html" or _in_server() or not _on_terminal():
        return "lines"
    return "bar"


@functools.cache  # so that a wrong value is named once
def _wish(value: str) -> str:
    wish = value.strip().lower() or "auto"
    if wish == "auto" or wish in _KINDS:
        return wish
    names = ", ".join(["auto", *_KINDS])
    logger.warning("%s=%s is none of %s; auto is taken.", VARIABLE, value, names)
    return "auto"


def _is_child() -> bool:
    return os.getpid() != _loaded_in or multiprocessing.parent_process() is not None


def _in_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _in_server() -> bool:
    return "LANGSERVE_GRAPHS" in os.environ  # set by `langgraph dev` and in LangGraph's images


def _on_terminal() -> bool:
    # A dumb terminal cannot move its cursor; sys.stderr is None in programs without a console.
    return os.environ.get("TERM") != "dumb" and sys.stderr is not None and sys.stderr.isatty()
