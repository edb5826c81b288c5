"""A journal of a million outcomes.

Every answer is on disk before a branch reports it, and a run that is started again looks up every
question. So keeping an outcome has to cost little beside asking for it, a large journal has to
open in seconds, and its index has to fit beside the run. Outcomes here have 1 kB. They are kept
one by one and made safe with fsync every 25,000; the time of both counts. Opening ends when the
first answer is found; looking up reads the answer, too.

The peers are what one would take otherwise: a table in SQLite (write-ahead log, one commit every
25,000, synchronous) and lines of `json.dumps` with a dict of their offsets. SQLite needs not be
opened, because its index is on disk; shared file systems lack the locks that it relies on.
"""

from __future__ import annotations

import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from benchmarks.contenders import stores
from benchmarks.contenders.stores import Kind
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import Sample, contest, in_fresh_process
from langgraph_hpc_fanout.journal.index import Index
from langgraph_hpc_fanout.journal.line import fingerprint_of

_MOST_APPEND = 20.0
"""Microseconds an outcome: 50,000 a second."""
_MOST_OPEN = 5.0
"""Microseconds an outcome: a million in 5 s."""
_MOST_BYTES = 32
_MOST_OF_LINES = 1.5
"""What checksums, places and a packed index may cost beyond a plain line."""
_HITS = 10_000
_KINDS: tuple[Kind, ...] = get_args(Kind)


def run(scale: Scale) -> Findings:
    """Let the three take turns at keeping, opening and looking up."""
    count = scale.pick(1_000_000, 100_000)
    with tempfile.TemporaryDirectory() as place:
        kept = contest(
            scale.repeats, {kind: partial(_append, kind, place, count) for kind in _KINDS}
        )
        opened = contest(
            scale.repeats,
            {kind: partial(_again, stores.open_again, kind, place, count) for kind in _KINDS},
        )
        found = contest(
            scale.repeats,
            {kind: partial(_again, stores.find, kind, place, count, _HITS) for kind in _KINDS},
        )
    ours, table, lines = (kept[kind] for kind in _KINDS)
    bytes_of_ours, bytes_of_dict = (
        _bytes_a_key(count, Index, Index.put),
        _bytes_a_key(count, dict, dict.__setitem__),
    )
    note = (
        f"Of {count:,} keys each takes {bytes_of_ours:.1f} bytes at most while the second half is "
        f"put, and {bytes_of_dict:.0f} in a dict."
    )
    return Findings(
        TIMINGS,
        (
            *timings({f"append, {kind}": each for kind, each in kept.items()}),
            *timings({f"open, {kind}": each for kind, each in opened.items()}),
            *timings({f"look up, {kind}": each for kind, each in found.items()}),
        ),
        (
            Ratio(f"CPU of an append / {_MOST_APPEND:g} µs", ours.cpu_per_item / _MOST_APPEND, 1.0),
            Ratio(
                f"wall time of an append / {_MOST_APPEND:g} µs",
                ours.wall / count * 1e6 / _MOST_APPEND,
                1.0,
            ),
            Ratio(
                "append in SQLite / here, CPU", table.cpu_per_item / ours.cpu_per_item, 1.0, True
            ),
            Ratio(
                "append here / as json.dumps, CPU",
                ours.cpu_per_item / lines.cpu_per_item,
                _MOST_OF_LINES,
            ),
            Ratio(
                f"CPU of opening, an outcome / {_MOST_OPEN:g} µs",
                opened["journal"].cpu_per_item / _MOST_OPEN,
                1.0,
            ),
            Ratio("bytes a key of the index", bytes_of_ours, _MOST_BYTES),
        ),
        (note,),
    )


def _append(kind: Kind, place: str, count: int) -> Sample:
    """Keep outcomes where there are none yet; the last ones stay for the next contests."""
    directory = str(Path(place) / kind)
    shutil.rmtree(directory, ignore_errors=True)
    return in_fresh_process(stores.append, kind, directory, count)


def _again(
    measure: Callable[..., Sample], kind: Kind, place: str, count: int, *more: int
) -> Sample:
    return in_fresh_process(measure, kind, str(Path(place) / kind), count, *more)


def _bytes_a_key(
    count: int, make: Callable[[], Any], put: Callable[[Any, Any, int], None]
) -> float:
    """The most that a key takes while the last half of so many are put, one by one."""
    worst = 0.0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = make()
        for number in range(count):
            asked = stores.key(number)
            put(index, fingerprint_of(asked) if make is Index else asked, 1 << 40 | number << 10)
            if number >= count // 2 and number % 1000 == 0:
                worst = max(worst, (tracemalloc.get_traced_memory()[0] - before) / (number + 1))
    finally:
        tracemalloc.stop()
    return worst
