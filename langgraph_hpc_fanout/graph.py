"""Wiring: how a fan-out and its reduce node get into a state graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langgraph_hpc_fanout.nodes import FanOutNode, ReduceNode


def add_fan_out(
    builder: StateGraph[Any, Any, Any, Any],
    fan_out: FanOutNode,
    reduce: ReduceNode,
    *,
    after: str | Sequence[str],
    before: str | Sequence[str],
) -> StateGraph[Any, Any, Any, Any]:
    """Add a fan-out and its reduce node to a graph, with all their edges.

    Args:
        builder: The graph.
        fan_out: The fan-out, added under its own name.
        reduce: Its reduce node, added under its own name.
        after: Node or nodes after which the fan-out begins; of several, all are waited for.
        before: Node or nodes that follow the reduce node.

    Returns:
        The builder.

    Raises:
        ValueError: If the reduce node belongs to another fan-out or writes what is no key of
            the state, or `after` names nothing.

    Example:
        ```python
        add_fan_out(builder, screen, gather, after=START, before=END)
        ```
    """
    if reduce.fan_out is not fan_out:
        raise ValueError(
            f"{reduce.name} reduces {reduce.fan_out.name}, not {fan_out.name}; "
            "make it with ReduceNode(fan_out, ...)."
        )
    for key in reduce.keys:
        if key not in builder.channels:
            raise ValueError(
                f"{reduce.name} writes {key!r}, which is no key of the state; "
                f"it has {', '.join(sorted(builder.channels))}."
            )
    builder.add_node(fan_out.name, fan_out, metadata=fan_out.metadata())
    builder.add_node(
        reduce.name,
        reduce,
        metadata=reduce.metadata(),
        input_schema=reduce.receipts_schema,
    )
    source = _one_source(builder, fan_out.name, after)
    builder.add_conditional_edges(source, fan_out.router(), [fan_out.name])
    builder.add_edge(fan_out.name, reduce.name)
    for target in _names(before):
        builder.add_edge(reduce.name, target)
    return builder


def create_map_reduce(
    fan_out: FanOutNode, reduce: ReduceNode, *, state_schema: type[Any] | None = None
) -> StateGraph[Any, Any, Any, Any]:
    """A graph of a fan-out and its reduce node, to compile and use alone or as a subgraph.

    Args:
        fan_out: The fan-out.
        reduce: Its reduce node.
        state_schema: The state; by default one with the keys that the two nodes name.

    Returns:
        The graph, not compiled.

    Raises:
        ValueError: If the fan-out's items are a function of the state, whose keys only a
            `state_schema` can tell.
    """
    if state_schema is None:
        state_schema = _schema(fan_out, reduce)
    builder = StateGraph(state_schema)
    return add_fan_out(builder, fan_out, reduce, after=START, before=END)


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _one_source(
    builder: StateGraph[Any, Any, Any, Any], name: str, after: str | Sequence[str]
) -> str:
    """The node that the router hangs on: of several, one that waits for them all."""
    sources = _names(after)
    if not sources:
        raise ValueError(f"add_fan_out(after=...) names no node after which {name} begins.")
    if len(sources) == 1:
        return sources[0]
    join = f"{name}_join"
    builder.add_node(join, lambda _state: {})
    builder.add_edge(sources, join)
    return join


def _schema(fan_out: FanOutNode, reduce: ReduceNode) -> type[Any]:
    if (state_keys := fan_out.state_keys) is None:
        raise ValueError(
            "create_map_reduce needs state_schema= when the items are a function of the state."
        )
    keys = {**dict.fromkeys(state_keys, list[Any]), **dict.fromkeys(fan_out.shared, Any)}
    keys.update(dict.fromkeys(reduce.keys, Any))
    return TypedDict(f"{fan_out.name.title().replace('_', '')}State", keys)  # type: ignore[operator, no-any-return]
