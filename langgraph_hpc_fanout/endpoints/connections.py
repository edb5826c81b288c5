"""As many connections as a pool's endpoints may need, within what this process may open."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterable

from langgraph_hpc_fanout.endpoints.protocol import Endpoint

logger = logging.getLogger("langgraph_hpc_fanout")

_CONNECTIONS = 1_024
"""Connections to be ready for, where no limit was given."""
_OTHER_FILES = 256
"""Files that a process may have open besides its connections."""


class Connections:
    """Allows for the connections of endpoints, and says once if they are too many."""

    def __init__(self) -> None:
        self._is_told = False

    def allow(self, endpoints: Iterable[Endpoint]) -> None:
        """Be ready for the connections of so many endpoints."""
        wanted = sum(map(_connections, endpoints))
        if (allowed := _allow(wanted)) is not None and not self._is_told:
            self._is_told = True
            logger.warning(
                "The pool's limits add up to %d requests at once, but this process may open only "
                "%d files; raise the hard limit (ulimit -Hn) or lower Limits(concurrency=...).",
                wanted,
                allowed,
            )


def _connections(endpoint: Endpoint) -> int:
    """Most connections of its own; what queues somewhere else is worked on somewhere else."""
    if endpoint.bundling.queues:
        return 0
    limit = endpoint.limits.concurrency
    return _CONNECTIONS if limit is None else limit


def _allow(wanted: int) -> int | None:
    """Raise the soft limit of open files, often 1,024, to what so many connections may need.

    Returns:
        How many may be open, if that is too few.
    """
    needed = wanted + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed if allowed < needed else None
