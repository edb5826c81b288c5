"""How one stands with a gateway: found out, and told to people and to programs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import orjson
from yarl import URL

from langgraph_hpc_fanout.cli.gateway import Answer, whoami
from langgraph_hpc_fanout.tokens.source import CredentialError, Token, TokenSource

_POLICY = ("internal policies", "high-assurance")
"""Of a refusal that a new login alone does not end: FIRST main 329c0cd, its check of policies."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one stands with a gateway.

    Attributes:
        ok: Whether there is a token, and the gateway does not object to it.
        gateway: The gateway's root.
        source: Where the token comes from.
        name: The person's name, as the gateway tells it.
        username: And the user name.
        identity: Whose token it is, as Globus Auth names them.
        expires_at: When the token ends, in seconds since the epoch; None where nobody knows.
        problem: What is wrong, or what could not be found out.
        login: The command that gets another token; None where that would not help.
    """

    ok: bool
    gateway: str
    source: str
    name: str | None
    username: str | None
    identity: str | None
    expires_at: float | None
    problem: str | None
    login: str | None


def find(source: TokenSource, gateway: URL) -> Standing:
    """Get a token and show it to the gateway. Blocks."""
    try:
        token = source.token()
    except CredentialError as error:
        return _standing(source, gateway, problem=str(error))
    answer = whoami(gateway, token.value)
    if answer.verdict == "refused" and source.renewable:
        # It may have been revoked, which a run would get over in the same way.
        try:
            token = source.token(token.value)
        except CredentialError as error:
            return _standing(source, gateway, problem=str(error))
        answer = whoami(gateway, token.value)
    return _standing(source, gateway, token, answer, _problem(answer))


def _standing(
    source: TokenSource,
    gateway: URL,
    token: Token | None = None,
    answer: Answer | None = None,
    problem: str | None = None,
) -> Standing:
    return Standing(
        ok=answer is not None and answer.verdict in ("accepted", "unknown"),
        gateway=str(gateway),
        source=source.describe(),
        name=answer.name if answer else None,
        username=answer.username if answer else None,
        identity=token.identity if token else None,
        expires_at=token.expires_at if token else None,
        problem=problem,
        login=source.login if answer is None or answer.verdict == "refused" else None,
    )


def _problem(answer: Answer) -> str | None:
    match answer.verdict:
        case "accepted":
            return None
        case "unknown":
            return f"the gateway does not tell whether it takes the token: {answer.said}"
        case "unreachable":
            return f"the gateway does not answer: {answer.said}"
    first = ""
    if any(word in answer.said for word in _POLICY):
        first = " First log out at https://app.globus.org/logout."
    return f"the gateway refuses the token: {answer.said}{first}"


def as_json(standing: Standing) -> str:
    """One object, with the attributes of a `Standing`."""
    return orjson.dumps(asdict(standing), option=orjson.OPT_INDENT_2).decode()


def as_lines(standing: Standing, now: float | None = None) -> str:
    """Lines for people; `now` is in seconds since the epoch."""
    lines = [
        ("gateway", standing.gateway),
        ("token", f"from {standing.source}"),
        ("until", _until(standing.expires_at, time.time() if now is None else now)),
        ("you", _who(standing)),
        ("problem", standing.problem),
        ("log in", standing.login),
    ]
    return "\n".join(f"{name:8} {text}" for name, text in lines if text)


def _who(standing: Standing) -> str | None:
    if standing.name and standing.username:
        return f"{standing.name} ({standing.username})"
    return standing.name or standing.username or standing.identity


def _until(expires_at: float | None, now: float) -> str | None:
    if expires_at is None:
        return None
    when = datetime.fromtimestamp(expires_at, UTC)
    hours, minutes = divmod(max(0, int(expires_at - now)) // 60, 60)
    return f"{when:%Y-%m-%d %H:%M} UTC (in {hours} h {minutes} min), renewed by itself"
