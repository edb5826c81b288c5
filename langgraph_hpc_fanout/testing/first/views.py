"""What the gateway tells about itself: clusters, models, jobs, users."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from langgraph_hpc_fanout.testing.first.batches import Batch
from langgraph_hpc_fanout.testing.first.clock import Clock
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.site import Estate, Site
from langgraph_hpc_fanout.testing.first.spec import CHAT

Json = dict[str, Any]

_CHICAGO = timezone(timedelta(hours=-6))
_STATES = (
    "running",
    "queued",
    "stopped",
    "others",
    "private_batch_running",
    "private_batch_queued",
)


def status(estate: Estate) -> dict[str, bool]:
    """`GET /status`: which clusters are up."""
    return {name: name not in estate.down for name in estate.clusters}


def whoami(user: str) -> Json:
    """`GET /whoami` (UserPydantic of FIRST 988b07d, schemas/structured_logs.py)."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, user)),
        "name": user,
        "username": f"{user}@anl.gov",
        "user_group_uuids": [],
        "idp_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, "anl.gov")),
        "idp_name": "Argonne National Laboratory",
        "auth_service": "globus",
    }


def list_endpoints(estate: Estate, user: str) -> Json:
    """`GET /list-endpoints` (FIRST 69bef23, services.py)."""
    clusters: Json = {}
    for name, cluster in estate.clusters.items():
        models = sorted(site.model.name for site in estate.of(name, user))
        frameworks: Json = {}
        if models:
            endpoints = [f"/v1/{endpoint}" for endpoint in cluster.endpoints]
            frameworks[cluster.framework] = {"models": models, "endpoints": endpoints}
        clusters[name] = {"base_url": f"/resource_server/{name}", "frameworks": frameworks}
    return {"clusters": clusters}


def model_card(site: Site, quotas: Quotas) -> Json:
    """An entry of `GET /{cluster}/models` (FIRST 329c0cd, tests/test_model_details.py).

    Limits are there only when they are set.
    """
    card: Json = {
        "id": site.model.name,
        "object": "model",
        "cluster": site.cluster.name,
        "framework": site.cluster.framework,
        "display_name": site.model.name.rpartition("/")[2],
    }
    if quotas.model_tokens is not None:
        card["rate_limit_token_per_minute"] = quotas.model_tokens
    if quotas.user_tokens is not None:
        card["rate_limit_token_per_minute_per_user"] = quotas.user_tokens
    card["capabilities"] = {
        "schema_version": 1,
        "api_protocols": [endpoint.replace("/", "_") for endpoint in site.cluster.endpoints],
        "context_window_tokens": site.model.context,
        "input_modalities": ["text"],
        "streaming": CHAT in site.cluster.endpoints,
    }
    return card


def models(estate: Estate, quotas: Quotas, cluster: str, user: str, model: str) -> list[Json]:
    """`GET /{cluster}/models`, of one model if one is named; empty if there is none such."""
    sites = sorted(estate.of(cluster, user), key=lambda site: site.model.name.lower())
    return [model_card(site, quotas) for site in sites if not model or site.model.name == model]


def jobs(
    estate: Estate, clock: Clock, cluster: str, user: str, batches: Iterable[Batch] = ()
) -> Json:
    """`GET /{cluster}/jobs`: the batch scheduler's jobs that hold models or run batches.

    A job that runs and whose server is still loading stands under `running`, with the status
    `starting` (FIRST aba2e05, compute-functions/qstat_register_function.py).
    """
    answer: Json = {state: [] for state in _STATES}
    answer["cluster_status"] = {"free_nodes": estate.clusters[cluster].free_nodes}
    if cluster in estate.down:
        answer["stopped"] = [_entry(site) for site in estate.of(cluster, user)]
        return answer
    for number, site in enumerate(estate.of(cluster, user), 101):
        phase = site.hosting.phase(clock.now())
        if phase in {"running", "starting"}:
            answer["running"].append(_running(site, number, phase, clock))
        elif phase == "queued":
            answer["queued"].append(_queued(site, number, clock))
    for number, batch in enumerate(batches, 901):
        if batch.site.cluster.name == cluster and batch.site.permits(user) and not batch.ended:
            state = "running" if batch.runs else "queued"
            answer[f"private_batch_{state}"].append(_batch(batch, number, state))
    return answer


def _entry(site: Site) -> Json:
    return {
        "Models": site.model.name,
        "Framework": site.cluster.framework,
        "Cluster": site.cluster.name,
    }


def _running(site: Site, number: int, phase: str, clock: Clock) -> Json:
    return {
        **_entry(site),
        "Model Status": phase,
        **_job(site, number, "R"),
        "Host Name": f"{site.cluster.name}-gpu-{number % 24:02}",
        "Walltime": _hours(clock.now() - max(0.0, site.hosting.starts)),
    }


def _queued(site: Site, number: int, clock: Clock) -> Json:
    starts = datetime.fromtimestamp(clock.epoch(site.hosting.starts), _CHICAGO)
    return {
        **_entry(site),
        "Model Status": "queued",
        **_job(site, number, "Q"),
        "Host Name": "N/A",
        "Estimated Start Time": f"{starts:%a %b %d %H:%M:%S %Y} (Chicago time)",
    }


def _batch(batch: Batch, number: int, state: str) -> Json:
    return {
        **_entry(batch.site),
        "Model Status": state,
        **_job(batch.site, number, "R" if batch.runs else "Q"),
        "Host Name": "N/A",
        "Batch ID": batch.id,
        "Username": f"{batch.user}@anl.gov",
    }


def _job(site: Site, number: int, state: str) -> Json:
    return {
        "Job ID": f"{number}.{site.cluster.name}-pbs-01",
        "Job State": state,
        "Job Comments": "N/A",
        "Nodes Reserved": "1",
    }


def _hours(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
