"""What bundles have taken so far, and so how large the next may be."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph_hpc_fanout.endpoints.protocol import Bundling

_SHARE = 0.3
"""Weight of the newest bundle in the averages."""
_RESULT_BYTES = 7_000_000
"""Below the 10 MiB that a worker may return, with room for how it is written."""
_FIRST = 4
"""Windows in a bundle while nothing is known of how long one takes."""
_MOST = 5_000
_OUTSTANDING = 2
"""Bundles for each worker: one that it works on and one that waits, so that it never idles and
the endpoint's provider sees that there is more to do than it has workers for."""
_FEWEST = 4
_FORGOTTEN = 300.0
"""Seconds after which a worker that was not heard of does not count, unless bundles take long."""
_LINGER = 0.05
_ROUND_TRIP = 1.5
"""Seconds from the end of a bundle to the beginning of the one that takes its place at the
endpoint: the endpoint and the SDK each look for results twice a second. Shorter bundles would let
a worker run out of them."""


class Pace:
    """Learns from each bundle that comes back.

    Args:
        window: Requests that a worker works on at once.
        workers: How many workers there are at full scale; None to go by those heard of.
        seconds: Seconds of work that a bundle may be.
    """

    def __init__(self, window: int, workers: int | None, seconds: float) -> None:
        self._window = window
        self._given = workers
        self._target = seconds
        self._seconds: float | None = None
        self._bytes = 0.0
        self._heard: dict[str, float] = {}
        self._longest = 0.0

    def learn(self, worker: str, items: int, seconds: float, size: int, now: float) -> None:
        """A worker gave a bundle back.

        Args:
            worker: Which one.
            items: Requests in the bundle that were answered.
            seconds: How long it worked on them.
            size: Bytes of the result.
            now: The time.
        """
        self._heard[worker] = now
        self._longest = max(seconds, (1 - _SHARE) * self._longest)
        forgotten = now - max(_FORGOTTEN, 3 * self._longest)
        for each in [each for each, heard in self._heard.items() if heard < forgotten]:
            del self._heard[each]
        if items >= min(self._window, self._most()) or self._seconds is None:
            # A bundle below the window says how long a request takes, not how many a second.
            self._seconds = _average(self._seconds, seconds / max(items, self._window))
        if items:
            self._bytes = _average(self._bytes or None, size / items)

    def too_large(self, items: int) -> None:
        """The answers of so many requests were more than a result may hold."""
        self._bytes = max(self._bytes, 2 * _RESULT_BYTES / items)

    @property
    def workers(self) -> int:
        """How many workers there seem to be."""
        return self._given or max(1, len(self._heard))

    def bundling(self) -> Bundling:
        """How the next bundles are to be made."""
        bundles = max(_FEWEST, _OUTSTANDING * self.workers)
        return Bundling(
            max_items=self._most(),
            window=self._window,
            min_items=self._enough(),
            workers=max(self.workers, bundles // _OUTSTANDING),
            max_bundles=bundles,
            linger=_LINGER,
            queues=True,
        )

    def _enough(self) -> int:
        """Requests below which a bundle, while others wait, keeps its worker too short a time."""
        if self._seconds is None:
            return self._window
        return min(self._most(), max(self._window, int(_ROUND_TRIP / max(self._seconds, 1e-6))))

    def _most(self) -> int:
        most = _FIRST * self._window
        if self._seconds is not None:
            # A bundle below the window would leave a part of it empty all the time.
            most = max(self._window, int(self._target / max(self._seconds, 1e-6)))
        if self._bytes:
            most = min(most, int(_RESULT_BYTES / self._bytes))
        # Bundling takes 1 to mean that there are no bundles.
        return max(2, min(most, _MOST))


def _average(known: float | None, new: float) -> float:
    return new if known is None else (1 - _SHARE) * known + _SHARE * new


def parts_of(sizes: Iterable[int], most_bytes: int, most_items: int) -> list[list[int]]:
    """Cut positions into runs that hold so many bytes and items at most.

    Args:
        sizes: Bytes of each, none above `most_bytes`.
        most_bytes: Most bytes in a part.
        most_items: Most positions in a part.
    """
    parts: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if not parts or size > room or len(parts[-1]) >= most_items:
            parts.append([])
            room = most_bytes
        parts[-1].append(position)
        room -= size
    return parts
