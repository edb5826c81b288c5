"""The task of items that are requests already, such as the lines of an OpenAI batch file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langgraph_hpc_fanout.endpoints.chat import estimate_tokens, text_of
from langgraph_hpc_fanout.records import NOTHING, Request
from langgraph_hpc_fanout.tasks.keys import content_key
from langgraph_hpc_fanout.tasks.prompt import Prompt

_SET_BY_US = ("model", "stream", "stream_options")


class ReadyRequest(Prompt):
    """Sends each item's `body` as it is, to the model that the prompt names, or the body.

    Parameters that a sweep or a context gives take the place of the body's own.

    Args:
        model: Logical model name; by default that of each body, which must then be one for all.
    """

    def __init__(self, model: str | None = None) -> None:
        super().__init__("{body}", model=model)
        self._of_bodies: str | None = None

    def __repr__(self) -> str:
        return "ReadyRequest()"

    def describe(self) -> str:
        """The task in a line."""
        return "requests as the items hold them"

    def for_items(self, items: Iterable[Any]) -> ReadyRequest:
        """The same, for the model that the first of these items names."""
        named = (_model_of(item) for item in items)
        first = next((model for model in named if model), None)
        if self.model is not None or first is None:
            return self
        found = self.adapted(model=first)
        found._of_bodies = first  # noqa: SLF001
        return found

    def request(
        self,
        item: Any,
        shared: Mapping[str, Any] = NOTHING,
        *,
        model: str | None = None,
        sample: int = 0,
    ) -> Request:
        """What is sent for an item.

        Raises:
            LookupError: If its body has no messages, or names another model than the others.
        """
        body = item["body"]
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise LookupError("its body has no messages; only chat completions can be asked")
        asked = self.model or model
        named = body.get("model")
        if named and self._of_bodies is not None and named != self._of_bodies:
            raise LookupError(
                f"its body names the model {named!r}, that of the first {self._of_bodies!r}"
            )
        sent = {name: value for name, value in body.items() if name not in _SET_BY_US}
        sent.update(self._parameters)
        if sample and isinstance(sent.get("seed"), int):
            sent["seed"] += sample
        key = content_key({"model": asked, "body": sent, "sample": sample})
        tokens = sum(estimate_tokens(text_of(message)) for message in messages)
        most = sent.get("max_tokens") or sent.get("max_completion_tokens")
        return Request(key, asked, sent, tokens, most)


def _model_of(item: Any) -> str | None:
    body = item.get("body") if isinstance(item, Mapping) else None
    model = body.get("model") if isinstance(body, Mapping) else None
    return model if isinstance(model, str) else None
