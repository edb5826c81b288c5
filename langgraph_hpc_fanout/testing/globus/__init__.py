"""The real Globus Compute SDK and endpoint on loopback, with an emulated web service."""

from __future__ import annotations

from langgraph_hpc_fanout.testing.globus.service.faults import Fault
from langgraph_hpc_fanout.testing.globus.service.limits import ServiceLimits
from langgraph_hpc_fanout.testing.globus.service.record import ServiceRecord, Submit
from langgraph_hpc_fanout.testing.globus.settings import EndpointSettings
from langgraph_hpc_fanout.testing.globus.stack import GlobusStack, ServiceHandle

__all__ = [
    "EndpointSettings",
    "Fault",
    "GlobusStack",
    "ServiceHandle",
    "ServiceLimits",
    "ServiceRecord",
    "Submit",
]
