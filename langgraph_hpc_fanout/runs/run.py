"""A live run: the items of one fan-out, from the router to the last receipt."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.records import NOTHING, Failure, FanOutError, Outcome
from langgraph_hpc_fanout.runs import garbage
from langgraph_hpc_fanout.runs.answers import ASKED, Answers, Seat
from langgraph_hpc_fanout.runs.asking import Asking, words_of
from langgraph_hpc_fanout.runs.calling import Calling
from langgraph_hpc_fanout.runs.interrupt import INTERRUPTED, InterruptWatch
from langgraph_hpc_fanout.runs.keeper import Keeper, Known
from langgraph_hpc_fanout.runs.passbook import Passbook
from langgraph_hpc_fanout.runs.plan import Plan
from langgraph_hpc_fanout.runs.reading import Place, Reader
from langgraph_hpc_fanout.runs.recovery import Recovery
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.runs.work import Work
from langgraph_hpc_fanout.tasks.keys import item_key
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.watch.progress import Progress
from langgraph_hpc_fanout.watch.reporter import Reporter, Writer

logger = logging.getLogger("langgraph_hpc_fanout")

_EVENT_SECONDS = 0.25
_FLUSH_SECONDS = 0.5
_TURN = 512
"""Most items settled in a row before others may run."""


class Run:
    """The items of a fan-out on their way to their outcomes.

    A run is made and filled on any thread and started once; from then on everything but
    `add`, `start`, `cancel`, `watch` and the shards' futures happens on the dispatch loop.

    Args:
        run_id: Its id.
        plan: What to do with each item.
        shared: Fields for all items.
        about: What a journal is to say of its items; empty for a run that goes on, of which it
            has said it.
        purse: What pays for it; by default it has the plan's budget for itself.
    """

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        shared: Mapping[str, Any],
        about: Mapping[str, Any] = NOTHING,
        purse: Purse | None = None,
    ) -> None:
        self.id = run_id
        self.plan = plan
        self.shared = shared
        self.shards: dict[int, Shard] = {}
        self.error: BaseException | None = None
        self.closed = False
        self.when_closed: Callable[[Run], None] = lambda _: None
        self.heed_ctrl_c = False
        self._opened = False
        self._expired = False
        self._stalled: str | None = None
        self._interrupt = InterruptWatch()
        self._lock = threading.Lock()
        self._started = False
        self._queue: list[Shard] = []
        self._works: list[Work] = []
        self._working = False
        self._progress = Progress(plan.name, run_id, time.monotonic)
        self._reporter = Reporter(self._progress, self._in_flight)
        self._ticker: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._goes_on = not about
        about = {**plan.describe(), **about}
        self.keeper = Keeper(run_id, plan.name, plan.scope, plan.journal, about, self)
        self.recovery: Recovery | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._answers = Answers(run_id, self.keeper)
        self.purse = Purse(plan.budget) if purse is None else purse
        self._progress.purse = self.purse
        self._passbook = Passbook(run_id)

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
            if self._started or self.closed:
                return
            self._started = True
        garbage.relax()
        task = self.plan.task
        if isinstance(task, RunnableTask):
            self._works = [Calling(self, task, host, config)]
        else:
            self._works = [Asking(self, variants) for variants in self.plan.by_model()]
        dispatch_loop().submit(self._main())

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

    def reader(self, variants: Sequence[int], more: Callable[[], None]) -> Reader:
        """What hands out the places of these variants, and calls `more` when it has more."""
        return Reader(self.plan.steps(variants), self.plan.identify(self.shared), more, self.fail)

    async def recover(self, scheduler: Scheduler) -> None:
        """Learn what a process that is gone has sent, and note what is sent from now on."""
        if self.keeper.log is None:
            return
        if self._recovering is None:
            loop = asyncio.get_running_loop()
            note_used = partial(self._note_used, loop, at_once=True)
            self.recovery = Recovery(self.keeper.log, note_used)
            self.recovery.listen(scheduler)
            self._recovering = loop.create_task(self.recovery.learn())
        await self._recovering

    def known(
        self, place: Place, key: str, asked: str | None, accepts: Callable[[Outcome], bool]
    ) -> bool:
        """Whether a place need not ask: its key was asked before, or is being asked."""
        found = self._answers.look_up((place.shard, place.offset), key, asked, accepts)
        if isinstance(found, Known):
            self._reuse(place.shard, place.offset, found)
        elif isinstance(found, Failure):
            self.refuse(place, found, {ASKED: asked})
        return found is not None

    def record(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        """Keep the outcome of a place that was asked, also for those that wait for its key."""
        waiting = self._answers.settle(outcome.key)
        self._keep(shard, offset, outcome)
        if not waiting:
            return
        known = self.keeper.find(outcome.key)
        if known is None or not outcome.ok:
            known = Known(outcome, self.id)
        if len(waiting) > _TURN:
            self._in_background(self._reuse_in_turns(waiting, known))
        else:
            for other, place in waiting:
                self._reuse(other, place, known)

    async def _reuse_in_turns(self, waiting: Sequence[Seat], known: Known) -> None:
        for number, (shard, offset) in enumerate(waiting, 1):
            if self.closed:
                return
            self.guard(self._reuse, shard, offset, known)
            if number % _TURN == 0:
                await asyncio.sleep(0)

    def refuse(self, place: Place, failure: Failure, meta: Mapping[str, Any] = NOTHING) -> None:
        """Record that a place has no answer, and was not asked for one."""
        shard, offset = place.shard, place.offset
        if isinstance(place.key, str):
            key = self.plan.key_of(place.key, shard, offset)
        else:
            key = _key(place.item)
        self._keep(shard, offset, shard.outcome(key, offset, ok=False, error=failure, meta=meta))

    def cannot_ask(self, place: Place, error: Exception) -> None:
        """Record that nothing could be asked for a place, for this reason."""
        index = place.shard.index(place.offset)
        message = f"Item {index} cannot be asked: {words_of(error)}."
        self.refuse(place, Failure("permanent", message))

    def refresh(self) -> None:
        """Have the work look for items again."""
        if self._working and not self.closed:
            for work in self._works:
                work.refresh()

    def fail(self, why: str) -> None:
        """End the run because it cannot go on."""
        self.end_early(why, logging.ERROR)

    def bubble(self, error: BaseException) -> None:
        """End the run with an exception that LangGraph is to see as it is, after a flush."""
        if not self.closed:
            self._end(error)

    def end_early(self, why: str, level: int, *, is_kept: bool = True) -> None:
        """End the run: every branch that is not complete raises, after a flush.

        Args:
            why: A sentence, or several.
            level: Of the line in the log.
            is_kept: Whether what was answered is in the journal then.
        """
        if self.closed:
            return
        journal = self.keeper.directory
        if is_kept and journal is not None and self._progress.done:
            why = f"{why} What was answered is kept in {journal}; run again to go on."
        error = FanOutError(why, outcomes=self.keeper.outcomes(), journal=journal)
        done, total = self._progress.done, self._progress.total
        logger.log(level, "%s ended with %d of %d items done: %s", self.plan.name, done, total, why)
        self._end(error)

    def guard(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call something of ours; a bug ends the run loudly instead of hanging it."""
        try:
            return function(*args, **options)
        except JournalError as error:
            self.fail(str(error))
        except Exception as error:
            logger.exception("%s", self)
            self.fail(f"A fault in the fan-out {self.plan.name}: {error!r}")
        return None

    # -- on the dispatch loop -------------------------------------------------------------

    async def _main(self) -> None:
        if self.closed:
            return
        try:
            loop = asyncio.get_running_loop()
            self._progress.begin()
            self._ticker = loop.create_task(self._tick())
            if self.plan.deadline is not None:
                self._deadline = loop.call_later(self.plan.deadline, self._expire)
            for shard in self._queue:
                if shard.complete:
                    self._finish(shard)  # an empty list needs neither journal nor pool
            if self._is_over():
                return
            await self.keeper.open()
            await self._take_over_the_past()
            if self._is_over():
                await self.keeper.close()
                return
            self._opened = True
            if self._expired:
                self._time_all_out()
                return
            for shard in self._queue:
                self._hand_over(shard)
            self._queue.clear()
            self._working = True  # a model that is still cold holds up no other
            await asyncio.gather(*(work.start() for work in self._works))
        except JournalError as error:
            self.fail(str(error))
        except Exception as error:
            logger.exception("The fan-out %s could not start", self.plan.name)
            self.fail(f"The fan-out {self.plan.name} could not start: {error!r}")

    async def _take_over_the_past(self) -> None:
        """A run that goes on after an interruption has what it left of its budget."""
        if self._goes_on and self.keeper.log is not None:
            past = await asyncio.to_thread(self._passbook.past, self.keeper.log)
            self.purse = self._progress.purse = Purse(self.plan.budget, past=past)

    def _is_over(self) -> bool:
        # A call, because type checkers take an attribute to stay as it was before an await.
        return self.closed

    def _hand_over(self, shard: Shard) -> None:
        for work in self._works:
            work.reader.add(shard)

    def _enqueue(self, shard: Shard) -> None:
        if self.error is not None:
            shard.fail(self.error)
        elif shard.complete:
            self._finish(shard)
        elif not self._opened:
            self._queue.append(shard)
        elif self._expired:
            self._in_background(self._time_out([shard]))
        else:
            self._hand_over(shard)
            self.refresh()

    def _reuse(self, shard: Shard, offset: int, known: Known) -> None:
        if shard.done[offset]:
            return
        outcome = self.keeper.reuse(shard, offset, known, self.plan.meta(shard, offset))
        self._count(shard, offset, outcome, known=True)

    def _keep(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        """Keep an outcome, the first for its place."""
        if shard.done[offset]:
            return
        if meta := self.plan.meta(shard, offset):
            outcome = replace(outcome, meta={**outcome.meta, **meta})
        self.keeper.keep(shard, offset, outcome)
        self._count(shard, offset, outcome)

    def _count(self, shard: Shard, offset: int, outcome: Outcome, *, known: bool = False) -> None:
        shard.take_note(offset, outcome)
        self._progress.count(outcome, known=known)
        if shard.complete:
            self._finish(shard)

    # -- what the keeper tells ------------------------------------------------------------

    def all_shards(self) -> list[Shard]:
        """The shards so far; a copy, for branches may add some meanwhile."""
        return list(self.shards.values())

    def is_complete(self) -> bool:
        """Whether every place has an outcome."""
        return all(shard.complete for shard in self.all_shards())

    def reported(self) -> None:
        """Branches have been let go."""
        with self._lock:  # so that no branch adds a shard to a run that is about to close
            if self.closed or not self._is_let_go():
                return
            self.closed = True
        self._wind_up()

    def lose(self, why: str) -> None:
        """The journal is not ours any more, or cannot be used: end."""
        self.end_early(why, logging.ERROR, is_kept=False)

    def stall(self, why: str) -> None:
        """The disk takes nothing: send nothing more, and end when nothing is under way."""
        if self._stalled is None:
            logger.error("%s: %s Nothing more is sent until it can be.", self.plan.name, why)
            for work in self._works:
                work.pause()
        self._stalled = why

    def unstall(self) -> None:
        """The disk takes outcomes again."""
        if self._stalled is not None and not self.closed:
            self._stalled = None
            logger.warning("%s: the journal can be written again.", self.plan.name)
            for work in self._works:
                work.go_on()

    def _is_let_go(self) -> bool:
        return all(shard.future.done() for shard in self.all_shards())

    # -- endings --------------------------------------------------------------------------

    def _end(self, error: BaseException) -> None:
        self.error = error
        self._leave()
        self._reporter.show(final=True)
        self._close()
        self._in_background(self._flush_and_raise(error))

    def _finish(self, shard: Shard) -> None:
        """Report a complete shard."""
        shard.seconds = self._progress.seconds
        if self.is_complete():
            self._reporter.show(final=True)
            self._tell_of_failures()
        self.keeper.report(shard)

    def _tell_of_failures(self) -> None:
        """Say once what went wrong, in the words of the first failure of each kind."""
        for kind, (count, message) in self._progress.why_failed().items():
            total, name = self._progress.total, self.plan.name
            logger.warning("%s: %d of %d failed, %s: %s", name, count, total, kind, message)

    def _expire(self) -> None:
        """The run's time is up: what has no outcome yet fails, what has one is kept."""
        self._expired = True
        if self._opened:
            self._time_all_out()

    def _time_all_out(self) -> None:
        self._leave()
        self._in_background(self._time_out(self.all_shards()))

    async def _time_out(self, shards: Sequence[Shard]) -> None:
        message = f"The run's deadline of {self.plan.deadline:g} s passed before it was answered."
        failure = Failure("timeout", message)
        self._answers = Answers(self.id, self.keeper)  # nothing is being asked any more
        work_of = {variant: work for work in self._works for variant in work.variants}
        more = asyncio.Event()
        reader = self.reader(range(len(self.plan.variants)), more.set)
        for shard in shards:
            reader.add(shard)
        while reader.untaken and not self.closed:
            for _ in range(_TURN):
                if (place := reader.take()) is None:
                    break
                shard, offset = place.shard, place.offset
                if not shard.done[offset]:  # what is known is answered all the same
                    self.guard(work_of[shard.variant(offset)].look_up, place)
                if not shard.done[offset]:
                    self.guard(self.refuse, place, failure)
            if place is None and reader.untaken:
                await more.wait()
                more.clear()
            else:
                await asyncio.sleep(0)

    async def _flush_and_raise(self, error: BaseException) -> None:
        await self.keeper.close()
        for shard in self.all_shards():
            shard.fail(error)

    @staticmethod
    def _in_background(coroutine: Coroutine[Any, Any, None]) -> None:
        ending = asyncio.get_running_loop().create_task(coroutine)
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)

    def _leave(self) -> None:
        for work in self._works:
            work.reader.stop()
            work.stop()
        if self.recovery is not None:
            self.recovery.stop()
        self._queue.clear()

    def _close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._wind_up()

    def _wind_up(self) -> None:
        if self._started:
            garbage.restore()
        self._leave()
        self.guard(self._note_used, asyncio.get_running_loop(), at_once=True)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        if self.error is None:
            self._in_background(self.keeper.close())
        self.when_closed(self)

    # -- from time to time ----------------------------------------------------------------

    def _note_used(self, loop: asyncio.AbstractEventLoop, *, at_once: bool = False) -> None:
        """Have the journal know what was used of the budget; a temporary one need not.

        May be called in any thread, so the loop by whose time it is used is given.
        """
        log = self.keeper.log
        if self.plan.journal is not None and log is not None:
            self._passbook.note(log, self.purse, loop.time(), at_once=at_once)

    def _in_flight(self) -> int:
        return sum(work.in_flight for work in self._works)

    def _waiting_for(self) -> str | None:
        return next((work.waiting_for for work in self._works if work.waiting_for), None)

    async def _tick(self) -> None:
        flushed = 0.0
        while True:
            self._progress.waiting_for = self._waiting_for()
            self._reporter.show()
            await asyncio.sleep(_EVENT_SECONDS)
            if self.heed_ctrl_c and self._interrupt.interrupted():
                self.end_early(INTERRUPTED, logging.WARNING)
            flushed += _EVENT_SECONDS
            if flushed >= _FLUSH_SECONDS:
                flushed = 0.0
                self.guard(self._note_used, asyncio.get_running_loop())
                self.keeper.flush_soon()
            if self._stalled is not None and not self._in_flight():
                self.end_early(self._stalled, logging.ERROR, is_kept=False)


_endings: set[asyncio.Task[None]] = set()


def _key(item: Any) -> str:
    try:
        return item_key(item)
    except Exception:  # noqa: BLE001 - the item has just been found to be faulty
        return ""
