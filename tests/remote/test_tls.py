"""Servers of the node that speak https with certificates of their own."""

from __future__ import annotations

import pytest
from bundles import bundle, failures, texts
from tls import https_server

from langgraph_hpc_fanout.remote import run
from langgraph_hpc_fanout.remote.standalone import standalone

WORKS = pytest.mark.parametrize("work", [run, standalone], ids=["run", "standalone"])


@pytest.fixture
def url(tmp_path):
    with https_server(tmp_path) as url:
        yield url


@WORKS
def test_a_certificate_of_its_own_is_accepted_if_so_told(work, url):
    for _ in range(2):
        assert texts(work(bundle([url], "abc", verify=False))) == ["A", "B", "C"]


@WORKS
def test_otherwise_nothing_is_sent(work, url):
    result = work(bundle([url], ["a"]))
    (failure,) = failures(result)
    assert (failure["kind"], failure["retryable"]) == ("permanent", False)
    assert "is not trusted here" in failure["message"]
    assert "verify=False" in failure["message"]
    assert result["replies"][0]["tries"] == 0
    assert texts(work(bundle([url], ["a"], verify=False))) == ["A"]


@pytest.mark.parametrize("name", ["ask", "ask_async"])
def test_a_functions_client_accepts_it_too(name, url):
    given = {**bundle([url], verify=False), "function": f"node_functions:{name}", "requests": ["a"]}
    (reply,) = run(given)["replies"]
    assert reply["body"]["value"][0] == "A"


@WORKS
def test_https_where_only_http_is_spoken(work, fake_fleet):
    wrong = fake_fleet().urls[0].replace("http:", "https:")
    (failure,) = failures(work(bundle([wrong], ["a"], patience=0, verify=False)))
    assert failure["kind"] == "cold"
    assert wrong in failure["message"]
