"""LiteLLM's Router over all endpoints, in an environment of its own (`requirements/peers.in`).

So nothing is imported here that is not there, and LiteLLM itself only when it is measured.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import uvloop

from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, MODEL, QUESTION, Item, lost, molecules, warm_up

_WARM_UP = 8
_RETRIES = 3


def ask(
    urls: Sequence[str], count: int, width: int, *, timeout: float, cooldowns: bool = True
) -> Sample:
    """Ask about so many items, with three retries.

    Args:
        urls: Where; each is a deployment of one model.
        count: How many items.
        width: How many at a time.
        timeout: Seconds that a call may take.
        cooldowns: Whether deployments that fail have cooldowns, as they have by default.
    """
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it fetches prices when imported
    from litellm import Router

    router = Router(
        model_list=_deployments(urls),
        num_retries=_RETRIES,
        timeout=timeout,
        disable_cooldowns=not cooldowns,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_ask_all(router, warm_up(_WARM_UP), width))
        items = molecules(count)
        with Meter(count) as meter:
            answers = runner.run(_ask_all(router, items, width))
    return replace(meter.sample, lost=lost(answers, count))


def choose(endpoints: int, count: int) -> Sample:
    """Choose a deployment so many times, and call none.

    Args:
        endpoints: How many deployments of one model there are.
        count: How many choices.
    """
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    from litellm import Router

    router = Router(model_list=_deployments(f"http://127.0.0.1/{n}" for n in range(endpoints)))
    messages = [{"role": "user", "content": QUESTION.format_map(molecules(1)[0])}]

    async def choose_all() -> Sample:
        with Meter(count) as meter:
            for _ in range(count):
                await router.async_get_available_deployment(
                    model=MODEL, request_kwargs={}, messages=messages
                )
        return meter.sample

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(choose_all())


def _deployments(urls: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none"},
        }
        for url in urls
    ]


async def _ask_all(router: Any, items: Sequence[Item], width: int) -> list[str | None]:
    from litellm.types.router import RouterRateLimitError
    from openai import OpenAIError

    slots = asyncio.Semaphore(width)

    async def ask_one(item: Item) -> str | None:
        async with slots:
            try:
                answer = await router.acompletion(
                    model=MODEL,
                    messages=[{"role": "user", "content": QUESTION.format_map(item)}],
                    max_tokens=MAX_TOKENS,
                )
            except (OpenAIError, RouterRateLimitError):  # the latter when all have a cooldown
                return None
            text: str | None = answer.choices[0].message.content
            return text

    return await asyncio.gather(*map(ask_one, items))
