"""What runs on an HPC node, inside a Globus Compute worker; knows nothing of LangGraph."""

from langgraph_hpc_fanout.remote.worker import run

__all__ = ["run"]
