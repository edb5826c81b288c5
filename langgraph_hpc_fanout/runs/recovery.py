"""Bundles that outlive the process that sent them: noted when they leave, fetched after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError, Resumable, Sent
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Failure, Reply

logger = logging.getLogger("langgraph_hpc_fanout")

NOTE = "sent"
"""Kind of the journal's notes, each of the bundles that left together."""
_FORGOTTEN_SECONDS = 14 * 24 * 3600.0
"""After which no service keeps a task: two weeks (Globus Compute's documentation, "Limits")."""
_OPENING_SECONDS = 0.2

Take = Callable[[Reply | None, str], None]
"""Takes a reply and the name of its endpoint; None when it is to be asked again."""

_unclaimed: WeakKeyDictionary[Log, dict[str, tuple[Reply, str]]] = WeakKeyDictionary()
"""Replies that came along with those that a run of this journal waited for."""

_live: set[str] = set()
"""Who waits for bundles of their own in this process: those are nobody else's to fetch."""


class Recovery:
    """Waits for what earlier processes have sent, so that it is not paid for again.

    A bundle is fetched once the run wants one of its requests, for the service forgets a result
    that it has handed out, and it may be another run's. Of a bundle that holds requests of
    several runs, the others find their replies here. A run notes the bundles that hold requests of
    its own, in its own journal.

    Args:
        log: The journal, where their bundles are noted, and ours are.
        note_used: Notes there what the run has used of its budget, in any thread: replies that
            are fetched later are not charged again.
    """

    def __init__(self, log: Log, note_used: Callable[[], None]) -> None:
        self._log = log
        self._note_used = note_used
        self._token = uuid.uuid4().hex
        self._lanes: dict[str, Lane] = {}
        self._missing: dict[str, list[_Earlier]] = {}
        self._wanted: list[_Earlier] = []
        self._takers: dict[str, Take] = {}
        self._unclaimed = _unclaimed.setdefault(log, {})
        self._unknown: dict[str, tuple[Reply, str]] = {}
        self._asked: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[Callable[[], None]] = []

    def listen(self, scheduler: Scheduler) -> None:
        """Begin to note what is sent, also by lanes that join; nothing may be asked before."""
        _live.add(self._token)
        for lane in scheduler.lanes:
            self._listen_at(lane)
        scheduler.when_joining.append(self._listen_at)
        self._ends.append(partial(scheduler.when_joining.remove, self._listen_at))

    def _listen_at(self, lane: Lane) -> None:
        if isinstance(lane.endpoint, Resumable):
            self._lanes[lane.name] = lane
            self._ends.append(lane.endpoint.listen(partial(self._note, lane.name)))

    async def learn(self) -> None:
        """Learn what may be under way; nothing may be asked before."""
        if not self._lanes:
            return
        for bundle in await asyncio.to_thread(self._outstanding):
            for key in bundle.missing:
                self._missing.setdefault(key, []).append(bundle)

    def claim(self, key: str, take: Take) -> bool:
        """Have the reply to a request handed over, at once or when it comes.

        Args:
            key: The request's.
            take: Takes the reply.

        Returns:
            False when no earlier process has sent it, so that it is to be asked now.
        """
        if (arrived := self._unclaimed.pop(key, None)) is not None:
            self._missing.pop(key, None)
            self._hand_over(key, take, *arrived)
        elif (unknown := self._unknown.get(key)) is not None:
            take(*unknown)
        elif (bundles := self._missing.get(key)) is not None:
            self._takers[key] = take
            for bundle in bundles:
                self._want(bundle)
        else:
            self._asked.add(key)
            return False
        return True

    def forget(self, key: str) -> None:
        """A request has its outcome: what is still sent of it is of no interest."""
        self._asked.discard(key)
        self._unclaimed.pop(key, None)

    def stop(self) -> None:
        """Note and wait for nothing more; may be called twice."""
        _live.discard(self._token)
        while self._ends:
            self._ends.pop()()
        self._wanted.clear()
        for task in self._tasks:
            task.cancel()

    # -- fetching -------------------------------------------------------------------------

    def _want(self, bundle: _Earlier) -> None:
        if bundle.is_wanted:
            return
        bundle.is_wanted = True
        if not self._wanted:  # many are wanted in the same moment
            asyncio.get_running_loop().call_soon(self._fetch_wanted)
        self._wanted.append(bundle)

    def _fetch_wanted(self) -> None:
        by_lane: dict[Lane, list[_Earlier]] = {}
        for bundle in self._wanted:
            by_lane.setdefault(bundle.lane, []).append(bundle)
        self._wanted.clear()
        for lane, bundles in by_lane.items():
            task = asyncio.get_running_loop().create_task(self._fetch(lane, bundles))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, lane: Lane, bundles: Sequence[_Earlier]) -> None:
        logger.info("%s: fetching %d bundles of an earlier process", lane.name, len(bundles))
        unknown = None
        try:
            await _opened(lane)
            sent = [bundle.sent for bundle in bundles]
            async with contextlib.aclosing(_endpoint_of(lane).reattach(sent)) as replies:
                async for key, reply in replies:
                    self._arrive(key, reply, lane.name)
        except FateUnknownError as error:
            unknown = error.failure
        except Exception:
            logger.warning(
                "%s: bundles of an earlier process are asked again", lane.name, exc_info=True
            )
        for bundle in bundles:
            self._give_up(bundle, unknown)

    def _arrive(self, key: str, reply: Reply, endpoint: str) -> None:
        if self._missing.pop(key, None) is None:
            return  # another bundle has brought it, or the journal had it
        if (take := self._takers.pop(key, None)) is None:
            self._unclaimed[key] = reply, endpoint
        else:
            self._hand_over(key, take, reply, endpoint)

    def _give_up(self, bundle: _Earlier, unknown: Failure | None) -> None:
        """Nothing more will come of a bundle; its requests may have been sent in others, too.

        They are asked again, unless it is unknown whether they are worked on: then they fail, also
        those that the run wants later.
        """
        for key in bundle.missing:
            if (others := self._missing.get(key)) is None:
                continue
            others.remove(bundle)
            if others:
                continue
            del self._missing[key]
            take = self._takers.pop(key, None)
            if unknown is not None:
                failed = Reply(0, failure=unknown)
                if take is None:
                    self._unknown[key] = failed, bundle.lane.name
                else:
                    take(failed, bundle.lane.name)
            elif take is not None:
                arrived = self._unclaimed.pop(key, (None, bundle.lane.name))
                self._hand_over(key, take, *arrived)

    def _hand_over(self, key: str, take: Take, reply: Reply | None, endpoint: str) -> None:
        self._asked.add(key)  # it may be asked (again)
        take(None if reply is not None and reply.body is None else reply, endpoint)

    # -- notes ----------------------------------------------------------------------------

    def _note(self, endpoint: str, sent: Sequence[Sent]) -> None:
        """Write down bundles; in the thread that sends, before anybody is told of them."""
        ours = [bundle for bundle in sent if not self._asked.isdisjoint(bundle.keys)]
        if not ours:
            return
        try:
            self._note_used()  # first: a torn write is to charge too much, not too little
            self._log.note(NOTE, _noted(self._token, endpoint, ours))
            self._log.flush()
        except (OSError, JournalError) as error:  # the run's own flush finds out, and acts
            logger.debug("Bundles could not be noted: %r", error)

    def _outstanding(self) -> list[_Earlier]:
        """Bundles some of whose requests have no answer yet; reads the disk."""
        since = time.time() - _FORGOTTEN_SECONDS
        bundles: dict[str, _Earlier] = {}
        for note in self._log.notes(NOTE):
            lane = self._lanes.get(note["endpoint"])
            if lane is None or note["at"] < since or note["by"] in _live:
                continue
            for task, keys in note["tasks"].items():
                if missing := [key for key in keys if not self._log.is_answered("", key)]:
                    sent = Sent(task, note["group"], tuple(keys), note["at"])
                    bundles[task] = _Earlier(sent, lane, frozenset(missing))
        return list(bundles.values())


