"""Keys: equal for what is equal, whatever it is."""

from __future__ import annotations

import json
import math
from datetime import date

import numpy
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


def test_what_differs_has_other_keys():
    items = [None, math.nan, math.inf, -math.inf, 2**70, 2**71, "\ud800", {1: "a"}, {2: "a"}]
    items += [date(2026, 1, 1), numpy.arange(5000), numpy.float64(0.5)]
    assert len({item_key(item) for item in items}) == len(items)
    other = numpy.arange(5000)
    other[2500] = 7
    assert item_key(other) != item_key(numpy.arange(5000)), "although their repr is the same"


@pytest.mark.parametrize("item", [{1, 2}, object(), {"a": lambda: 0}, {1: "a", "b": 2}])
def test_what_would_not_be_known_again_has_no_key(item):
    with pytest.raises(TypeError):
        item_key(item)


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
