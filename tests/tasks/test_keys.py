"""Keys: equal for what is equal, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from properties import alike, repeatable, turned
from pydantic import BaseModel

from langgraph_hpc_fanout.tasks.keys import content_key, item_key


@repeatable
@given(alike, alike)
def test_items_have_one_key_exactly_when_they_are_one(a, b):
    assert item_key(a) == item_key(turned(a))
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (item_key(a) == item_key(b)) == same


def test_items_that_are_no_json_have_keys_too():
    assert item_key({1, 2}) == item_key({1, 2}) != item_key({1, 3})
    assert item_key({1: "a"}) != item_key({2: "a"})
    assert len(item_key(None)) == 32


@repeatable
@given(alike, alike)
def test_contents_have_one_key_exactly_when_they_are_one(a, b):
    assert content_key(a) == content_key(turned(a))
    assert (content_key(a) == content_key(b)) == (item_key(a) == item_key(b))


def test_a_model_has_the_key_of_its_fields():
    class Molecule(BaseModel):
        smiles: str

    assert item_key(Molecule(smiles="C")) == item_key({"smiles": "C"})


def test_a_content_must_be_data():
    with pytest.raises(TypeError):
        content_key({"a": {1}})
