"""What the context of an invocation overrides: model, max_tokens, temperature, concurrency.

The context's schema is the user's (`StateGraph(State, context_schema=...)`), and so are its other
fields; those of these names, where they are not None, hold for every fan-out of the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from langgraph_hpc_fanout.records import FanOutError

_SHOWN = (str, int, float, bool)


class Overrides(BaseModel):
    """Settings of one invocation; None leaves a setting as it is."""

    model: str | None = Field(None, min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    concurrency: int | None = Field(None, ge=1)


def overrides_in(context: Any, node: str, names: Collection[str]) -> dict[str, Any]:
    """The overrides that a context holds.

    Args:
        context: A mapping, a dataclass, a pydantic model, or None.
        node: Whose overrides they are, for messages.
        names: Which settings the node has; fields for the others are left alone.

    Raises:
        FanOutError: If one has a value that it cannot have.
    """
    if context is None:
        return {}
    given = {name: _field(context, name) for name in names}
    try:
        return Overrides.model_validate(given).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, value = first["loc"][0], first["input"]
        shown = repr(value) if isinstance(value, _SHOWN) else f"a {type(value).__name__}"
        raise FanOutError(
            f"{node}: the context's {field}={shown} cannot be used: {first['msg']}; "
            "nothing was sent."
        ) from None


def _field(context: Any, name: str) -> Any:
    """A field of it; pydantic's `from_attributes` refuses classes made by `exec`."""
    return context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