class _Earlier:
    """A bundle of an earlier process, some of whose requests have no answer in the journal."""

    __slots__ = ("is_wanted", "lane", "missing", "sent")

    def __init__(self, sent: Sent, lane: Lane, missing: frozenset[str]) -> None:
        self.sent = sent
        self.lane = lane
        self.missing = missing
        self.is_wanted = False


def _noted(by: str, endpoint: str, sent: Sequence[Sent]) -> dict[str, object]:
    return {
        "by": by,
        "endpoint": endpoint,
        "group": sent[0].task_group_id,
        "at": round(sent[0].at, 3),
        "tasks": {bundle.task_id: bundle.keys for bundle in sent},
    }


async def _opened(lane: Lane) -> None:
    """Have a lane opened, also one that the run may not ask: to fetch is no new request.

    Raises:
        ConnectionError: If it leaves, and with it the way to what it has sent.
    """
    lane.start()
    while lane.state is State.COLD:
        await asyncio.sleep(_OPENING_SECONDS)
    if lane.state in (State.DRAINING, State.CLOSED):
        raise ConnectionError(f"{lane.name} has left the pool.")


def _endpoint_of(lane: Lane) -> Resumable:
    assert isinstance(lane.endpoint, Resumable)  # noqa: S101 - narrows the type
    return lane.endpoint


os.register_at_fork(after_in_child=_live.clear)
