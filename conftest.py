"""Fixtures of all tests, and the snippets of README and docs as tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from langgraph_hpc_fanout.testing.first import FirstFake
from langgraph_hpc_fanout.testing.fleet import FakeFleet

pytest_plugins = [
    "langgraph_hpc_fanout.testing.fixtures",
    "langgraph_hpc_fanout.testing.globus.fixtures",
]


@pytest.fixture(scope="module")
def llm_url() -> Iterator[None]:
    """Snippets ask the server at LLM_URL: here, a fake one."""
    with FakeFleet() as fleet, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_URL", fleet.urls[0])
        yield


@pytest.fixture(scope="module")
def first_gateway() -> Iterator[None]:
    """Snippets ask the gateway at FIRST_API_BASE with a login: here, a fake one."""
    with FirstFake() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST_API_BASE", fake.url)
        patch.setenv("FIRST_API_KEY", fake.token())
        yield


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["llm_url", "first_gateway"],
).pytest()
