"""Who is told of each bundle that the service has."""

from __future__ import annotations

import logging
from collections.abc import Callable

from langgraph_hpc_fanout.endpoints.protocol import Sent

logger = logging.getLogger("langgraph_hpc_fanout")

Listener = Callable[[Sent], None]


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

    def tell(self, sent: Sent) -> None:
        """Tell all of a bundle. One that raises is logged, for the bundle is under way."""
        for listener in list(self._listeners.values()):
            try:
                listener(sent)
            except Exception:
                logger.exception("a listener failed on the bundle %s", sent.task_id)
