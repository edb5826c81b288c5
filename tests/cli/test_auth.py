"""`hpc-fanout auth status`: who you are, until when, and what to do if you are nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gateway import ADA
from globus_auth import IDENTITY, REFRESH_TOKEN, store_login

SECRET = "token-that-nobody-may-see"
LOGIN = "python inference_auth_token.py authenticate --force"
POLICIES = (
    "Error: Permission denied from internal policies. This is likely due to a high-assurance "
    "timeout."
)
HOUR = 3600.0


@pytest.fixture
def store(tmp_path):
    return Path(
        tmp_path,
        ".globus/app/58fdd3bc-e1c3-4ce5-80ea-8d6b87cfb944/inference_app/tokens.json",
    )


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("FIRST_API_KEY", SECRET)
    return SECRET


def test_a_key_that_is_accepted(run, gateway, key):
    gateway.tokens.add(key)
    done = run("auth", "status")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"gateway  {gateway.url}",
        "token    from the environment variable FIRST_API_KEY",
        "you      Ada Lovelace (ada@anl.gov)",
    ]
    assert gateway.asked == [("/resource_server/whoami", f"Bearer {SECRET}")]


def test_a_login_as_json(run, gateway, store):
    ends = int(time.time() + HOUR)
    store_login(store, ends)
    gateway.tokens.add("access-0")
    done = run("auth", "status", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "ok": True,
        "gateway": gateway.url,
        "source": f"the login of inference_auth_token.py in {store}",
        "name": "Ada Lovelace",
        "username": "ada@anl.gov",
        "identity": IDENTITY,
        "expires_at": ends,
        "problem": None,
        "login": None,
    }


def test_nobody_is_logged_in(run, gateway, store):
    done = run("auth", "status")
    assert done.exit_code == 1
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:3])
    assert lines["problem"].startswith(f"nobody is logged in to FIRST: there is no {store}.")
    assert done.stdout.splitlines()[-1] == f"log in   {LOGIN}"
    assert gateway.asked == []


def test_a_login_that_is_over(run, gateway, auth, store):
    store_login(store, time.time() - 1)
    auth.refusal = (400, {"error": "invalid_grant"})
    done = run("auth", "status", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["ok"], told["login"], told["expires_at"]) == (False, LOGIN, None)
    assert "invalid_grant" in told["problem"]


def test_a_login_that_is_renewed(run, gateway, auth, store):
    store_login(store, time.time() - 1)
    gateway.tokens.add("access-1")
    done = run("auth", "status")
    assert done.exit_code == 0
    assert "(in 47 h 59 min), renewed by itself" in done.stdout


def test_a_token_that_was_revoked_is_renewed(run, gateway, auth, store):
    store_login(store, time.time() + HOUR)
    gateway.tokens.add("access-1")
    assert run("auth", "status").exit_code == 0
    assert [authorization for _, authorization in gateway.asked] == [
        "Bearer access-0",
        "Bearer access-1",
    ]


def test_a_refused_token_that_cannot_be_renewed(run, gateway, auth, store):
    store_login(store, time.time() + HOUR)
    auth.refusal = (400, {"error": "invalid_grant"})
    done = run("auth", "status")
    assert done.exit_code == 1
    assert "(400 invalid_grant). Log in again with:" in done.stdout


def test_a_key_that_is_refused(run, gateway, key):
    done = run("auth", "status")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-2:] == [
        "problem  the gateway refuses the token: The token is not active.",
        "log in   export FIRST_API_KEY=<token>",
    ]
    assert len(gateway.asked) == 1


@pytest.mark.parametrize("body", [{"error": {"message": POLICIES}}, {"detail": POLICIES}])
def test_a_policy_wants_a_new_session(run, gateway, key, body):
    gateway.answer = (401, body)
    done = run("auth", "status", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problem"] == (
        f"the gateway refuses the token: {POLICIES} First log out at https://app.globus.org/logout."
    )


@pytest.mark.parametrize("answer", [(404, b""), (405, {}), (200, b"<html>"), (200, b"[]")])
def test_a_gateway_that_does_not_tell(run, gateway, key, answer):
    gateway.answer = answer
    done = run("auth", "status")
    assert done.exit_code == 0
    assert "the gateway does not tell whether it takes the token: it" in done.stdout
    assert "log in" not in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, b"<title>Maintenance</title>"), "it answered 503: HTML page 'Maintenance'"),
        ((302, {"detail": "elsewhere"}), "it answered 302: elsewhere"),
    ],
)
def test_a_gateway_that_does_not_answer_as_one(run, gateway, key, answer, said):
    gateway.answer = answer
    done = run("auth", "status")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == f"problem  the gateway does not answer: {said}"


def test_the_token_goes_nowhere_else(run, gateway, key):
    gateway.tokens.add(key)
    gateway.answer, gateway.location = (302, {"detail": "elsewhere"}), f"{gateway.url}/elsewhere"
    assert run("auth", "status").exit_code == 1
    assert [path for path, _ in gateway.asked] == ["/resource_server/whoami"]


def test_no_gateway(run, key, monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", "http://127.0.0.1:1/resource_server")
    done = run("auth", "status")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == (
        "problem  the gateway does not answer: Connection refused"
    )


@pytest.mark.parametrize("base", ["nonsense", "ftp://host/", "http://", "http://[::1", "//host"])
def test_a_base_that_is_no_url(run, key, monkeypatch, base):
    monkeypatch.setenv("FIRST_API_BASE", base)
    done = run("auth", "status")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: FIRST_API_BASE holds no URL of a gateway; set it to ")


@pytest.mark.parametrize("status", [200, 401, 404, 500])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_token_is_never_shown(run, gateway, key, status, options):
    gateway.answer = (status, {"detail": f"Bad token {key}", "name": "Ada"})
    done = run("auth", "status", *options)
    assert SECRET not in done.output
    assert done.exit_code in (0, 1)


def test_a_process(gateway, auth, store, tmp_path):
    """The whole of it: a process of its own, a login on disk, a renewal, a gateway."""
    # In the store of alcf-tokens, too, which goes first where it is installed.
    alcf = tmp_path / ".globus/app/7f3e61f5-e0de-4e8f-9150-0a62c65dda63/alcf_tokens/tokens.json"
    for each in (store, alcf):
        store_login(each, time.time() - 1)
    gateway.tokens.add("access-1")
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_hpc_fanout.cli", "auth", "status", "--json"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["username"] == ADA["username"]
    assert len(auth.asked) == 1
    assert not {REFRESH_TOKEN, "access-1"} & set(done.stdout.split('"'))
