"""FIRST's gateway on loopback, as far as `/whoami`."""

from __future__ import annotations

import json

from small_server import serve

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

    def reply(self, path, headers, _body):
        authorization = headers["Authorization"]
        self.asked.append((path, authorization))
        status, body = self._answer(path, authorization)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return status, {} if self.location is None else {"Location": self.location}, data

    def _answer(self, path, authorization):
        if self.answer is not None:
            return self.answer
        if path != "/resource_server/whoami":
            return 404, {"detail": "Not Found"}
        known = (authorization or "").removeprefix("Bearer ") in self.tokens
        return (200, ADA) if known else (401, UNAUTHORIZED)


def gateway():
    return serve(Gateway)
