"""LangChain's own way of asking many things: `abatch` with a `max_concurrency`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import uvloop
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, MODEL, QUESTION, Item, lost, molecules, warm_up

_WARM_UP = 8


def chat_models(urls: Sequence[str], timeout: float | None) -> list[ChatOpenAI]:
    """A model for each endpoint, with the two retries that it makes by default.

    Args:
        urls: Where.
        timeout: Seconds that a call may take; None for the client's default.
    """
    return [
        ChatOpenAI(
            model=MODEL,
            base_url=url,
            api_key=SecretStr("none"),
            timeout=timeout,
            max_completion_tokens=MAX_TOKENS,
        )
        for url in urls
    ]


def abatch(urls: Sequence[str], count: int, width: int, *, timeout: float) -> Sample:
    """Ask about so many items, an equal share of them and of the width at each endpoint.

    Errors are returned in place, or the first would take all answers with it.

    Args:
        urls: Where.
        count: How many items.
        width: How many at a time.
        timeout: Seconds that a call may take.
    """
    models = chat_models(urls, timeout)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_ask_all(models, warm_up(_WARM_UP), width))
        items = molecules(count)
        with Meter(count) as meter:
            answers = runner.run(_ask_all(models, items, width))
    return replace(meter.sample, lost=lost(answers, count))


async def _ask_all(
    models: Sequence[ChatOpenAI], items: Sequence[Item], width: int
) -> list[str | None]:
    config = RunnableConfig(max_concurrency=width // len(models))
    prompts: list[LanguageModelInput] = [QUESTION.format_map(item) for item in items]
    shares = await asyncio.gather(
        *(
            model.abatch(prompts[place :: len(models)], config, return_exceptions=True)
            for place, model in enumerate(models)
        )
    )
    answers: list[str | None] = [None] * len(items)
    for place, share in enumerate(shares):
        answers[place :: len(models)] = map(_text, share)
    return answers


def _text(answer: AIMessage | Exception) -> str | None:
    return answer.text if isinstance(answer, AIMessage) else None
