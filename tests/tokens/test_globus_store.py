"""The login of inference_auth_token.py: read, renewed, stored again, and never asked for."""

from __future__ import annotations

import json
import logging
import stat
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import globus_sdk
import pytest
from globus_auth import IDENTITY, REFRESH_TOKEN, TWO_DAYS, store_login, stored_login

from langgraph_hpc_fanout.tokens import CredentialError, GlobusTokens, TokenServiceError

LOGIN = "python inference_auth_token.py authenticate --force"
HOUR = 3600.0


@pytest.fixture
def store(tmp_path):
    return tmp_path / "tokens.json"


def test_a_token_that_is_good_is_taken_as_it_is(auth, store):
    ends = int(time.time() + HOUR)
    store_login(store, ends)
    token = GlobusTokens(store).token()
    assert (token.value, token.expires_at, token.identity) == ("access-0", ends, IDENTITY)
    assert GlobusTokens(store)() == "access-0"
    assert auth.asked == []


def test_the_script_stores_it_where_it_is_looked_for(tmp_path):
    sdk = globus_sdk.token_storage.JSONTokenStorage.for_globus_app(
        "58fdd3bc-e1c3-4ce5-80ea-8d6b87cfb944",
        "inference_app",
        globus_sdk.GlobusAppConfig(),
        "DEFAULT",
    )
    store_login(Path(sdk.filepath), time.time() + HOUR)
    assert GlobusTokens()() == "access-0"
    assert sdk.filepath in GlobusTokens().describe()


@pytest.mark.parametrize("left", [-HOUR, 0.0, 55.0])
def test_a_token_is_renewed_before_it_expires(auth, store, left):
    store_login(store, time.time() + left)
    before = time.time()
    token = GlobusTokens(store).token()
    assert token.value == "access-1"
    assert before + TWO_DAYS - 1 <= token.expires_at <= time.time() + TWO_DAYS
    [asked] = auth.asked
    assert (asked["grant_type"], asked["refresh_token"]) == ("refresh_token", REFRESH_TOKEN)
    assert asked["client_id"] == "58fdd3bc-e1c3-4ce5-80ea-8d6b87cfb944"


def test_a_renewed_token_is_stored_for_everybody(auth, store):
    store_login(store, time.time() - 1)
    assert GlobusTokens(store)() == GlobusTokens(store)() == "access-1"
    assert len(auth.asked) == 1
    assert stored_login(store)["access_token"] == "access-1"
    assert stored_login(store)["refresh_token"] == REFRESH_TOKEN
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert [each.name for each in store.parent.iterdir()] == [store.name]


def test_a_refused_token_is_renewed_and_its_successor_is_not(auth, store):
    store_login(store, time.time() + HOUR)
    source = GlobusTokens(store)
    assert source.token("access-0").value == "access-1"
    assert source.token("access-0").value == "access-1"
    assert len(auth.asked) == 1


def test_many_threads_renew_once(auth, store):
    store_login(store, time.time() - 1)
    source = GlobusTokens(store)
    with ThreadPoolExecutor(32) as pool:
        assert {*pool.map(lambda _: source(), range(200))} == {"access-1"}
    assert len(auth.asked) == 1


def test_a_login_that_is_over(auth, store):
    store_login(store, time.time() - 1)
    auth.refusal = (400, {"error": "invalid_grant"})
    with pytest.raises(CredentialError) as caught:
        GlobusTokens(store).token()
    assert str(caught.value) == (
        f"Globus Auth gives no token for {store} (400 invalid_grant). Log in again with: {LOGIN}"
    )
    assert not isinstance(caught.value, TokenServiceError)
    assert stored_login(store)["refresh_token"] == REFRESH_TOKEN


def test_no_secret_in_what_is_raised(auth, store):
    store_login(store, time.time() - 1)
    auth.refusal = (400, {"error": "invalid_grant"})
    with pytest.raises(CredentialError) as caught:
        GlobusTokens(store).token()
    assert caught.value.__cause__ is None
    told = "".join(traceback.format_exception(caught.value))
    assert REFRESH_TOKEN not in told


@pytest.mark.parametrize("status", [429, 500, 503])
def test_globus_auth_that_falters(auth, store, status, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the SDK's two tries
    store_login(store, time.time() - 1)
    auth.refusal = (status, {})
    with pytest.raises(TokenServiceError, match=f"^Globus Auth answered {status} when"):
        GlobusTokens(store).token()
    assert len(auth.asked) == 2


def test_globus_auth_that_nobody_reaches(store, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", "http://127.0.0.1:1/")
    store_login(store, time.time() - 1)
    with pytest.raises(TokenServiceError, match=r"^Globus Auth cannot be reached to renew"):
        GlobusTokens(store).token()


def test_no_login(tmp_path):
    store = tmp_path / "nowhere" / "tokens.json"
    with pytest.raises(CredentialError) as caught:
        GlobusTokens(store).token()
    assert f"nobody is logged in to FIRST: there is no {store}." in str(caught.value)
    assert LOGIN in str(caught.value)
    assert not store.parent.exists()


@pytest.mark.parametrize(
    "changes",
    [{"resource_server": "another"}, {"scope": "openid"}, {"refresh_token": None}],
    ids=["of another service", "for something else", "not to be renewed"],
)
def test_a_login_that_is_not_for_first(store, changes):
    store_login(store, time.time() + HOUR, **changes)
    if "resource_server" in changes:
        store.write_text(store.read_text().replace("681c10cc", "00000000"))
    with pytest.raises(CredentialError) as caught:
        GlobusTokens(store).token()
    assert f"{store} holds no login for FIRST" in str(caught.value)
    assert str(caught.value).endswith(LOGIN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"data"',
        '{"format_version": "9.0"}',
        '{"data": {"DEFAULT": []}, "format_version": "2.0", "globus-sdk.version": "4"}',
        '{"data": {"DEFAULT": {"a": {}}}, "format_version": "2.0", "globus-sdk.version": "4"}',
        "\xff",
    ],
)
def test_a_file_that_is_none(store, text):
    store.write_bytes(text.encode("latin-1"))
    with pytest.raises(CredentialError, match=r"nothing usable came of .*tokens.json \(") as caught:
        GlobusTokens(store).token()
    assert str(caught.value).endswith(LOGIN)
    assert store.read_bytes() == text.encode("latin-1")


def test_a_store_that_cannot_be_written(auth, store, monkeypatch, caplog):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    store_login(store, time.time() - 1)
    before = store.read_text()
    monkeypatch.setattr(json, "dump", full)
    with caplog.at_level(logging.WARNING):
        assert GlobusTokens(store)() == "access-1"
    assert "cannot be stored: [Errno 28] No space left on device" in caplog.text
    assert store.read_text() == before
    assert [each.name for each in store.parent.iterdir()] == [store.name]


def test_without_the_extra(store, without):
    store_login(store, time.time() + HOUR)
    without("globus_sdk")
    with pytest.raises(CredentialError, match=r'pip install "langgraph-hpc-fanout\[globus\]"'):
        GlobusTokens(store).token()


def test_nobody_is_ever_asked(auth, store, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    for refusal in ((400, {"error": "invalid_grant"}), (401, {"error": "invalid_client"})):
        store_login(store, time.time() - 1)
        auth.refusal = refusal
        with pytest.raises(CredentialError):
            GlobusTokens(store).token()
