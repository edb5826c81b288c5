"""The login of alcf-tokens: over a stand-in, and over the program's own code where it is there."""

from __future__ import annotations

import enum
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import globus_sdk
import pytest
from globus_auth import REFRESH_TOKEN, store_login, stored_login

from langgraph_hpc_fanout.tokens import AlcfTokens, CredentialError, TokenServiceError

HOUR = 3600.0
_CLIENT_ID = "7f3e61f5-e0de-4e8f-9150-0a62c65dda63"


class AuthError(Exception):
    """As of alcf-tokens 0.4.0, auth.py: raised in the place of a login."""


class ServiceName(enum.StrEnum):
    inference = "inference"


@pytest.fixture
def stand_in(monkeypatch):
    """`alcf_tokens.auth` as far as it is used, with a login that a test may put there.

    Source: alcf-tokens 0.4.0, auth.py: `get_service_authorizer` gives a RefreshTokenAuthorizer of
    globus-sdk, and raises AuthError where no login is stored. A refresh token that is over is
    not caught there, so globus-sdk's AuthAPIError gets through.
    """
    package, auth = ModuleType("alcf_tokens"), ModuleType("alcf_tokens.auth")
    package.__spec__ = ModuleSpec("alcf_tokens", None)
    package.auth = auth
    auth.AuthError, auth.ServiceName = AuthError, ServiceName
    auth.expires_at = None
    auth.clients = []

    def get_service_authorizer(name):
        assert name is ServiceName.inference
        if auth.expires_at is None:
            raise AuthError('Please authenticate by running "alcf-tokens login".')
        auth.clients.append(globus_sdk.NativeAppAuthClient(_CLIENT_ID))
        return globus_sdk.RefreshTokenAuthorizer(
            REFRESH_TOKEN,
            auth.clients[-1],
            access_token="access-0",
            expires_at=int(auth.expires_at),
        )

    auth.get_service_authorizer = get_service_authorizer
    monkeypatch.setitem(sys.modules, "alcf_tokens", package)
    monkeypatch.setitem(sys.modules, "alcf_tokens.auth", auth)
    return auth


def test_a_token_that_is_good(auth, stand_in):
    stand_in.expires_at = time.time() + HOUR
    token = AlcfTokens().token()
    assert (token.value, token.expires_at) == ("access-0", int(stand_in.expires_at))
    assert AlcfTokens()() == "access-0"
    assert auth.asked == []


@pytest.mark.parametrize("left", [-HOUR, 55.0])
def test_a_token_is_renewed_before_it_expires(auth, stand_in, left):
    stand_in.expires_at = time.time() + left
    token = AlcfTokens().token()
    assert token.value == "access-1"
    assert token.expires_at > time.time() + HOUR
    assert [form["grant_type"] for form in auth.asked] == ["refresh_token"]


def test_a_refused_token_is_renewed(auth, stand_in):
    stand_in.expires_at = time.time() + HOUR
    assert AlcfTokens().token("another").value == "access-0"
    assert AlcfTokens().token("access-0").value == "access-1"


def test_nobody_is_logged_in(stand_in):
    with pytest.raises(CredentialError) as caught:
        AlcfTokens().token()
    assert str(caught.value) == (
        "nobody is logged in to FIRST with alcf-tokens. Log in with: alcf-tokens login inference"
    )


def test_a_login_that_is_over(auth, stand_in):
    stand_in.expires_at = time.time() - 1
    auth.refusal = (400, {"error": "invalid_grant"})
    with pytest.raises(CredentialError) as caught:
        AlcfTokens().token()
    assert str(caught.value) == (
        "Globus Auth gives no token for alcf-tokens (400 invalid_grant). "
        "Log in again with: alcf-tokens login inference"
    )


def test_globus_auth_that_falters(auth, stand_in, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    stand_in.expires_at = time.time() - 1
    auth.refusal = (503, {})
    with pytest.raises(TokenServiceError):
        AlcfTokens().token()
    assert len(auth.asked) == 2


def test_without_the_extra(without):
    without("alcf_tokens")
    with pytest.raises(CredentialError) as caught:
        AlcfTokens().token()
    assert str(caught.value) == (
        'the login of alcf-tokens needs alcf_tokens: pip install "langgraph-hpc-fanout[alcf]".'
    )


@pytest.mark.usefixtures("stand_in")
def test_another_module_that_is_missing_is_not_mistaken_for_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "alcf_tokens.auth")
    monkeypatch.delattr(sys.modules["alcf_tokens"], "auth")
    with pytest.raises(ImportError, match="cannot import name 'auth'"):
        AlcfTokens().token()


def test_the_programs_own_code(auth, tmp_path):
    """No stand-in: alcf-tokens itself, over a login that it would have stored."""
    pytest.importorskip("alcf_tokens.auth")
    with pytest.raises(CredentialError, match="Log in with: alcf-tokens login inference"):
        AlcfTokens().token()
    store = Path(tmp_path, ".globus", "app", _CLIENT_ID, "alcf_tokens", "tokens.json")
    store_login(store, time.time() + HOUR)
    assert AlcfTokens()() == "access-0"
    store_login(store, time.time() - 1)
    assert AlcfTokens()() == "access-1"
    assert stored_login(store)["access_token"] == "access-1"
    assert AlcfTokens().token("access-1").value == "access-2"
    auth.refusal = (400, {"error": "invalid_grant"})
    with pytest.raises(CredentialError, match="Log in again with: alcf-tokens login inference"):
        AlcfTokens().token("access-2")
