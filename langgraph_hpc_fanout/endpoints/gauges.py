"""What a server's own metrics say of its queue, read from a page for Prometheus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_SAMPLE = re.compile(rb"vllm:num_requests_(waiting|running)(?:\{.*\})?[ \t]+([0-9]\S*)")
"""Samples only: after the name in a HELP or TYPE line there is no number. It begins with what is
the same in all of them, which `re` finds as fast as `bytes.find` does."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests at a server, of all its clients, models and engines.

    Attributes:
        waiting: Those that wait to be worked on.
        running: Those that are worked on.
    """

    waiting: int
    running: int


@runtime_checkable
class Gauged(Protocol):
    """What an endpoint has besides, when its server tells how busy it is."""

    async def gauges(self) -> Gauges | None:
        """The server's gauges now; None if it has none, or does not say."""
        ...


def read_gauges(page: bytes) -> Gauges | None:
    """The gauges of vLLM in the answer to `GET /metrics`, or None if it has none.

    The format is Prometheus's text format 0.0.4; the names are those of `PrometheusStatLogger`
    in vllm/v1/metrics/loggers.py. There is a line for each engine of a data-parallel server,
    and they are added up. What is not a number counts as nothing.
    """
    found = {b"waiting": 0, b"running": 0}
    seen = False
    for name, value in _SAMPLE.findall(page):
        try:
            found[name] += int(float(value))
        except (OverflowError, ValueError):
            continue
        seen = True
    return Gauges(found[b"waiting"], found[b"running"]) if seen else None
