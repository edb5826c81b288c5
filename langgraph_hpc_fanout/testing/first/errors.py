"""The gateway's errors, in its four shapes.

| shape | source | body |
|---|---|---|
| A | the application | `{"error": {"code", "message", "info"}}` |
| B | django-ninja | `{"detail": "..."}` |
| C | nginx | HTML, or JSON `{"error": "Rate limit exceeded", ...}` |
| D | older versions | a bare string |

A is `handle_app_error` of FIRST 5ee5943, resource_server_async/api.py; codes and statuses are
those of FIRST 6fc7a39, resource_server_async/errors.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.first.tokens import Trouble
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

_LOG_IN = (
    "Error: Permission denied from internal policies. This is likely due to a high-assurance "
    "timeout. Please logout by visiting https://app.globus.org/logout, and re-authenticate with "
    "the following command: 'python3 inference_auth_token.py authenticate --force'."
)
_SHOWN_BYTES = 256

_STATUSES = {
    "access_denied": 403,
    "batch_failed": 400,
    "batch_not_found": 404,
    "batch_ongoing": 400,
    "batch_unavailable": 400,
    "cluster_not_found": 404,
    "cluster_under_maintenance": 503,
    "endpoint_not_found": 404,
    "internal_endpoint_error": 500,
    "internal_error": 500,
    "invalid_request": 422,
    "quota_exceeded": 400,
    "request_timeout": 408,
    "too_many_requests": 429,
    "unauthorized": 401,
    "unsupported_endpoint": 400,
    "unsupported_framework": 400,
}


def json(status: int, body: object, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """An answer in JSON."""
    return HttpResponse(status, orjson.dumps(body), headers=headers or {})


def app(
    code: str, message: str, *, status: int | None = None, info: Mapping[str, Any] | None = None
) -> HttpResponse:
    """Shape A. The status is the code's own where none is given."""
    error = {"code": code, "message": message, "info": info or {}}
    return json(status or _STATUSES[code], {"error": error})


def detail(status: int, message: str) -> HttpResponse:
    """Shape B."""
    return json(status, {"detail": message})


def page(status: int, title: str) -> HttpResponse:
    """Shape C, in HTML."""
    text = (
        f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{status} {title}</h1></center>\r\n<hr><center>nginx</center>\r\n"
        "</body>\r\n</html>\r\n"
    )
    return HttpResponse(status, text.encode(), "text/html")


def bare(status: int, message: str) -> HttpResponse:
    """Shape D."""
    return json(status, message)


# Who asks


def unauthorized(trouble: Trouble) -> HttpResponse:
    """Why a token is not taken (FIRST 5ee5943, api.py; 05f11a6, auth.py)."""
    match trouble:
        case "missing":
            wanted = "'Authorization': 'Bearer <your-access-token>'"
            return detail(401, f"Error: Missing ({wanted}) in request headers.")
        case "scheme":
            return app(
                "unauthorized", "Auth only allows header type Authorization: Bearer <token>."
            )
        case "inactive":
            return app("unauthorized", "Token is either not active or invalid")
        case "expired":
            return app("unauthorized", "Access token expired.")
        case "policies":
            return app("unauthorized", _LOG_IN)


def not_permitted(slug: str) -> HttpResponse:
    """A model that a user may not use: a 401, and no new token helps."""
    return app(
        "unauthorized",
        f"Permission denied to endpoint {slug} due to Globus Group restrictions.",
    )


# How often


def throttled() -> HttpResponse:
    """Too many requests in a second: django-ninja 1.4.5 sends no Retry-After."""
    return detail(429, "Too many requests.")


def too_many_tokens(model: int, user: int) -> HttpResponse:
    """Too many tokens in a minute (FIRST 69bef23, services.py)."""
    usage = {"global_model_usage": model, "user_model_usage": user}
    return app("too_many_requests", "Tokens/minute limit exceeded", info=usage)


def busy(reason: str, seconds: int) -> HttpResponse:
    """v2: over a quota, or no room; with a time to come again."""
    error = {
        "code": "too_many_requests",
        "message": f"Rejected: {reason}. Retry in {seconds} seconds.",
        "info": {"reason": reason},
    }
    return json(429, {"error": error}, {"Retry-After": str(seconds)})


