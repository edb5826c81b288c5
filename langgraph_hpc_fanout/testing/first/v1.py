"""The routes of v1: below `/resource_server`, a path for each cluster and framework."""

from __future__ import annotations

from typing import cast
from urllib.parse import parse_qs

import orjson

from langgraph_hpc_fanout.testing.first import errors, views
from langgraph_hpc_fanout.testing.first.batch_node import BatchNode, Files
from langgraph_hpc_fanout.testing.first.batches import Batch, Batches
from langgraph_hpc_fanout.testing.first.checks import batch_flaws
from langgraph_hpc_fanout.testing.first.doorway import Doorway, Refusal
from langgraph_hpc_fanout.testing.first.exchange import Exchange
from langgraph_hpc_fanout.testing.first.faults import REJECTIONS, Fault, Route, Target
from langgraph_hpc_fanout.testing.first.gateway import Gateway
from langgraph_hpc_fanout.testing.first.hosting import Sight
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import BatchRecord
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.first.spec import ROUTES
from langgraph_hpc_fanout.testing.fleet.faults import Attempt
from langgraph_hpc_fanout.testing.fleet.protocol import Connection, HttpRequest, HttpResponse

ROOT = "/resource_server"
_KNOWN = frozenset({*ROUTES, "responses", "messages"})
"""What the gateway has routes for; not all of it is served."""
_MOST_BYTES = 10_000_000
"""Bytes of a request that Globus Compute takes."""
_NGINX_BYTES = 20_000_000
"""Bytes of a request that nginx takes, in its sample configuration."""


