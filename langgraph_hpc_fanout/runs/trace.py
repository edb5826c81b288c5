"""Shows the first items of a prompt to callbacks as LLM runs, as if a chat model had been called.

Requests leave from the dispatch loop, where no callback may run. So the branch itself, where its
callbacks belong, tells of the beginning and, when an outcome comes, of the end.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, as_completed
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

from langgraph_hpc_fanout.records import ChatError, Outcome, Request
from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.runs.shard import Shard

_PROVIDER = "hpc-fanout"


class Trace:
    """The traced items of one branch.

    Args:
        run: The branch's run.
        shard: The branch's shard.
    """

    def __init__(self, run: Run, shard: Shard) -> None:
        self._run = run
        self._shard = shard

    def follow(self) -> None:
        """Tell the branch's callbacks of its traced items, until each has its outcome."""
        if not self._shard.traced:
            return
        manager = get_callback_manager_for_config(self._shard.config or {})
        runs = {
            future: manager.on_chat_model_start(*arguments, **keywords)[0]
            for future, arguments, keywords in self._beginnings()
        }
        for future in as_completed(runs):
            ended = _ending(future)
            if isinstance(ended, LLMResult):
                runs[future].on_llm_end(ended)
            else:
                runs[future].on_llm_error(ended)

    async def afollow(self) -> None:
        """The same on an event loop."""
        if not self._shard.traced:
            return
        manager = get_async_callback_manager_for_config(self._shard.config or {})

        async def follow_one(future: Future[Outcome], arguments: Any, keywords: Any) -> None:
            (run,) = await manager.on_chat_model_start(*arguments, **keywords)
            try:
                await asyncio.wait([asyncio.wrap_future(future)])
            except asyncio.CancelledError as error:
                await run.on_llm_error(error)
                raise
            ended = _ending(future)
            if isinstance(ended, LLMResult):
                await run.on_llm_end(ended)
            else:
                await run.on_llm_error(ended)

        beginnings = await asyncio.to_thread(self._beginnings)
        await asyncio.gather(*(follow_one(*beginning) for beginning in beginnings))

    def _beginnings(
        self,
    ) -> list[tuple[Future[Outcome], tuple[Any, ...], dict[str, Any]]]:
        """For each traced item, its outcome to come and what to tell callbacks; reads items."""
        shard, shared = self._shard, self._run.shared
        beginnings = []
        last = shard.start + len(shard.traced) // shard.per_item
        items = list(shard.source.read(shard.start, last))
        for offset, future in shard.traced.items():
            task = self._run.plan.variants[shard.variant(offset)].task
            try:
                item = items[offset // shard.per_item]
                request = task.request(item, shared, sample=shard.sample(offset))
            except Exception:  # noqa: BLE001, S112 - the item's own failure, told as its outcome
                continue
            name = f"{self._run.plan.name}[{shard.index(offset)}]"
            told = ({"name": name}, [_messages(request)])
            beginnings.append((future, told, _about(request, name)))
        return beginnings


def _messages(request: Request) -> list[BaseMessage]:
    return convert_to_messages(request.body["messages"])


def _about(request: Request, name: str) -> dict[str, Any]:
    parameters = {key: value for key, value in request.body.items() if key != "messages"}
    if request.model is not None:
        parameters["model"] = request.model
    return {"invocation_params": {"_type": _PROVIDER, **parameters}, "name": name}


def _ending(future: Future[Outcome]) -> LLMResult | BaseException:
    """The answer, or why there is none: the item's failure, or the run's."""
    if (error := future.exception()) is not None:
        return error
    outcome = future.result()
    return _result(outcome) if outcome.error is None else ChatError(outcome.error)


def _result(outcome: Outcome) -> LLMResult:
    value = outcome.value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    said = {
        "model_name": outcome.model,
        "finish_reason": outcome.finish_reason,
        "endpoint": outcome.endpoint,
        "cached": outcome.attempts == 0,
    }
    about = {name: value for name, value in said.items() if value is not None}
    message = AIMessage(text, response_metadata=about, usage_metadata=_usage(outcome))
    return LLMResult(
        generations=[[ChatGeneration(message=message)]], llm_output={"model_name": outcome.model}
    )


def _usage(outcome: Outcome) -> UsageMetadata | None:
    if (usage := outcome.usage) is None:
        return None
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
