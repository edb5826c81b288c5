"""A service account: its tokens are renewed in time, and its secret is never seen."""

from __future__ import annotations

import base64
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from globus_auth import TWO_DAYS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from langgraph_hpc_fanout.tokens import ClientCredentials, CredentialError, Token
from langgraph_hpc_fanout.tokens.resource import SCOPE

CLIENT_ID = "99999999-2222-4333-8444-555555555555"
SECRET = "secret-that-nobody-may-see="
VARIABLES = ("GLOBUS_SERVICE_ACCOUNT_CLIENT_ID", "GLOBUS_SERVICE_ACCOUNT_CLIENT_SECRET")


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


@pytest.mark.parametrize("secret", [SECRET, SecretStr(SECRET)])
def test_a_token_of_the_account(auth, secret):
    token = ClientCredentials(CLIENT_ID, secret).token()
    assert (token.value, token.identity) == ("access-1", CLIENT_ID)
    [asked] = auth.asked
    assert (asked["grant_type"], asked["scope"]) == ("client_credentials", SCOPE)
    basic = base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()
    assert asked["authorization"] == f"Basic {basic}"


def test_the_account_in_the_environment(auth, monkeypatch):
    for name, value in zip(VARIABLES, (CLIENT_ID, SECRET), strict=True):
        monkeypatch.setenv(name, value)
    assert ClientCredentials().token().identity == CLIENT_ID


def test_a_token_is_kept_until_it_is_about_to_expire(auth):
    clock = Clock()
    source = ClientCredentials(CLIENT_ID, SECRET, now=clock)
    ends = source.token().expires_at
    clock.time = ends - 60.5
    assert source() == "access-1"
    clock.time = ends - 60.0
    assert source() == "access-2"
    assert len(auth.asked) == 2


def test_a_refused_token_is_replaced_and_its_successor_is_not(auth):
    source = ClientCredentials(CLIENT_ID, SECRET)
    assert source() == "access-1"
    assert [source.token("access-1").value for _ in range(3)] == ["access-2"] * 3


def test_many_threads_ask_once(auth):
    source = ClientCredentials(CLIENT_ID, SECRET)
    with ThreadPoolExecutor(32) as pool:
        assert {*pool.map(lambda _: source(), range(200))} == {"access-1"}
    assert len(auth.asked) == 1


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.floats(0, TWO_DAYS), max_size=20))
def test_what_is_handed_out_is_always_good_for_a_minute(monkeypatch, steps):
    clock, granted = Clock(), []

    def grant(client_id, client_secret):
        granted.append(Token(f"access-{len(granted)}", clock.time + TWO_DAYS, client_id))
        return granted[-1]

    with monkeypatch.context() as patch:
        patch.setattr("langgraph_hpc_fanout.tokens.globus_auth.client_token", grant)
        source = ClientCredentials(CLIENT_ID, SECRET, now=clock)
        for step in steps:
            clock.time += step
            assert source.token().expires_at > clock.time + 60
    assert len(granted) <= 1 + sum(steps) / (TWO_DAYS - 60)


def test_an_account_that_globus_auth_does_not_know(auth):
    auth.refusal = (401, {"error": "invalid_client"})
    with pytest.raises(CredentialError) as caught:
        ClientCredentials(CLIENT_ID, SECRET).token()
    assert str(caught.value).startswith(
        f"Globus Auth gives no token for the service account {CLIENT_ID} "
        "(401 invalid_client). Log in again with: export GLOBUS_SERVICE_ACCOUNT_CLIENT_ID=<id>"
    )
    assert SECRET not in str(caught.value)


def test_a_token_that_is_not_for_first(auth, monkeypatch):
    monkeypatch.setattr("globus_auth.RESOURCE_SERVER", "another")
    with pytest.raises(CredentialError, match=f"nothing usable came of .* {CLIENT_ID} "):
        ClientCredentials(CLIENT_ID, SECRET).token()


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("missing", VARIABLES)
def test_half_an_account(monkeypatch, missing, value):
    for name in VARIABLES:
        monkeypatch.setenv(name, value if name == missing else "something")
    with pytest.raises(CredentialError, match=f"^the environment lacks {missing} of the service"):
        ClientCredentials().token()
    with pytest.raises(ValueError, match=r"client_id= and client_secret=, or neither\.$"):
        ClientCredentials(client_id=CLIENT_ID)


def test_without_the_extra(without):
    without("globus_sdk")
    with pytest.raises(CredentialError, match=r'pip install "langgraph-hpc-fanout\[globus\]"'):
        ClientCredentials(CLIENT_ID, SECRET).token()


def test_nobody_sees_the_secret(auth):
    source = ClientCredentials(CLIENT_ID, SECRET)
    token = source.token()
    shown = f"{source!r} {source.describe()} {source.login} {vars(source)!r} {token!r}"
    assert SECRET not in shown
    assert token.value not in shown
    assert CLIENT_ID in repr(source)
    for each in (source, token):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(each)
