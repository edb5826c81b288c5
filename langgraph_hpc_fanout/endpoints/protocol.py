"""The seam to an LLM: what every door looks like to the dispatcher."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.records import Failure, Reply, Request


@dataclass(frozen=True, slots=True)
class Bundling:
    """How many requests one `send` takes.

    Attributes:
        max_items: Most requests in a bundle.
    """

    max_items: int = 1


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe found.

    Attributes:
        ok: Whether requests may be sent now.
        failure: Why not.
    """

    ok: bool
    failure: Failure | None = None


@runtime_checkable
class Endpoint(Protocol):
    """One way of reaching an LLM.

    All methods are called on the dispatch loop, so none may block. Invariants, checked by
    `langgraph_hpc_fanout.testing.conformance`:

    - `open` and `close` may be called twice; after `close`, `open` starts afresh, also on
      another event loop.
    - `send` yields exactly one `Reply` for each request, in any order, and never raises for a
      request's fault. If it ends early, or raises, the requests without a reply count as lost
      and are sent again.
    - A cancelled `send` lets go of its connection at once.
    - No secret appears in `name`, `repr()` or in a failure's message.
    """

    @property
    def name(self) -> str:
        """Short name, unique in a pool, without user info or secrets."""
        ...

    @property
    def models(self) -> Mapping[str, str]:
        """Logical model names to the ids served here; complete once `probe` was ok."""
        ...

    @property
    def limits(self) -> Limits:
        """What may be asked of it at once and per second."""
        ...

    @property
    def bundling(self) -> Bundling:
        """How many requests one `send` takes."""
        ...

    async def open(self) -> None:
        """Get ready on the running event loop; no traffic yet."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...

    async def probe(self) -> Health:
        """Ask, cheaply, whether the endpoint answers and what it serves."""
        ...

    def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Send a bundle and yield replies as they come."""
        ...
