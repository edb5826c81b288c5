"""The two nodes: `FanOutNode` asks, `ReduceNode` puts the answers into state."""

from langgraph_hpc_fanout.nodes.fan_out import FanOutNode
from langgraph_hpc_fanout.nodes.reduce import ReduceNode

__all__ = ["FanOutNode", "ReduceNode"]
