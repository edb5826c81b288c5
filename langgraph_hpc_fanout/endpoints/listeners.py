"""Who is told of the bundles that are worked on elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from langgraph_hpc_fanout.endpoints.protocol import Listener, Sent

logger = logging.getLogger("langgraph_hpc_fanout")


class Listeners:
    """May be added to and told in any thread: each step is one operation on a dict."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell one more; returns a function that ends it, which may be called twice."""
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def tell(self, sent: Sequence[Sent]) -> None:
        """Tell all of some bundles. One that raises is logged, for the bundles are under way."""
        for listener in list(self._listeners.values()):
            try:
                listener(sent)
            except Exception:
                logger.exception("a listener failed on %d bundles", len(sent))
