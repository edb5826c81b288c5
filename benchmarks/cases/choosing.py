"""What it costs to choose an endpoint for one request, when there are thousands.

A ticket comes to a fleet that has nothing to do, and the scheduler finds a lane for it and has it
begin: `Scheduler.offer`. The endpoints are simulated, and no request is sent while the choices are
measured. Beside it is the choice of a deployment by LiteLLM's Router as it is by default, in an
environment of its own; it gets 1,000 deployments only, because 10,000 take more than a minute to
set up.
"""

from __future__ import annotations

from functools import partial

from benchmarks import environment
from benchmarks.contenders import choosing, litellm
from benchmarks.findings import TIMINGS, Findings, Ratio, Scale, timings
from benchmarks.sample import FreshProcess, contest, in_fresh_process

_CHOICES = 8_000
_CHOICES_OF_LITELLM = 30
_MOST_OF_A_THOUSAND = 5.0
_MOST_OF_TEN_THOUSAND = 10.0


def run(scale: Scale) -> Findings:
    """Let them take turns, each in a fleet of its own."""
    router = FreshProcess(environment.python())
    found = contest(
        scale.repeats,
        {
            "scheduler, 1,000 endpoints": partial(
                in_fresh_process, choosing.offer, 1_000, _CHOICES
            ),
            "scheduler, 10,000 endpoints": partial(
                in_fresh_process, choosing.offer, 10_000, _CHOICES
            ),
            "LiteLLM Router, 1,000 endpoints": partial(
                router, litellm.choose, 1_000, _CHOICES_OF_LITELLM
            ),
        },
    )
    thousand, ten_thousand, _ = (series.cpu_per_item for series in found.values())
    return Findings(
        TIMINGS,
        timings(found),
        (
            Ratio(
                f"CPU a choice of 1,000 endpoints / {_MOST_OF_A_THOUSAND:g} µs",
                thousand / _MOST_OF_A_THOUSAND,
                1.0,
            ),
            Ratio(
                f"CPU a choice of 10,000 endpoints / {_MOST_OF_TEN_THOUSAND:g} µs",
                ten_thousand / _MOST_OF_TEN_THOUSAND,
                1.0,
            ),
        ),
        ("An item is a choice here.",),
    )
