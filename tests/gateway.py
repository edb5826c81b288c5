"""FIRST's gateway on loopback, as far as `/whoami`."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADA = {
    "id": "11111111-2222-4333-8444-555555555555",
    "name": "Ada Lovelace",
    "username": "ada@anl.gov",
    "user_group_uuids": [],
    "idp_id": "0",
    "idp_name": "Argonne",
    "auth_service": "globus",
}
UNAUTHORIZED = {"error": {"code": "unauthorized", "message": "The token is not active."}}


class Gateway:
    """Knows Ada by her tokens.

    Attributes:
        url: Of its root.
        tokens: Those that it accepts.
        answer: Status and body in the place of its usual ones.
        location: Where else to look, in the header of its answers.
        asked: Path and Authorization header of each request.
    """

    def __init__(self, address):
        self.url = f"{address}/resource_server"
        self.tokens = set()
        self.answer = None
        self.location = None
        self.asked = []

    def reply(self, path, authorization):
        self.asked.append((path, authorization))
        if self.answer is not None:
            return self.answer
        if path != "/resource_server/whoami":
            return 404, {"detail": "Not Found"}
        known = (authorization or "").removeprefix("Bearer ") in self.tokens
        return (200, ADA) if known else (401, UNAUTHORIZED)


@contextmanager
def gateway():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = served.reply(self.path, self.headers["Authorization"])
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if served.location is not None:
                self.send_header("Location", served.location)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Gateway(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
