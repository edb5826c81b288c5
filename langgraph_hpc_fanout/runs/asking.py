"""Asks a prompt, or calls a function on the HPC side, for each item of a run: through lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError, explain
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.chat import usage_of
from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.journal.line import digest_of
from langgraph_hpc_fanout.records import NOTHING, Failure, Outcome, Reply, Request, Usage
from langgraph_hpc_fanout.runs.answers import ASKED
from langgraph_hpc_fanout.tasks.answer import Answer
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.schema import refuses_schema

if TYPE_CHECKING:
    from langgraph_hpc_fanout.runs.reading import Place
    from langgraph_hpc_fanout.runs.run import Run
    from langgraph_hpc_fanout.runs.shard import Shard

logger = logging.getLogger("langgraph_hpc_fanout")

_LOOKED_AT = 512
"""Most items looked at in a row when the journal answers them all, before others may run."""

_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class Question:
    """What a ticket is for, and what became of it before it was asked again.

    Attributes:
        shard: The shard of its item.
        offset: Its place in the shard.
        asked: Hash of what is asked, where the key is the user's own.
        key: The user's own key; empty where the request's is the item's.
        reasks: How often it was asked again because an answer did not fit the schema.
        usage: Tokens of the answers that did not fit.
    """

    shard: Shard
    offset: int
    asked: str | None = None
    key: str = ""
    reasks: int = 0
    usage: Usage | None = None


class Asking:
    """The scheduler's client for the variants of a run that ask one model.

    Args:
        run: Whose items they are.
        variants: Their numbers.
    """

    def __init__(self, run: Run, variants: Sequence[int]) -> None:
        self.variants = variants
        self.reader = run.reader(variants, self.refresh)
        self._run = run
        self._plan = run.plan
        self._task = run.plan.variants[variants[0]].task
        self._model: str | None = None
        self._scheduler: Scheduler | None = None
        self._job: Job | None = None
        self._resolving: asyncio.Future[tuple[Scheduler, str]] | None = None
        self._in_words = False
        self._paused = False

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return 0 if self._job is None else len(self._job.in_flight)

    @property
    def waiting_for(self) -> str | None:
        """Why nobody can be asked now, in words, while it waits for somebody to come."""
        return None if self._job is None else self._job.waiting_for

    async def start(self) -> None:
        """Find out which model is meant, and let lanes pull."""
        assert self._plan.pool is not None  # noqa: S101 - FanOutNode asks for one
        resolving = self._resolving = asyncio.ensure_future(
            self._plan.pool.resolve(self._task.model, self._plan.require, self._plan.forbid)
        )
        try:
            scheduler, self._model = await resolving
        except NoEndpointError as error:
            self._run.fail(str(error))
            return
        except asyncio.CancelledError:
            if self._run.closed:
                return  # it was stopped while it waited for endpoints
            raise
        self._scheduler = scheduler
        self._job = Job(
            self,
            self._model,
            self._plan.retry,
            item_deadline=self._plan.item_deadline,
            concurrency=self._plan.concurrency,
            require=self._plan.require,
            forbid=self._plan.forbid,
            # Of a sweep over models each has a job; together they have the turns of one run.
            weight=self._plan.weight * len(self.variants) / len(self._plan.variants),
            order=self._plan.order,
            purse=self._run.purse,
            kind=self._plan.name,
            may_hedge=True,
        )
        self._job.paused = self._paused
        await self._run.recover(scheduler)
        if self._run.closed:
            return
        scheduler.add(self._job)

    def refresh(self) -> None:
        """There are more items."""
        if self._scheduler is not None and self._job is not None:
            self._scheduler.refresh(self._job)

    def look_up(self, place: Place) -> None:
        """Settle a place whose outcome is known, or cannot be asked for; ask nothing."""
        self._ticket_for(place)

    def pause(self) -> None:
        """Send nothing more for now."""
        self._paused = True
        if self._job is not None:
            self._job.paused = True

    def go_on(self) -> None:
        """Send again."""
        self._paused = False
        if self._job is not None:
            self._job.paused = False
        self.refresh()

    def stop(self) -> None:
        """Send nothing more, cancel what is in flight."""
        if self._resolving is not None:
            self._resolving.cancel()
        if self._scheduler is not None and self._job is not None:
            self._scheduler.remove(self._job)

    # -- the scheduler's client -----------------------------------------------------------

    def feed(self, most: int) -> Sequence[Ticket]:
        """Make requests of the next items; what is known already is settled at once."""
        tickets: list[Ticket] = []
        for _ in range(_LOOKED_AT):
            if len(tickets) == most or (place := self.reader.take()) is None:
                return tickets
            ticket = self._run.guard(self._ticket_for, place)
            if ticket is not None and not self._is_under_way(ticket):
                tickets.append(ticket)
        if not tickets:
            asyncio.get_running_loop().call_soon(self.refresh)
        return tickets

    def unfed(self) -> int:
        """How many items are still to be looked at."""
        return self.reader.untaken

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Turn the last word on a request into its item's outcome, or ask again."""
        self._run.guard(self._settle, ticket, reply, lane.name, seconds)

    def abort(self, failures: Sequence[Failure]) -> None:
        """No endpoint can go on, or the pool was closed: end the run."""
        closed = all(failure.kind == "cancelled" for failure in failures)
        level = logging.INFO if closed else logging.ERROR
        self._run.end_early(explain(failures, self._model), level)

    # -- requests -------------------------------------------------------------------------

    def _ticket_for(self, place: Place) -> Ticket | None:
        """A ticket for a place, or None when its outcome is known, comes, or cannot be asked."""
        shard, offset, item, key, _ = place
        if isinstance(item, BadRow):
            self._run.refuse(place, Failure("permanent", item.reason))
            return None
        task = self._plan.variants[shard.variant(offset)].task
        asked, own = None, ""
        try:
            sample = shard.sample(offset)
            request: Request = task.request(
                item, self._run.shared, model=self._model, sample=sample
            )
            if isinstance(key, Exception):
                raise key
            if key is not None:
                asked, own = request.key, self._plan.key_of(key, shard, offset)
                # Two fan-outs may mean different things by it, and share an endpoint.
                request = replace(request, key=digest_of(self._plan.scope, own))
        except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
            self._run.cannot_ask(place, error)
            return None
        if self._run.known(place, own or request.key, asked, task.accepts):
            return None
        if self._in_words and isinstance(task, Prompt) and task.has_schema(request):
            request = task.in_words(request)
        return Ticket(Question(shard, offset, asked, own), request)

    def _is_under_way(self, ticket: Ticket) -> bool:
        """Whether a process that is gone has sent this, and its reply is here or may come."""
        recovery = self._run.recovery
        return recovery is not None and recovery.claim(
            ticket.request.key, partial(self._run.guard, self._take_back, ticket)
        )

    def _take_back(self, ticket: Ticket, reply: Reply | None, endpoint: str) -> None:
        if reply is not None:
            if reply.body is not None and reply.usage is not None and reply.usage.estimated:
                # Guessed without the prompt, which nobody knew who fetched it.
                reply = replace(reply, usage=usage_of(ticket.request, reply.body))
            ticket.attempts = reply.tries
            self._settle(ticket, reply, endpoint, reply.seconds or 0.0)
            self._run.keeper.flush_soon()  # where it came from, it is gone
        elif self._job is not None and self._scheduler is not None:
            self._job.push(ticket)
            self._scheduler.offer(self._job)

    def _ask_again(self, ticket: Ticket, question: Question, request: Request) -> None:
        if self._job is not None and self._scheduler is not None:
            self._job.push(ticket.follow_up(question, request))
            self._scheduler.offer(self._job)

    # -- answers --------------------------------------------------------------------------

    def _settle(self, ticket: Ticket, reply: Reply, endpoint: str, seconds: float) -> None:
        question: Question = ticket.tag
        task = self._plan.variants[question.shard.variant(question.offset)].task
        if reply.body is None:
            assert reply.failure is not None  # noqa: S101 - the lane sees to it
            if _refuses_schema(task, ticket.request, reply.failure):
                self._say_in_words(reply.failure)
                self._ask_again(ticket, question, task.in_words(ticket.request))
                return
            error = _naming_item(reply.failure, question)
            outcome = _outcome(ticket, endpoint, seconds, ok=False, error=error)
        else:
            answer: Answer = task.read(reply.body)
            usage = _sum(question.usage, reply.usage)
            if _is_to_be_corrected(task, answer, question):
                again = replace(question, reasks=question.reasks + 1, usage=usage)
                self._ask_again(ticket, again, task.ask_again(ticket.request, answer))
                return
            outcome = _answered(ticket, reply.body, answer, usage, endpoint, seconds)
        self._run.record(question.shard, question.offset, outcome)
        if self._run.recovery is not None:
            self._run.recovery.forget(ticket.request.key)

    def _say_in_words(self, failure: Failure) -> None:
        if not self._in_words:
            self._in_words = True
            logger.warning(
                "%s: the server does not keep to the schema, so the run puts it into the prompt "
                "and checks answers against it. %s",
                self._plan.name,
                failure.message,
            )


