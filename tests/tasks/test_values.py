"""What a task returned, as JSON data."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date

import numpy
import pytest
from hypothesis import given
from langchain_core.documents import Document
from langchain_core.load import load
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from properties import jsons, repeatable
from pydantic import BaseModel

from langgraph_hpc_fanout.tasks.values import to_json


class Inner(BaseModel):
    when: date


class Outer(BaseModel):
    inner: Inner


@dataclasses.dataclass
class Point:
    x: int


class Level(enum.Enum):
    LOW = "low"


@repeatable
@given(jsons)
def test_json_is_itself(value):
    assert to_json(value) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Outer(inner=Inner(when=date(2026, 1, 31))), {"inner": {"when": "2026-01-31"}}),
        ([Point(1)], [{"x": 1}]),
        ((1, 2), [1, 2]),
        ({"level": Level.LOW}, {"level": "low"}),
        (date(2026, 1, 31), "2026-01-31"),
        (numpy.float64(0.5), 0.5),
        ({"a": numpy.arange(3)}, {"a": [0, 1, 2]}),
        ({"a": None}, {"a": None}),
    ],
)
def test_what_has_a_plain_form(value, plain):
    assert to_json(value) == plain


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_messages_come_back_through_langchain():
    call = {"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call"}
    messages = [
        HumanMessage("Is it soluble?"),
        AIMessage("", tool_calls=[call], usage_metadata=None),
        ToolMessage("yes", tool_call_id="1"),
    ]
    plain = to_json({"messages": messages})
    assert [load(each, allowed_objects="messages") for each in plain["messages"]] == messages


def test_a_document_is_its_fields():
    assert to_json(Document("text", metadata={"a": 1}))["page_content"] == "text"


@pytest.mark.parametrize("value", [{1, 2}, object(), {"a": [lambda: 0]}, b"x", {1: "x"}, 2**70])
def test_what_has_none_says_so(value):
    with pytest.raises(TypeError, match=r"(JSON|Dict key|Integer)"):
        to_json(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), {"a": [float("inf")]}, numpy.float32("nan"), [numpy.array([0, numpy.nan])]],
)
def test_numbers_that_are_not_finite_do_not_become_none(value):
    with pytest.raises(TypeError, match=r"(nan|inf) is no JSON data"):
        to_json(value)


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_a_message_with_a_model_in_it_can_be_loaded():
    message = AIMessage("{}", additional_kwargs={"parsed": Inner(when=date(2026, 1, 31))})
    again = load(to_json(message), allowed_objects="messages")
    assert again.additional_kwargs == {"parsed": {"when": "2026-01-31"}}