def nginx_rate_limit() -> HttpResponse:
    """Too many requests from an address."""
    return json(429, {"error": "Rate limit exceeded", "message": "Too many requests"})


# What is asked


def not_found() -> HttpResponse:
    """A path that there is not."""
    return detail(404, "Not Found")


def not_allowed() -> HttpResponse:
    """A method that the path does not take."""
    return detail(405, "Method not allowed")


def unreadable() -> HttpResponse:
    """A body that is no JSON, in django-ninja's words."""
    return detail(400, "Cannot parse request body")


def invalid(flaws: list[dict[str, Any]]) -> HttpResponse:
    """A body with flaws, which are written as pydantic writes them."""
    return app("invalid_request", "Request validation failed.", info={"errors": flaws})


def invalid_detail(flaws: list[dict[str, Any]]) -> HttpResponse:
    """A body with flaws, as django-ninja tells it of batches, and FastAPI in v2."""
    return json(422, {"detail": flaws})


# Where it goes


def timeout(task: str) -> HttpResponse:
    """A task that did not end in time, and still runs (FIRST 1a92ca4, globus_utils.py)."""
    return app(
        "request_timeout",
        "TimeoutError while attempting to access compute resources. Please try again later.",
        info={"task_id": task},
    )


def not_ready(slug: str) -> HttpResponse:
    """A model that somebody else has woken (FIRST 3dde68d, endpoints/globus_compute.py)."""
    message = f"Error: Endpoint {slug} online but not ready to receive tasks. "
    return app("internal_endpoint_error", f"{message}Please try again later.", status=503)


def offline(slug: str) -> HttpResponse:
    """A Globus Compute endpoint that is not there (the same)."""
    return app("internal_endpoint_error", f"Endpoint {slug!r} is offline.", status=503)


def not_live(model: str, cluster: str) -> HttpResponse:
    """A model that DirectAPI does not have (FIRST 6fc7a39, endpoints/metis.py)."""
    message = f"{model!r} is not currently live on {cluster.capitalize()}."
    return app("internal_endpoint_error", message, status=503)


def maintenance(cluster: str) -> HttpResponse:
    """A cluster that is down, says the application."""
    return app("cluster_under_maintenance", f"Cluster {cluster} is currently down.")


def nginx_maintenance() -> HttpResponse:
    """The whole service is down, says nginx."""
    return detail(503, "Service is temporarily down for maintenance.")


def uncaught() -> HttpResponse:
    """An exception that nobody expected: an id and no info (FIRST 5ee5943, api.py)."""
    error = {
        "code": "internal_error",
        "message": "Internal Server Error",
        "error_id": uuid.uuid4().hex,
    }
    return json(500, {"error": error})


def backend_url(cluster: str, route: str) -> str:
    """Where a DirectAPI backend is, as errors name it."""
    return f"https://{cluster}.example/v1/{route}"


def upstream_timeout(cluster: str, route: str, seconds: float) -> HttpResponse:
    """A DirectAPI backend that took too long (FIRST 01aabea, endpoints/direct_api.py)."""
    return app(
        "internal_endpoint_error",
        f"Timeout calling {backend_url(cluster, route)}.",
        status=504,
        info={"timeout": int(seconds)},
    )


def hidden(status: int, body: bytes) -> HttpResponse:
    """What vLLM refused, by way of Globus Compute: a 500, whatever it was.

    The text is that of the function on the node (FIRST main 329c0cd,
    compute-functions/vllm_register_function_with_streaming.py).
    """
    text = body.decode(errors="replace")
    return app(
        "internal_endpoint_error",
        f"Unexpected error of type Exception: API request failed with status code: {status}\n"
        f"Response text: {text}\nResponse headers: {{}}\nResponse time: 0.05 seconds",
    )


def passed_on(status: int, body: bytes) -> HttpResponse:
    """What a DirectAPI backend refused: its status, and the first of its words."""
    return app(
        "internal_endpoint_error",
        f"Upstream endpoint returned {status}: {body[:_SHOWN_BYTES]!r}.",
        status=status,
    )
