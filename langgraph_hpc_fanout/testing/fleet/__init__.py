"""Fake LLM endpoints on loopback, with faults and a record of what they served."""

from langgraph_hpc_fanout.testing.fleet.answers import echo
from langgraph_hpc_fanout.testing.fleet.faults import Fault, FaultKind
from langgraph_hpc_fanout.testing.fleet.record import (
    EndpointRecord,
    FleetRecord,
    Served,
    prompt_id,
)
from langgraph_hpc_fanout.testing.fleet.scripted import scripted
from langgraph_hpc_fanout.testing.fleet.server import FakeFleet
from langgraph_hpc_fanout.testing.fleet.spec import (
    Constant,
    FakeEndpoint,
    Latency,
    Lognormal,
    Uniform,
)

__all__ = [
    "Constant",
    "EndpointRecord",
    "FakeEndpoint",
    "FakeFleet",
    "Fault",
    "FaultKind",
    "FleetRecord",
    "Latency",
    "Lognormal",
    "Served",
    "Uniform",
    "echo",
    "prompt_id",
    "scripted",
]
