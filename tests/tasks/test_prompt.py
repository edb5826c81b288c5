"""Prompts: what is sent for an item, and the key by which its answer is found again."""

from __future__ import annotations

import dataclasses
import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.prompts import ChatPromptTemplate
from properties import alike, jsons, repeatable, texts, turned
from pydantic import BaseModel

from langgraph_hpc_fanout import Prompt
from langgraph_hpc_fanout.tasks.prompt import MissingFieldError


def key(item=None, shared=None, *args, model=None, **options):
    prompt = Prompt(*(args or ("{item}",)), **options)
    return prompt.request("x" if item is None else item, shared or {}, model=model).key


# -- the request ------------------------------------------------------------------------------


def test_the_request_of_an_item():
    prompt = Prompt(
        "Is {smiles} soluble?",
        system="Say yes or no.",
        model="tiny",
        max_tokens=8,
        temperature=0,
        seed=7,
        stop="\n",
        extra_body={"top_k": 20},
    )
    request = prompt.request({"smiles": "CCO"})
    assert request.model == "tiny"
    assert request.body == {
        "messages": [
            {"role": "system", "content": "Say yes or no."},
            {"role": "user", "content": "Is CCO soluble?"},
        ],
        "max_tokens": 8,
        "temperature": 0,
        "seed": 7,
        "stop": ["\n"],
        "top_k": 20,
    }
    assert request.max_tokens == 8
    assert request.prompt_tokens == math.ceil(14 / 4) + math.ceil(15 / 4)


def test_only_what_was_set_is_sent():
    request = Prompt("{item}").request("CCO")
    assert request.body == {"messages": [{"role": "user", "content": "CCO"}]}
    assert (request.model, request.max_tokens, request.prompt_tokens) == (None, None, 1)


def test_stops_may_be_several():
    assert Prompt("x", stop=iter(["a", "b"])).request({}).body["stop"] == ["a", "b"]


def test_the_pools_model_is_asked_where_the_prompt_names_none():
    assert Prompt("x").request({}, model="pools").model == "pools"
    assert Prompt("x", model="mine").request({}, model="pools").model == "mine"


def test_a_missing_field():
    with pytest.raises(MissingFieldError, match="'smiles'"):
        Prompt("{smiles}").request({"name": "ethanol"})
    assert Prompt("{smiles} {q}").missing_fields([{"name": "ethanol"}], {"q": "?"}) == ["smiles"]


def test_requests_share_nothing_that_may_change():
    prompt = Prompt("{item}", max_tokens=3, stop=["a"])
    first = prompt.request("x")
    first.body["messages"].clear()
    first.body["max_tokens"] = 1000
    assert prompt.request("x").body["messages"] == [{"role": "user", "content": "x"}]
    assert prompt.request("x").body["max_tokens"] == 3


def test_a_body_given_by_the_user_may_change_afterwards():
    extra = {"top_k": 20}
    prompt = Prompt("x", extra_body=extra)
    extra["top_k"] = 1
    assert prompt.request({}).body["top_k"] == 20


def test_an_answer_is_read_as_the_prompt_wants_it():
    cut = {"choices": [{"message": {"content": "Ye"}, "finish_reason": "length"}]}
    assert Prompt("x").read(cut).fault is not None
    assert Prompt("x", allow_truncated=True).read(cut).fault is None


# -- nonsense ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_max_tokens_leave_room(max_tokens):
    with pytest.raises(ValueError, match=rf"Prompt\(max_tokens={max_tokens}\) leaves no room"):
        Prompt("x", max_tokens=max_tokens)


@pytest.mark.parametrize("name", ["messages", "model", "stream", "n"])
def test_the_extra_body_may_not_set_what_is_ours(name):
    with pytest.raises(ValueError, match=rf"parameters may not set {name}: "):
        Prompt("x", extra_body={"top_k": 1, name: 1})


@pytest.mark.parametrize("value", [object(), {1, 2}, {3: "key"}, 1j, 2**70])
def test_the_extra_body_is_json(value):
    with pytest.raises(ValueError, match=r"parameters cannot be sent as JSON"):
        Prompt("x", extra_body={"odd": value})


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "seed", "stop"])
def test_a_parameter_given_twice_is_refused(name):
    with pytest.raises(ValueError, match=name):
        Prompt("x", **{name: 1 if name != "stop" else "a"}, extra_body={name: 2})


