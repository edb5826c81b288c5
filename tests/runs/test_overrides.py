"""What a context overrides, whatever it is an instance of."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from langgraph_hpc_fanout import FanOutError
from langgraph_hpc_fanout.runs.overrides import overrides_in

NAMES = ("model", "max_tokens", "temperature", "concurrency")


@dataclass
class Settings:
    temperature: float | None = 0.5
    max_tokens: int | None = None
    project: str = "screening"


class Model(BaseModel):
    temperature: float | None = 0.5
    max_tokens: int | None = None
    project: str = "screening"


def made_by_exec():
    """Of a class whose module seems to be `builtins`."""
    scope = {}
    exec("class Context:\n    temperature = 0.5\n    max_tokens = None", scope)
    return scope["Context"]()


@pytest.mark.parametrize(
    "context",
    [
        {"temperature": 0.5, "max_tokens": None, "project": "screening"},
        Settings(),
        Model(),
        SimpleNamespace(temperature=0.5),
        made_by_exec(),
    ],
    ids=lambda context: type(context).__name__,
)
def test_fields_of_our_names_count_where_they_are_not_none(context):
    assert overrides_in(context, "screen", NAMES) == {"temperature": 0.5}


def test_no_context_overrides_nothing():
    assert overrides_in(None, "screen", NAMES) == {}


@pytest.mark.parametrize(
    "context", [{"concurrency": 0}, {"max_tokens": 0}, {"temperature": -1}, {"model": ""}], ids=str
)
def test_a_value_that_cannot_be_is_told(context):
    (field,) = context
    with pytest.raises(FanOutError, match=f"screen: the context's {field}=.*; nothing was sent"):
        overrides_in(context, "screen", NAMES)


def test_what_a_node_does_not_have_is_left_alone():
    odd = {"model": object(), "concurrency": 3}
    assert overrides_in(odd, "screen", ("concurrency",)) == {"concurrency": 3}
    with pytest.raises(FanOutError, match="context's model=a object cannot be used"):
        overrides_in(odd, "screen", NAMES)
