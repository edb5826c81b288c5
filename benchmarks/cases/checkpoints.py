"""What a fan-out adds to the database of a checkpointer.

LangGraph writes the whole state after each step, and what each branch returns. So state must not
hold answers, and branches must carry neither items nor answers: they carry where those are. Here
answers are of 2 kB, and `SqliteSaver` keeps the checkpoints. With items in a file, its database
should be small whatever there is to ask; with items in state, no larger than that of a graph
that has the same state and as many steps, in which nothing happens.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases.million import write
from benchmarks.contenders import checkpoints
from benchmarks.findings import Findings, Ratio, Scale
from benchmarks.sample import Sample, in_fresh_process

_MEGABYTE = 10**6


def run(scale: Scale) -> Findings:
    """Run each graph once: bytes are no matter of luck."""
    count = scale.pick(100_000, 10_000)
    with tempfile.TemporaryDirectory() as directory:
        source = write(Path(directory, "items.parquet"), count)
        from_file = _bytes_of(checkpoints.from_file, source, count)
        from_state = _bytes_of(checkpoints.from_state, count)
        without = _bytes_of(checkpoints.without, count)
    sizes = {
        "fan-out, items in a file": from_file,
        "fan-out, items in state": from_state,
        "empty nodes, items in state": without,
    }
    return Findings(
        ("graph", "items", "database MB"),
        tuple((name, f"{count:,}", f"{size / _MEGABYTE:.2f}") for name, size in sizes.items()),
        (
            Ratio("items in a file: database / 1 MB", from_file / _MEGABYTE, 1.0, exact=True),
            Ratio(
                "items in state: what the fan-out adds / 1 MB",
                max(0, from_state - without) / _MEGABYTE,
                1.0,
                exact=True,
            ),
        ),
    )


def _bytes_of(graph: Callable[..., Sample], *arguments: object) -> int:
    """How large the database is that a graph leaves."""
    with tempfile.TemporaryDirectory() as directory:
        in_fresh_process(graph, str(Path(directory, "checkpoints.sqlite")), *arguments)
        return sum(entry.stat().st_size for entry in os.scandir(directory))
