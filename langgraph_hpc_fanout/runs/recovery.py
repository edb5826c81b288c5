"""Bundles that outlive the process that sent them: noted when they leave, fetched after a crash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from langgraph_hpc_fanout.dispatch.lane import Lane, State
from langgraph_hpc_fanout.endpoints.protocol import Resumable, Sent
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Reply

logger = logging.getLogger("langgraph_hpc_fanout")

NOTE = "sent"
"""Kind of the journal's notes of bundles."""
_FORGOTTEN_SECONDS = 14 * 24 * 3600.0
"""After which no service keeps a task: two weeks (Globus Compute's documentation, "Limits")."""
_OPENING_SECONDS = 0.2


Take = Callable[[Reply | None, str], None]
"""Takes a reply and the name of its endpoint; None when no reply will come."""


class Recovery:
    """Waits for what earlier processes have sent, so that it is not paid for again.

    Args:
        log: The journal, where their bundles are noted, and ours are.
        lanes: Those that may hold such bundles.
        is_known: Whether a key has its answer already.
    """

    def __init__(self, log: Log, lanes: Sequence[Lane], is_known: Callable[[str], bool]) -> None:
        self._log = log
        self._lanes = {
            lane: lane.endpoint for lane in lanes if isinstance(lane.endpoint, Resumable)
        }
        self._is_known = is_known
        self._awaited: set[str] = set()
        self._arrived: dict[str, tuple[Reply, str]] = {}
        self._takers: dict[str, Take] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Begin to note, and to fetch; nothing may be asked before, or it is paid for again."""
        for lane, endpoint in self._lanes.items():
            sent = await asyncio.to_thread(self._outstanding, lane.name)
            keys = {key for bundle in sent for key in bundle.keys if not self._is_known(key)}
            if sent:
                logger.info(
                    "%s: %d requests are under way since a run before.", lane.name, len(keys)
                )
                self._awaited |= keys
                fetching = self._fetch(lane, endpoint, sent, keys)
                self._tasks.append(asyncio.get_running_loop().create_task(fetching))
            self._ends.append(endpoint.listen(partial(_note, self._log, lane.name)))

    def claim(self, key: str, take: Take) -> bool:
        """Have the reply to a key handed over, at once or when it comes.

        Returns:
            False when no earlier process has sent it.
        """
        if (arrived := self._arrived.pop(key, None)) is not None:
            take(*arrived)
        elif key in self._awaited:
            self._takers[key] = take
        else:
            return False
        return True

    def stop(self) -> None:
        """Note and wait for nothing more."""
        for end in self._ends:
            end()
        for task in self._tasks:
            task.cancel()

    def _outstanding(self, endpoint: str) -> list[Sent]:
        """Bundles some of whose requests have no answer yet; reads the disk."""
        return [
            bundle
            for bundle in _noted(self._log, endpoint)
            if not all(map(self._is_known, bundle.keys))
        ]

    async def _fetch(
        self, lane: Lane, endpoint: Resumable, sent: Sequence[Sent], keys: set[str]
    ) -> None:
        try:
            while lane.state is State.OPENING:
                await asyncio.sleep(_OPENING_SECONDS)
            async for key, reply in endpoint.reattach(sent):
                if key in keys:
                    keys.discard(key)
                    self._hand_over(key, reply, lane.name)
        except Exception:
            logger.warning("%s: earlier tasks cannot be fetched", lane.name, exc_info=True)
        for key in keys:
            self._hand_over(key, None, lane.name)

    def _hand_over(self, key: str, reply: Reply | None, endpoint: str) -> None:
        self._awaited.discard(key)
        if (take := self._takers.pop(key, None)) is not None:
            take(reply, endpoint)
        elif reply is not None:
            self._arrived[key] = reply, endpoint


def _note(log: Log, endpoint: str, bundle: Sent) -> None:
    """Write down a bundle; in the thread that sends, before anybody is told that it was sent."""
    log.note(
        NOTE,
        {
            "endpoint": endpoint,
            "task": bundle.task_id,
            "group": bundle.task_group_id,
            "at": round(time.time(), 3),
            "keys": bundle.keys,
        },
    )
    try:
        log.flush()
    except (OSError, JournalError) as error:  # the run's own flush finds out, and acts
        logger.debug("A bundle could not be noted: %r", error)


def _noted(log: Log, endpoint: str) -> Iterator[Sent]:
    since = time.time() - _FORGOTTEN_SECONDS
    for note in log.notes(NOTE):
        if note["endpoint"] == endpoint and note["at"] > since:
            yield Sent(note["task"], note["group"], tuple(note["keys"]))
