"""Structured output: what is sent, what is accepted, and what a misfit says."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import date
from typing import Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator

from langgraph_hpc_fanout import Failure
from langgraph_hpc_fanout.tasks.schema import MisfitError, Schema, refuses_schema
from langgraph_hpc_fanout.testing.fleet.schemas import fitting


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Solubility(BaseModel):
    level: Level
    confidence: int = Field(ge=0, le=100)
    measured: date | None = None


DOCUMENT = {
    "title": "Solubility",
    "type": "object",
    "properties": {"level": {"enum": ["low", "high"]}, "confidence": {"type": "integer"}},
    "required": ["level"],
    "additionalProperties": False,
}
GOOD = '{"level": "low", "confidence": 7}'


def test_a_model_is_sent_as_a_json_schema():
    sent = Schema(Solubility).response_format
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"] == "Solubility"
    assert sent["json_schema"]["schema"] == Solubility.model_json_schema()


def test_a_document_is_sent_as_it_is():
    json_schema = {"name": "Solubility", "schema": DOCUMENT}
    assert Schema(DOCUMENT).response_format == {"type": "json_schema", "json_schema": json_schema}


@pytest.mark.parametrize(
    ("title", "name"), [(None, "answer"), ("a b/ü", "a_b__"), ("x" * 99, "x" * 64)]
)
def test_the_name_is_one_that_servers_take(title, name):
    document = {"type": "string"} if title is None else {"type": "string", "title": title}
    assert Schema(document).name == name


def test_values_are_plain_data_and_give_the_model_back():
    schema = Schema(Solubility)
    value = schema.read('{"level": "high", "confidence": 3, "measured": "2026-01-31"}')
    assert value == {"level": "high", "confidence": 3, "measured": "2026-01-31"}
    model = schema.parse(value)
    assert model == Solubility(level=Level.HIGH, confidence=3, measured=date(2026, 1, 31))
    assert schema.parse(None) is None


def test_an_alias_goes_both_ways():
    class Named(BaseModel):
        model_config = ConfigDict(populate_by_name=False)
        log_s: float = Field(alias="logS")

    schema = Schema(Named)
    assert schema.read('{"logS": -2}') == {"logS": -2.0}
    assert schema.parse({"logS": -2.0}).log_s == -2.0


def test_what_else_pydantic_knows():
    @dataclasses.dataclass
    class Point:
        x: int

    assert Schema(Point).parse({"x": 1}) == Point(1)
    assert Schema(Literal["low", "high"]).read('"low"') == "low"
    assert Schema(list[int]).read("[1, 2]") == [1, 2]


def test_a_document_gives_plain_data_back():
    assert Schema(DOCUMENT).parse({"level": "low"}) == {"level": "low"}


@pytest.mark.parametrize("schema", [Solubility, DOCUMENT])
@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"Here it is:\n```JSON\n{GOOD}\n```\nI hope it helps.",
        f"```python\nprint(1)\n```\n```json\n{GOOD}\n```",
    ],
)
def test_json_in_a_fence_is_json(schema, text):
    value = Schema(schema).read(text)
    assert (value["level"], value["confidence"]) == ("low", 7)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Invalid JSON"),
        ("Low, I think.", "Invalid JSON"),
        ('{"level": "low"', "Invalid JSON"),
        ("[]", "."),
        ("null", "."),
        ('{"confidence": 7}', "level"),
        ('{"level": "medium", "confidence": 7}', "level: "),
        ('```json\n{"level": "medium", "confidence": 7}\n```', "level: "),
        ('{"level": "low", "confidence": "many"}', "confidence: "),
    ],
)
@pytest.mark.parametrize("schema", [Solubility, DOCUMENT])
def test_a_misfit_says_where(schema, text, why):
    with pytest.raises(MisfitError, match=why) as caught:
        Schema(schema).read(text)
    assert len(str(caught.value)) < 600


def test_extra_keys():
    extra = '{"level": "low", "confidence": 1, "why": "it is"}'
    assert "why" not in Schema(Solubility).read(extra)
    with pytest.raises(MisfitError, match=r"'why' was unexpected"):
        Schema(DOCUMENT).read(extra)

    class Strict(Solubility):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(MisfitError, match=r"why: Extra inputs are not permitted"):
        Schema(Strict).read(extra)


def test_many_errors_are_told_in_part():
    with pytest.raises(MisfitError, match=r"\(and 15 more\)$"):
        Schema(list[int]).read(json.dumps(["x"] * 20))


@pytest.mark.parametrize(
    "given", [3, "Solubility", object(), lambda item: item, Solubility.model_json_schema]
)
def test_what_is_no_schema(given):
    with pytest.raises(TypeError, match="takes a pydantic model or a JSON schema"):
        Schema(given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"level": {"type": "string"}}, "fields belong under"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, r"put it under \$defs"),
    ],
)
def test_a_document_that_is_no_json_schema(given, why):
    with pytest.raises(ValueError, match=rf"schema=\.\.\.\) is no JSON schema: .*{why}"):
        Schema(given)


@pytest.mark.parametrize(
    ("status", "message", "refused"),
    [
        # llama.cpp (xllamacpp 2026.10), as it answered
        (400, "Automatic parser generation failed: JSON schema error at #: unsupported $ref", True),
        (400, "Failed to initialize samplers: failed to parse grammar", True),
        # vLLM, v1/structured_output
        (400, "The provided JSON schema contains features not supported by xgrammar.", True),
        # OpenAI
        (400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported", True),
        (400, "max_tokens must be at least 1, got 0.", False),
        (None, "Connection reset: failed to parse grammar", False),
        (400, "The prompt 'Write about grammar' is too long", False),
        (429, "response_format", False),
    ],
)
def test_who_refuses_a_schema(status, message, refused):
    assert refuses_schema(Failure("permanent", message, status)) is refused


LEAVES = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "number", "minimum": 0},
        {"type": "string"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None]},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.dictionaries(st.sampled_from("abc"), inner).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=6,
)


@repeatable
@given(SCHEMAS, st.booleans())
def test_what_fits_comes_back_as_it_is(document, fenced):
    value = fitting(document, "Is C20 soluble?")
    text = json.dumps(value)
    assert jsonschema_rs.is_valid(document, value)
    assert Schema(document).read(f"```json\n{text}\n```" if fenced else text) == value


class Odd(BaseModel):
    """A model whose validators do what validators should not."""

    x: int | float

    @field_validator("x")
    @classmethod
    def a_percentage(cls, x):
        return {1: "one"}[x] if x == 2 else x / 100


class Renamed(BaseModel):
    x: int = Field(validation_alias="read", serialization_alias="written")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int = 3

    @computed_field
    @property
    def y(self) -> int:
        return 2 * self.x


class Hidden(BaseModel):
    x: int
    secret: int = Field(exclude=True)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Odd, '{"x": 50}'),
        (Renamed, '{"read": 3}'),
        (Computed, '{"x": 4}'),
        (Hidden, '{"x": 1, "secret": 2}'),
    ],
)
def test_parse_gives_what_was_validated(model, text):
    schema = Schema(model)
    assert schema.parse(schema.read(text)) == model.model_validate_json(text)


def test_what_was_kept_has_the_defaults():
    class Defaults(BaseModel):
        x: int = 3

    assert Schema(Defaults).read("{}") == {"x": 3}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Odd, '{"x": 2}'),
        (Odd, '{"x": NaN}'),
        (dict[str, int], '{"x": 123456789012345678901234567890}'),
        (dict[str, float], '{"x": NaN}'),
        ({"type": "object"}, '{"a":' * 300 + "1" + "}" * 300),
    ],
)
def test_what_cannot_be_kept_is_a_misfit(model, text):
    with pytest.raises(MisfitError):
        Schema(model).read(text)


def test_whether_a_kept_value_fits():
    assert Schema(DOCUMENT).fits({"level": "low"})
    assert not Schema(DOCUMENT).fits({"level": "medium"})
    assert not Schema(Solubility).fits("low")
