"""A million items through a graph, from file to file.

Items come from a Parquet file, outcomes go through a journal on disk into another Parquet file,
and the endpoint is in the same process and answers at once: what is left is what the fan-out
costs, files and all. Memory should not depend on how many items there are, nor CPU an item. The
first outcome is the first that the graph's stream tells of; the file's rows are not read before.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders import million
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process
from benchmarks.workload import molecules

_MOST_MEGABYTES, _MOST_MICROSECONDS = 400.0, 100.0
_MOST_GROWTH = 1.2
_MOST_SECONDS = 2.0
WARM_UP = 500
_ROW_GROUP = 50_000


def run(scale: Scale) -> Findings:
    """Let a small and a large file take turns."""
    many, few = scale.pick(1_000_000, 50_000), scale.pick(10_000, 5_000)
    with tempfile.TemporaryDirectory() as directory:
        warm, small, large = (
            write(Path(directory, f"{count}.parquet"), count) for count in (WARM_UP, few, many)
        )
        found = contest(
            scale.repeats,
            {
                "few items": partial(in_fresh_process, million.screen, small, few, warm),
                "until the first outcome of many": partial(
                    in_fresh_process, million.begin, large, many, warm
                ),
            },
        )
        found |= contest(
            1, {"many items": partial(in_fresh_process, million.screen, large, many, warm)}
        )
    short, first, long = found.values()
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(
                f"peak RSS of {many:,} items / {_MOST_MEGABYTES:g} MB",
                long.peak / 2**20 / _MOST_MEGABYTES,
                1.0,
            ),
            Ratio(
                f"CPU an item of {many:,} / {_MOST_MICROSECONDS:g} µs",
                long.cpu_per_item / _MOST_MICROSECONDS,
                1.0,
            ),
            Ratio(
                f"CPU an item of {many:,} / of {few:,}",
                long.cpu_per_item / short.cpu_per_item,
                _MOST_GROWTH,
            ),
            Ratio(
                f"first outcome of {many:,} / {_MOST_SECONDS:g} s", first.wall / _MOST_SECONDS, 1.0
            ),
        ),
    )


def write(path: Path, count: int) -> str:
    """Write a Parquet file of so many items; returns its path."""
    with pq.ParquetWriter(path, pa.schema({"smiles": pa.string()})) as writer:
        for start in range(0, count, _ROW_GROUP):
            rows = molecules(min(_ROW_GROUP, count - start), start)
            writer.write_table(pa.Table.from_pylist(rows))
    return str(path)
