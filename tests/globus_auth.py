"""Globus Auth's token endpoint on loopback, as far as the SDK asks it for tokens."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

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

    def __init__(self, url):
        self.url = url
        self.asked = []
        self.refusal = None
        self.lifetime = TWO_DAYS
        self._lock = threading.Lock()

    def answer(self, form):
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


@contextmanager
def globus_auth():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            form["authorization"] = self.headers["Authorization"]
            status, reply = auth.answer(form)
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    auth = GlobusAuth(f"http://127.0.0.1:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield auth
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
