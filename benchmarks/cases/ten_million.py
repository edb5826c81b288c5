"""Ten million items through a graph, from file to file.

As with a million, ten times over, for memory: what a fan-out keeps of each item is where its
outcome stands (8 bytes) and a hash of what was asked (32 at most). It takes a quarter of an hour,
so it is measured when it is named, not by `make bench`.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.cases.million import WARM_UP, write
from benchmarks.contenders import million
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process

_MOST_MEGABYTES, _MOST_MICROSECONDS = 1_000.0, 100.0


def run(scale: Scale) -> Findings:
    """Once."""
    count = scale.pick(10_000_000, 100_000)
    with tempfile.TemporaryDirectory() as directory:
        warm, large = (write(Path(directory, f"{each}.parquet"), each) for each in (WARM_UP, count))
        found = contest(
            1, {"all items": partial(in_fresh_process, million.screen, large, count, warm)}
        )
    (all_items,) = found.values()
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(
                f"peak RSS of {count:,} items / {_MOST_MEGABYTES:,g} MB",
                all_items.peak / 2**20 / _MOST_MEGABYTES,
                1.0,
            ),
            Ratio(
                f"CPU an item of {count:,} / {_MOST_MICROSECONDS:g} µs",
                all_items.cpu_per_item / _MOST_MICROSECONDS,
                1.0,
            ),
        ),
    )
