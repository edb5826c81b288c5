"""What a registry of services answers, such as that of Aegis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from langgraph_hpc_fanout.instances.instance import (
    Instance,
    InstancesError,
    Reading,
    instance_at,
    instance_of,
    reading_of,
    shown,
)

_LISTS = ("services", "instances", "endpoints", "data")
_NOT_THERE = frozenset({"starting", "unhealthy", "stopping", "stopped", "failed"})


def read_services(raw: bytes, name: str) -> Reading[Instance]:
    """The instances of an answer.

    Aegis tells of each service its `service_id`, `host`, `port`, `status` and `last_seen`
    (BaseCAF_Aegis, cli.py: `aegis registry list --format json`). A list of such objects is read,
    one below `services` (or `instances`, `endpoints`, `data`), objects by their ids, a `url` in
    the place of `host` and `port`, and mere `host:port` texts. A service whose `status` says that
    it is not there is left out; how long ago it was seen does not count, because with a thousand
    instances a round of the registry's probes takes longer than what it takes for fresh.

    Args:
        raw: The answer's body.
        name: The registry's, for messages.

    Raises:
        InstancesError: If it lists no services at all.
    """
    try:
        entries = _entries(orjson.loads(raw))
    except orjson.JSONDecodeError:
        entries = None
    if entries is None:
        raise InstancesError(
            f"{name} does not answer with a list of services in JSON; give the URL at which "
            "the registry lists them."
        )
    instances, faults = [], []
    for number, entry in enumerate(entries, 1):
        try:
            if (instance := _instance(entry)) is not None:
                instances.append(instance)
        except InstancesError as error:
            faults.append(f"{name}, entry {number}: {error}")
    return reading_of(instances, faults)


def _entries(answer: Any) -> Iterable[Any] | None:
    if isinstance(answer, dict):
        listed = next(
            (answer[key] for key in _LISTS if isinstance(answer.get(key), list | dict)), None
        )
        if listed is None and all(isinstance(each, dict) for each in answer.values()):
            listed = answer
        answer = listed
    if isinstance(answer, dict):
        return answer.values()
    return answer if isinstance(answer, list) else None


def _instance(entry: Any) -> Instance | None:
    if isinstance(entry, str):
        return instance_at(entry)
    if not isinstance(entry, dict):
        raise InstancesError(f"{shown(repr(entry))} is no service.")
    if str(entry.get("status", "")).lower().rpartition(".")[2] in _NOT_THERE:
        return None
    if isinstance(url := entry.get("url"), str):
        return instance_at(url)
    host, port = entry.get("host"), entry.get("port")
    if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int | str):
        raise InstancesError("the service has neither host and port nor url.")
    return instance_of(host, str(port))
