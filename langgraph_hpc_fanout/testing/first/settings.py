"""All settings of a `FirstFake`, in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from langgraph_hpc_fanout.testing.first.admission import UsageLimits
from langgraph_hpc_fanout.testing.first.faults import Fault
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.spec import AnswerRule, Batching, Cluster, ColdStart, Times
from langgraph_hpc_fanout.testing.fleet.record import Detail
from langgraph_hpc_fanout.testing.fleet.spec import Latency


@dataclass(frozen=True, slots=True)
class Settings:
    """What to simulate; the fields are the arguments of `FirstFake`."""

    clusters: tuple[Cluster, ...]
    quotas: Quotas | UsageLimits
    cold_start: ColdStart
    times: Times
    time_scale: float
    token_life: float
    login_life: float
    latency: Latency
    answer: AnswerRule | None
    backend: str | None
    files: Path | None
    batching: Batching
    faults: tuple[Fault, ...]
    seed: int
    record: Detail
    port: int
