"""Values that fit a schema: they validate, and they are of the text where they can be."""

from __future__ import annotations

import jsonschema_rs
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langgraph_hpc_fanout.testing.fleet.schemas import fitting, quoted

NAMES = st.sampled_from(["smiles", "mass", "soluble", "why"])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=80),
    st.sampled_from(["", "What is magic_function(3)?", "Between -7 and 2.5, 'CCO' or \"red\"."]),
)


@st.composite
def numbers(draw):
    kind = draw(st.sampled_from(["integer", "number"]))
    low, width = draw(st.integers(-1000, 1000)), draw(st.integers(2, 50))
    lower = draw(st.sampled_from([{}, {"minimum": low}, {"exclusiveMinimum": low}]))
    high = low + width
    upper = draw(st.sampled_from([{}, {"maximum": high}, {"exclusiveMaximum": high}]))
    return {"type": kind, **lower, **upper}


@st.composite
def fractions(draw):
    low = draw(st.floats(-1e6, 1e6))
    return {
        "type": "number",
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + draw(st.floats(0.01, 1e3)),
    }


@st.composite
def strings(draw):
    least = draw(st.integers(0, 90))
    bounds = [{}, {"minLength": least}, {"maxLength": least}]
    bounds.append({"minLength": least, "maxLength": least + draw(st.integers(0, 3))})
    return {"type": "string", **draw(st.sampled_from(bounds))}


MEMBERS = st.lists(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), NAMES), min_size=1, max_size=4
)
LEAVES = st.one_of(
    numbers(),
    fractions(),
    strings(),
    st.sampled_from([{}, {"type": "boolean"}, {"type": "null"}, {"type": ["null", "string"]}]),
    MEMBERS.map(lambda members: {"enum": members}),
    NAMES.map(lambda name: {"const": name}),
)


def nested(schemas):
    """Schemas around schemas."""
    properties = st.dictionaries(NAMES, schemas, max_size=3)
    objects = properties.flatmap(
        lambda found: st.builds(
            lambda required: {
                "type": "object",
                "properties": found,
                "required": required,
                "additionalProperties": False,
            },
            st.lists(st.sampled_from(sorted(found)), unique=True) if found else st.just([]),
        )
    )
    sizes = st.sampled_from([{}, {"minItems": 2}, {"maxItems": 0}, {"minItems": 3, "maxItems": 3}])
    arrays = st.builds(
        lambda items, size: {"type": "array", "items": items, **size}, schemas, sizes
    )
    tuples = st.lists(schemas, min_size=1, max_size=3).map(
        lambda first: {
            "type": "array",
            "prefixItems": first,
            "minItems": len(first),
            "maxItems": len(first),
        }
    )
    choices = st.lists(schemas, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return st.one_of(objects, arrays, tuples, choices)


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=8)


def validated(schema, text="What is 3 + 4?"):
    value = fitting(schema, text)
    assert jsonschema_rs.is_valid(schema, value), (schema, value)
    return orjson.loads(orjson.dumps(value))


@given(SCHEMAS, TEXTS)
@example({"type": "integer", "exclusiveMinimum": 2.5, "exclusiveMaximum": 3.5}, "2.5")
@example({"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3.5}, "3")
def test_what_is_made_validates(schema, text):
    assert validated(schema, text) == fitting(schema, text)


TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "left": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["name", "left", "children"],
        }
    },
    "$ref": "#/$defs/Node",
}


def test_a_recursive_schema_ends():
    assert validated(TREE, "root") == {"name": "root", "left": None, "children": []}


def test_a_reference_may_have_siblings_and_odd_names():
    schema = {
        "definitions": {"a/b~c": {"enum": ["x", "y"]}},
        "type": "object",
        "properties": {"v": {"$ref": "#/definitions/a~1b~0c", "description": "a letter"}},
        "required": ["v"],
    }
    assert validated(schema, "say Y") == {"v": "y"}


def test_one_of_takes_the_first_that_can_be():
    circle = {"properties": {"kind": {"const": "circle"}}, "required": ["kind"], "type": "object"}
    impossible = {"type": "integer", "minimum": 2, "maximum": 1}
    assert validated({"oneOf": [impossible, circle]}) == {"kind": "circle"}
    assert validated({"type": "array", "items": impossible}) == []


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "magic_function(3) and 4", 3),
        ({"type": "integer"}, "2.5 or 7", 7),
        ({"type": "number"}, "2.5 or 7", 2.5),
        ({"type": "integer"}, "minus -12", -12),
        ({"type": "integer"}, "v2 of GPT-4", 4),
        ({"type": "integer", "minimum": 5}, "3 or 8", 8),
        ({"type": "integer", "exclusiveMinimum": 5}, "3", 6),
        ({"type": "integer"}, "none", 0),
        ({"type": "string"}, "  What is\nthe weather? ", "What is the weather?"),
        ({"type": "string"}, "a customer named '你好啊集团', it's new", "你好啊集团"),
        ({"type": "string"}, "", "text"),
        ({"type": "string"}, "x" * 99, "x" * 40),
        ({"type": "string", "minLength": 5}, "ab", "ababa"),
        ({"enum": ["red", "blue"]}, "a Blue sky", "blue"),
        ({"enum": ["red", "blue"]}, "a bluebird", "red"),
        ({"properties": {"a": {"type": "string"}}}, "optional ones are left out", {}),
    ],
)
def test_values_are_of_the_text(schema, text, value):
    assert validated(schema, text) == value


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "minimum": 2, "maximum": 1}, "No number fits"),
        ({"type": "array", "minItems": 1, "items": {"type": "date"}}, "no type 'date'"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "holds itself"),
        ({"anyOf": [{"type": "a"}, {"type": "b"}]}, "no type 'a'.* no type 'b'"),
    ],
)
def test_what_nothing_fits_is_an_error(schema, says):
    with pytest.raises(ValueError, match=says):
        fitting(schema, "3")


def test_quotations_are_not_apostrophes():
    assert quoted("It's 'one', \"two\" and Joe's 'three four'.") == ["one", "two", "three four"]
