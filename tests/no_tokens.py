"""Fixtures: an environment without tokens, a home without logins, Globus Auth on loopback."""

from __future__ import annotations

import pytest
from globus_auth import globus_auth


@pytest.fixture
def bare(monkeypatch, tmp_path):
    for name in ("FIRST_API_KEY", "FIRST_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ID", "SECRET"):
        monkeypatch.delenv(f"GLOBUS_SERVICE_ACCOUNT_CLIENT_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def auth(monkeypatch):
    with globus_auth() as auth:
        monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", auth.url)
        yield auth
