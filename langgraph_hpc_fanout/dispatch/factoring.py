"""How large the next bundle is: large first, smaller towards the end."""

from __future__ import annotations

import math

from langgraph_hpc_fanout.endpoints.protocol import Bundling


class Factoring:
    """Sizes of bundles, in rounds.

    A round gives each worker one bundle, and all of them together half of what waits, so that
    the last bundles are small and workers end at about the same time (Hummel, Schonberg and
    Flynn, "Factoring", Communications of the ACM 35(8), 1992). When what waits fits into the
    workers' windows, one round takes it all: a smaller bundle would leave slots of a window
    empty while its rest waits for a second turn.
    """

    def __init__(self) -> None:
        self._size = 0
        self._left = 0
        self._waiting = 0

    def size(self, waiting: int, bundling: Bundling) -> int:
        """Requests for the next bundle.

        Args:
            waiting: Requests that could be taken.
            bundling: What the endpoint allows now.
        """
        if bundling.max_items == 1:
            return 1
        if not self._left or waiting > self._waiting:
            self._size = _share(waiting, bundling)
            self._left = bundling.workers
        self._left -= 1
        size = max(1, min(self._size, bundling.max_items))
        self._waiting = max(0, waiting - size)
        return size


def _share(waiting: int, bundling: Bundling) -> int:
    half = math.ceil(waiting / (2 * bundling.workers))
    window = bundling.max_items if bundling.window is None else bundling.window
    least = max(window, bundling.min_items)
    share = max(half, min(least, math.ceil(waiting / bundling.workers)))
    # Whole windows: a few requests more would have it run nearly empty for their sake.
    return share - share % window if share > window else share
