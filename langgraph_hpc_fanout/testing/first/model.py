"""What a model answers: made of nothing but the request, so that every answer can be checked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.first.checks import prompt_of
from langgraph_hpc_fanout.testing.first.spec import CHAT, EMBEDDINGS, AnswerRule
from langgraph_hpc_fanout.testing.fleet import answers

Json = dict[str, Any]

_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend answered.

    Attributes:
        status: HTTP status of the backend.
        body: Its JSON when it is well, else its bytes.
    """

    status: int
    body: Json | bytes

    @property
    def tokens(self) -> int:
        """Tokens that it counts as; none for an error."""
        if isinstance(self.body, bytes):
            return 0
        usage = self.body.get("usage") or {}
        return int(usage.get("total_tokens") or 0)


def respond(route: str, body: Mapping[str, Any], rule: AnswerRule | None, context: int) -> Answer:
    """The answer to a request.

    Args:
        route: The OpenAI endpoint.
        body: The request's JSON.
        rule: A text or a function of the body; None for an echo of the prompt.
        context: The model's context window, in tokens.
    """
    limit = answers.token_limit(body)
    if limit is not None and limit < 1:
        return _bad_request(f"max_tokens must be at least 1, got {limit}.")
    prompt = prompt_of(route, body)
    if route == EMBEDDINGS:
        return Answer(200, _embeddings(body))
    chat = body if route == CHAT else {**body, "messages": [{"role": "user", "content": prompt}]}
    try:
        said = _apply(rule, chat, prompt)
    except Exception as error:  # noqa: BLE001 - the rule is the test's own code
        return _error(500, "InternalServerError", f"The answer rule raised {error!r}.")
    answer = answers.completion(chat, said)
    read = answer["usage"]["prompt_tokens"]
    if read + (limit or 0) > context:
        return _bad_request(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{read + (limit or 0)} tokens. Please reduce the length of the input messages."
        )
    return Answer(200, answer if route == CHAT else _as_text(answer))


def _apply(
    rule: AnswerRule | None, body: Mapping[str, Any], prompt: str
) -> str | Mapping[str, Any]:
    if rule is None:
        return answers.echo(prompt)
    return rule if isinstance(rule, str) else rule(body)


def _as_text(answer: Json) -> Json:
    """A chat completion as a text completion."""
    choice = answer["choices"][0]
    text = answers.text_of(choice["message"].get("content"))
    return {
        **answer,
        "object": "text_completion",
        "choices": [
            {"index": 0, "text": text, "logprobs": None, "finish_reason": choice["finish_reason"]}
        ],
    }


def _embeddings(body: Mapping[str, Any]) -> Json:
    """One vector of eight numbers in [-1, 1) for each text."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    read = answers.token_count(sum(len(str(text)) for text in texts))
    return {
        "id": f"embd-{time.perf_counter_ns():x}",
        "object": "list",
        "created": int(time.time()),
        "model": body["model"],
        "data": [
            {"index": index, "object": "embedding", "embedding": embedding(str(text))}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0},
    }


def embedding(text: str) -> list[float]:
    """The vector of a text, by which tests know it again."""
    digest = hashlib.blake2b(text.encode(), digest_size=_DIMENSIONS).digest()
    return [byte / 128.0 - 1.0 for byte in digest]


def _bad_request(message: str) -> Answer:
    return _error(400, "BadRequestError", message)


def _error(status: int, kind: str, message: str) -> Answer:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Answer(status, orjson.dumps({"error": error}))
