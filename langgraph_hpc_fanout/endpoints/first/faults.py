"""What the gateway's answers other than 200 mean. The status alone does not tell.

Source: FIRST main 329c0cd, errors.py, api.py, auth.py and endpoints/; nginx and django-ninja in
front of it. Bodies have four shapes: `{"error": {"code", "message", "info"}}` of the application,
`{"detail": ...}` of django-ninja, HTML or `{"error": "..."}` of nginx, and bare strings of older
versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from langgraph_hpc_fanout.endpoints.chat import error_message
from langgraph_hpc_fanout.records import FailureKind

TOKEN_WINDOW = 60.0
"""Seconds of the window in which tokens are counted."""

_LOG_OUT = "First log out at https://app.globus.org/logout."
"""Policy wants a new login, and not a new token of the old one (ALCF user guide 7d04a3f)."""

_HIDDEN = re.compile(r"API request failed with status code: (\d{3})")
_PERMISSION = re.compile(r"permission denied to|not allowed|not permitted", re.IGNORECASE)
_POLICIES = re.compile(r"internal policies|high-assurance", re.IGNORECASE)
_MAY_HAVE_WORKED = "The task still runs there, so the answer may be paid for twice."
_CLIENT_ERRORS = range(400, 500)
_AS_THEIR_OWN: Mapping[int, FailureKind] = {
    408: "timeout",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
}
"""What a hidden status means, where it is no plain fault of the request's or the server's."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a refusal means.

    Attributes:
        kind: The kind of failure.
        message: What happened, in words.
        retry_after: Seconds for which it makes no sense to ask again; None for not known.
        login: Whether a person has to log in again.
        is_starting: Whether the model is on its way, so that it makes sense to wait.
        no_route: Whether nothing of a gateway's is at the address.
    """

    kind: FailureKind
    message: str
    retry_after: float | None = None
    login: bool = False
    is_starting: bool = False
    no_route: bool = False


def fault_of(status: int, raw: bytes, retry_after: float | None = None) -> Fault:
    """What an answer other than 200 means.

    Args:
        status: The HTTP status.
        raw: The body.
        retry_after: Seconds of a Retry-After header, which the second version sends.
    """
    code, info = _application(raw)
    said = error_message(raw)
    match status:
        case 401 | 403:
            return _unauthorized(said)
        case 408:
            task = info.get("task_id")
            about = f" (task {task})" if task else ""
            return Fault("timeout", f"no answer in 300 s{about}. {_MAY_HAVE_WORKED}")
        case 429:
            return _too_many(code, info, said, retry_after)
        case 503:
            return Fault("cold", said, retry_after, is_starting="not ready" in said)
        case 504:
            return Fault("timeout", said)
        case 404 if code in ("cluster_not_found", "endpoint_not_found"):
            return Fault("cold", said)
        case 404 if not code:
            return Fault("permanent", said, no_route=True)
    if status >= 500:
        return _hidden(said) or Fault("transient", said)
    return Fault("permanent", said)


def _application(raw: bytes) -> tuple[str, Mapping[str, Any]]:
    """Code and info of an error in the application's shape."""
    try:
        error = orjson.loads(raw)["error"]
        code, info = error.get("code"), error.get("info")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return "", {}
    return str(code or ""), info if isinstance(info, Mapping) else {}


def _unauthorized(said: str) -> Fault:
    if _PERMISSION.search(said) and not _POLICIES.search(said):
        return Fault("cold", f"{said} No other token helps: ask ALCF for access to the model.")
    if _POLICIES.search(said):
        said = f"{said} {_LOG_OUT}"
    return Fault("auth", said, login=True)


def _too_many(code: str, info: Mapping[str, Any], said: str, retry_after: float | None) -> Fault:
    if info.get("reason") == "cold":
        # Version 2: the refusal itself is what has the model loaded.
        return Fault("cold", said, retry_after, is_starting=True)
    if code == "too_many_requests" and retry_after is None:
        # Its window's edge is not told; the lane's limit finds it.
        return Fault("rate_limited", f"{said} They are counted in windows of {TOKEN_WINDOW:g} s.")
    return Fault("rate_limited", said, retry_after)


def _hidden(said: str) -> Fault | None:
    """A status that the Globus Compute function has met, and the gateway tells as 500."""
    if (match := _HIDDEN.search(said)) is None:
        return None
    status = int(match[1])
    if (kind := _AS_THEIR_OWN.get(status)) is not None:
        return Fault(kind, said)
    return Fault("permanent" if status in _CLIENT_ERRORS else "transient", said)
