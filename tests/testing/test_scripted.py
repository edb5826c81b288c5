"""`scripted`: a fake endpoint that does what the request asks for, and stops where it says."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from pydantic import BaseModel

from langgraph_hpc_fanout import testing
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing.fleet import echo, scripted
from langgraph_hpc_fanout.testing.fleet.answers import completion


def tool(name, description="", required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


MAGIC = tool("magic", "Applies it.", ["input"], input={"type": "integer", "exclusiveMaximum": 9})
WEATHER = tool(
    "get_weather", "The forecast.", ["where"], where={"type": "string", "description": "A city."}
)
TOOLS = [MAGIC, WEATHER]


def user(text):
    return {"role": "user", "content": text}


def chat(*messages, **more):
    return {"model": "tiny", "messages": list(messages), **more}


def called(body):
    """Name and arguments of the one call in the answer."""
    answer = scripted(body)
    assert isinstance(answer, dict), answer
    assert answer["content"] is None
    (call,) = answer["tool_calls"]
    assert call["type"] == "function"
    assert len(call["id"].removeprefix("call_")) == 24
    return call["function"]["name"], json.loads(call["function"]["arguments"])


# -- tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("What is magic(3)?", ("magic", {"input": 3})),
        ("Call get_weather", ("get_weather", {"where": "Call get_weather"})),
        ("How is the weather in Rome?", ("get_weather", {"where": "How is the weather in Rome?"})),
        ("Any forecast for 'Rome'?", ("get_weather", {"where": "Rome"})),
        ("In which city?", ("get_weather", {"where": "In which city?"})),
    ],
)
def test_a_tool_is_called_that_the_user_means(text, call):
    assert called(chat(user(text), tools=TOOLS)) == call
    parts = [{"type": "text", "text": text}]
    assert called(chat(user(parts), tools=TOOLS, tool_choice="auto")) == call


def test_no_tool_is_called_when_none_is_meant():
    assert scripted(chat(user("Hello!"), tools=TOOLS)) == echo("Hello!")
    assert scripted(chat(user("magic(3)"), tools=TOOLS, tool_choice="none")) == echo("magic(3)")
    assert scripted(chat(user("magic(3)"), tools=[])) == echo("magic(3)")
    assert scripted(chat(tools=TOOLS)) == echo("")
    talk = [user("magic(3)"), {"role": "assistant", "content": "No."}]
    assert scripted(chat(*talk, tools=TOOLS)) == echo("magic(3)")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "magic"),
        ("any", "magic"),
        ({"type": "function", "function": {"name": "get_weather"}}, "get_weather"),
    ],
)
def test_a_forced_tool_is_called(choice, name):
    assert called(chat(user("Hello!"), tools=TOOLS, tool_choice=choice))[0] == name


def test_required_prefers_the_tool_that_is_meant():
    body = chat(user("The weather?"), tools=TOOLS, tool_choice="required")
    assert called(body)[0] == "get_weather"


def test_a_forced_tool_that_is_not_there_is_an_error():
    choice = {"type": "function", "function": {"name": "nothing"}}
    with pytest.raises(ValueError, match="names 'nothing', which is none of the tools"):
        scripted(chat(user("x"), tools=TOOLS, tool_choice=choice))


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
def test_a_tool_without_arguments(parameters):
    plain = {"type": "function", "function": {"name": "now", **parameters}}
    assert called(chat(user("now()?"), tools=[plain])) == ("now", {})


def test_ids_of_calls_differ():
    body = chat(user("magic(3)"), tools=TOOLS)
    assert scripted(body)["tool_calls"][0]["id"] != scripted(body)["tool_calls"][0]["id"]


def test_what_tools_returned_is_told():
    said = scripted(chat(user("magic(3)"), tools=TOOLS))
    results = [
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "5"}]},
    ]
    body = chat(user("magic(3)"), {"role": "assistant", **said}, *results, tools=TOOLS)
    assert scripted(body) == "The tools say: sunny; 5"
    body["messages"].append(user("Hello!"))
    assert scripted(body) == echo("Hello!")


# -- JSON -------------------------------------------------------------------------------------


class Soluble(BaseModel):
    smiles: str
    mass: float
    soluble: bool
    why: str | None


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_a_schema_is_honoured():
    schema = Soluble.model_json_schema()
    text = scripted(chat(user("Is 'CCO' of 46.07 soluble?"), response_format=json_schema(schema)))
    assert jsonschema_rs.is_valid(schema, json.loads(text))
    assert json.loads(text) == {"smiles": "CCO", "mass": 46.07, "soluble": True, "why": "CCO"}


def test_tools_come_before_json_and_json_before_their_results():
    wanted = json_schema(Soluble.model_json_schema())
    body = chat(user("magic(3)"), tools=TOOLS, response_format=wanted)
    assert called(body) == ("magic", {"input": 3})
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "5"})
    assert json.loads(scripted(body))["mass"] == 3


@pytest.mark.parametrize(
    ("text", "keys"),
    [("As JSON with 'setup' and \"punchline\".", {"setup", "punchline"}), ("JSON!", {"answer"})],
)
def test_any_json_has_the_keys_that_the_user_quotes(text, keys):
    answer = json.loads(scripted(chat(user(text), response_format={"type": "json_object"})))
    assert answer.keys() == keys


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
def test_without_a_format_it_echoes(wanted):
    assert scripted(chat(user("hello"), response_format=wanted)) == echo("hello")


# -- as completions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "text", "reason"),
    [
        ({"stop": "cc"}, "aabb", "stop"),
        ({"stop": ["zz", "cc", "bb"]}, "aa", "stop"),
        ({"stop": ["cc", "bcc"]}, "aab", "stop"),
        ({"stop": ["aa"]}, "", "stop"),
        ({"stop": [""]}, "aabbccdd", "stop"),
        ({"stop": None}, "aabbccdd", "stop"),
        ({"stop": "dd", "max_tokens": 1}, "aabb", "length"),
        ({"stop": "cc", "max_tokens": 1}, "aabb", "stop"),
    ],
)
def test_a_text_ends_before_a_stop(more, text, reason):
    (choice,) = completion(chat(user("x"), **more), "aabbccdd")["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


def test_a_message_may_call_tools():
    body = chat(user("magic(3)"), tools=TOOLS, max_tokens=1)
    message = scripted(body)
    answer = completion(body, message)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", **message},
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


@pytest.mark.parametrize("processes", [0, 1])
async def test_it_serves(fake_fleet, processes):
    fleet = fake_fleet(answer=testing.scripted, processes=processes)
    endpoint = OpenAIEndpoint(fleet.urls[0], models="tiny")
    request = Request("key", "tiny", {"messages": [user("magic(3)")], "tools": TOOLS})
    (reply,) = [reply async for reply in endpoint.send([request])]
    await endpoint.close()
    (call,) = reply.body["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "magic", "arguments": '{"input":3}'}
