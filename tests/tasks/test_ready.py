"""Items that are requests already."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.tasks.ready import ReadyRequest

MESSAGES = [{"role": "user", "content": "How are you?"}]


def item(**body):
    return {"custom_id": "a", "body": {"messages": MESSAGES, **body}}


def test_a_body_is_sent_as_it_is():
    request = ReadyRequest("m").request(item(temperature=0.5, max_tokens=7, tools=[]))
    assert request.body == {
        "messages": MESSAGES,
        "temperature": 0.5,
        "max_tokens": 7,
        "tools": [],
    }
    assert (request.model, request.max_tokens) == ("m", 7)
    assert request.prompt_tokens > 0


def test_the_model_and_the_stream_are_ours():
    body = item(model="m", stream=True, stream_options={"include_usage": True})
    assert ReadyRequest("m").request(body).body == {"messages": MESSAGES}


def test_the_first_model_that_is_named_is_meant():
    items = [BadRow("no JSON"), item(), item(model="large"), item(model="small")]
    task = ReadyRequest().for_items(items)
    assert task.model == "large"
    assert task.request(items[2]).key == task.request(item()).key
    with pytest.raises(LookupError, match="names the model 'small', that of the first 'large'"):
        task.request(items[3])


def test_where_none_is_named_the_pools_is_meant():
    task = ReadyRequest().for_items([item(), 7, {"body": None}, {"body": {"model": 7}}])
    assert task.model is None
    assert task.request(item(), model="m").model == "m"


def test_a_model_that_was_chosen_holds_for_all():
    task = ReadyRequest().adapted(model="mine").for_items([item(model="large")])
    assert task.request(item(model="small")).model == "mine"


def test_parameters_take_the_place_of_the_bodys():
    task = ReadyRequest("m").adapted(temperature=0.1, max_tokens=3)
    request = task.request(item(temperature=0.9, top_p=0.5))
    assert request.body["temperature"] == 0.1
    assert request.body["top_p"] == 0.5
    assert request.max_tokens == 3


def test_the_question_is_the_key():
    task = ReadyRequest("m")
    keys = [
        task.request(item(seed=1)).key,
        task.request(item(seed=2)).key,
        task.request(item(seed=1), sample=1).key,
        ReadyRequest("other").request(item(seed=1)).key,
    ]
    assert len(set(keys)) == 4
    assert task.request({**item(seed=1), "custom_id": "b"}).key == keys[0]
    assert task.request(item(seed=1), sample=1).body["seed"] == 2


@pytest.mark.parametrize("messages", [None, [], "How are you?"])
def test_a_body_without_messages(messages):
    with pytest.raises(LookupError, match="its body has no messages; only chat completions can"):
        ReadyRequest("m").request(item(messages=messages))


def test_what_it_is_called():
    assert ReadyRequest().describe() == "requests as the items hold them"
    assert repr(ReadyRequest()) == "ReadyRequest()"
