"""Asks a prompt, or calls a function on the HPC side, for each item of a run: through lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.scheduler import NoEndpointError, Scheduler, explain
from langgraph_hpc_fanout.records import Failure, Outcome, Reply, Request, Usage
from langgraph_hpc_fanout.tasks.answer import Answer
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.remote import RemoteFunction
from langgraph_hpc_fanout.tasks.schema import refuses_schema

if TYPE_CHECKING:
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
        reasks: How often it was asked again because an answer did not fit the schema.
        usage: Tokens of the answers that did not fit.
    """

    shard: Shard
    offset: int
    reasks: int = 0
    usage: Usage | None = None


class Asking:
    """The scheduler's client for one run.

    Args:
        run: Whose items they are.
        task: What to ask, or to call.
    """

    def __init__(self, run: Run, task: Prompt | RemoteFunction) -> None:
        self._run = run
        self._plan = run.plan
        self._task = task
        self._model: str | None = None
        self._scheduler: Scheduler | None = None
        self._job: Job | None = None
        self._in_words = False

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return 0 if self._job is None else len(self._job.in_flight)

    async def start(self) -> None:
        """Find out which model is meant, and let lanes pull."""
        assert self._plan.pool is not None  # noqa: S101 - FanOutNode asks for one
        scheduler = self._plan.pool.scheduler()
        try:
            self._model = await scheduler.resolve(self._task.model)
        except NoEndpointError as error:
            self._run.fail(str(error))
            return
        if self._run.closed:
            return
        self._scheduler = scheduler
        self._job = Job(
            self,
            self._model,
            self._plan.retry,
            item_deadline=self._plan.item_deadline,
            concurrency=self._plan.concurrency,
        )
        scheduler.add(self._job)

    def refresh(self) -> None:
        """There are more items."""
        if self._scheduler is not None and self._job is not None:
            self._scheduler.refresh(self._job)

    def stop(self) -> None:
        """Send nothing more, cancel what is in flight."""
        if self._scheduler is not None and self._job is not None:
            self._scheduler.remove(self._job)

    # -- the scheduler's client -----------------------------------------------------------

    def feed(self, most: int) -> Sequence[Ticket]:
        """Make requests of the next items; what the journal knows is settled at once."""
        tickets: list[Ticket] = []
        for _ in range(_LOOKED_AT):
            if len(tickets) == most or (place := self._run.take()) is None:
                return tickets
            request = self._run.guard(self._request_for, *place)
            if request is not None:
                tickets.append(Ticket(Question(*place), request))
        if not tickets:
            asyncio.get_running_loop().call_soon(self._run.refresh)
        return tickets

    def unfed(self) -> int:
        """How many items are still to be looked at."""
        return self._run.untaken()

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Turn the last word on a request into its item's outcome, or ask again."""
        self._run.guard(self._settle, ticket, reply, lane, seconds)

    def abort(self, failures: Sequence[Failure]) -> None:
        """No endpoint can go on, or the pool was closed: end the run."""
        closed = all(failure.kind == "cancelled" for failure in failures)
        level = logging.INFO if closed else logging.ERROR
        self._run.end_early(explain(failures, self._model), level)

    # -- requests -------------------------------------------------------------------------

    def _request_for(self, shard: Shard, offset: int) -> Request | None:
        """The request for a place, or None when its outcome is known without one."""
        try:
            request = self._task.request(
                shard.item(offset),
                self._run.shared,
                model=self._model,
                sample=shard.sample(offset),
            )
            if (key := shard.key(offset)) is not None:
                request = replace(request, key=key)
        except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
            message = f"Item {shard.index(offset)} cannot be asked: {words_of(error)}."
            self._run.refuse(shard, offset, Failure("permanent", message))
            return None
        if self._run.known(shard, offset, request.key, self._task.accepts):
            return None
        if self._in_words and isinstance(self._task, Prompt):
            return self._task.in_words(request)
        return request

    def _ask_again(self, ticket: Ticket, question: Question, request: Request) -> None:
        if self._job is not None and self._scheduler is not None:
            self._job.push(ticket.follow_up(question, request))
            self._scheduler.offer(self._job)

    # -- answers --------------------------------------------------------------------------

    def _settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        question: Question = ticket.tag
        if reply.body is None:
            assert reply.failure is not None  # noqa: S101 - the lane sees to it
            if (said := self._said_in_words(ticket.request, reply.failure)) is not None:
                self._ask_again(ticket, question, said)
                return
            error = _naming_item(reply.failure, question)
            outcome = self._outcome(ticket, lane, seconds, ok=False, error=error)
        else:
            answer = self._task.read(reply.body)
            usage = _sum(question.usage, reply.usage)
            if (request := self._corrected(ticket.request, answer, question)) is not None:
                again = replace(question, reasks=question.reasks + 1, usage=usage)
                self._ask_again(ticket, again, request)
                return
            outcome = self._answered(ticket, reply.body, answer, usage, lane, seconds)
        self._run.record(question.shard, question.offset, outcome)

    def _corrected(self, request: Request, answer: Answer, question: Question) -> Request | None:
        """The request with the reason why its answer does not do, if it may be asked again."""
        task = self._task
        if isinstance(task, Prompt) and answer.misfit is not None and question.reasks < task.reasks:
            return task.ask_again(request, answer)
        return None

    def _said_in_words(self, request: Request, failure: Failure) -> Request | None:
        """The request with its schema in words, where the server refuses that as a schema."""
        task = self._task
        if not (isinstance(task, Prompt) and task.has_schema(request) and refuses_schema(failure)):
            return None
        self._say_in_words(failure)
        return task.in_words(request)

    def _say_in_words(self, failure: Failure) -> None:
        if not self._in_words:
            self._in_words = True
            logger.warning(
                "%s: the server does not keep to the schema, so the run puts it into the prompt "
                "and checks answers against it. %s",
                self._plan.name,
                failure.message,
            )

    def _answered(
        self,
        ticket: Ticket,
        body: Any,
        answer: Answer,
        usage: Usage | None,
        lane: Lane,
        seconds: float,
    ) -> Outcome:
        meta: dict[str, Any] = {}
        error = None
        if answer.fault is not None:
            message = f"The answer of {lane.name} {answer.fault}."
            error = Failure("invalid_output", message, None, False, lane.name)
            meta["raw"] = answer.text
        if answer.choices > 1:
            meta["choices"] = answer.choices
        if ticket.tag.reasks:
            meta["reasks"] = ticket.tag.reasks
        model = body.get("model")
        return self._outcome(
            ticket,
            lane,
            seconds,
            ok=error is None,
            value=answer.value,
            error=error,
            usage=usage,
            model=model if isinstance(model, str) else None,
            finish_reason=answer.finish_reason,
            meta=meta,
        )

    @staticmethod
    def _outcome(ticket: Ticket, lane: Lane, seconds: float, *, ok: bool, **fields: Any) -> Outcome:
        question: Question = ticket.tag
        fields = {"usage": question.usage, **fields}
        return question.shard.outcome(
            ticket.request.key,
            question.offset,
            ok=ok,
            endpoint=lane.name,
            attempts=ticket.attempts,
            latency=seconds,
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
