"""Items behind a Globus Compute endpoint, in bundles and one task each.

The real SDK and a real endpoint with Parsl's workers, two of them, and a real broker on this
machine; only the web service is emulated. One task an item is what the SDK gives by itself: the
same function on the workers, the same serializer. It is measured with a function that does
nothing and with a fleet that takes 0.2 s. "Directly" calls what the workers run in two processes,
without Globus Compute between. The coordinator's CPU is that of its whole process, the SDK's
threads included; an endpoint in the same process that answers at once shows what of it is the
fan-out's. Twelve fan-outs of one item each follow one another; a round trip takes half a second
at the least.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks import fleets
from benchmarks.contenders import globus
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import Series, contest, in_fresh_process
from langgraph_hpc_fanout.testing.globus import GlobusStack

_ROOT = str(Path(__file__).parents[2])
_LATENCY = 0.2
_WINDOW = 128
_SIZE = 1_000
_SMALL = 20
_FAN_OUTS = 12
_SECONDS_OF_ONE = 2.0
_LEAST_IDLE, _LEAST_BUSY, _LEAST_OF_DIRECT = 15.0, 50.0, 0.9
_MOST_MICROSECONDS = 40.0


def run(scale: Scale) -> Findings:
    """Let them take turns at one stack."""
    with (
        GlobusStack("htex", workers=2, env={"PYTHONPATH": _ROOT}) as stack,
        fleets.fleet(0.0, endpoints=1) as idle,
        fleets.fleet(_LATENCY, endpoints=1) as busy,
    ):
        where = stack.endpoint_id, stack.url
        ask = partial(in_fresh_process, globus.in_bundles, *where)
        single = partial(in_fresh_process, globus.singly, *where)
        many, few = scale.pick(20_000, 8_000), scale.pick(1_000, 500)
        slow = scale.pick(40_000, 10_000)
        found = contest(
            scale.repeats,
            {
                "nothing, in bundles": partial(
                    ask, idle.urls[0], many, work="nothing", size=_SMALL, window=_WINDOW
                ),
                "nothing, one task an item": partial(
                    single, idle.urls[0], few, work="nothing", size=_SMALL
                ),
                "1 kB, in bundles": partial(
                    ask, idle.urls[0], many, work="chat", size=_SIZE, window=_WINDOW
                ),
                "1 kB, endpoint in the process": partial(
                    in_fresh_process, globus.at_nobody, many, size=_SIZE
                ),
                "0.2 s, in bundles": partial(
                    ask, busy.urls[0], slow, work="chat", size=_SMALL, window=_WINDOW
                ),
                "0.2 s, directly": partial(
                    in_fresh_process,
                    globus.directly,
                    busy.urls[0],
                    slow,
                    size=_SMALL,
                    window=_WINDOW,
                ),
                "0.2 s, one task an item": partial(
                    single, busy.urls[0], scale.pick(150, 60), work="chat", size=_SMALL
                ),
                "slowest of 12 one-item fan-outs": partial(
                    in_fresh_process, globus.one_by_one_slowest, *where, _FAN_OUTS
                ),
            },
        )
    idle_bundles, idle_single, one_kb, instant, slow_bundles, direct, slow_single, trickle = (
        found.values()
    )
    added = one_kb.cpu_per_item - instant.cpu_per_item
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(
                "items a second, nothing to do: in bundles / one task an item",
                _rate(idle_bundles) / _rate(idle_single),
                _LEAST_IDLE,
                at_least=True,
            ),
            Ratio(
                "items a second, 0.2 s: in bundles / one task an item",
                _rate(slow_bundles) / _rate(slow_single),
                _LEAST_BUSY,
                at_least=True,
            ),
            Ratio(
                "items a second, 0.2 s: through Globus Compute / directly",
                _rate(slow_bundles) / _rate(direct),
                _LEAST_OF_DIRECT,
                at_least=True,
            ),
            Ratio(
                f"coordinator's CPU that Globus Compute adds / {_MOST_MICROSECONDS:g} µs an item",
                added / _MOST_MICROSECONDS,
                1.0,
            ),
            Ratio(
                f"slowest of {_FAN_OUTS} one-item fan-outs / {_SECONDS_OF_ONE:g} s",
                trickle.wall / _SECONDS_OF_ONE,
                1.0,
            ),
        ),
    )


def _rate(series: Series) -> float:
    """Items a second."""
    return series.samples[0].items / series.wall
