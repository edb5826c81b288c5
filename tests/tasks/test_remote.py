import datetime

import pytest

from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.tasks.remote import RemoteFunction


def test_what_is_sent_for_an_item():
    task = RemoteFunction("package.module:function")
    request = task.request({"smiles": "CCO"}, {"unit": "g/l"})
    assert request.function == "package.module:function"
    assert request.model == FUNCTIONS
    assert request.body == {"item": {"unit": "g/l", "smiles": "CCO"}}
    assert task.request(3).body == {"item": 3}


def test_the_key_is_of_the_item_the_function_and_its_version():
    keys = {
        RemoteFunction(name, version).request(item, shared).key
        for name in ("a:f", "a:g")
        for version in (None, "2")
        for item in (1, "1")
        for shared in ({}, {"unit": "g"})
    }
    assert len(keys) == 16
    assert RemoteFunction("a:f").request(1).key == RemoteFunction("a:f").request(1).key


def test_an_item_travels_as_plain_data():
    day = datetime.date(2026, 11, 22)
    assert RemoteFunction("a:f").request({"day": day}).body == {"item": {"day": "2026-11-22"}}
    with pytest.raises(TypeError):
        RemoteFunction("a:f").request({"it": object()})


def test_what_it_returned_is_the_value():
    answer = RemoteFunction("a:f").read({"value": [1, {"b": None}]})
    assert (answer.value, answer.fault, answer.misfit) == ([1, {"b": None}], None, None)


@pytest.mark.parametrize("name", ["", "function", "a.b", "a:", ":f", "a b:f", "a:f:g", "Is {x}?"])
def test_what_names_no_function(name):
    with pytest.raises(ValueError, match="A question to a model is a Prompt"):
        RemoteFunction(name)
