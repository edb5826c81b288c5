"""Any OpenAI-compatible chat server: vLLM, llama.cpp, gateways, OpenAI itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import orjson
from yarl import URL

from langgraph_hpc_fanout.endpoints.chat import (
    failure_of,
    read_completion,
    usage_of,
    wire_body,
)
from langgraph_hpc_fanout.endpoints.credentials import ApiKey, Credentials
from langgraph_hpc_fanout.endpoints.gauges import Gauges, read_gauges
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, Answer, HttpClient, shown
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.models import Models, as_mapping, id_of
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, Reply, Request


class OpenAIEndpoint:
    """A chat server behind a URL.

    Args:
        url: Base URL, usually ending in `/v1`.
        name: Name in logs, graphs and outcomes; by default host and port of the URL.
        models: What it serves: a mapping of logical names to the ids it knows, or ids that are
            their own logical names. By default what `/models` lists.
        api_key: The token, the name of an environment variable that holds it, a source of tokens
            (`langgraph_hpc_fanout.tokens`), or a function, sync or async, that returns it.
        limits: What may be asked of it.
        tags: Words by which tasks require or forbid it, such as `"on-site"`.
        price: What it costs; needed where a budget is in dollars or node-hours.
        verify: Whether the certificate of an https server must be one that this machine trusts.
            False accepts any, so only say so of a server that nobody else can stand in for, such
            as a vLLM with a self-signed certificate on loopback.

    Raises:
        ValueError: If the URL is none.

    Example:
        ```python
        OpenAIEndpoint(
            "http://127.0.0.1:8000/v1",
            models={"gpt-oss-120b": "openai/gpt-oss-120b"},
            limits=Limits(concurrency=256, requests="100/s"),
        )
        ```
    """

    bundling = Bundling()

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        models: Models | None = None,
        api_key: ApiKey | None = None,
        limits: Limits = Limits(),
        tags: Tags = (),
        price: Price | None = None,
        verify: bool = True,
    ) -> None:
        parsed = URL(url.rstrip("/").removesuffix("/chat/completions"))
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(
                f"{shown(parsed)!r} is no URL of a chat server; "
                "give one such as http://127.0.0.1:8000/v1."
            )
        if parsed.user is not None and api_key is not None:
            raise ValueError(
                f"{shown(parsed)} is given a user in its URL and an api_key=; give one of the two."
            )
        self._url = parsed
        self._chat_url = parsed / "chat" / "completions"
        self._metrics_url = parsed.with_path(parsed.path.removesuffix("/v1")) / "metrics"
        self.name = name or _name(parsed)
        self.limits = limits
        self.tags = as_tags(tags, self.name)
        self.price = price
        self._given = as_mapping(models or {})
        self.models: Mapping[str, str] = self._given
        self.context_limits: Mapping[str, int] = {}
        self._discover = models is None
        self._http = HttpClient(parsed, self.name, Credentials(api_key), verify=verify)

    def __repr__(self) -> str:
        return f"OpenAIEndpoint({shown(self._url)!r}, {self.limits.describe()})"

    async def open(self) -> None:
        """Make a session on the running loop, unless there is one."""
        self._http.open()

    async def close(self) -> None:
        """Close the session and its connections."""
        await self._http.close()

    async def probe(self) -> Health:
        """List the models: says whether the server is there, lets us in, and what it serves."""
        try:
            answer = await self._http.control("GET", self._url / "models")
        except EXCHANGE_ERRORS as error:
            return Health(ok=False, failure=self._http.failure_from(error))
        status = answer.status
        if status in (401, 403):
            return Health(ok=False, failure=self._explain_auth(self._failure_of(answer)))
        if status in (429, 503) or (status >= 500 and self._discover):
            return Health(ok=False, failure=self._failure_of(answer))
        listed = _listed(answer.raw) if status == 200 else None
        if not self._discover:
            return self._check_models(listed)
        if not listed:
            message = (
                f"{self.name} lists no models at {shown(self._url / 'models')} ({status}); "
                "is the URL right? It usually ends in /v1; or say models= yourself."
            )
            return Health(ok=False, failure=self._http.failure("cold", message, status))
        self._take_in({model: model for model in listed}, listed)
        return Health(ok=True)

    async def gauges(self) -> Gauges | None:
        """What `/metrics` says of the server's queue, as vLLM does; None where it says nothing."""
        try:
            answer = await self._http.control("GET", self._metrics_url)
        except EXCHANGE_ERRORS:
            return None
        return read_gauges(answer.raw) if answer.status == 200 else None

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Ask for each request in turn; the bundle has one unless the caller says otherwise."""
        for position, request in enumerate(requests):
            yield await self._ask(position, request)

    async def _ask(self, position: int, request: Request) -> Reply:
        served = id_of(self.models, request.model)
        if served is None:
            message = f"{self.name} does not serve the model {request.model!r}."
            return Reply(position, failure=self._http.failure("cold", message))
        try:
            answer = await self._http.exchange("POST", self._chat_url, wire_body(request, served))
        except EXCHANGE_ERRORS as error:
            return Reply(position, failure=self._http.failure_from(error))
        if answer.status != 200:
            failure = self._failure_of(answer)
            if failure.kind == "auth":
                failure = self._explain_auth(failure)
            return Reply(position, failure=failure, retry_after=answer.retry_after)
        try:
            body = read_completion(answer.raw)
        except ValueError as error:
            message = f"{self.name} answered {error}."
            return Reply(position, failure=self._http.failure("transient", message, answer.status))
        return Reply(position, body=body, usage=usage_of(request, body))

    def _take_in(self, models: Mapping[str, str], listed: Mapping[str, int | None] | None) -> None:
        """Note what is served, and the context limits where they are listed."""
        limits = {model: (listed or {}).get(served) for model, served in models.items()}
        self.models = models
        self.context_limits = {model: most for model, most in limits.items() if most is not None}

    def _check_models(self, listed: Mapping[str, int | None] | None) -> Health:
        """Compare the models given by the user with those listed, where any are."""
        there = {name: id_ for name, id_ in self._given.items() if listed is None or id_ in listed}
        if there:
            self._take_in(there, listed)
            return Health(ok=True)
        given, found = ", ".join(self._given.values()), ", ".join(listed or ())
        message = f"{self.name} does not serve {given}; it serves {found or 'nothing'}."
        return Health(ok=False, failure=self._http.failure("cold", message))

    def _explain_auth(self, failure: Failure) -> Failure:
        message = (
            f"{failure.message} It was asked with {self._http.credentials.describe()}; "
            f"{self._http.credentials.remedy()}"
        )
        return self._http.failure("auth", message, failure.status)

    def _failure_of(self, answer: Answer) -> Failure:
        failure = failure_of(answer.status, answer.raw, self.name)
        return replace(failure, message=self._http.redact(failure.message))


def _name(url: URL) -> str:
    """Host and port, and the path where it is not the usual one."""
    port = "" if url.is_default_port() else f":{url.port}"
    path = url.path.rstrip("/").removesuffix("/v1")
    return f"{url.host}{port}{path}"


def _listed(raw: bytes) -> dict[str, int | None] | None:
    """Model ids of a `/models` answer, and their context limits; None when it is none.

    vLLM tells the limit as `max_model_len`.
    """
    try:
        data = orjson.loads(raw)["data"]
        return {str(model["id"]): _whole(model.get("max_model_len")) for model in data}
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return None


def _whole(number: object) -> int | None:
    return number if isinstance(number, int) and number > 0 else None
