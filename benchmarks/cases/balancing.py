"""How near to the ideal a fleet is kept busy, in which some endpoints are slow and some are dead.

1,000 endpoints with 16 slots each are simulated in virtual time. Requests take lognormal times
(median 5 s, sigma 0.8), which are the same for all contenders; 5 % of the endpoints take three
times as long, and 2 % are gateways whose server is gone, so what they are sent fails after 60 s.
Nobody is told which. Beside the scheduler are the policies that people write by hand, with as
many requests in flight as there are slots, and another endpoint for what fails: `workers[i % n]`,
a random one, and the less busy of two random ones.

The *fluid ideal* is the work of all requests divided by the slots that live, of which those of
slow endpoints count a third: nobody can be faster than that, and only work that can be cut in
pieces gets there. No more than the longest request is lost against it when that one does not
begin too late and ends where it is not slow. *Extra tokens* are those that were written beyond the
answers': of requests that were lost, or asked twice to be sooner done. Time is virtual, so these
figures hold on any machine. The CPU is that of contender and endpoints together, and all runs
share a process.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.contenders import balancing
from benchmarks.contenders.balancing import Course, Fleet
from benchmarks.findings import Findings, Ratio, Scale
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing.schedules import BackendGone, Slow
from langgraph_hpc_fanout.testing.simulated import Workload, fleet

_MODEL = "simulated"
_SLOTS = 16
_ITEMS_AN_ENDPOINT = 200
_SLOW, _DEAD = Slow(factor=3.0), BackendGone(after=60.0)
_SHARES = {_SLOW: 0.05, _DEAD: 0.02}
_MOST_FOR_99_PERCENT = 1.1
_MOST_EXTRA_PERCENT = 2.0

Contender = Callable[[Fleet, Sequence[Request], int], Course]
_OURS = "scheduler"
_CONTENDERS: Mapping[str, Contender] = {
    _OURS: balancing.by_scheduler,
    "workers[i % n]": partial(balancing.by_hand, choose=balancing.in_turn),
    "random": partial(balancing.by_hand, choose=balancing.at_random),
    "less busy of two": partial(balancing.by_hand, choose=balancing.of_two),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """How a contender did with one seed.

    Attributes:
        ideal: The fluid ideal, in seconds.
        longest: Seconds that the longest request takes where nothing is slow.
        nearly: When 99 % of the answers were there.
        all: When all were.
        extra: Tokens beyond those of the answers, as a share.
        cpu: Seconds of CPU an item.
    """

    ideal: float
    longest: float
    nearly: float
    all: float
    extra: float
    cpu: float

    @property
    def beyond(self) -> float:
        """Seconds that the last answer was later than ideal and longest request together."""
        return self.all - self.ideal - self.longest


def run(scale: Scale) -> Findings:
    """Let each contender have each seed's fleet and requests."""
    endpoints = scale.pick(1_000, 100)
    seeds = range(1, scale.pick(5, 2) + 1)
    found = {
        name: [_try(contender, endpoints, seed) for seed in seeds]
        for name, contender in _CONTENDERS.items()
    }
    ours = found[_OURS]
    ideal = statistics.median(trial.ideal for trial in ours)
    longest = statistics.median(trial.longest for trial in ours)
    note = (
        f"{endpoints:,} endpoints, {endpoints * _ITEMS_AN_ENDPOINT:,} requests, seeds {seeds[0]} "
        f"to {seeds[-1]}; the fluid ideal is {ideal:.0f} s and the longest request {longest:.0f} s "
        "(medians)."
    )
    return Findings(
        (
            *("contender", "99 % / ideal", "of seeds", "100 % - (ideal + longest), s", "of seeds"),
            *("extra tokens, %", "CPU µs/item"),
        ),
        tuple(_row(name, trials) for name, trials in found.items()),
        (
            Ratio(
                "time to 99 % / fluid ideal, worst seed",
                max(trial.nearly / trial.ideal for trial in ours),
                _MOST_FOR_99_PERCENT,
            ),
            Ratio(
                "time to 100 % / (fluid ideal + longest request), worst seed",
                max(trial.all / (trial.ideal + trial.longest) for trial in ours),
                1.0,
            ),
            Ratio(
                "extra tokens in %, worst seed",
                max(100 * trial.extra for trial in ours),
                _MOST_EXTRA_PERCENT,
            ),
        ),
        (note,),
    )


def _try(contender: Contender, endpoints: int, seed: int) -> Trial:
    workload = Workload(median=5.0, sigma=0.8, seed=seed)
    servers = fleet(
        endpoints, slots=_SLOTS, workload=workload, shares=_SHARES, models=_MODEL, seed=seed
    )
    count = endpoints * _ITEMS_AN_ENDPOINT
    requests = [Request(f"item {number}", _MODEL, {}) for number in range(count)]
    work = [workload.seconds(request.key) for request in requests]
    course = contender(servers, requests, seed)
    needed = sum(map(workload.tokens, work))
    return Trial(
        ideal=sum(work) / _capacity(endpoints),
        longest=max(work),
        nearly=course.ends[-(-count * 99 // 100) - 1],
        all=course.ends[-1],
        extra=sum(server.written for server in servers) / needed - 1.0,
        cpu=course.cpu / count,
    )


def _capacity(endpoints: int) -> float:
    """Seconds of work that the fleet does in a second."""
    slow, dead = (round(_SHARES[fault] * endpoints) for fault in (_SLOW, _DEAD))
    return _SLOTS * (endpoints - dead - slow + slow / _SLOW.factor)


def _row(name: str, trials: Sequence[Trial]) -> tuple[str, ...]:
    nearly = [trial.nearly / trial.ideal for trial in trials]
    beyond = [trial.beyond for trial in trials]
    return (
        name,
        f"{statistics.median(nearly):.3f}",
        ", ".join(f"{value:.3f}" for value in sorted(nearly)),
        f"{statistics.median(beyond):+.1f}",
        ", ".join(f"{value:+.1f}" for value in sorted(beyond)),
        f"{100 * statistics.median(trial.extra for trial in trials):.2f}",
        f"{1e6 * statistics.median(trial.cpu for trial in trials):.0f}",
    )
