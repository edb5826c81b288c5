"""What to ask: tasks turn an item into a request and a completion into an answer."""

from langgraph_hpc_fanout.tasks.prompt import Prompt

__all__ = ["Prompt"]
