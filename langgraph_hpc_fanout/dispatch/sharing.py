"""One endpoint object in several lanes: open while any of them uses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet, WeakValueDictionary

from langgraph_hpc_fanout.endpoints.protocol import Endpoint

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.lane import Lane


class SharedEndpoint:
    """Opens an endpoint for lanes, and closes it when none that has opened it is left.

    A lane that leaves a pool ends what it has in flight while a new lane may work with the same
    endpoint already, and so may the lanes of a pool that was closed, or of another pool.

    Args:
        endpoint: The endpoint.
    """

    __slots__ = ("__weakref__", "_endpoint", "_lock", "_loop", "_users")

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._users: WeakSet[Lane] = WeakSet()
        self._lock = asyncio.Lock()

    async def open(self, lane: Lane) -> None:
        """Open it for a lane; if it is being closed, once that is done."""
        async with self._lock:
            self._users.add(lane)
            await self._endpoint.open()

    async def close(self, lane: Lane) -> None:
        """A lane does not use it any more: close it, unless another does."""
        self._users.discard(lane)
        async with self._lock:
            if not self._users:
                await self._endpoint.close()


def share(endpoint: Endpoint) -> SharedEndpoint:
    """What all lanes of this endpoint have in common on the running loop."""
    # Of a loop that a fork has left behind, nobody closes the lanes. What is shared holds both
    # objects, so no other can have their ids while it lives.
    key = id(asyncio.get_running_loop()), id(endpoint)
    if (shared := _shared.get(key)) is None:
        shared = _shared[key] = SharedEndpoint(endpoint)
    return shared


_shared: WeakValueDictionary[tuple[int, int], SharedEndpoint] = WeakValueDictionary()
