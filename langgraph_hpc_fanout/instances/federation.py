"""The clusters of a FIRST gateway that serve a model, as its list has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from langgraph_hpc_fanout.endpoints.first.catalogue import (
    Served,
    clusters_of,
    nearest,
    read_catalogue,
    why_not,
)
from langgraph_hpc_fanout.endpoints.first.gateway import Gateway
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, shown
from langgraph_hpc_fanout.instances.instance import InstancesError, Reading

_KEEP_SECONDS = 10.0
"""For how long a list is taken for new; looks are rarer."""


@dataclass(frozen=True, slots=True)
class ServingCluster:
    """A cluster that serves the model to this user.

    Attributes:
        name: The cluster's name and the model's own.
        served: Its framework, and the model's id there.
    """

    name: str
    served: Served


class Federation:
    """The clusters that serve a model to a user.

    Args:
        gateway: The gateway.
        model: The model's logical name.
        clusters: The only clusters that are wanted; None for all.
    """

    advice = "wait= gives it more time."

    def __init__(
        self, gateway: Gateway, model: str, clusters: Collection[str] | None = None
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._clusters = clusters

    @property
    def name(self) -> str:
        """The gateway's address."""
        return shown(self._gateway.root)

    async def look(self) -> Reading[ServingCluster]:
        """The clusters that serve the model now.

        Raises:
            InstancesError: If the gateway refuses the token.
        """
        client = self._gateway.client(self.name)
        try:
            path = "list-endpoints"
            answer = await self._gateway.look(client, path, _KEEP_SECONDS)
        except EXCHANGE_ERRORS as error:
            failure = client.failure_from(error)
            if failure.kind == "auth":
                raise InstancesError(failure.message, "auth") from error
            return Reading(is_complete=False, absent=failure.message.rstrip("."))
        finally:
            await client.close()
        if answer.status == 200:
            return self._read(answer.raw)
        failure = self._gateway.failure_of(client, answer)
        if failure.kind == "auth":
            raise InstancesError(failure.message, "auth")
        return Reading(is_complete=False, absent=failure.message.rstrip("."))

    def _read(self, raw: bytes) -> Reading[ServingCluster]:
        try:
            catalogue = read_catalogue(raw)
        except ValueError as error:
            fault = f"{self.name}: {error}; is that the root of a FIRST gateway?"
            return Reading(faults=(fault,), is_complete=False)
        found = clusters_of(catalogue, self._model)
        if self._clusters is not None:
            found = [each for each in found if each.cluster in self._clusters]
        return Reading(tuple(map(_serving, found)), tuple(self._faults(catalogue, found)))

    def _faults(self, catalogue: Sequence[Served], found: Sequence[Served]) -> Iterable[str]:
        """Why clusters that are named do not serve it, or that no cluster does."""
        if self._clusters is not None:
            missing = set(self._clusters) - {each.cluster for each in found}
            return [why_not(catalogue, self._model, cluster) for cluster in sorted(missing)]
        return [] if found else [self._nobody(catalogue)]

    def _nobody(self, catalogue: Sequence[Served]) -> str:
        near = nearest(self._model, {each.model for each in catalogue})
        hint = f"; did you mean {near!r}?" if near else ". Ask ALCF for access if it should."
        return f"FIRST at {self.name} lists no cluster that serves {self._model!r} to you{hint}"


def _serving(served: Served) -> ServingCluster:
    return ServingCluster(f"{served.cluster}/{served.model.rpartition('/')[2]}", served)
