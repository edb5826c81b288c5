"""The seam to an LLM: what every door looks like to the dispatcher."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.records import Failure, Reply, Request


class Action(enum.Enum):
    """What the dispatcher does with a request that came back without an answer."""

    GIVE_UP = "the item fails"
    TRY_AGAIN = "counts as an attempt; elsewhere at once, here after a backoff"
    TRY_LAST = "counts as an attempt; anywhere, when nothing else of the run waits"
    WAIT = "the server turned it away; costs patience, not an attempt"
    PROBE = "the server is not there (yet); the lane stops pulling and probes"
    ABORT = "the run cannot go on"


FUNCTIONS = "(functions)"
"""A name among an endpoint's models: it can also call functions that live where it works."""


@dataclass(frozen=True, slots=True)
class Bundling:
    """How many requests one `send` takes, and how many sends there may be.

    An endpoint may change its mind: the dispatcher looks before each bundle. The sizes of
    bundles follow `dispatch.factoring`.

    Attributes:
        max_items: Most requests in a bundle.
        window: Requests that a worker works on at once, so that a smaller bundle, while others
            wait, would gain nothing; None for a whole bundle.
        min_items: Requests below which a bundle, while others wait, keeps its worker too short a
            time.
        workers: Bundles that are worked on at the same time.
        max_bundles: Most bundles under way, those that wait for a worker included; None for as
            many as there may be requests.
        linger: Seconds that a bundle smaller than the window waits for company.
        queues: Whether a bundle may wait before it is worked on, for a batch scheduler's sake.
            `Retry.timeout` is then the endpoint's to keep, from where the work begins.
        least: Requests below which a bundle is not worth while: fewer are left to endpoints that
            take them one by one, where there are any. With more than one, a bundle is gathered
            for as long as there are more requests to be made, and is tried again as a whole.
        share: Of what waits, how much a bundle takes where such endpoints serve it, too, so that
            they have the rest to work on meanwhile. Only with `least`.
    """

    max_items: int = 1
    window: int | None = None
    min_items: int = 1
    workers: int = 1
    max_bundles: int | None = None
    linger: float = 0.0
    queues: bool = False
    least: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe found.

    Attributes:
        ok: Whether requests may be sent now.
        failure: Why not.
        retry_after: Seconds after which to probe again, of an endpoint that is on its way, such
            as a model that is being loaded: whoever has nobody else to ask waits for it, until
            his deadline, and is shown what `failure` says. None where nobody knows whether it
            will ever come.
        requests: Requests that were made to learn it, where the server counts them against the
            endpoint's rate.
    """

    ok: bool
    failure: Failure | None = None
    retry_after: float | None = None
    requests: int = 0


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
    - `limits` may become others with a probe that was ok.
    - It may have `tags`, a set of words by which tasks require or forbid it; a `price`; and
      `actions`, a mapping of kinds of failures to what is to follow from them here, where that
      is something else than `dispatch.retry` says.
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


@dataclass(frozen=True, slots=True)
class Sent:
    """A bundle that is worked on elsewhere, whatever becomes of this process.

    Attributes:
        task_id: Its task there.
        task_group_id: The group of tasks in which its result will come.
        keys: Keys of its requests, in their order.
        at: When it was accepted, in seconds since the epoch.
    """

    task_id: str
    task_group_id: str
    keys: tuple[str, ...]
    at: float


class FateUnknownError(Exception):
    """Nobody tells whether bundles of an earlier process were accepted; see `reattach`.

    Attributes:
        failure: Why, for their requests.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


Listener = Callable[[Sequence[Sent]], None]
"""Is told of bundles that left together, in one group of tasks at one time."""


@runtime_checkable
class Resumable(Protocol):
    """What an endpoint has besides, when another process can fetch what this one has sent."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell of the bundles that were accepted, before anybody else is told.

        Args:
            listener: Called on any thread, once for all that left together, so that one write
                makes them safe. It may block while it writes, and must not raise.

        Returns:
            A function that ends it.
        """
        ...

    def reattach(self, sent: Sequence[Sent]) -> AsyncGenerator[tuple[str, Reply], None]:
        """Fetch what became of bundles that an earlier process sent.

        Called on the dispatch loop, once the endpoint is open. Yields a request's key and its
        reply, in any order and as they come; requests whose results are gone, or failed as a
        bundle, are not among them, and it ends when there is nothing more to wait for.

        Raises:
            FateUnknownError: If it cannot be told whether bundles were accepted: what has no
                reply yet then fails, for to ask it again may pay for it twice.
        """
        ...
