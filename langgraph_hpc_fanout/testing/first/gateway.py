"""The gateway: its connections, the requests on them, and what is counted of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from langgraph_hpc_fanout.testing.first import errors
from langgraph_hpc_fanout.testing.first.backend import Backend, Local, Proxy
from langgraph_hpc_fanout.testing.first.checks import Flaw, flaws, prompt_of
from langgraph_hpc_fanout.testing.first.clock import Clock, Timers
from langgraph_hpc_fanout.testing.first.desk import Desk
from langgraph_hpc_fanout.testing.first.exchange import Exchange
from langgraph_hpc_fanout.testing.first.faults import REJECTIONS, Fault, Faults, Route, Target
from langgraph_hpc_fanout.testing.first.outlet import Outlet
from langgraph_hpc_fanout.testing.first.record import BatchRecord, FirstRecord, Ledger
from langgraph_hpc_fanout.testing.first.settings import Settings
from langgraph_hpc_fanout.testing.first.site import Estate, Site
from langgraph_hpc_fanout.testing.first.spec import Maintenance, ModelState
from langgraph_hpc_fanout.testing.first.tokens import Tokens
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Dice
from langgraph_hpc_fanout.testing.fleet.protocol import Connection, HttpRequest, HttpResponse

_NO_ATTEMPT = Attempt({}, "", 0, 0)


class Api(Protocol):
    """The routes of one version of the gateway."""

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, or let somebody answer it."""
        ...

    def ended(self, exchange: Exchange) -> None:
        """An inference request that reached a model has ended."""
        ...

    def batches(self) -> tuple[BatchRecord, ...]:
        """The batches so far."""
        ...

    async def close(self) -> None:
        """Give up what is under way."""
        ...


