"""What the scheduler itself costs, with everything on.

Eight endpoints in the same process answer at once, so what remains is the way of a request
through the scheduler: made, chosen by a lane, sent, settled. *Every feature* is tags, a price, a
budget of tokens for the run and one of dollars for the pool (a bound reserved in both, and settled
with what was used), the longest requests first, and hedging; windows, health, retry budget and
estimates are always on. That is a claim in microseconds, so it depends on the machine.
"""

from __future__ import annotations

from functools import partial

from benchmarks.contenders import scheduler
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process

_MOST_MICROSECONDS = 40.0
_MOST_GROWTH = 1.2


def run(scale: Scale) -> Findings:
    """Few items and many, with and without."""
    few, many = 10_000, scale.pick(1_000_000, 100_000)
    ask = partial(in_fresh_process, scheduler.ask)
    found = contest(
        scale.repeats,
        {
            "in input order, nothing more": partial(ask, few, every_feature=False),
            "every feature, few items": partial(ask, few, every_feature=True),
            "every feature, many items": partial(ask, many, every_feature=True),
        },
    )
    _, small, large = (series.cpu_per_item for series in found.values())
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(
                f"every feature, {many:,} items / {_MOST_MICROSECONDS:g} µs",
                large / _MOST_MICROSECONDS,
                1.0,
            ),
            Ratio(f"{many:,} items / {few:,} items", large / small, _MOST_GROWTH),
        ),
    )
