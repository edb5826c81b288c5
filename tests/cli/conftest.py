"""No tokens but a test's own, a gateway, and the program in this process."""

from __future__ import annotations

import pytest
from gateway import gateway as serving
from no_tokens import auth, bare  # noqa: F401 - fixtures
from typer.testing import CliRunner

from langgraph_hpc_fanout.cli.app import app


@pytest.fixture(autouse=True)
def _bare(bare, monkeypatch):  # noqa: F811
    """Whether alcf-tokens is installed is no test's concern."""
    found = "langgraph_hpc_fanout.tokens.finding.importlib.util.find_spec"
    monkeypatch.setattr(found, lambda name: None)


@pytest.fixture
def gateway(monkeypatch):
    with serving() as gateway:
        monkeypatch.setenv("FIRST_API_BASE", gateway.url)
        yield gateway


@pytest.fixture
def run():
    """Runs the program with arguments."""
    return lambda *arguments: CliRunner().invoke(app, arguments, prog_name="hpc-fanout")
