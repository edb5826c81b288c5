"""A reducer that counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.stats import Stats


def stats(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Counts, failures by kind, tokens, attempts, share of each endpoint and model, latency.

    Returns:
        `{"total", "ok", "failed", "failures", "cached", "attempts", "tokens", "endpoints",
        "models", "latency"}`; latencies (`p50`, `p95`, `max`) in seconds, over items that were
        sent; `p50` and `p95` are right within 1 %.
    """
    return Stats.of(outcomes).to_dict()
