"""Models on nodes that Globus Compute reaches."""

from langgraph_hpc_fanout.endpoints.globus_compute.endpoint import (
    GlobusComputeEndpoint,
    register_function,
)
from langgraph_hpc_fanout.endpoints.globus_compute.losses import Losses
from langgraph_hpc_fanout.endpoints.globus_compute.session import Traffic

__all__ = ["GlobusComputeEndpoint", "Losses", "Traffic", "register_function"]
