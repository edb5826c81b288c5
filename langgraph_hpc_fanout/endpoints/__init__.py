"""Doors to LLMs, one module a kind, behind the one `Endpoint` protocol."""

from langgraph_hpc_fanout.endpoints.function import FunctionEndpoint
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Endpoint, Health

__all__ = ["Bundling", "Endpoint", "FunctionEndpoint", "Health", "Limits", "OpenAIEndpoint"]
