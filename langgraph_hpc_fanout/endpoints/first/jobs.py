"""Whether a model runs, starts, waits in a queue or is not there: `/{cluster}/jobs`.

Source: FIRST main 329c0cd, clusters/globus_compute.py and
compute-functions/qstat_register_function.py; its keys have spaces in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from langgraph_hpc_fanout.endpoints.first.catalogue import Served

Phase = Literal["running", "starting", "queued", "absent"]
_SECTIONS: tuple[tuple[str, Phase], ...] = (("running", "running"), ("queued", "queued"))
_BETTER: tuple[Phase, ...] = ("running", "starting", "queued", "absent")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands.

    Attributes:
        phase: `absent` of one that nobody has asked for lately, or that is not there at all.
        job: Id of its job; None where there is none.
        starts: When it is expected to start, in the words of the batch scheduler.
    """

    phase: Phase
    job: str | None = None
    starts: str | None = None

    def words(self, served: Served) -> str:
        """A sentence for people."""
        what = f"{served.model} on {served.cluster}"
        job = f" (job {self.job})" if self.job else ""
        if self.phase == "queued":
            start = f", starts about {self.starts}" if self.starts else ""
            return f"{what} is queued{job}{start}."
        if self.phase == "absent":
            return f"{what} is not loaded."
        return f"{what} is {self.phase}{job}."


def standing_of(raw: bytes, served: Served) -> Standing:
    """How a model stands; running, if the answer does not tell of jobs at all.

    Some clusters have no jobs to tell of, and then requests are what tells.
    """
    try:
        jobs = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Standing("running")
    if not isinstance(jobs, Mapping) or not isinstance(jobs.get("running"), list):
        return Standing("running")
    found = [
        _standing(job, phase)
        for section, phase in _SECTIONS
        for job in _entries(jobs.get(section))
        if served.model in _models(job)
    ]
    return min(found, key=lambda each: _BETTER.index(each.phase), default=Standing("absent"))


def _standing(job: Mapping[str, Any], phase: Phase) -> Standing:
    status = job.get("Model Status")
    if phase == "running" and status != "running":
        phase = "starting"  # its job runs, and its server is loading it, or has lost touch
    return Standing(phase, _text(job.get("Job ID")), _text(job.get("Estimated Start Time")))


def _entries(section: Any) -> Iterable[Mapping[str, Any]]:
    return [job for job in section if isinstance(job, Mapping)] if isinstance(section, list) else []


def _models(job: Mapping[str, Any]) -> list[str]:
    return [name.strip() for name in str(job.get("Models", "")).split(",")]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and value != "N/A" else None
