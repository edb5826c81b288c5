"""Who gets which request when: a pool's scheduler, its lanes and its background loop."""

from langgraph_hpc_fanout.dispatch.pool import Pool
from langgraph_hpc_fanout.dispatch.retry import Retry

__all__ = ["Pool", "Retry"]
