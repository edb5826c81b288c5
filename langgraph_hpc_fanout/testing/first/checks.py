"""What the gateway itself looks at in a body; all else goes to the model as it is.

See FIRST 5c7aa77, resource_server_async/schemas/openai_control.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph_hpc_fanout.testing.first.spec import CHAT, COMPLETIONS, EMBEDDINGS
from langgraph_hpc_fanout.testing.fleet.answers import last_user_message

RESERVED = frozenset(
    {
        "api_port",
        "cache_salt",
        "openai_endpoint",
        "stream_task_id",
        "stream_task_token",
        "streaming_server_host",
        "streaming_server_port",
        "streaming_server_protocol",
    }
)
"""Keys of the gateway's own that a body must not have at the top."""

Flaw = dict[str, Any]


def flaws(route: str, body: object) -> list[Flaw]:
    """What is wrong with the body of an inference request, as pydantic tells it."""
    if not isinstance(body, dict):
        return [_flaw("dict_type", (), "Input should be a valid dictionary")]
    found = [
        _flaw("value_error", (key,), f"{key} is reserved by FIRST")
        for key in sorted(RESERVED.intersection(body))
    ]
    model = body.get("model")
    if not isinstance(model, str) or not model:
        found.append(_flaw("string_type", ("model",), "Input should be a valid string"))
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        found.append(_flaw("bool_type", ("stream",), "Input should be a valid boolean"))
    if stream is True and route == EMBEDDINGS:
        found.append(_flaw("literal_error", ("stream",), "Input should be False"))
    key, fits = _INPUTS[route]
    if not fits(body.get(key)):
        found.append(_flaw("missing", (key,), "Field required, or of the wrong type"))
    return found


def prompt_of(route: str, body: Mapping[str, Any]) -> str:
    """The text that a request asks about, by which it is known."""
    if route == CHAT:
        return last_user_message(body)
    wanted = body[_INPUTS[route][0]]
    return wanted if isinstance(wanted, str) else " ".join(map(str, wanted))


def batch_flaws(body: object) -> list[Flaw]:
    """What is wrong with the body of a batch (BatchSubmit of FIRST 4d016f5, schemas/batch.py)."""
    if not isinstance(body, dict):
        return [_flaw("dict_type", (), "Input should be a valid dictionary")]
    found = [
        _flaw("string_type", (key,), "Input should be a valid string")
        for key in ("input_file", "model")
        if not isinstance(body.get(key), str) or not body[key]
    ]
    if not isinstance(body.get("output_folder_path"), str | None):
        message = "Input should be a valid string"
        found.append(_flaw("string_type", ("output_folder_path",), message))
    return found + [
        _flaw("extra_forbidden", (key,), "Extra inputs are not permitted")
        for key in sorted(set(body) - {"input_file", "model", "output_folder_path"})
    ]


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _is_input(value: object) -> bool:
    """A text, a list of texts, or tokens."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(each, str | int | list) for each in value)
    )


_INPUTS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    CHAT: ("messages", _is_messages),
    COMPLETIONS: ("prompt", _is_input),
    EMBEDDINGS: ("input", _is_input),
}
"""Where each kind of request has its text, and what that may be."""


def _flaw(kind: str, where: tuple[str, ...], message: str) -> Flaw:
    return {"type": kind, "loc": ["body", *where], "msg": message}
