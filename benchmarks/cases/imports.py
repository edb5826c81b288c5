"""What it costs to import the package.

Tools that only look at a journal, workers on a compute node and command lines pay for imports
again and again, and LangGraph's take most of a second. Names of the package resolve when they
are first used, so that whoever does not build a graph does not pay for one. Each figure is the
CPU time of a fresh interpreter with the import, less that of one without.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from benchmarks.findings import Findings, Ratio, Scale

_MOST_SECONDS = 0.3
_NOTHING = "pass"
_PACKAGE = "import langgraph_hpc_fanout"
_STATEMENTS = (
    _NOTHING,
    _PACKAGE,
    "import langgraph_hpc_fanout.records",
    "import langgraph_hpc_fanout.dispatch",
    "import langgraph_hpc_fanout.endpoints.openai",
    "from langgraph_hpc_fanout import FanOutNode",
    "import langgraph.graph",
)


def run(scale: Scale) -> Findings:
    """Start interpreters, in turns."""
    seconds: dict[str, list[float]] = {statement: [] for statement in _STATEMENTS}
    for _ in range(scale.repeats):
        for statement in _STATEMENTS:
            seconds[statement].append(_cpu_seconds(statement))
    median = {statement: statistics.median(each) for statement, each in seconds.items()}
    empty = median[_NOTHING]
    return Findings(
        ("statement", "CPU ms", "less an empty interpreter, ms", "least to most, ms"),
        tuple(
            (
                f"`{statement}`",
                f"{median[statement] * 1e3:.0f}",
                f"{(median[statement] - empty) * 1e3:.0f}",
                f"{min(each) * 1e3:.0f} to {max(each) * 1e3:.0f}",
            )
            for statement, each in seconds.items()
        ),
        (
            Ratio(
                f"{_PACKAGE} / {_MOST_SECONDS:g} s",
                (median[_PACKAGE] - empty) / _MOST_SECONDS,
                1.0,
            ),
        ),
    )


def _cpu_seconds(statement: str) -> float:
    """CPU time of an interpreter from its start to its end."""
    process = subprocess.Popen([sys.executable, "-c", statement])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{statement!r} ended with {process.returncode}.")
    return usage.ru_utime + usage.ru_stime
