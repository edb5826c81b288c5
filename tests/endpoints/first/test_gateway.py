"""Where the gateway is."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from langgraph_hpc_fanout.endpoints.first.catalogue import Served
from langgraph_hpc_fanout.endpoints.first.gateway import (
    DEFAULT_BASE,
    FEDERATED,
    Gateway,
    gateway_of,
    root_of,
)
from langgraph_hpc_fanout.endpoints.http import Answer

ROOT = "https://host.example/resource_server"
SECOND = "https://host.example/api"
GPT = "openai/gpt-oss-120b"


@pytest.mark.parametrize(
    ("base", "root"),
    [
        ("", DEFAULT_BASE),
        (ROOT, ROOT),
        (f"{ROOT}/", ROOT),
        (f"{ROOT}/metis/api/v1", ROOT),
        (f"{ROOT}/sophia/vllm/v1/", ROOT),
        ("https://user:password@host.example/resource_server", ROOT),
        (f"{ROOT}?key=1", ROOT),
        ("https://host.example:8443/gateway/", "https://host.example:8443/gateway"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        (SECOND, SECOND),
        (f"{SECOND}/", SECOND),
        (f"{SECOND}/federated/v1", SECOND),
        (f"{SECOND}/deployments/sophia~openai~gpt-oss-120b/v1/chat/completions", SECOND),
    ],
)
def test_the_root(monkeypatch, base, root):
    monkeypatch.setenv("FIRST_API_BASE", base)
    assert root_of(None) == URL(root)


@given(st.text("abcdefgh/", max_size=20))
def test_what_follows_the_root_does_not_matter(rest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST_API_BASE", f"{ROOT}/{rest}")
        assert root_of(None) == URL(ROOT)


@pytest.mark.parametrize(
    ("root", "served", "path"),
    [
        (ROOT, Served("sophia", "vllm", GPT), "/sophia/vllm/v1"),
        (SECOND, Served(FEDERATED, "", GPT), "/federated/v1"),
        (SECOND, Served("sophia", "", GPT), "/deployments/sophia~openai~gpt-oss-120b/v1"),
    ],
)
def test_where_a_model_is_asked(root, served, path):
    gateway = Gateway(URL(root), "t")
    assert str(gateway.chat_url(served)) == f"{root}{path}/chat/completions"
    assert gateway.is_second is (root == SECOND)


def test_the_same_gateway_with_another_token_has_another_name():
    root = "https://a.gateway/resource_server"
    alice, again, bob = (gateway_of(root, token) for token in ("a", "a", "b"))
    assert alice is again
    assert alice.name == "a.gateway"
    assert bob.name == "a.gateway, token 2"
    del alice, again
    gc.collect()
    assert gateway_of(root, "a").name == "a.gateway", "its rate is the one that it was"


@pytest.mark.parametrize(
    ("root", "raw", "advice"),
    [
        (ROOT, b"<html>Not Found</html>", "the root of a FIRST gateway?"),
        (ROOT, b'{"error": {"code": "batch_not_found", "message": "No such batch"}}', None),
        (ROOT, b'{"error": {"code": "cluster_not_found", "message": "No such cluster"}}', None),
        (SECOND, b'{"error": {"code": "not_found", "message": "No m"}}', "both the model and the"),
    ],
)
def test_what_is_not_there_is_told_from_what_is_no_gateway(root, raw, advice):
    gateway = Gateway(URL(root), "AgSecretToken")
    message = gateway.failure_of(gateway.client("sophia/m"), Answer(404, raw, None)).message
    assert message.startswith("sophia/m answered 404: ")
    assert advice in message if advice else "?" not in message


@pytest.mark.parametrize("root", ["https://host.example/v1", f"{SECOND}/resource_server"])
def test_only_the_second_versions_root_is_its_root(root):
    assert not Gateway(URL(root), "t").is_second
