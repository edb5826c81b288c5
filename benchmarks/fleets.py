"""The servers that all contenders ask."""

from __future__ import annotations

from benchmarks.workload import IN_FLIGHT, MARK, MODEL
from langgraph_hpc_fanout.testing.fleet import FakeFleet, Fault

ENDPOINTS = 4

FAULTS = (
    Fault("http_500", rate=0.02, contains=MARK),
    Fault("http_429", rate=0.02, contains=MARK, retry_after=1.0),
    Fault("reset", rate=0.005, contains=MARK),
    Fault("hang", rate=0.005, contains=MARK),
)
"""A bad day: one request in twenty goes wrong. Those of a warm-up do not."""


def fleet(latency: float, answer: str | None = None, endpoints: int = ENDPOINTS) -> FakeFleet:
    """Endpoints that serve 1,000 requests at once, in one process beside those measured."""
    return FakeFleet(
        endpoints,
        processes=1,
        record="counts",
        models=(MODEL,),
        latency=latency,
        capacity=IN_FLIGHT,
        answer=answer,
    )


def recorded(latency: float, faults: tuple[Fault, ...] = ()) -> FakeFleet:
    """The same with faults, and with a record of every request.

    Faults depend on how often a question was asked, so each contender needs a new one.
    """
    return FakeFleet(
        ENDPOINTS,
        processes=1,
        models=(MODEL,),
        latency=latency,
        capacity=IN_FLIGHT,
        faults=faults,
    )