def _is_to_be_corrected(task: Any, answer: Answer, question: Question) -> bool:
    """Whether an answer does not fit its schema, and may be asked for again with the reason."""
    return isinstance(task, Prompt) and answer.misfit is not None and question.reasks < task.reasks


def _refuses_schema(task: Any, request: Request, failure: Failure) -> bool:
    """Whether the server refuses the request for its schema, which can be said in words."""
    return isinstance(task, Prompt) and task.has_schema(request) and refuses_schema(failure)


def _answered(
    ticket: Ticket,
    body: Any,
    answer: Answer,
    usage: Usage | None,
    endpoint: str,
    seconds: float,
) -> Outcome:
    meta: dict[str, Any] = {}
    error = None
    if answer.fault is not None:
        message = f"The answer of {endpoint} {answer.fault}."
        error = Failure("invalid_output", message, None, False, endpoint)
        meta["raw"] = answer.text
    if answer.choices > 1:
        meta["choices"] = answer.choices
    if ticket.tag.reasks:
        meta["reasks"] = ticket.tag.reasks
    model = body.get("model")
    return _outcome(
        ticket,
        endpoint,
        seconds,
        ok=error is None,
        value=answer.value,
        error=error,
        usage=usage,
        model=model if isinstance(model, str) else None,
        finish_reason=answer.finish_reason,
        meta=meta,
    )


