"""Clusters of a FIRST gateway that serve a model, as a list that may change."""

from __future__ import annotations

from collections.abc import Collection

from langgraph_hpc_fanout.endpoints.chat import error_message
from langgraph_hpc_fanout.endpoints.first.catalogue import (
    Served,
    clusters_of,
    nearest,
    read_catalogue,
)
from langgraph_hpc_fanout.endpoints.first.gateway import Gateway
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, shown
from langgraph_hpc_fanout.instances.instance import Instance, InstancesError, Reading

_KEEP_SECONDS = 10.0
"""For how long a list is taken for new; looks are rarer."""


class Federation:
    """The clusters that serve a model to a user.

    Args:
        gateway: Which lists them.
        model: The model's logical name.
        clusters: Those that may be asked; None for all.
    """

    def __init__(self, gateway: Gateway, model: str, clusters: Collection[str] | None) -> None:
        self._gateway = gateway
        self._model = model
        self._clusters = clusters
        self._has_found = False

    @property
    def name(self) -> str:
        """The gateway's address."""
        return shown(self._gateway.root)

    async def look(self) -> Reading:
        """Who serves the model now.

        Raises:
            InstancesError: If the token is refused, or nobody ever served the model.
        """
        client = self._gateway.client(f"FIRST at {self.name}")
        try:
            answer = await self._gateway.look(client, "list-endpoints", _KEEP_SECONDS)
        except EXCHANGE_ERRORS as error:
            failure = client.failure_from(error)
            if failure.kind == "auth":
                raise InstancesError(failure.message) from error
            return Reading(absent=failure.message)
        finally:
            await client.close()
        if answer.status in (401, 403):
            remedy = self._gateway.credentials.remedy()
            said = client.redact(error_message(answer.raw))
            raise InstancesError(f"{client.name} answered {answer.status}: {said} {remedy}")
        if answer.status != 200:
            said = error_message(answer.raw)
            return Reading(absent=f"{client.name} answered {answer.status}: {said}")
        try:
            return self._reading(read_catalogue(answer.raw))
        except ValueError as error:
            raise InstancesError(f"{client.name}: {error}; is it a FIRST gateway?") from error

    def _reading(self, catalogue: tuple[Served, ...]) -> Reading:
        found = [
            each
            for each in clusters_of(catalogue, self._model)
            if self._clusters is None or each.cluster in self._clusters
        ]
        if not found and not self._has_found:
            raise InstancesError(self._nobody(catalogue))
        self._has_found = True
        return Reading(tuple(self._instance(each) for each in found))

    def _instance(self, served: Served) -> Instance:
        own = served.model.rpartition("/")[2]
        return Instance(f"{served.cluster}/{own}", str(self._gateway.root))

    def _nobody(self, catalogue: tuple[Served, ...]) -> str:
        where = "no cluster" if self._clusters is None else f"none of {sorted(self._clusters)}"
        near = nearest(self._model, {each.model for each in catalogue})
        hint = f"; did you mean {near!r}?" if near else "."
        return f"FIRST at {self.name} lists {where} that serves {self._model!r} to you{hint}"


def cluster_of(instance: Instance) -> str:
    """The cluster that a listed instance is on."""
    return instance.name.partition("/")[0]
