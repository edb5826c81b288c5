"""What a gateway lists of one model: clusters that serve it, or why none does."""

from __future__ import annotations

import json

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from yarl import URL

from langgraph_hpc_fanout.endpoints.first.gateway import Gateway
from langgraph_hpc_fanout.endpoints.http import Answer
from langgraph_hpc_fanout.instances.federation import Federation
from langgraph_hpc_fanout.instances.instance import InstancesError
from langgraph_hpc_fanout.testing.virtual_time import run

ROOT = "https://gateway/resource_server"
SECRET = "AgSecretToken"
GPT = "gpt-oss-120b"
CHAT = ["/v1/chat/completions"]
THREE = {
    "sophia": {"vllm": ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]},
    "metis": {"api": ["gpt-oss-120b"]},
    "minerva": {"api": ["Llama-4"]},
}


class Told(Gateway):
    """A gateway whose answers a test gives."""

    def __init__(self, said, status=200):
        super().__init__(URL(ROOT), SECRET)
        self.said, self.status = said, status

    async def look(self, client, path, keep):
        assert path == "list-endpoints"
        if isinstance(self.said, Exception):
            raise self.said
        return Answer(self.status, json.dumps(self.said).encode(), None)


def listing(clusters):
    return {
        "clusters": {
            cluster: {
                "frameworks": {
                    framework: {"models": models, "endpoints": CHAT}
                    for framework, models in frameworks.items()
                }
            }
            for cluster, frameworks in clusters.items()
        }
    }


def look(said, model=GPT, clusters=None, status=200):
    return run(Federation(Told(said, status), model, clusters).look)


def names(reading):
    return [each.name for each in reading.instances]


def test_each_cluster_that_serves_the_model_is_listed_with_its_own_id():
    reading = look(listing(THREE))
    assert names(reading) == ["sophia/gpt-oss-120b", "metis/gpt-oss-120b"]
    assert [each.served.model for each in reading.instances] == ["openai/gpt-oss-120b", GPT]
    assert (reading.faults, reading.is_complete) == ((), True)


def test_only_the_clusters_that_are_named():
    assert names(look(listing(THREE), clusters=["metis"])) == ["metis/gpt-oss-120b"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"model": "gpt-oss-120"},
            ["no cluster that serves", "did you mean 'openai/gpt-oss-120b'"],
        ),
        ({"clusters": ["metis", "sofia"]}, ["FIRST lists no models of sofia", "sophia/vllm"]),
        ({"clusters": ["sophia", "minerva"]}, ["minerva serves no 'gpt-oss-120b' to you, only"]),
    ],
)
def test_what_is_not_there_is_a_fault_that_says_what_is(settings, says):
    faults = " ".join(look(listing(THREE), **settings).faults)
    assert all(words in faults for words in says)


def test_a_user_who_may_use_nothing():
    assert "Ask ALCF for access" in look(listing({})).faults[0]


@pytest.mark.parametrize(
    ("said", "status", "absent"),
    [
        ({"detail": "Too many requests."}, 429, "answered 429: Too many requests"),
        ({"detail": "Service is temporarily down for maintenance."}, 503, "maintenance"),
        (aiohttp.ServerDisconnectedError(), 0, "Server disconnected"),
    ],
)
def test_a_gateway_that_does_not_say_leaves_everything_as_it_is(said, status, absent):
    reading = look(said, status=status)
    assert not reading.is_complete
    assert absent in reading.absent
    assert reading.instances == reading.faults == ()


def test_what_is_no_gateway():
    reading = look(["models"])
    assert not reading.is_complete
    assert "is that the root of a FIRST gateway?" in reading.faults[0]


@pytest.mark.parametrize("said", ["expired", f"{SECRET} has expired"])
def test_a_token_that_is_refused_ends_it_without_being_shown(said):
    body = {"error": {"code": "unauthorized", "message": f"Token {said}.", "info": {}}}
    with pytest.raises(InstancesError, match="It was asked with token=; set token=") as caught:
        look(body, status=401)
    assert caught.value.kind == "auth"
    assert SECRET not in str(caught.value)


ids = st.sampled_from(["a/m", "b/M", "m", "m-2", "other"])
layouts = st.dictionaries(
    st.sampled_from(["x", "y", "z"]),
    st.dictionaries(st.sampled_from(["vllm", "api"]), st.lists(ids, unique=True), max_size=2),
    max_size=3,
)


@repeatable
@given(layouts)
def test_a_cluster_is_listed_once_and_if_it_serves_the_model(layout):
    reading = look(listing(layout), model="m")
    serving = {
        cluster
        for cluster, frameworks in layout.items()
        if any(id_.rpartition("/")[2].lower() == "m" for ids in frameworks.values() for id_ in ids)
    }
    assert sorted(each.served.cluster for each in reading.instances) == sorted(serving)
    assert bool(reading.faults) == (not serving)