class V1:
    """Answers the requests of v1.

    Args:
        gateway: What it answers for.
        quotas: The limits.
    """

    def __init__(self, gateway: Gateway, quotas: Quotas) -> None:
        self._gateway = gateway
        self._quotas = quotas
        self._doorway = Doorway(gateway.clock, gateway.tokens, gateway.ledger, self._quotas)
        self._sights: dict[str, Sight] = {}
        self._jobs: dict[tuple[str, str], tuple[float, bytes]] = {}
        settings = gateway.settings
        self._batches = Batches(gateway.clock, settings.times, self._quotas)
        self._node = BatchNode(
            gateway.clock,
            gateway.timers,
            cold=settings.cold_start,
            batching=settings.batching,
            files=Files(settings.files),
            backend=gateway.backend,
            faults=gateway.faults,
        )

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, or let somebody answer it."""
        parts = request.path.removeprefix(ROOT).strip("/").split("/")
        if not request.path.startswith(f"{ROOT}/"):
            connection.send(errors.not_found())
        elif request.method == "POST" and len(parts) > 3 and "/".join(parts[3:]) in _KNOWN:
            self._inference(connection, request, parts)
        else:
            connection.send(self._probe(request, parts))

    def ended(self, exchange: Exchange) -> None:
        """Count the tokens of an answer."""
        if exchange.site is not None:
            exchange.site.count(exchange.user, self._gateway.clock.now(), exchange.tokens)

    def batches(self) -> tuple[BatchRecord, ...]:
        """The batches so far."""
        return tuple(batch.record() for batch in self._batches.all())

    async def close(self) -> None:
        """Give up what is under way."""
        await self._node.close()

    # Inference

    def _inference(self, connection: Connection, request: HttpRequest, parts: list[str]) -> None:
        """Refuse a request, or hand it to its model; in the order of FIRST 69bef23, services.py."""
        exchange = self._gateway.open(connection, "/".join(parts[3:]))
        refusal = (
            self._outside(parts[0], len(request.body))
            or self._come_in(exchange, request)
            or self._find(exchange, parts[0], parts[1], parts[2])
            or self._judge(exchange, len(request.body))
        )
        if refusal is not None:
            self._gateway.outlet.whole(exchange, *refusal)
        elif exchange.fault is not None and exchange.fault.kind in {"hang", "disconnect"}:
            if exchange.fault.kind == "disconnect":
                self._gateway.outlet.drop(exchange, "disconnect")
        elif exchange.site is not None:
            desk = self._gateway.desk
            door = exchange.site.cluster.door
            (desk.submit if door == "globus" else desk.call)(exchange, exchange.site)

    def _outside(self, cluster: str, size: int) -> Refusal | None:
        """What nginx refuses, which knows of no tokens."""
        match self._gateway.estate.down.get(cluster):
            case "detail":
                return errors.nginx_maintenance(), "maintenance"
            case "html":
                return errors.page(503, "Service Temporarily Unavailable"), "maintenance"
        if size > _NGINX_BYTES:
            return errors.page(413, "Request Entity Too Large"), "too_large"
        return self._doorway.from_address()

    def _come_in(self, exchange: Exchange, request: HttpRequest) -> Refusal | None:
        exchange.user, refusal = self._doorway.user(request.authorization)
        if refusal is not None:
            return refusal
        if exchange.endpoint not in ROUTES:
            return _unsupported(exchange.endpoint)
        if (flaw := self._gateway.read(exchange, request.body, errors.invalid)) is not None:
            return flaw, "invalid"
        return None

    def _find(
        self, exchange: Exchange, cluster: str, framework: str, prefix: str
    ) -> Refusal | None:
        """Look for the model."""
        if prefix != "v1":
            return errors.not_found(), "not_found"
        endpoint = exchange.endpoint
        place = self._place(cluster, framework, str(exchange.body["model"]), endpoint)
        if not isinstance(place, Site):
            return place
        self._gateway.reached(exchange, place)
        return None

    def _place(
        self, cluster: str, framework: str, model: str, endpoint: str | None = None
    ) -> Site | Refusal:
        """The model that a path and a body name, or why there is none."""
        estate = self._gateway.estate
        if cluster not in estate.clusters:
            return _no_cluster(cluster), "not_found"
        if cluster in estate.down:
            return errors.maintenance(cluster), "maintenance"
        if framework != estate.clusters[cluster].framework:
            message = f"framework {framework} not available on cluster {cluster}."
            return errors.app("unsupported_framework", message), "unsupported"
        if endpoint is not None and endpoint not in estate.clusters[cluster].endpoints:
            return _unsupported(endpoint, cluster)
        site = estate.sites.get((cluster, model))
        return site or (_no_model(cluster, framework, model), "not_found")

    def _judge(self, exchange: Exchange, size: int) -> Refusal | None:
        """Whether a request may go to its model."""
        site = exchange.site
        assert site is not None
        fault = self._gateway.strike(exchange)
        if fault is not None and fault.kind in REJECTIONS:
            return _rejected(fault, site), fault.kind
        if not site.permits(exchange.user):
            return errors.not_permitted(site.slug), "not_permitted"
        if (refusal := self._over_quota(site, exchange.user)) is not None:
            return refusal, "tokens"
        if size > _MOST_BYTES and site.cluster.door == "globus":
            return errors.uncaught(), "too_large"
        return None

    def _over_quota(self, site: Site, user: str) -> HttpResponse | None:
        now = self._gateway.clock.now()
        of_model = site.window.used(now)
        of_user = site.user_window(user).used(now)
        most, mine = self._quotas.model_tokens, self._quotas.user_tokens
        if (most is not None and of_model >= most) or (mine is not None and of_user >= mine):
            return errors.too_many_tokens(of_model, of_user)
        return None

    # All else

    def _probe(self, request: HttpRequest, parts: list[str]) -> HttpResponse:
        route = _route(parts)
        if route is None:
            return errors.not_found()
        self._gateway.ledger.probes[route] += 1
        if (refusal := self._outside(parts[0], len(request.body))) is not None:
            return refusal[0]
        submits = parts[2:] == ["v1", "batches"]
        if request.method != ("POST" if submits else "GET"):
            return errors.not_allowed()
        cluster = parts[0] if submits or route in _OF_CLUSTER else ""
        if route != "batches" and (found := self._gateway.rejection(route, cluster)) is not None:
            return found
        if route == "health":
            return errors.json(200, {"status": "ok"})
        if route == "status":
            return errors.json(200, views.status(self._gateway.estate))
        user, refusal = self._doorway.user(request.authorization)
        if refusal is not None:
            return refusal[0]
        if submits:
            return self._submit_batch(user, parts[0], parts[1], request.body)
        if route == "batches":
            return self._tell_batches(user, parts[2:], request.query)
        return self._tell(route, user, cluster, request.query)

    # Batches

    def _submit_batch(self, user: str, cluster: str, framework: str, raw: bytes) -> HttpResponse:
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return errors.unreadable()
        if found := batch_flaws(body):
            return errors.invalid_detail(found)
        place = self._place(cluster, framework, body["model"])
        if not isinstance(place, Site):
            return place[0]
        attempt = Attempt(body, body["input_file"], 0, 0)
        target = Target("batches", cluster, place.model.name, attempt)
        fault = self._gateway.faults.strike(target)
        if fault is not None and fault.kind in REJECTIONS:
            return _rejected(fault, place)
        refusal = self._batches.refusal(place, user, body["input_file"])
        if refusal is not None:
            return refusal
        if not self._takes_batches(place):
            return errors.not_ready(place.slug)
        batch = Batch(place, user, body, self._gateway.clock.now(), fault)
        self._node.begin(batch)
        return self._batches.submit(batch)

    def _takes_batches(self, site: Site) -> bool:
        """Whether the gateway hands a batch on.

        The endpoint for batches has managers only while a batch runs there, and without any the
        gateway looks at the flag that requests, not batches, have set (FIRST 3dde68d,
        endpoints/globus_compute.py): who has just asked a model cannot submit a batch for it.
        """
        now, cluster = self._gateway.clock.now(), site.cluster.name
        sight = self._sights.setdefault(cluster, Sight(self._gateway.settings.times))
        there = any(
            batch.runs for batch in self._batches.all() if batch.site.cluster.name == cluster
        )
        return sight.managers(now, there) or not site.hosting.triggered(now)

    def _tell_batches(self, user: str, rest: list[str], query: str) -> HttpResponse:
        match rest:
            case []:
                return self._batches.list(user, parse_qs(query).get("status", [""])[0])
            case [identity]:
                return self._batches.status(user, identity)
            case _:
                return self._batches.result(user, rest[0])

    def _tell(self, route: Route, user: str, cluster: str, query: str) -> HttpResponse:
        estate = self._gateway.estate
        if cluster and cluster not in estate.clusters:
            return _no_cluster(cluster)
        match route:
            case "whoami":
                return errors.json(200, views.whoami(user))
            case "list-endpoints":
                return errors.json(200, views.list_endpoints(estate, user))
            case "jobs":
                return self._tell_jobs(cluster, user)
            case _:
                wanted = parse_qs(query).get("model_id", [""])[0]
                cards = views.models(estate, self._quotas, cluster, user, wanted)
                if wanted and not cards:
                    framework = estate.clusters[cluster].framework
                    return _no_model(cluster, framework, wanted)
                return errors.json(200, cards)

    def _tell_jobs(self, cluster: str, user: str) -> HttpResponse:
        """Say the same to a user for a minute, also about a model that is there since."""
        now = self._gateway.clock.now()
        told, body = self._jobs.get((cluster, user), (float("-inf"), b""))
        if now >= told + self._gateway.settings.times.jobs_cache:
            clock, batches = self._gateway.clock, self._batches.all()
            body = orjson.dumps(views.jobs(self._gateway.estate, clock, cluster, user, batches))
            if cluster not in self._gateway.estate.down:
                self._jobs[cluster, user] = (now, body)
        return HttpResponse(200, body)


_SINGLE = {"health", "status", "whoami", "list-endpoints"}
_OF_CLUSTER = {"jobs", "models"}


def _route(parts: list[str]) -> Route | None:
    """What a path that is not for inference stands for."""
    match parts:
        case [name] if name in _SINGLE:
            return cast("Route", name)
        case [_, name] if name in _OF_CLUSTER:
            return cast("Route", name)
        case [_, _, "v1", "batches"] | ["v1", "batches"] | ["v1", "batches", _]:
            return "batches"
        case ["v1", "batches", _, "result"]:
            return "batches"
        case _:
            return None


def _rejected(fault: Fault, site: Site) -> HttpResponse:
    return REJECTIONS[fault.kind](site.cluster.name, site.model.name, site.slug)


def _no_cluster(cluster: str) -> HttpResponse:
    return errors.app("cluster_not_found", f"The requested cluster {cluster!r} does not exist.")


def _no_model(cluster: str, framework: str, model: str) -> HttpResponse:
    return errors.app(
        "endpoint_not_found",
        f"The requested endpoint {cluster}/{framework}/{model} does not exist.",
    )


def _unsupported(endpoint: str, cluster: str = "") -> Refusal:
    where = f" on cluster {cluster!r}" if cluster else ""
    message = f"{endpoint!r} not available{where}"
    return errors.app("unsupported_endpoint", message), "unsupported"
