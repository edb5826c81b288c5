"""The routes of v2: below `/api`, one for all deployments of a model and one for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from langgraph_hpc_fanout.testing.first import errors, views
from langgraph_hpc_fanout.testing.first.admission import Account, UsageLimits
from langgraph_hpc_fanout.testing.first.doorway import Doorway, Refusal
from langgraph_hpc_fanout.testing.first.exchange import Exchange
from langgraph_hpc_fanout.testing.first.faults import REJECTIONS
from langgraph_hpc_fanout.testing.first.gateway import Gateway
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import BatchRecord
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.first.spec import ROUTES
from langgraph_hpc_fanout.testing.fleet.answers import token_count, token_limit
from langgraph_hpc_fanout.testing.fleet.protocol import Connection, HttpRequest, HttpResponse

ROOT = "/api"
_FEDERATED = f"{ROOT}/federated/v1/"
_DEPLOYMENTS = f"{ROOT}/deployments/"
_UNSAID = 256
"""Tokens of an answer that are reserved when the request does not say."""
_SHORT = 1.0
_JITTER = 2.0
"""Seconds after which, and within how many more, a request that found no room may come again."""


def slug(cluster: str, model: str) -> str:
    """A deployment's name in paths: `/` is written `~` (FIRST 1798d8b, orchestration.py)."""
    return f"{cluster}/{model}".replace("/", "~")


@dataclass(frozen=True, slots=True)
class _Admitted:
    account: Account
    reserved: int


