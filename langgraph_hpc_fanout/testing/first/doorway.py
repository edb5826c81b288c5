"""Who may come in: access tokens, requests of a user in a second, requests of an address."""

from __future__ import annotations

from langgraph_hpc_fanout.testing.first import errors
from langgraph_hpc_fanout.testing.first.clock import Clock
from langgraph_hpc_fanout.testing.first.quotas import Gcra, Quotas, Rate, Throttle
from langgraph_hpc_fanout.testing.first.record import Ledger
from langgraph_hpc_fanout.testing.first.tokens import Tokens
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

Refusal = tuple[HttpResponse, str]
"""An answer, and the reason as the record tells it."""


class Doorway:
    """Stands before all routes of v1.

    Args:
        clock: The fake's clock.
        tokens: The access tokens.
        ledger: What is counted.
        quotas: The limits.
    """

    def __init__(self, clock: Clock, tokens: Tokens, ledger: Ledger, quotas: Quotas) -> None:
        self._clock = clock
        self._tokens = tokens
        self._ledger = ledger
        self._rate = None if quotas.requests is None else Rate.parse(quotas.requests)
        self._throttles: dict[str, Throttle] = {}
        self._address: Gcra | None = None
        if quotas.address is not None:
            rate = Rate.parse(quotas.address)
            self._address = Gcra(rate.count / rate.seconds, quotas.address_burst + 1)

    def from_address(self) -> Refusal | None:
        """Count a request from the one address that there is on loopback."""
        if self._address is None:
            return None
        now = self._clock.now()
        if self._address.wait(now):
            return errors.nginx_rate_limit(), "address"
        self._address.take(now)
        return None

    def user(self, authorization: str) -> tuple[str, Refusal | None]:
        """Who asks, and why not, if so. Authorization comes first, the throttle after."""
        user, trouble = self._tokens.user(authorization)
        if trouble is not None:
            return "", (errors.unauthorized(trouble), "unauthorized")
        now = self._clock.now()
        tally = self._ledger.user(user)
        tally.request(now)
        if self._rate is not None and not self._throttle(user, self._rate).admit(now):
            tally.throttled += 1
            return user, (errors.throttled(), "requests")
        return user, None

    def _throttle(self, user: str, rate: Rate) -> Throttle:
        throttle = self._throttles.get(user)
        if throttle is None:
            throttle = self._throttles[user] = Throttle(rate)
        return throttle