# -- keys -------------------------------------------------------------------------------------


bodies = st.dictionaries(texts.map("x_".__add__), jsons, max_size=4)


@repeatable
@given(bodies, st.dictionaries(st.sampled_from("abc"), texts, min_size=3, max_size=3))
def test_the_order_of_fields_does_not_matter(body, item):
    def asked(body, item):
        return Prompt("{a} {b} {c}", extra_body=body).request(item).key

    assert asked(body, item) == asked(turned(body), turned(item))


# Values that some language or other takes for one another.
@repeatable
@given(*[st.dictionaries(st.sampled_from(["x", "y"]), alike, max_size=2)] * 2)
def test_bodies_have_one_key_exactly_when_they_are_one(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (key(extra_body=a) == key(extra_body=b)) == same


@repeatable
@given(st.lists(texts, unique=True, min_size=2, max_size=10))
def test_different_items_have_different_keys(items):
    assert len({key(item) for item in items}) == len(items)


def test_whatever_changes_what_is_asked_changes_the_key():
    keys = [
        key(),
        key("y"),
        key(model="a"),
        key(model="b"),
        key(system="x"),
        key("", None, "x{item}", system=""),
        key(max_tokens=1),
        key(max_tokens=2),
        key(temperature=0.0),
        key(temperature=1.0),
        key(seed=1),
        key(stop="1"),
        key(stop=["1", "2"]),
        key(stop=["2", "1"]),
        key(extra_body={"top_k": 1}),
        key(extra_body={"top_k": "1"}),
    ]
    assert len(set(keys)) == len(keys)


def test_whatever_does_not_keeps_it():
    @dataclasses.dataclass
    class Molecule:
        smiles: str

    class Model(BaseModel):
        smiles: str

    chat = ChatPromptTemplate.from_messages([("human", "{smiles}")])
    keys = {
        key({"smiles": "CCO"}, {}, "{smiles}"),
        key({"smiles": "CCO", "name": "ethanol"}, {"question": "?"}, "{smiles}"),
        key({}, {"smiles": "CCO"}, "{smiles}"),
        key(Molecule("CCO"), {}, "{smiles}"),
        key(Model(smiles="CCO"), {}, "{smiles}"),
        key({"smiles": "CCO"}, {}, chat),
        key("CCO"),
        key("CC", {}, "{item}O"),
        key("CCO", allow_truncated=True),
    }
    assert len(keys) == 1


def test_the_key_is_of_the_logical_model_wherever_it_is_named():
    assert key(model="a") == Prompt("{item}", model="a").request("x").key
    assert Prompt("{item}", model="a").request("x", model="b").key == key(model="a")


def test_keys_stay_the_same_from_version_to_version():
    # A journal of an earlier version must be found again: change this only with a migration.
    request = Prompt("Is {smiles} soluble?", model="m", max_tokens=8, temperature=0.0).request(
        {"smiles": "CCO"}
    )
    assert request.key == "abac867cd3d70ec74142c25e1df1db21"


# -- in words ---------------------------------------------------------------------------------


def test_a_prompt_in_words():
    assert repr(Prompt("Is {a} it?", model="m")) == "Prompt('Is {a} it?', model='m')"
    assert repr(Prompt("Is {a} it?")) == "Prompt('Is {a} it?')"
    assert Prompt("Is\n   {a}\tit?").describe() == "Is {a} it?"


@pytest.mark.parametrize(("length", "shown"), [(80, 80), (81, 80), (500, 80)])
def test_a_long_prompt_is_described_by_its_beginning(length, shown):
    described = Prompt("x" * length).describe()
    assert len(described) == shown
    assert described.endswith("…") == (length > 80)


def test_a_langchain_prompt_is_described_in_a_line():
    chat = ChatPromptTemplate.from_messages([("system", "a\nb"), ("human", "{smiles}")])
    described = Prompt(chat).describe()
    assert "\n" not in described
    assert len(described) <= 80
    assert orjson.loads(orjson.dumps(described)) == described