class V2:
    """Answers the requests of v2.

    Args:
        gateway: What it answers for.
        limits: The limits of each user with each model.
    """

    def __init__(self, gateway: Gateway, limits: UsageLimits) -> None:
        self._gateway = gateway
        self._limits = limits
        unthrottled = Quotas(requests=None, user_tokens=None, model_tokens=None)
        self._doorway = Doorway(gateway.clock, gateway.tokens, gateway.ledger, unthrottled)
        self._accounts: dict[tuple[str, str], Account] = {}
        self._admitted: dict[Exchange, _Admitted] = {}

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, or let somebody answer it."""
        deployment, endpoint = _target(request.path)
        if request.method == "POST" and endpoint in ROUTES:
            self._inference(connection, request, deployment, endpoint)
        else:
            connection.send(self._probe(request))

    def ended(self, exchange: Exchange) -> None:
        """Settle what was reserved."""
        admitted = self._admitted.pop(exchange, None)
        if admitted is not None:
            now = self._gateway.clock.now()
            admitted.account.settle(now, admitted.reserved, exchange.tokens)

    def batches(self) -> tuple[BatchRecord, ...]:
        """None: v2 has no batches."""
        return ()

    async def close(self) -> None:
        """Nothing is under way."""

    def _probe(self, request: HttpRequest) -> HttpResponse:
        if request.method != "GET":
            return errors.not_found()
        if request.path == f"{ROOT}/health":
            self._gateway.ledger.probes["health"] += 1
            return errors.json(200, {"status": "ok"})
        if request.path != f"{ROOT}/whoami":
            return errors.not_found()
        self._gateway.ledger.probes["whoami"] += 1
        user, refusal = self._doorway.user(request.authorization)
        return refusal[0] if refusal is not None else errors.json(200, views.whoami(user))

    # Inference

    def _inference(
        self, connection: Connection, request: HttpRequest, deployment: str, endpoint: str
    ) -> None:
        """Refuse a request, or hand it to a deployment; in the order of FIRST 2952dec."""
        exchange = self._gateway.open(connection, endpoint)
        exchange.user, refusal = self._doorway.user(request.authorization)
        refusal = (
            refusal
            or self._read(exchange, request.body)
            or self._find(exchange, deployment)
            or self._strike(exchange)
            or self._admit(exchange)
        )
        site, fault = exchange.site, exchange.fault
        if refusal is not None:
            self._gateway.outlet.whole(exchange, *refusal)
        elif fault is not None and fault.kind == "disconnect":
            self._gateway.outlet.drop(exchange, "disconnect")
        elif site is not None and (fault is None or fault.kind != "hang"):
            self._gateway.desk.call(exchange, site)

    def _read(self, exchange: Exchange, raw: bytes) -> Refusal | None:
        flaw = self._gateway.read(exchange, raw, errors.invalid_detail)
        return None if flaw is None else (flaw, "invalid")

    def _find(self, exchange: Exchange, deployment: str) -> Refusal | None:
        """Look for the model, and for the deployment of it with most room."""
        model = str(exchange.body["model"])
        sites = self._deployments(deployment, model)
        if not sites:
            refusal = errors.app("not_found", f"Model {model} does not exist.", status=404)
            return refusal, "not_found"
        permitted = [site for site in sites if site.permits(exchange.user)]
        serving = [site for site in permitted if exchange.endpoint in site.cluster.endpoints]
        self._gateway.reached(exchange, min(serving or sites, key=self._crowd))
        if not permitted:
            message = f"Permission denied to model {model}."
            return errors.app("access_denied", message), "not_permitted"
        if not serving:
            message = f"Endpoint {exchange.endpoint} not supported for {model}."
            return errors.app("resource_spec_invalid", message, status=400), "unsupported"
        return None

    def _crowd(self, site: Site) -> tuple[bool, int]:
        """Whether a deployment is not there, and how many requests it has."""
        return not self._live(site), site.tally.in_flight

    def _live(self, site: Site) -> bool:
        up = site.cluster.name not in self._gateway.estate.down
        return up and site.hosting.phase(self._gateway.clock.now()) == "running"

    def _strike(self, exchange: Exchange) -> Refusal | None:
        fault, site = self._gateway.strike(exchange), exchange.site
        if fault is None or site is None or fault.kind not in REJECTIONS:
            return None
        names = site.cluster.name, site.model.name, site.slug
        return REJECTIONS[fault.kind](*names), fault.kind

    def _admit(self, exchange: Exchange) -> Refusal | None:
        """Check the user's quotas, then look for room; being refused is normal."""
        site = exchange.site
        assert site is not None
        now = self._gateway.clock.now()
        account = self._account(exchange.user, site.model.name)
        estimate = _estimate(exchange)
        refused = account.check(now, estimate)
        if refused is not None:
            return self._busy(exchange, refused.reason, refused.wait), refused.reason
        if not self._live(site):
            return self._busy(exchange, "cold", _wake(site, now)), "cold"
        if site.tally.in_flight > site.model.capacity:
            return self._busy(exchange, "saturated", None), "saturated"
        account.admit(now, estimate)
        self._admitted[exchange] = _Admitted(account, estimate)
        return None

    def _busy(self, exchange: Exchange, reason: str, wait: float | None) -> HttpResponse:
        """429 with Retry-After, in whole seconds, and a short one with jitter for no known time."""
        if wait is None:
            chance = self._gateway.faults.chance(exchange.attempt, "retry_after")
            wait = _SHORT + _JITTER * chance
        seconds = max(1, math.ceil(wait))
        return errors.busy(reason, seconds)

    def _account(self, user: str, model: str) -> Account:
        account = self._accounts.get((user, model))
        if account is None:
            account = self._accounts[user, model] = Account(self._limits)
        return account

    def _deployments(self, deployment: str, model: str) -> list[Site]:
        """Where a model is; on the one deployment that is named, if one is."""
        return [
            site
            for (cluster, name), site in self._gateway.estate.sites.items()
            if name == model and deployment in {"", slug(cluster, name)}
        ]


def _target(path: str) -> tuple[str, str]:
    """The deployment (empty for any) and the OpenAI endpoint that a path names."""
    if path.startswith(_FEDERATED):
        return "", path.removeprefix(_FEDERATED)
    if path.startswith(_DEPLOYMENTS):
        deployment, _, rest = path.removeprefix(_DEPLOYMENTS).partition("/v1/")
        return deployment, rest
    return "", ""


def _estimate(exchange: Exchange) -> int:
    """Tokens that a request will use: its text's, and what it may say."""
    limit = token_limit(exchange.body)
    return token_count(len(exchange.attempt.prompt)) + (_UNSAID if limit is None else limit)


def _wake(site: Site, now: float) -> float | None:
    """Load a cold model: a refused request is the demand that v2's autoscaler looks at.

    Returns:
        Seconds until it is there, or None if that is not known.
    """
    site.hosting.wake(now)
    return max(0.0, site.hosting.ready - now) if site.hosting.phase(now) != "offline" else None
