"""Which tokens FIRST is shown when nobody says."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from langgraph_hpc_fanout.tokens import (
    AlcfTokens,
    ClientCredentials,
    CredentialError,
    EnvironmentToken,
    GlobusTokens,
    find_token_source,
)


@pytest.fixture
def installed(monkeypatch):
    """Whether alcf-tokens is."""

    def say(there):
        monkeypatch.setattr(
            "importlib.util.find_spec",
            lambda name: ModuleSpec(name, None) if there else None,
        )

    return say


def test_the_environment_goes_before_logins_and_a_key_before_an_account(monkeypatch, installed):
    installed(True)
    assert isinstance(find_token_source(), AlcfTokens)
    monkeypatch.setenv("GLOBUS_SERVICE_ACCOUNT_CLIENT_SECRET", "s")
    assert isinstance(find_token_source(), ClientCredentials)
    monkeypatch.setenv("FIRST_API_KEY", "key")
    assert isinstance(find_token_source(), EnvironmentToken)
    assert find_token_source()() == "key"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_key_is_none(monkeypatch, installed, empty):
    installed(False)
    monkeypatch.setenv("FIRST_API_KEY", empty)
    assert isinstance(find_token_source(), GlobusTokens)


def test_each_says_what_it_is_and_how_to_log_in(monkeypatch):
    sources = [EnvironmentToken(), ClientCredentials(), AlcfTokens(), GlobusTokens()]
    assert [source.login.partition(" ")[0] for source in sources] == [
        "export",
        "export",
        "alcf-tokens",
        "python",
    ]
    assert len({source.describe() for source in sources}) == 4
    assert [source.renewable for source in sources] == [False, True, True, True]


def test_a_variable_that_is_not_set():
    with pytest.raises(CredentialError) as caught:
        EnvironmentToken().token()
    assert str(caught.value) == (
        "the environment variable FIRST_API_KEY is not set. "
        "Set it with: export FIRST_API_KEY=<token>"
    )


def test_finding_imports_nothing_heavy(installed, monkeypatch):
    module = ModuleType("alcf_tokens")
    module.__spec__ = ModuleSpec("alcf_tokens", None)
    monkeypatch.setitem(sys.modules, "alcf_tokens", module)
    monkeypatch.delitem(sys.modules, "globus_sdk", raising=False)
    assert isinstance(find_token_source(), AlcfTokens)
    assert "globus_sdk" not in sys.modules
