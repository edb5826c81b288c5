"""No tokens but a test's own, and packages that are not installed."""

from __future__ import annotations

import sys

import pytest
from no_tokens import auth, bare  # noqa: F401 - fixtures

from langgraph_hpc_fanout import tokens


@pytest.fixture(autouse=True)
def _bare(bare):  # noqa: F811
    pass


@pytest.fixture
def without(monkeypatch):
    """Makes a package one that is not installed."""

    def remove(package):
        for name in [each for each in sys.modules if each.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"{tokens.__name__}.globus_auth", raising=False)
        monkeypatch.delattr(tokens, "globus_auth", raising=False)

    return remove