def _outcome(
    ticket: Ticket,
    endpoint: str,
    seconds: float,
    *,
    ok: bool,
    meta: Mapping[str, Any] = NOTHING,
    **fields: Any,
) -> Outcome:
    question: Question = ticket.tag
    if question.asked is not None:
        meta = {**meta, ASKED: question.asked}
    fields = {"usage": question.usage, **fields}
    if ticket.spent.picodollars:
        fields["cost"] = ticket.spent.usd
    return question.shard.outcome(
        question.key or ticket.request.key,
        question.offset,
        ok=ok,
        endpoint=endpoint,
        attempts=ticket.attempts,
        latency=seconds,
        meta=meta,
        **fields,
    )


def _naming_item(failure: Failure, question: Question) -> Failure:
    """The failure, with the item's number where the item itself is at fault: it is too large."""
    if failure.status != _TOO_LARGE:
        return failure
    index = question.shard.index(question.offset)
    return replace(failure, message=f"Item {index}: {failure.message}")


def words_of(error: Exception) -> str:
    """What an exception says, without its class where the text is ours."""
    text = str(error)
    return text if isinstance(error, LookupError | TypeError) and text else f"{error!r}"


def _sum(earlier: Usage | None, last: Usage | None) -> Usage | None:
    if earlier is None or last is None:
        return earlier or last
    return Usage(
        earlier.prompt_tokens + last.prompt_tokens,
        earlier.completion_tokens + last.completion_tokens,
        earlier.estimated or last.estimated,
    )
