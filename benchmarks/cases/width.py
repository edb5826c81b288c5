"""How wide a run is, whichever way the graph is called.

64 items that take a second each should take about a second together. In plain LangGraph that
depends on the call: `invoke` runs as many branches at a time as it has threads, and
`max_concurrency` bounds `ainvoke`. The fan-out's width is set by the pool's limits alone. Wall
time is the claim here, and it includes the pool's first probe of the endpoints.
"""

from __future__ import annotations

from functools import partial

from benchmarks import fleets
from benchmarks.contenders import fan_out, native
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process

_ITEMS = 64
_LATENCY = 1.0
_MOST_SECONDS = 2.0


def run(scale: Scale) -> Findings:
    """Call the graph in three ways, and plain LangGraph in one."""
    with fleets.fleet(_LATENCY) as fleet:
        ask = partial(in_fresh_process, fan_out.ask, fleet.urls, _ITEMS, width=_ITEMS, before=1)
        found = contest(
            scale.repeats,
            {
                "invoke": partial(ask, call="invoke"),
                "ainvoke": ask,
                "ainvoke, max_concurrency=4": partial(ask, max_concurrency=4),
            },
        )
        ask_plainly = partial(in_fresh_process, native.ask_sync, fleet.urls, _ITEMS)
        # Beside the others for the reader's sake only, and it takes ten times as long.
        plain = contest(
            scale.repeats, {"Send + ChatOpenAI, invoke": ask_plainly} if scale.full else {}
        )
    return Findings(
        TIMINGS,
        timings({**found, **plain}),
        tuple(
            Ratio(f"{call}: wall / {_MOST_SECONDS:g} s", series.wall / _MOST_SECONDS, 1.0)
            for call, series in found.items()
        ),
    )
