"""LLM fan-out on supercomputers, from inside LangGraph.

Names resolve when they are first used, so importing the package, or one of its rooms that do
not need LangGraph, costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_hpc_fanout import reducers
    from langgraph_hpc_fanout.chat_first import ChatFIRST
    from langgraph_hpc_fanout.dispatch.costs.budget import Budget
    from langgraph_hpc_fanout.dispatch.policy import Policy
    from langgraph_hpc_fanout.dispatch.retry import Retry
    from langgraph_hpc_fanout.endpoints.first.endpoint import FirstEndpoint
    from langgraph_hpc_fanout.endpoints.function import FunctionEndpoint
    from langgraph_hpc_fanout.endpoints.globus_compute.endpoint import GlobusComputeEndpoint
    from langgraph_hpc_fanout.endpoints.globus_compute.losses import Losses
    from langgraph_hpc_fanout.endpoints.limits import Limits
    from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
    from langgraph_hpc_fanout.endpoints.price import Price
    from langgraph_hpc_fanout.endpoints.protocol import Bundling, Endpoint, Health
    from langgraph_hpc_fanout.graph import add_fan_out, create_map_reduce
    from langgraph_hpc_fanout.items.batch import OpenAIBatch
    from langgraph_hpc_fanout.items.dead_letters import DeadLetters
    from langgraph_hpc_fanout.items.delimited import Csv
    from langgraph_hpc_fanout.items.json_lines import JsonLines
    from langgraph_hpc_fanout.items.parquet import Parquet
    from langgraph_hpc_fanout.items.texts import TextFiles
    from langgraph_hpc_fanout.journal.journal import Journal
    from langgraph_hpc_fanout.journal.results import Results
    from langgraph_hpc_fanout.nodes import FanOutNode, ReduceNode
    from langgraph_hpc_fanout.pool import Pool
    from langgraph_hpc_fanout.records import (
        ChatError,
        Failure,
        FanOutError,
        Outcome,
        Reply,
        Request,
        Usage,
    )
    from langgraph_hpc_fanout.tasks.prompt import Prompt
    from langgraph_hpc_fanout.tasks.sweep import Sweep

__version__ = "0.1.0"

_HOMES = {
    "Budget": "dispatch.costs.budget",
    "Bundling": "endpoints.protocol",
    "ChatError": "records",
    "ChatFIRST": "chat_first",
    "Csv": "items.delimited",
    "DeadLetters": "items.dead_letters",
    "Endpoint": "endpoints.protocol",
    "Failure": "records",
    "FanOutError": "records",
    "FanOutNode": "nodes.fan_out",
    "FirstBatchEndpoint": "endpoints.first.batches.endpoint",
    "FirstEndpoint": "endpoints.first.endpoint",
    "FunctionEndpoint": "endpoints.function",
    "GlobusComputeEndpoint": "endpoints.globus_compute.endpoint",
    "Health": "endpoints.protocol",
    "Journal": "journal.journal",
    "JsonLines": "items.json_lines",
    "Limits": "endpoints.limits",
    "Losses": "endpoints.globus_compute.losses",
    "OpenAIBatch": "items.batch",
    "OpenAIEndpoint": "endpoints.openai",
    "Outcome": "records",
    "Parquet": "items.parquet",
    "Policy": "dispatch.policy",
    "Pool": "pool",
    "Price": "endpoints.price",
    "Prompt": "tasks.prompt",
    "ReduceNode": "nodes.reduce",
    "Reply": "records",
    "Request": "records",
    "Results": "journal.results",
    "Retry": "dispatch.retry",
    "Sweep": "tasks.sweep",
    "TextFiles": "items.texts",
    "Usage": "records",
    "add_fan_out": "graph",
    "create_map_reduce": "graph",
}

__all__ = [
    "Budget",
    "Bundling",
    "ChatError",
    "ChatFIRST",
    "Csv",
    "DeadLetters",
    "Endpoint",
    "Failure",
    "FanOutError",
    "FanOutNode",
    "FirstBatchEndpoint",
    "FirstEndpoint",
    "FunctionEndpoint",
    "GlobusComputeEndpoint",
    "Health",
    "Journal",
    "JsonLines",
    "Limits",
    "Losses",
    "OpenAIBatch",
    "OpenAIEndpoint",
    "Outcome",
    "Parquet",
    "Policy",
    "Pool",
    "Price",
    "Prompt",
    "ReduceNode",
    "Reply",
    "Request",
    "Results",
    "Retry",
    "Sweep",
    "TextFiles",
    "Usage",
    "add_fan_out",
    "create_map_reduce",
    "reducers",
]


def __getattr__(name: str) -> Any:
    if name == "reducers":
        return importlib.import_module(f"{__name__}.reducers")
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
