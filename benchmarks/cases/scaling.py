"""CPU per item as the items become more.

With a `Send` an item the cost per item grows with their number, so that 50,000 do not finish in
minutes. Here it should stay what it is: per-item CPU of the large run is divided by that of a
run with a tenth of the items, over HTTP at 1 ms latency with 1,000 requests in flight. Both
use connections that a run before has opened: opening 1,000 of them is paid once, and would
make the small run look dear.

An endpoint in the same process that answers at once shows what the fan-out itself costs, graph
and all. That is a claim in microseconds, so a calibration loop (render a prompt, encode it,
hash it, decode it) says how fast the machine is.
"""

from __future__ import annotations

import hashlib
from functools import partial

import orjson

from benchmarks import fleets, workload
from benchmarks.contenders import fan_out
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import Meter, Sample, contest, in_fresh_process

_LATENCY = 0.001
_MOST_GROWTH = 1.2
_MOST_MICROSECONDS = 60.0
_WARM_UP = 2 * workload.IN_FLIGHT
_CALIBRATION = 200_000


def run(scale: Scale) -> Findings:
    """Let small and large runs take turns."""
    few, many = scale.pick(10_000, 2_000), scale.pick(100_000, 20_000)
    with fleets.fleet(_LATENCY) as fleet:

        def over_http(count: int) -> Sample:
            return in_fresh_process(
                fan_out.ask, fleet.urls, count, before=_WARM_UP, keep_connections=True
            )

        found = contest(
            scale.repeats,
            {
                "HTTP, few items": partial(over_http, few),
                "HTTP, many items": partial(over_http, many),
                "instant endpoint, few items": partial(in_fresh_process, fan_out.ask_nobody, few),
                "instant endpoint, many items": partial(in_fresh_process, fan_out.ask_nobody, many),
                "calibration loop": partial(in_fresh_process, calibrate, _CALIBRATION),
            },
        )
    small, large, small_core, large_core, calibration = (
        series.cpu_per_item for series in found.values()
    )
    note = (
        f"At the instant endpoint, an item of {many:,} costs {large_core / small_core:.2f} times "
        f"one of {few:,}, and as much as {large_core / calibration:.1f} rounds of the calibration "
        "loop."
    )
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(f"{many:,} items / {few:,} items, HTTP", large / small, _MOST_GROWTH),
            Ratio(
                f"{many:,} items at an instant endpoint / {_MOST_MICROSECONDS:g} µs",
                large_core / _MOST_MICROSECONDS,
                1.0,
            ),
        ),
        (note,),
    )


def calibrate(rounds: int) -> Sample:
    """The work on one item that nobody can do without, over and over."""
    items = workload.molecules(rounds)
    with Meter(rounds) as meter:
        for item in items:
            text = workload.QUESTION.format_map(item)
            body = orjson.dumps({"messages": [{"role": "user", "content": text}]})
            hashlib.blake2b(body, digest_size=16).hexdigest()
            orjson.loads(body)
    return meter.sample