class Gateway:
    """Serves connections, on one event loop and without a task for each.

    Args:
        settings: What to simulate.
        loop: The loop that it lives on.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        clock = self.clock = Clock(settings.time_scale)
        self.tokens = Tokens(clock, settings.token_life, settings.login_life)
        self.timers = Timers(clock, loop)
        self.estate = Estate(settings.clusters, settings.cold_start, settings.times)
        self.ledger = Ledger(settings.record)
        dice = Dice(str(settings.seed))
        self.faults = Faults(settings.faults, dice)
        self.backend: Backend = (
            Local(settings.answer, settings.latency, dice)
            if settings.backend is None
            else Proxy(settings.backend)
        )
        self.outlet = Outlet(clock, self.timers, settings.times, self._ended)
        self.desk = Desk(clock, self.timers, settings.times, self.backend, self.outlet)
        self.api: Api
        self._connections: set[Connection] = set()
        self._exchanges: dict[Connection, Exchange] = {}
        self._asked: dict[int, int] = {}
        self._counts_prompts = settings.latency.varies
        self._arrivals = 0

    # What connections tell

    def connected(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections.add(connection)

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """A request has arrived whole."""
        if connection in self._exchanges:  # pipelined, which no client of an LLM does
            connection.abort()
        else:
            self.api.received(connection, request)

    def lost(self, connection: Connection) -> None:
        """The connection is gone; Globus Compute's tasks go on."""
        self._connections.discard(connection)
        exchange = self._exchanges.get(connection)
        if exchange is not None:
            exchange.reason = "left"
            exchange.tokens = 0
            self._ended(exchange, closed_early=True)

    # Inference requests

    def open(self, connection: Connection, endpoint: str) -> Exchange:
        """Count an inference request in."""
        exchange = Exchange(connection, endpoint, self.clock.now())
        self._exchanges[connection] = exchange
        self.ledger.arrive()
        return exchange

    def read(
        self, exchange: Exchange, raw: bytes, invalid: Callable[[list[Flaw]], HttpResponse]
    ) -> HttpResponse | None:
        """Read a request's body; returns why it goes no further, if so, in a shape of errors."""
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return errors.unreadable()
        if found := flaws(exchange.endpoint, body):
            return invalid(found)
        exchange.attempt = self._attempt(prompt_of(exchange.endpoint, body), body)
        return None

    def reached(self, exchange: Exchange, site: Site) -> None:
        """Count a request in at its model."""
        exchange.site = site
        site.tally.arrive()
        self.ledger.user(exchange.user).arrive()

    def strike(self, exchange: Exchange, route: Route = "inference") -> Fault | None:
        """The fault of an inference request, if it has one."""
        site = exchange.site
        if site is None or not self.faults.any:
            return None
        target = Target(route, site.cluster.name, site.model.name, exchange.attempt)
        exchange.fault = self.faults.strike(target)
        return exchange.fault

    def rejection(self, route: Route, cluster: str = "") -> HttpResponse | None:
        """The answer of a fault that strikes a request for anything but inference."""
        fault = self.faults.strike(Target(route, cluster, "", _NO_ATTEMPT))
        if fault is None or fault.kind not in REJECTIONS:
            return None
        return REJECTIONS[fault.kind](cluster, "", cluster)

    def _attempt(self, prompt: str, body: Mapping[str, Any]) -> Attempt:
        self._arrivals += 1
        if not (self._counts_prompts or self.faults.any):
            return Attempt(body, prompt, 0, self._arrivals)
        key = hash(prompt)
        before = self._asked.get(key, 0)
        self._asked[key] = before + 1
        return Attempt(body, prompt, before, self._arrivals)

    def _ended(self, exchange: Exchange, *, closed_early: bool = False) -> None:
        """Write a request into the record."""
        exchange.open = False
        exchange.cancel_timer()
        del self._exchanges[exchange.connection]
        site = exchange.site
        if site is not None:
            self.api.ended(exchange)
        row = exchange.row(self.clock.now(), closed_early=closed_early)
        self.ledger.end(row, None if site is None else site.tally)

    # What the fake is told

    def now(self) -> float:
        """Seconds of the fake's clock."""
        return self.clock.now()

    def issue_token(self, user: str, life: float | None) -> str:
        """A new access token of a user."""
        return self.tokens.issue(user, life)

    def expire_tokens(self) -> None:
        """Let all tokens that were issued so far be expired."""
        self.tokens.expire()

    def log_in(self, user: str) -> None:
        """Let a user log in anew."""
        self.tokens.log_in(user)

    def log_out(self, user: str) -> None:
        """Let a user's last log-in be too long ago."""
        self.tokens.log_out(user)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong from the next request on."""
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Let nothing more go wrong."""
        self.faults.clear()

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due then."""
        self.timers.advance(seconds)

    def set_state(self, cluster: str, model: str, state: ModelState) -> None:
        """Let a model be in another state.

        Raises:
            ValueError: If there is no such model.
        """
        site = self.estate.sites.get((cluster, model))
        if site is None:
            raise ValueError(f"FirstFake has no model {model!r} on {cluster!r}.")
        site.hosting.change(state)
        self.desk.move(site)

    def set_maintenance(self, cluster: str, kind: Maintenance | None) -> None:
        """Let a cluster go down, or come back.

        Raises:
            ValueError: If there is no such cluster.
        """
        if cluster not in self.estate.clusters:
            raise ValueError(f"FirstFake has no cluster {cluster!r}.")
        if kind is None:
            self.estate.down.pop(cluster, None)
        else:
            self.estate.down[cluster] = kind

    def drop(self) -> None:
        """Lose every connection, as a killed process does."""
        for connection in list(self._connections):
            connection.abort()

    @property
    def idle(self) -> bool:
        """Whether no connection is left."""
        return not self._connections

    def record(self) -> FirstRecord:
        """A copy of what was counted."""
        ledger = self.ledger
        issued, seen = self.tokens.issued(), self.tokens.seen()
        return FirstRecord(
            models={
                f"{cluster}/{model}": site.freeze()
                for (cluster, model), site in self.estate.sites.items()
            },
            users={
                user: ledger.user(user).freeze(issued.get(user, 0), seen.get(user, 0))
                for user in {**issued, **ledger.users}
            },
            refused=dict(ledger.refused),
            probes=dict(ledger.probes),
            peak_in_flight=ledger.peak_in_flight,
            batches=self.api.batches(),
            rows=None if ledger.rows is None else tuple(ledger.rows),
        )

    async def close(self) -> None:
        """Give up what is under way."""
        self.timers.close()
        await self.api.close()
        await self.backend.close()
