"""A fake of the FIRST gateway (ALCF's inference service) on loopback."""

from langgraph_hpc_fanout.testing.first.admission import UsageLimits
from langgraph_hpc_fanout.testing.first.faults import Fault, FaultKind
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import (
    BatchRecord,
    FirstRecord,
    ModelRecord,
    Seen,
    UserRecord,
)
from langgraph_hpc_fanout.testing.first.server import FirstFake
from langgraph_hpc_fanout.testing.first.spec import Batching, Cluster, ColdStart, Model, Times, alcf

__all__ = [
    "BatchRecord",
    "Batching",
    "Cluster",
    "ColdStart",
    "Fault",
    "FaultKind",
    "FirstFake",
    "FirstRecord",
    "Model",
    "ModelRecord",
    "Quotas",
    "Seen",
    "Times",
    "UsageLimits",
    "UserRecord",
    "alcf",
]
