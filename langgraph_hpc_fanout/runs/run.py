"""A live run: the items of one fan-out, from the router to the last receipt."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.records import Failure, FanOutError, Outcome
from langgraph_hpc_fanout.runs import garbage
from langgraph_hpc_fanout.runs.asking import Asking
from langgraph_hpc_fanout.runs.calling import Calling
from langgraph_hpc_fanout.runs.interrupt import INTERRUPTED, InterruptWatch
from langgraph_hpc_fanout.runs.keeper import Keeper
from langgraph_hpc_fanout.runs.plan import Plan
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.tasks.keys import item_key
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.watch.progress import Progress
from langgraph_hpc_fanout.watch.reporter import Reporter, Writer

logger = logging.getLogger("langgraph_hpc_fanout")

_EVENT_SECONDS = 0.25
_FLUSH_SECONDS = 0.5
_TURN = 512
"""Most items timed out in a row before others may run."""


class Work(Protocol):
    """How the items of a run are worked on: asked through a pool, or called."""

    @property
    def in_flight(self) -> int:
        """How many are under way."""
        ...

    async def start(self) -> None:
        """Begin; nothing is under way before."""
        ...

    def refresh(self) -> None:
        """There are more items."""
        ...

    def stop(self) -> None:
        """Begin nothing more, cancel what is under way."""
        ...


class Run:
    """The items of a fan-out on their way to their outcomes.

    A run is made and filled on any thread and started once; from then on everything but
    `add`, `start`, `cancel`, `watch` and the shards' futures happens on the dispatch loop.

    Args:
        run_id: Its id.
        plan: What to do with each item.
        shared: Fields for all items.
    """

    def __init__(self, run_id: str, plan: Plan, shared: Mapping[str, Any]) -> None:
        self.id = run_id
        self.plan = plan
        self.shared = shared
        self.shards: dict[int, Shard] = {}
        self.error: BaseException | None = None
        self.closed = False
        self.when_closed: Callable[[Run], None] = lambda _: None
        self.heed_ctrl_c = False
        self._expired = False
        self._interrupt = InterruptWatch()
        self._lock = threading.Lock()
        self._started = False
        self._queue: deque[Shard] = deque()
        self._work: Work | None = None
        self._working = False
        self._progress = Progress(plan.name, run_id, time.monotonic)
        self._reporter = Reporter(self._progress, self._in_flight)
        self._ticker: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._keeper = Keeper(
            run_id,
            plan.name,
            # Content hashes are good anywhere; a user's own keys only for the fan-out they name.
            scope="" if plan.key is None else plan.name,
            journal=plan.journal,
            shards=self._all_shards,
            reported=self._close_if_complete,
            failed=self._fail_unwritten,
        )

    def __repr__(self) -> str:
        return f"Run({self.plan.name!r}, {self.id}, {len(self.shards)} shards)"

    # -- from any thread ------------------------------------------------------------------

    def add(self, shard: Shard) -> bool:
        """Take in a shard; False when the run is over."""
        with self._lock:
            if self.closed:
                return False
            self.shards[shard.number] = shard
            self._progress.total += shard.size
            if not self._started:
                self._queue.append(shard)
                return True
        dispatch_loop().loop.call_soon_threadsafe(self._enqueue, shard)
        return True

    def start(self, host: asyncio.AbstractEventLoop | None, config: RunnableConfig) -> None:
        """Begin to work on all shards, unless that has been done.

        Args:
            host: The event loop on which LangGraph called the node; None in sync code.
            config: The branch's settings.
        """
        with self._lock:
            if self._started:
                return
            self._started = True
        garbage.relax()
        task = self.plan.task
        if isinstance(task, RunnableTask):
            self._work = Calling(self, task, host, config)
        else:
            self._work = Asking(self, task)
        dispatch_loop().submit(self._main(self._work))

    def watch(self, shard: Shard, writer: Writer) -> None:
        """Send progress events through this writer while the shard's branch waits."""
        self._reporter.join(shard.number, writer)

    def unwatch(self, shard: Shard) -> None:
        """The branch has ended; its writer must not be called any more."""
        self._reporter.leave(shard.number)

    def cancel(self, why: str, level: int = logging.INFO) -> None:
        """Begin nothing more, drop what is under way, and end all branches."""
        if not self.closed:
            dispatch_loop().loop.call_soon_threadsafe(self.end_early, why, level)

    # -- what the work asks for -----------------------------------------------------------

    def take(self) -> tuple[Shard, int] | None:
        """The next place to fill, or None when there is none right now."""
        while self._queue:
            shard = self._queue[0]
            if shard.next < shard.size:
                shard.next += 1
                return shard, shard.next - 1
            self._queue.popleft()
        return None

    def untaken(self) -> int:
        """How many places are still to be filled."""
        return sum(shard.size - shard.next for shard in self._queue)

    def known(
        self, shard: Shard, offset: int, key: str, accepts: Callable[[Outcome], bool]
    ) -> bool:
        """Take an earlier run's answer for a place, if the journal has one."""
        if (found := self._keeper.find(key)) is None or not accepts(found[1]):
            return False
        self._keeper.reuse(shard, offset, found[0])
        value = found[1].value
        self._count(shard, offset, shard.outcome(key, offset, ok=True, value=value, attempts=0))
        return True

    def record(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        """Keep an outcome, the first for its place."""
        if not shard.done[offset]:
            self._keeper.keep(shard, offset, outcome)
            self._count(shard, offset, outcome)

    def refuse(self, shard: Shard, offset: int, failure: Failure, key: str | None = None) -> None:
        """Record that a place has no answer, and was not asked for one."""
        if key is None:
            key = _key(shard.item(offset))
        self.record(shard, offset, shard.outcome(key, offset, ok=False, error=failure))

    def refresh(self) -> None:
        """Have the work look for items again."""
        if self._work is not None and self._working and not self.closed:
            self._work.refresh()

    def fail(self, why: str) -> None:
        """End the run because it cannot go on."""
        self.end_early(why, logging.ERROR)

    def bubble(self, error: BaseException) -> None:
        """End the run with an exception that LangGraph is to see as it is, after a flush."""
        if not self.closed:
            self._end(error, flush=True)

    def end_early(self, why: str, level: int, *, flush: bool = True) -> None:
        """End the run: every branch that is not complete raises, after a flush."""
        if self.closed:
            return
        journal = self._keeper.directory
        if journal is not None and self._progress.done:
            why = f"{why} What was answered is kept in {journal}; run again to go on."
        error = FanOutError(why, outcomes=self._keeper.outcomes(), journal=journal)
        done, total = self._progress.done, self._progress.total
        logger.log(level, "%s ended with %d of %d items done: %s", self.plan.name, done, total, why)
        self._end(error, flush=flush)

    def guard(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something of ours; a bug ends the run loudly instead of hanging it."""
        try:
            return function(*args)
        except Exception as error:
            logger.exception("%s", self)
            self.fail(f"A fault in the fan-out {self.plan.name}: {error!r}")
            return None

    # -- on the dispatch loop -------------------------------------------------------------

    async def _main(self, work: Work) -> None:
        try:
            loop = asyncio.get_running_loop()
            self._progress.begin()
            self._ticker = loop.create_task(self._tick())
            if self.plan.deadline is not None:
                self._deadline = loop.call_later(self.plan.deadline, self._expire)
            for shard in [each for each in self._queue if each.complete]:
                self._finish(shard)  # an empty list needs neither journal nor pool
            if self._is_over():
                return
            await self._keeper.load()
            if self._is_over():
                return
            await work.start()
            self._working = True
        except Exception as error:
            logger.exception("The fan-out %s could not start", self.plan.name)
            self.fail(f"The fan-out {self.plan.name} could not start: {error!r}")

    def _is_over(self) -> bool:
        # A call, because type checkers take an attribute to stay as it was before an await.
        return self.closed

    def _enqueue(self, shard: Shard) -> None:
        if self.error is not None:
            shard.fail(self.error)
            return
        if shard.complete:
            self._finish(shard)
        elif self._expired:
            self._in_background(self._time_out([shard]))
        else:
            self._queue.append(shard)
            self.refresh()

    def _count(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        shard.take_note(offset, outcome)
        self._progress.count(outcome)
        if shard.complete:
            self._finish(shard)

    # -- endings --------------------------------------------------------------------------

    def _end(self, error: BaseException, *, flush: bool) -> None:
        self.error = error
        self._leave()
        self._reporter.show(final=True)
        self._close()
        if flush and self._keeper.directory is not None:
            self._in_background(self._flush_and_raise(error))
        else:
            self._raise(error)

    def _finish(self, shard: Shard) -> None:
        """Report a complete shard."""
        shard.seconds = self._progress.seconds
        if self._is_complete():
            self._reporter.show(final=True)
            self._tell_of_failures()
        self._keeper.report(shard)

    def _tell_of_failures(self) -> None:
        """Say once what went wrong, in the words of the first failure of each kind."""
        for kind, (count, message) in self._progress.why_failed().items():
            total, name = self._progress.total, self.plan.name
            logger.warning("%s: %d of %d failed, %s: %s", name, count, total, kind, message)

    def _all_shards(self) -> list[Shard]:
        """A copy: branches may add shards meanwhile."""
        return list(self.shards.values())

    def _is_complete(self) -> bool:
        return all(shard.complete for shard in self._all_shards())

    def _expire(self) -> None:
        """The run's time is up: what has no outcome yet fails, what has one is kept."""
        self._expired = True
        self._leave()
        self._in_background(self._time_out(self._all_shards()))

    async def _time_out(self, shards: Sequence[Shard]) -> None:
        message = f"The run's deadline of {self.plan.deadline:g} s passed before it was answered."
        failure = Failure("timeout", message)
        for shard in shards:
            for offset in range(shard.size):
                if not shard.done[offset]:
                    self.guard(self.refuse, shard, offset, failure)
                if offset % _TURN == 0:
                    await asyncio.sleep(0)

    def _fail_unwritten(self, why: str) -> None:
        self.end_early(why, logging.ERROR, flush=False)

    async def _flush_and_raise(self, error: BaseException) -> None:
        await self._keeper.flush_last()
        self._raise(error)

    def _raise(self, error: BaseException) -> None:
        for shard in self._all_shards():
            shard.fail(error)

    @staticmethod
    def _in_background(coroutine: Coroutine[Any, Any, None]) -> None:
        ending = asyncio.get_running_loop().create_task(coroutine)
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)

    def _leave(self) -> None:
        if self._work is not None:
            self._work.stop()
        self._queue.clear()

    def _close_if_complete(self) -> None:
        with self._lock:  # so that no branch adds a shard to a run that is about to close
            if self.closed or not self._is_complete():
                return
            self.closed = True
        self._wind_up()

    def _close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._wind_up()

    def _wind_up(self) -> None:
        garbage.restore()
        self._leave()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        self.when_closed(self)

    # -- from time to time ----------------------------------------------------------------

    def _in_flight(self) -> int:
        return 0 if self._work is None else self._work.in_flight

    async def _tick(self) -> None:
        flushed = 0.0
        while True:
            self._reporter.show()
            await asyncio.sleep(_EVENT_SECONDS)
            if self.heed_ctrl_c and self._interrupt.interrupted():
                self.end_early(INTERRUPTED, logging.WARNING)
            flushed += _EVENT_SECONDS
            if flushed >= _FLUSH_SECONDS:
                flushed = 0.0
                self._keeper.flush_soon()


_endings: set[asyncio.Task[None]] = set()


def _key(item: Any) -> str:
    try:
        return item_key(item)
    except Exception:  # noqa: BLE001 - the item has just been found to be faulty
        return ""
