"""A live run: the items of one fan-out, from the router to the last receipt."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.scheduler import NoEndpointError, Scheduler, explain
from langgraph_hpc_fanout.journal.columns import OUTCOME_BYTES
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import Failure, FanOutError, Outcome, Reply, Request
from langgraph_hpc_fanout.runs import garbage
from langgraph_hpc_fanout.runs.interrupt import InterruptWatch
from langgraph_hpc_fanout.runs.plan import Plan
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.tasks.prompt import item_key
from langgraph_hpc_fanout.watch.progress import Progress
from langgraph_hpc_fanout.watch.reporter import Reporter, Writer

logger = logging.getLogger("langgraph_hpc_fanout")

INLINE_BYTES = 16 * 1024 * 1024
"""Outcomes beyond this size do not travel in graph state."""
INTERRUPTED = "Interrupted (Ctrl-C)."
_EVENT_SECONDS = 0.25
_FLUSH_SECONDS = 0.5
_LOOKED_AT = 512
"""Most items looked at in a row when the journal answers them all, before others may run."""


class Run:
    """The items of one fan-out on their way through a pool.

    A run is made and filled on any thread and started once; from then on everything but
    `add`, `cancel`, `watch` and the shards' futures happens on the dispatch loop.

    Args:
        run_id: Its id.
        plan: What to do with each item.
        shared: Fields for all items.
    """

    def __init__(self, run_id: str, plan: Plan, shared: Mapping[str, Any]) -> None:
        self.id = run_id
        self.plan = plan
        self.shards: dict[int, Shard] = {}
        self.error: FanOutError | None = None
        self.closed = False
        self._shared = shared
        self._journal: Journal | None = plan.journal
        self.when_closed: Callable[[Run], None] = lambda _: None
        self.heed_ctrl_c = False
        self._expired = False
        self._interrupt = InterruptWatch()
        self._lock = threading.Lock()
        self._started = False
        self._queue: deque[Shard] = deque()
        self._unflushed: list[Shard] = []
        self._flushing: asyncio.Task[None] | None = None
        self._kept_bytes = 0
        self._model: str | None = None
        self._scheduler: Scheduler | None = None
        self._job: Job | None = None
        self._progress = Progress(plan.name, run_id, time.monotonic)
        self._reporter = Reporter(self._progress, self._in_flight)
        self._ticker: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Run({self.plan.name!r}, {self.id}, {len(self.shards)} shards)"

    # -- from any thread ------------------------------------------------------------------

    def add(self, shard: Shard) -> bool:
        """Take in a shard; False when the run is over."""
        with self._lock:
            if self.closed:
                return False
            self.shards[shard.number] = shard
            self._progress.total += len(shard.items)
            if not self._started:
                self._queue.append(shard)
                return True
        dispatch_loop().loop.call_soon_threadsafe(self._enqueue, shard)
        return True

    def start(self) -> None:
        """Hand all shards to the scheduler, unless that has been done."""
        with self._lock:
            if self._started:
                return
            self._started = True
        garbage.relax()
        dispatch_loop().submit(self._main())

    def watch(self, shard: Shard, writer: Writer) -> None:
        """Send progress events through this writer while the shard's branch waits."""
        self._reporter.join(shard.number, writer)

    def unwatch(self, shard: Shard) -> None:
        """The branch has ended; its writer must not be called any more."""
        self._reporter.leave(shard.number)

    def cancel(self, why: str, level: int = logging.INFO) -> None:
        """Send nothing more, drop what is in flight, and end all branches."""
        if not self.closed:
            dispatch_loop().loop.call_soon_threadsafe(self._end_early, why, level)

    # -- the scheduler's client -----------------------------------------------------------

    def feed(self, most: int) -> Sequence[Ticket]:
        """Make requests of the next items; what the journal knows is settled at once."""
        tickets: list[Ticket] = []
        looked = 0
        while self._queue and len(tickets) < most:
            shard = self._queue[0]
            if shard.next == len(shard.items):
                self._queue.popleft()
                continue
            offset = shard.next
            shard.next += 1
            looked += 1
            request = self._guard(self._request_for, shard, offset)
            if request is not None:
                tickets.append(Ticket((shard, offset), request))
            if looked >= _LOOKED_AT:
                if not tickets:
                    asyncio.get_running_loop().call_soon(self._refresh)
                break
        return tickets

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Turn the last word on a request into its item's outcome."""
        self._guard(self._settle, ticket, reply, lane, seconds)

    def abort(self, failures: Sequence[Failure]) -> None:
        """No endpoint can go on, or the pool was closed: end the run."""
        closed = all(failure.kind == "cancelled" for failure in failures)
        level = logging.INFO if closed else logging.ERROR
        self._end_early(explain(failures, self._model), level)

    # -- on the dispatch loop -------------------------------------------------------------

    async def _main(self) -> None:
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
            if self._journal is not None:
                await asyncio.to_thread(self._journal.log.refresh)
            scheduler = self.plan.pool.scheduler()
            self._model = await scheduler.resolve(self.plan.task.model)
            if self._is_over():
                return
            retry, item_deadline = self.plan.retry, self.plan.item_deadline
            self._job = Job(self, self._model, retry, item_deadline)
            self._scheduler = scheduler
            scheduler.add(self._job)
        except NoEndpointError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("The fan-out %s could not start", self.plan.name)
            self._fail(f"The fan-out {self.plan.name} could not start: {error!r}")

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
            self._refresh()

    def _refresh(self) -> None:
        if self._scheduler is not None and self._job is not None and not self.closed:
            self._scheduler.refresh(self._job)

    def _request_for(self, shard: Shard, offset: int) -> Request | None:
        """The request of an item, or None when its outcome is known without one."""
        item = shard.items[offset]
        try:
            request = self.plan.task.request(item, self._shared, model=self._model)
            if shard.keys is not None:
                request = _with_key(request, shard.keys[offset])
        except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
            index = shard.start + offset
            failure = Failure("permanent", f"Item {index} cannot be asked: {_words(error)}.")
            self._record(shard, offset, Outcome(_key(item), index, ok=False, error=failure))
            return None
        journal = self._journal
        if journal is not None and self._answer_from(journal, shard, offset, request.key):
            return None
        return request

    def _answer_from(self, journal: Journal, shard: Shard, offset: int, key: str) -> bool:
        found = journal.log.find(self._scope, key)
        if found is None:
            return False
        at, outcome = found
        if not self.plan.task.accepts(outcome):
            return False
        index = shard.start + offset
        journal.log.reuse(self.id, index, at)
        known = Outcome(key, index, ok=True, value=outcome.value, attempts=0)
        self._count(shard, offset, known)
        return True

    @property
    def _scope(self) -> str:
        """Content hashes are good anywhere; a user's own keys only for the fan-out they name."""
        return "" if self.plan.key is None else self.plan.name

    def _settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        shard, offset = ticket.tag
        self._record(shard, offset, self._outcome(ticket, reply, lane, seconds))

    def _outcome(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> Outcome:
        shard, offset = ticket.tag
        key, index = ticket.request.key, shard.start + offset
        if reply.body is None:
            return Outcome(
                key,
                index,
                ok=False,
                error=reply.failure,
                endpoint=lane.name,
                attempts=ticket.attempts,
                latency=seconds,
            )
        answer = self.plan.task.read(reply.body)
        meta: dict[str, Any] = {}
        error = None
        if answer.fault is not None:
            message = f"The answer of {lane.name} {answer.fault}."
            error = Failure("invalid_output", message, None, False, lane.name)
            meta["raw"] = answer.text
        if answer.choices > 1:
            meta["choices"] = answer.choices
        model = reply.body.get("model")
        return Outcome(
            key,
            index,
            ok=error is None,
            value=answer.text if error is None else None,
            error=error,
            usage=reply.usage,
            model=model if isinstance(model, str) else None,
            endpoint=lane.name,
            attempts=ticket.attempts,
            latency=seconds,
            finish_reason=answer.finish_reason,
            meta=meta,
        )

    def _record(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        if self._journal is not None:
            self._journal.log.append(self.id, self._scope, outcome)
        else:
            self._kept_bytes += _weight(outcome)
            if self._kept_bytes > INLINE_BYTES:
                shard.outcomes[offset] = outcome
                self._spill()
        self._count(shard, offset, outcome)

    def _count(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        if shard.done[offset]:
            return
        shard.take_note(offset, outcome, keep=self._journal is None)
        self._progress.count(outcome)
        if shard.complete:
            self._finish(shard)

    def _spill(self) -> None:
        """Move the outcomes kept so far to a temporary journal."""
        self._journal = journal = Journal.temporary(self.id)
        logger.warning(
            "%s: its outcomes outgrew %d MB of graph state and are kept in %s; "
            "give FanOutNode a journal= to say where.",
            self.plan.name,
            INLINE_BYTES // 2**20,
            journal.directory,
        )
        for shard in self._all_shards():
            for outcome in shard.kept():
                journal.log.append(self.id, self._scope, outcome)
            shard.outcomes = []

    # -- endings --------------------------------------------------------------------------

    def _finish(self, shard: Shard) -> None:
        """Report a complete shard, once its outcomes are on disk where there is a journal."""
        shard.seconds = self._progress.seconds
        if self._is_complete():
            self._reporter.show(final=True)
        if self._journal is not None:
            self._unflushed.append(shard)
            self._flush_soon()
            return
        shard.report(None)
        self._close_if_complete()

    def _all_shards(self) -> list[Shard]:
        """A copy: branches may add shards meanwhile."""
        return list(self.shards.values())

    def _is_complete(self) -> bool:
        return all(shard.complete for shard in self._all_shards())

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        assert self._journal is not None  # noqa: S101 - narrows the type
        try:
            while True:
                written, self._unflushed = self._unflushed, []
                await asyncio.to_thread(self._journal.log.flush)
                for shard in written:
                    shard.report(str(self._journal.directory))
                if not self._unflushed:
                    break
            self._close_if_complete()
        except Exception as error:  # noqa: BLE001 - branches wait: they must be told
            self._unflushed += written
            why = f"The journal {self._journal.directory} cannot be written: {error}."
            self._fail(why, flush=False)
        finally:
            self._flushing = None

    def _expire(self) -> None:
        """The run's time is up: what has no outcome yet fails, what has one is kept."""
        self._expired = True
        self._leave()
        self._in_background(self._time_out(self._all_shards()))

    async def _time_out(self, shards: Sequence[Shard]) -> None:
        message = f"The run's deadline of {self.plan.deadline:g} s passed before it was answered."
        failure = Failure("timeout", message)
        for shard in shards:
            for offset, item in enumerate(shard.items):
                if not shard.done[offset]:
                    outcome = Outcome(_key(item), shard.start + offset, ok=False, error=failure)
                    self._guard(self._record, shard, offset, outcome)
                if offset % _LOOKED_AT == 0:
                    await asyncio.sleep(0)

    def _fail(self, why: str, *, flush: bool = True) -> None:
        """End the run because it cannot go on."""
        self._end_early(why, logging.ERROR, flush=flush)

    def _end_early(self, why: str, level: int, *, flush: bool = True) -> None:
        """End the run: every branch that is not complete raises, after a flush."""
        if self.closed:
            return
        self._leave()
        journal = None if self._journal is None else str(self._journal.directory)
        if journal is not None:
            why = f"{why} What was answered is kept in {journal}; run again to go on."
        self.error = FanOutError(why, outcomes=self._outcomes(journal), journal=journal)
        done, total = self._progress.done, self._progress.total
        logger.log(level, "%s ended with %d of %d items done: %s", self.plan.name, done, total, why)
        self._reporter.show(final=True)
        self._close()
        if flush and self._journal is not None:
            self._in_background(self._flush_and_raise())
        else:
            self._raise()

    async def _flush_and_raise(self) -> None:
        assert self._journal is not None  # noqa: S101 - narrows the type
        try:
            await asyncio.to_thread(self._journal.log.flush)
        except OSError:
            logger.exception("The journal %s cannot be written", self._journal.directory)
        self._raise()

    def _raise(self) -> None:
        assert self.error is not None  # noqa: S101 - narrows the type
        for shard in self._all_shards():
            shard.fail(self.error)

    @staticmethod
    def _in_background(coroutine: Coroutine[Any, Any, None]) -> None:
        ending = asyncio.get_running_loop().create_task(coroutine)
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)

    def _leave(self) -> None:
        if self._scheduler is not None and self._job is not None:
            self._scheduler.remove(self._job)
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

    def _outcomes(self, journal: str | None) -> Iterable[Outcome]:
        shards = sorted(self._all_shards(), key=lambda shard: shard.start)
        if journal is not None:
            return Results(self.id, [shard.receipt(journal) for shard in shards])
        return list(itertools.chain.from_iterable(shard.kept() for shard in shards))

    def _guard(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something of ours; a bug ends the run loudly instead of hanging it."""
        try:
            return function(*args)
        except Exception as error:
            logger.exception("%s", self)
            self._fail(f"A fault in the fan-out {self.plan.name}: {error!r}")
            return None

    # -- from time to time -------------------------------------------------------------------------

    def _in_flight(self) -> int:
        return 0 if self._job is None else len(self._job.in_flight)

    async def _tick(self) -> None:
        flushed = 0.0
        while True:
            self._reporter.show()
            await asyncio.sleep(_EVENT_SECONDS)
            if self.heed_ctrl_c and self._interrupt.interrupted():
                self._end_early(INTERRUPTED, logging.WARNING)
            flushed += _EVENT_SECONDS
            if self._journal is not None and flushed >= _FLUSH_SECONDS:
                flushed = 0.0
                self._flush_soon()


_endings: set[asyncio.Task[None]] = set()


def _weight(outcome: Outcome) -> int:
    value, raw = outcome.value, outcome.meta.get("raw", "")
    return OUTCOME_BYTES + (len(value) if isinstance(value, str) else 0) + len(raw)


def _with_key(request: Request, key: str | Exception) -> Request:
    if isinstance(key, Exception):
        raise key
    return replace(request, key=key)


def _key(item: Any) -> str:
    try:
        return item_key(item)
    except Exception:  # noqa: BLE001 - the item has just been found to be faulty
        return ""


def _words(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, LookupError | TypeError) and text else f"{error!r}"
