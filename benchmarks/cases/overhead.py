"""CPU per item, against a bare loop and against plain LangGraph.

What does it cost to have retries, limits, keys, order, progress and graph state around a call?
The lower bound is a loop over aiohttp and orjson on uvloop, written by hand, which has none of
them. The upper one is what LangGraph users write today: one `Send` and one `ChatOpenAI` call an
item, with fewer items because its cost per item grows with their number.

All three ask the same four endpoints, which answer after 50 ms and serve 1,000 requests at
once, in a process of their own. The graph is called with `ainvoke`; `invoke` is shown beside
it. Imports and set-up are not counted, connections are. While a run of ours is live, Python's
garbage collector looks less often (`runs/garbage.py`); what that does for the bare loop is
shown, too.
"""

from __future__ import annotations

from functools import partial

from benchmarks import fleets
from benchmarks.contenders import bare, fan_out, native
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import contest, in_fresh_process

_LATENCY = 0.05
_MOST_OF_BARE = 1.5
_LEAST_OF_NATIVE = 20.0


def run(scale: Scale) -> Findings:
    """Let the three take turns at one fleet."""
    items, few = scale.pick(10_000, 4_000), 1_000
    with fleets.fleet(_LATENCY) as fleet:
        found = contest(
            scale.repeats,
            {
                "bare aiohttp + orjson": partial(in_fresh_process, bare.ask, fleet.urls, items),
                "the same, collector relaxed": partial(
                    in_fresh_process, bare.ask, fleet.urls, items, relaxed=True
                ),
                "FanOutNode, ainvoke": partial(in_fresh_process, fan_out.ask, fleet.urls, items),
                "FanOutNode, invoke": partial(
                    in_fresh_process, fan_out.ask, fleet.urls, items, call="invoke"
                ),
                "Send + ChatOpenAI": partial(in_fresh_process, native.ask, fleet.urls, few),
            },
        )
    loop, _, ours, _, plain = (series.cpu_per_item for series in found.values())
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio("whole graph / bare loop", ours / loop, _MOST_OF_BARE),
            Ratio("plain LangGraph / whole graph", plain / ours, _LEAST_OF_NATIVE, at_least=True),
        ),
        bars={
            "bare aiohttp + orjson": loop,
            "FanOutNode": ours,
            "LangGraph Send + ChatOpenAI": plain,
        },
    )
