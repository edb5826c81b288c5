"""A LangChain chat model over a pool: for chains and agents, under the limits of the lanes.

Messages, tools and structured output are langchain-openai's; only the sending is ours, which also
saves about half of a call's CPU (benchmarks/cases/tasks.py). Answers come whole, so a stream is
one chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_validator

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scope import current_scope
from langgraph_hpc_fanout.endpoints.chat import estimate_tokens, text_of
from langgraph_hpc_fanout.records import ChatError, Failure, Reply, Request
from langgraph_hpc_fanout.tasks.keys import content_key
from langgraph_hpc_fanout.tasks.schema import MisfitError, Schema

OF_THE_ENDPOINTS = {
    "openai_api_base": "base_url",
    "openai_organization": "organization",
    "openai_proxy": "openai_proxy",
    "http_client": "http_client",
    "http_async_client": "http_async_client",
    "default_headers": "default_headers",
    "default_query": "default_query",
    "use_responses_api": "use_responses_api",
}
"""Settings that would be ignored. A key is let pass: LangChain's conventions give every chat
model one, such as in its standard tests; it is not used."""
_STRICT = "strict_schema"
_NOT_SENT = (
    "model",
    "messages",
    "stream",
    "stream_options",
    "extra_body",
    "response_format",
    _STRICT,
)


class Lanes(Protocol):
    """What a chat model asks of a pool."""

    async def ask(
        self,
        request: Request,
        retry: Retry,
        *,
        require: frozenset[str],
        forbid: frozenset[str],
    ) -> Reply:
        """The last word on a request."""
        ...


class PoolChatModel(BaseChatOpenAI):
    """A chat model whose calls go through the lanes of a pool; made by `pool.chat_model()`.

    LangChain's own `timeout` and `max_retries` override what `retry` says of an attempt's
    seconds, and of attempts after the first.

    Attributes:
        pool: Where to ask.
        model_name: Logical model name; empty for the only model that the pool serves.
        retry: How hard to try for one call.
        require: Tags that an endpoint must have to be asked.
        forbid: Tags that it must not have.

    Raises:
        ValueError: If it is given what belongs to the pool's endpoints, such as a URL.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _not_ours: ClassVar[Mapping[str, str]] = OF_THE_ENDPOINTS
    _provider: ClassVar[str] = "hpc-fanout"
    _made_by: ClassVar[str] = "pool.chat_model"

    pool: SkipValidation[Lanes] = Field(exclude=True, repr=False)
    model_name: str = Field(default="", alias="model")
    retry: Retry = Retry()
    require: frozenset[str] = frozenset()
    forbid: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Make no client: the pool has the connections. Replaces langchain-openai's."""
        if wrong := [
            shown
            for field, shown in self._not_ours.items()
            if field in self.model_fields_set and getattr(self, field)
        ]:
            raise ValueError(
                f"{self._made_by}({wrong[0]}=...) belongs to the pool: give it to its endpoints."
            )
        if self.request_timeout is not None:
            if not isinstance(self.request_timeout, int | float):
                raise ValueError(f"{self._made_by}(timeout=...) takes seconds, one number.")
            self.retry = replace(self.retry, timeout=float(self.request_timeout))
        if self.max_retries is not None:
            self.retry = replace(self.retry, attempts=self.max_retries + 1)
        self.use_responses_api = False
        self.stream_usage = True
        return self

    @property
    def _llm_type(self) -> str:
        return self._provider

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What LangChain's cache tells models apart by."""
        return {**super()._identifying_params, "pool": repr(self.pool)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = self._provider
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Refuse: only the server knows the model's tokens.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("Only the server knows this model's tokens.")

    def get_num_tokens(self, text: str) -> int:
        """An estimate: four characters a token."""
        return estimate_tokens(text)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **kwargs: Any,
    ) -> int:
        """An estimate, as langchain-core makes it."""
        return count_tokens_approximately(messages)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """As langchain-openai's, by default with a schema that the server keeps to."""
        if strict and method == "json_schema":
            kwargs[_STRICT] = True  # langchain-openai leaves it to a client that is not used here
        return super().with_structured_output(
            schema, method=method, include_raw=include_raw, strict=strict, **kwargs
        )

    # -- calls ----------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, schema = self._request(messages, stop, kwargs)
        if dispatch_loop().is_current_thread:
            raise RuntimeError(
                "A pool's chat model was called synchronously on the dispatch thread, where it "
                "would wait for itself for ever; use ainvoke there."
            )
        reply = current_scope().wait_for(self._ask(request))
        return self._result(reply, schema)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, schema = self._request(messages, stop, kwargs)
        return self._result(await self._ask(request), schema)

    async def _ask(self, request: Request) -> Reply:
        return await self.pool.ask(request, self.retry, require=self.require, forbid=self.forbid)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunk = _as_chunk(self._generate(messages, stop, **kwargs))
        if run_manager is not None:
            run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunk = _as_chunk(await self._agenerate(messages, stop, **kwargs))
        if run_manager is not None:
            await run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
        yield chunk

    # -- requests and answers -------------------------------------------------------------

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Request, Schema | None]:
        """The request, and the schema where the caller wants a pydantic model back."""
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        body = {
            "messages": payload["messages"],
            **{name: value for name, value in payload.items() if name not in _NOT_SENT},
            **(payload.get("extra_body") or {}),
        }
        schema = None
        if (wanted := payload.get("response_format")) is not None:
            if isinstance(wanted, type):
                schema = Schema(wanted)
                wanted = schema.response_format
                if payload.get(_STRICT):
                    wanted["json_schema"]["strict"] = True
            body["response_format"] = wanted
        model = payload.get("model") or None
        key = content_key({"model": model, "body": body})
        read = sum(estimate_tokens(text_of(message)) for message in body["messages"])
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        return Request(key, model, body, read, limit), schema

    def _result(self, reply: Reply, schema: Schema | None) -> ChatResult:
        if reply.body is None:
            raise ChatError(cast("Failure", reply.failure))
        result = self._create_chat_result(dict(reply.body))
        for generation in result.generations:
            message = cast("AIMessage", generation.message)
            if (name := (result.llm_output or {}).get("model_name")) is not None:
                message.response_metadata = {**message.response_metadata, "model_name": name}
            if schema is not None and message.text:
                with contextlib.suppress(MisfitError):  # langchain-openai's parser says it
                    parsed = schema.parse(schema.read(message.text))
                    message.additional_kwargs["parsed"] = parsed
        return result


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """A whole answer as the only chunk of a stream."""
    generation = result.generations[0]
    message = cast("AIMessage", generation.message)
    calls = [
        tool_call_chunk(
            name=call["name"],
            args=orjson.dumps(call["args"]).decode(),
            id=call["id"],
            index=index,
        )
        for index, call in enumerate(message.tool_calls)
    ]
    chunk = AIMessageChunk(
        content=message.content,
        additional_kwargs=message.additional_kwargs,
        response_metadata={**(generation.generation_info or {}), **message.response_metadata},
        tool_call_chunks=calls,
        usage_metadata=message.usage_metadata,
        id=message.id,
        chunk_position="last",
    )
    return ChatGenerationChunk(message=chunk)
