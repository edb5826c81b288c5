"""Globus Auth's token endpoint on loopback, as far as the SDK asks it for tokens."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from urllib.parse import parse_qs

from small_server import serve

from langgraph_hpc_fanout.tokens.resource import RESOURCE_SERVER, SCOPE

IDENTITY = "11111111-2222-4333-8444-555555555555"
REFRESH_TOKEN = "refresh-token-that-nobody-may-see"
TWO_DAYS = 172_800


class GlobusAuth:
    """Answers `POST /v2/oauth2/token` with numbered tokens, or as it is told.

    Attributes:
        url: Of the server.
        asked: The form of each request, and its Authorization header as `authorization`.
        refusal: Status and body that it answers instead of a token.
        lifetime: Of its tokens, in seconds.
    """

    def __init__(self, address):
        self.url = f"{address}/"
        self.asked = []
        self.refusal = None
        self.lifetime = TWO_DAYS
        self._lock = threading.Lock()

    def reply(self, _path, headers, body):
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        form["authorization"] = headers["Authorization"]
        status, answer = self._answer(form)
        return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def _answer(self, form):
        with self._lock:
            self.asked.append(form)
            if self.refusal is not None:
                return self.refusal
            return 200, {
                "access_token": f"access-{len(self.asked)}",
                "expires_in": self.lifetime,
                "resource_server": RESOURCE_SERVER,
                "scope": SCOPE,
                "token_type": "Bearer",
                "other_tokens": [],
                **({"refresh_token": REFRESH_TOKEN} if "refresh_token" in form else {}),
            }


def globus_auth():
    return serve(GlobusAuth)


def store_login(path: Path, expires_at, *, access_token="access-0", **changes):
    """Write a login as `inference_auth_token.py` leaves it (globus-sdk's JSONTokenStorage)."""
    data = {
        "resource_server": RESOURCE_SERVER,
        "identity_id": IDENTITY,
        "scope": SCOPE,
        "access_token": access_token,
        "refresh_token": REFRESH_TOKEN,
        "expires_at_seconds": int(expires_at),
        "token_type": "Bearer",
        "extra": {},
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        "data": {"DEFAULT": {RESOURCE_SERVER: data}},
        "format_version": "2.0",
        "globus-sdk.version": "4.0.0",
    }
    path.write_text(json.dumps(stored))


def stored_login(path: Path):
    """What the store holds of FIRST."""
    return json.loads(path.read_text())["data"]["DEFAULT"][RESOURCE_SERVER]
