"""What the context of an invocation overrides: model, max_tokens, temperature, concurrency.

The context's schema is the user's (`StateGraph(State, context_schema=...)`), and so are its other
fields; those of these names, where they are not None, hold for every fan-out of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from langgraph_hpc_fanout.records import FanOutError


class Overrides(BaseModel):
    """Settings of one invocation; None leaves a setting as it is."""

    model: str | None = Field(None, min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    concurrency: int | None = Field(None, ge=1)


def overrides_in(context: Any, node: str) -> dict[str, Any]:
    """The overrides that a context holds.

    Args:
        context: A mapping, a dataclass, a pydantic model, or None.
        node: Whose overrides they are, for messages.

    Raises:
        FanOutError: If one has a value that it cannot have.
    """
    if context is None:
        return {}
    fields = context if isinstance(context, Mapping) else _attributes(context)
    try:
        return Overrides.model_validate(dict(fields)).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise FanOutError(
            f"{node}: the context's {field}={first['input']!r} cannot be used: {first['msg']}; "
            "nothing was sent."
        ) from None


def _attributes(context: Any) -> dict[str, Any]:
    """The same of an object; pydantic's `from_attributes` refuses classes made by `exec`."""
    return {name: getattr(context, name, None) for name in Overrides.model_fields}
