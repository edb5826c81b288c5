"""A Python function in the place of a server: for tests, local models and mixtures."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import orjson

from langgraph_hpc_fanout.endpoints.chat import read_completion, usage_of
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.models import Models, as_mapping, id_of
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, FailureKind, Reply, Request

_AT_ONCE = 64

Answer = str | Mapping[str, Any] | Failure
"""A text; a mapping: a whole chat completion if it has `choices`, an assistant's message if it
has `content`; or why there is no answer."""

Function = Callable[[Request], Answer | Awaitable[Answer]]


class FunctionEndpoint:
    """A function that answers requests.

    A sync function runs in threads of the endpoint's own, at most `limits.concurrency`, by default
    64. A send
    that is cancelled returns at once, but its thread goes on until the function returns, and
    `close` waits for it. An async function runs on the dispatch loop with everything else, so it
    must not block.

    An exception becomes a failure: `transient`, and so asked again, for an OSError (of which
    TimeoutError and ConnectionError are kinds), `permanent` for any other.

    Args:
        function: What answers a request: a function, sync or async, that returns a text, a
            mapping with `choices` (a whole chat completion) or with `content` (an assistant's
            message), or a `Failure`. Usage is estimated unless a completion tells it.
        name: Name in logs, graphs and outcomes; by default the function's.
        models: What it serves: a mapping of logical names to ids, or ids that are their own
            logical names. The function finds the logical name in `request.model`.
        limits: What may be asked of it.
        tags: Words by which tasks require or forbid it, such as `"on-site"`.
        price: What it costs; needed where a budget is in dollars or node-hours.

    Raises:
        TypeError: If it is given no function.
        ValueError: If it serves no model.

    Example:
        ```python
        def shout(request: Request) -> str:
            return request.body["messages"][-1]["content"].upper()


        FunctionEndpoint(shout, limits=Limits(concurrency=4))
        ```
    """

    bundling = Bundling()

    def __init__(
        self,
        function: Function,
        *,
        name: str | None = None,
        models: Models = "function",
        limits: Limits = Limits(),
        tags: Tags = (),
        price: Price | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"FunctionEndpoint({function!r}) needs a function.")
        self._function = function
        self._blocks = not _is_async(function)
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.models = as_mapping(models)
        if not self.models:
            raise ValueError(f"FunctionEndpoint {self.name} serves no model; drop models=.")
        self.limits = limits.at_most(_AT_ONCE)
        self.tags = as_tags(tags, f"FunctionEndpoint {self.name}")
        self.price = price
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._calls: set[Future[Any]] = set()

    def __repr__(self) -> str:
        return f"FunctionEndpoint({self.name}, {self.limits.describe()})"

    async def open(self) -> None:
        """Be ready to start threads, if the function needs them."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Perhaps in a forked process, which has inherited no threads.
            self._loop, self._threads, self._calls = loop, None, set()
        if self._threads is None and self._blocks:
            self._threads = ThreadPoolExecutor(self.limits.concurrency, f"hpc-fanout-{self.name}")

    async def close(self) -> None:
        """Wait for calls that are under way, and end the threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
            calls = map(asyncio.wrap_future, tuple(self._calls))
            await asyncio.gather(*calls, return_exceptions=True)
            threads.shutdown()  # they are idle, so this does not block

    async def probe(self) -> Health:
        """A function is always there."""
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Ask for each request in turn; the bundle has one unless the caller says otherwise."""
        for position, request in enumerate(requests):
            yield await self._ask(position, request)

    async def _ask(self, position: int, request: Request) -> Reply:
        served = id_of(self.models, request.model)
        if served is None:
            message = f"{self.name} does not serve the model {request.model!r}."
            return Reply(position, failure=Failure("cold", message, None, True, self.name))
        answer = await self._answer(request)
        if isinstance(answer, Failure):
            failure = replace(answer, endpoint=answer.endpoint or self.name)
            return Reply(position, failure=failure)
        try:
            # There and back: it must be plain data, and nobody else may change it later.
            body = read_completion(orjson.dumps(_completion(answer, served)))
        except (TypeError, ValueError) as error:
            message = f"{self.name} returned what is no answer: {error}."
            return Reply(position, failure=Failure("permanent", message, endpoint=self.name))
        return Reply(position, body=body, usage=usage_of(request, body))

    async def _answer(self, request: Request) -> object:
        """What the function returns, or the failure that its exception means."""
        answer = await self._in_thread(request) if self._blocks else self._call(request)
        if not inspect.isawaitable(answer):
            return answer
        try:
            return await answer
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's own code
            return self._failure_from(error)

    async def _in_thread(self, request: Request) -> object:
        if self._threads is None or self._loop is not asyncio.get_running_loop():
            await self.open()
        assert self._threads is not None  # noqa: S101 - narrows the type
        call = self._threads.submit(self._call, request)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(call)

    def _call(self, request: Request) -> object:
        try:
            return self._function(request)
        except BaseException as error:  # noqa: BLE001 - even a SystemExit must not end the loop
            return self._failure_from(error)

    def _failure_from(self, error: BaseException) -> Failure:
        transient = isinstance(error, OSError)
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        message = f"{self.name} raised {said}"
        kind: FailureKind = "transient" if transient else "permanent"
        return Failure(kind, message, None, transient, self.name)


def _is_async(function: Function) -> bool:
    """Whether a call returns a coroutine at once; objects may be callable, too."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )


def _completion(answer: object, served: str) -> Mapping[str, Any]:
    """A chat completion of what the function returned.

    Raises:
        ValueError: If it returned something else.
    """
    if isinstance(answer, str):
        answer = {"content": answer}
    if not isinstance(answer, Mapping) or not answer.keys() & {"choices", "content"}:
        raise ValueError(
            f"{answer!r:.200} is neither a text, nor a mapping with choices (a chat completion) or "
            "content (a message), nor a Failure"
        )
    if "choices" in answer:
        return {"model": served, **answer}
    reason = "tool_calls" if answer.get("tool_calls") else "stop"
    message = {"role": "assistant", **answer}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "model": served, "choices": [choice]}
