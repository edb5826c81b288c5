"""Access tokens: whose they are, until when they hold, and how often they were asked for."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Literal

from langgraph_hpc_fanout.testing.first.clock import Clock

Trouble = Literal["missing", "scheme", "inactive", "expired", "policies"]
"""Why a request has no user."""


@dataclass(frozen=True, slots=True)
class _Grant:
    user: str
    expires: float


class Tokens:
    """Issues tokens and knows them again; may be used from any thread.

    Args:
        clock: The fake's clock.
        life: Seconds that a token holds.
        login_life: Seconds after which a user must log in again.
    """

    def __init__(self, clock: Clock, life: float, login_life: float) -> None:
        self._clock = clock
        self._life = life
        self._login_life = login_life
        self._lock = threading.Lock()
        self._grants: dict[str, _Grant] = {}
        self._logins: dict[str, float] = {}
        self._issued: Counter[str] = Counter()
        self._seen: defaultdict[str, set[str]] = defaultdict(set)

    def issue(self, user: str, life: float | None = None) -> str:
        """A new token of a user, who is logged in with the first."""
        now = self._clock.now()
        token = f"Ag{secrets.token_urlsafe(24)}"
        with self._lock:
            self._logins.setdefault(user, now)
            self._grants[token] = _Grant(user, now + (self._life if life is None else life))
            self._issued[user] += 1
        return token

    def issued(self) -> dict[str, int]:
        """How many tokens each user was given."""
        with self._lock:
            return dict(self._issued)

    def seen(self) -> dict[str, int]:
        """How many different tokens each user has come with."""
        with self._lock:
            return {user: len(tokens) for user, tokens in self._seen.items()}

    def expire(self) -> None:
        """Let all tokens that were issued so far be expired."""
        now = self._clock.now()
        with self._lock:
            self._grants = {
                token: _Grant(grant.user, min(grant.expires, now))
                for token, grant in self._grants.items()
            }

    def log_in(self, user: str) -> None:
        """Let a user log in anew, which policy wants every 30 days."""
        with self._lock:
            self._logins[user] = self._clock.now()

    def log_out(self, user: str) -> None:
        """Let a user's last log-in be too long ago."""
        with self._lock:
            self._logins[user] = self._clock.now() - self._login_life

    def user(self, authorization: str) -> tuple[str, Trouble | None]:
        """Whose token an Authorization header carries, or what is wrong with it."""
        if not authorization:
            return "", "missing"
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return "", "scheme"
        grant = self._grants.get(token)
        if grant is None:
            return "", "inactive"
        with self._lock:
            self._seen[grant.user].add(token)
        now = self._clock.now()
        if now >= grant.expires:
            return "", "expired"
        if now >= self._logins[grant.user] + self._login_life:
            return "", "policies"
        return grant.user, None
