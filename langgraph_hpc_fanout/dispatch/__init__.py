"""Who gets which request when: a scheduler, its lanes and the loop that they live on."""

from langgraph_hpc_fanout.dispatch.retry import Retry

__all__ = ["Retry"]
