"""Ten thousand requests in flight at once, from one process.

Answers of a large model take long, so a site that serves thousands of requests at once is kept
busy only by a coordinator that holds as many open. What counts is the fleet's own record: the
most requests that had arrived and were not answered. The endpoints live in two processes and
take long enough for all connections to be made; each connection is a file, so the coordinator
raises its soft limit of open files.
"""

from __future__ import annotations

from benchmarks import workload
from benchmarks.contenders import fan_out
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import Sample, contest, in_fresh_process
from langgraph_hpc_fanout.testing.fleet import FakeFleet

_ENDPOINTS = 8


def run(scale: Scale) -> Findings:
    """Ask everything at once, and ask the fleet how much of it was there together."""
    items, latency = scale.pick(10_000, 2_000), float(scale.pick(15, 4))
    peaks: list[int] = []
    # A full record, because over several processes counts give only an upper bound of the peak.
    with FakeFleet(
        _ENDPOINTS,
        processes=2,
        record="full",
        models=(workload.MODEL,),
        latency=latency,
        capacity=items,
    ) as fleet:

        def ask() -> Sample:
            fleet.reset_record()
            sample = in_fresh_process(fan_out.ask, fleet.urls, items, width=items, before=1)
            peaks.append(fleet.record().peak_in_flight)
            return sample

        found = contest(scale.repeats, {f"{items:,} at once, {latency:g} s each": ask})
    lowest = min(peaks)
    return Findings(
        (*TIMINGS, "peak in flight"),
        tuple((*row, f"{lowest:,}") for row in timings(found)),
        (Ratio(f"peak in flight / {items:,}", lowest / items, 1.0, at_least=True),),
        (f"The peak in flight is the lowest of {len(peaks)} runs.",),
    )
