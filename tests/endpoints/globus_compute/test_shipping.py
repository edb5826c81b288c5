import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout import __version__
from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError, Trouble
from langgraph_hpc_fanout.endpoints.globus_compute.shipping import (
    Bundles,
    First,
    Node,
    size_of,
    source_of,
)
from langgraph_hpc_fanout.records import Request, Work

TROUBLE = Trouble("globus", "The Globus Compute endpoint globus")
NODE = Node(("http://127.0.0.1:8000/v1",), "KEY", True, 64, 3, 600.0, 3600.0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def request(number=0, function=None):
    body = {"item": number} if function else {"messages": [{"role": "user", "content": "?"}]}
    return Request(str(number), "m", body, function=function)


def answer(text="yes"):
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }


def result(*replies, **fields):
    head = {"format": 1, "version": __version__, "worker": "n1:7", "seconds": 1.5}
    return {**head, "replies": list(replies), **fields}


@given(JSON)
def test_the_size_is_at_least_what_the_service_gets(payload):
    exact = len(json.dumps(json.dumps(payload)))
    assert exact <= size_of(payload)
    assert size_of(payload) <= 2 * exact


@pytest.mark.parametrize("ship", ["package", "source"])
def test_the_source_is_a_text_that_defines_its_function(ship):
    source, name = source_of(ship)
    namespace = {}
    exec(source, namespace)
    assert callable(namespace[name])


def test_a_bundle_of_chats():
    bundle = Bundles("source", NODE, TROUBLE).pack([request(0), request(1)], ["served", ""])
    assert bundle["function"] is None
    assert bundle["version"] == __version__
    assert [each.get("model") for each in bundle["requests"]] == ["served", None]
    assert bundle["servers"] == ["http://127.0.0.1:8000/v1"]
    assert orjson.loads(json.dumps(bundle)) == bundle


def test_a_bundle_of_calls():
    requests = [request(number, "package.module:function") for number in range(3)]
    bundle = Bundles("package", NODE, TROUBLE).pack(requests, ["", "", ""])
    assert (bundle["function"], bundle["requests"]) == ("package.module:function", [0, 1, 2])
    assert not Bundles("source", NODE, TROUBLE).functions


def test_replies_keep_their_places():
    shipping = Bundles("package", NODE, TROUBLE)
    failure = {"kind": "timeout", "message": "slow", "status": None, "retryable": True}
    told = result(
        {"body": answer(), "seconds": 0.5, "tries": 2},
        {"failure": {**failure, "retry_after": 2.0}, "seconds": 9.0, "tries": 3},
    )
    delivery = shipping.unpack(told, (4, 7), (request(4), request(7)), 3.0)
    good, bad = delivery.replies
    assert (delivery.worker, delivery.seconds) == ("n1:7", 1.5)
    assert (good.position, good.seconds, good.tries) == (4, 0.5, 2)
    assert [reply.work for reply in delivery.replies] == [Work(1.5, 2)] * 2
    assert delivery.replies[0].work is delivery.replies[1].work
    assert good.usage.total_tokens == 4
    assert (bad.position, bad.failure.kind, bad.retry_after, bad.tries) == (7, "timeout", 2.0, 3)
    assert bad.failure.endpoint == "globus"


@pytest.mark.parametrize("value", [{"length": 3}, None, {"choices": []}])
def test_values_are_read_by_whom_knows_but_the_keys(value):
    """An item that failed tells nothing of what the others are."""
    shipping = Bundles("package", NODE, TROUBLE)
    failed = {"failure": {"kind": "permanent", "message": "no", "status": None}}
    told = result(failed, {"body": {"value": value}, "seconds": 1.0, "tries": 1})
    asked = shipping.stand_ins(told, ("a", "b"))
    assert [each.key for each in asked] == ["a", "b"]
    bad, good = shipping.unpack(told, (0, 1), asked, 1.0).replies
    assert (bad.failure.kind, good.body) == ("permanent", {"value": value})


def test_chats_are_read_by_whom_knows_but_the_keys():
    shipping = Bundles("package", NODE, TROUBLE)
    told = result({"body": answer(), "seconds": 1.0, "tries": 1})
    (reply,) = shipping.unpack(told, (0,), shipping.stand_ins(told, ("a",)), 1.0).replies
    assert (reply.body, reply.usage.total_tokens) == (answer(), 4)
    first = First(8000, TROUBLE)
    (reply,) = first.unpack(answer(), (0,), first.stand_ins(answer(), ("a",)), 1.0).replies
    assert reply.body == answer()


@given(JSON)
def test_whatever_a_result_is_there_are_as_many_stand_ins_as_keys(told):
    for replies in (told, {"replies": told}, {"replies": [told, {"body": told}]}):
        assert len(Bundles("package", NODE, TROUBLE).stand_ins(replies, ("a", "b"))) == 2


@pytest.mark.parametrize(
    "told",
    [
        None,
        "text",
        [],
        {"format": 2},
        {},
        result(),
        result({"body": answer()}, {"body": answer()}),
        result({"body": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}}),
        result({"body": {"choices": []}}),
        result({"body": {"choices": [{"message": "no"}]}}),
        result("reply"),
        result({"body": answer(), "seconds": "long"}),
        result({"failure": {"kind": "timeout", "retry_after": "soon"}}),
        result({"body": answer()}, seconds="long"),
    ],
)
def test_what_is_no_result(told):
    with pytest.raises(ParcelError, match=r"returned what is no result|is function_id="):
        Bundles("package", NODE, TROUBLE).unpack(told, (0,), (request(),), 1.0)


def test_a_worker_that_could_do_nothing():
    told = {"format": 1, "error": {"kind": "permanent", "message": "has version 0.9.0"}}
    with pytest.raises(ParcelError, match=r"globus: has version 0\.9\.0") as caught:
        Bundles("package", NODE, TROUBLE).unpack(told, (0,), (request(),), 1.0)
    assert caught.value.broken


def test_firsts_contract():
    first = First(8000, TROUBLE)
    parameters = first.pack([request()], ["served"])["model_params"]
    assert parameters["openai_endpoint"] == "chat/completions"
    assert (parameters["api_port"], parameters["model"]) == (8000, "served")
    assert parameters["messages"] == [{"role": "user", "content": "?"}]
    told = {**answer("no"), "response_time": 0.7, "throughput_tokens_per_second": 3.0}
    delivery = first.unpack(json.dumps(told, indent=4), (5,), (request(),), 2.0)
    (reply,) = delivery.replies
    assert (reply.position, reply.seconds, reply.work) == (5, 0.7, Work(0.7, 1))
    assert reply.body == answer("no")


def test_firsts_health_check():
    first = First(8000, TROUBLE)
    assert first.pack([], [])["model_params"] == {"openai_endpoint": "health", "api_port": 8000}
    assert first.unpack("anything", (), (), 0.1).replies == ()


def test_what_first_answers_that_is_no_completion():
    with pytest.raises(ParcelError, match="answered not JSON"):
        First(8000, TROUBLE).unpack("Bad gateway", (0,), (request(),), 1.0)
