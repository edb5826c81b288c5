"""Where the gateway is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from langgraph_hpc_fanout.endpoints.first.gateway import DEFAULT_BASE, root_of

ROOT = "https://host.example/resource_server"


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
