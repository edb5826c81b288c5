"""Which cluster serves a model: the gateway's list, and names that people write."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import jsons, repeatable

from langgraph_hpc_fanout.endpoints.first.catalogue import (
    Card,
    Served,
    clusters_of,
    find,
    is_same,
    read_card,
    read_catalogue,
)

CATALOGUE = (
    Served("sophia", "vllm", "openai/gpt-oss-120b"),
    Served("sophia", "vllm", "openai/gpt-oss-20b"),
    Served("metis", "api", "gpt-oss-120b"),
    Served("minerva", "api", "openai/gpt-oss-120b"),
    Served("minerva", "other", "openai/gpt-oss-120b"),
)


def listing(endpoints=("/v1/chat/completions",)):
    frameworks = {"vllm": {"models": ["a/b"], "endpoints": list(endpoints)}}
    return orjson.dumps({"clusters": {"sophia": {"base_url": "/x", "frameworks": frameworks}}})


def test_the_list_of_the_gateway():
    assert read_catalogue(listing()) == (Served("sophia", "vllm", "a/b"),)
    assert read_catalogue(listing(["/v1/embeddings"])) == (), "no model for chat"


@repeatable
@given(st.binary() | jsons.map(orjson.dumps))
def test_anything_else_is_no_list(raw):
    with pytest.raises(ValueError, match="no list of clusters"):
        read_catalogue(raw)


@pytest.mark.parametrize(
    "model", ["openai/gpt-oss-120b", "gpt-oss-120b", "GPT-OSS-120B", "x/gpt-oss-120b"]
)
@pytest.mark.parametrize(
    ("cluster", "id_"), [("sophia", "openai/gpt-oss-120b"), ("metis", "gpt-oss-120b")]
)
def test_a_model_has_another_id_on_each_cluster(model, cluster, id_):
    assert find(CATALOGUE, model, cluster).model == id_


def test_a_near_miss_is_answered_with_the_right_id():
    with pytest.raises(LookupError, match="sophia serves no 'gpt-oss-120'; did you mean 'openai"):
        find(CATALOGUE, "gpt-oss-120", "sophia")
    with pytest.raises(LookupError, match="metis serves no 'llama' to you, only gpt-oss-120b"):
        find(CATALOGUE, "llama", "metis")


def test_a_cluster_that_there_is_not():
    with pytest.raises(LookupError, match="no models of polaris for you; it lists metis/api, "):
        find(CATALOGUE, "gpt-oss-120b", "polaris")
    with pytest.raises(LookupError, match="no models of sophia/api for you"):
        find(CATALOGUE, "gpt-oss-120b", "sophia", "api")
    with pytest.raises(LookupError, match="it lists nothing"):
        find((), "gpt-oss-120b", "sophia")


def test_one_of_several_is_to_be_named():
    with pytest.raises(LookupError, match=r"serves several 'gpt-oss-120b' \(api: openai"):
        find(CATALOGUE, "gpt-oss-120b", "minerva")
    assert find(CATALOGUE, "gpt-oss-120b", "minerva", "other").framework == "other"


def test_every_cluster_of_a_model_once():
    assert [each.cluster for each in clusters_of(CATALOGUE, "gpt-oss-120b")] == [
        "sophia",
        "metis",
        "minerva",
    ]
    assert clusters_of(CATALOGUE, "gpt-oss") == []


def test_names_are_the_same_without_their_makers():
    assert is_same("meta-llama/Llama-3", "llama-3")
    assert not is_same("meta-llama/Llama-3", "meta-llama/Llama-3.1")


def test_a_card_tells_limits_and_context():
    cards = [
        {"id": "other"},
        {
            "id": "a/b",
            "rate_limit_token_per_minute_per_user": 60_000,
            "capabilities": {"context_window_tokens": 4096},
        },
    ]
    assert read_card(orjson.dumps(cards), "a/b") == Card(60_000, 4096)
    assert read_card(orjson.dumps({"object": "list", "data": cards}), "a/b") == Card(60_000, 4096)
    assert read_card(orjson.dumps(cards), "other") == Card()
    assert read_card(orjson.dumps(cards), "none") == Card()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"[1]", b'[{"id": "a", "capabilities": 1}]'])
def test_a_card_that_is_none_tells_nothing(raw):
    assert read_card(raw, "a") == Card()
