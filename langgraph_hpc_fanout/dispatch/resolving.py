"""Which logical model is meant, and whether anybody serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError, denied, explain, why_not
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.endpoints.tags import are_admitted

_SERVING = frozenset({State.HOT, State.STARTING})
"""Of what lanes in these states serve, one may ask for it now, if only to wait."""


class Resolver:
    """Finds the model that is asked for, and waits for lanes that may come to serve it.

    Args:
        lanes: Those there are; looked at anew each time.

    Attributes:
        waiting: How many wait to know whom to ask.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._changed = asyncio.Event()
        self.waiting = 0

    def look_again(self) -> None:
        """Lanes have changed."""
        self._changed.set()

    async def resolve(
        self, model: str | None, require: frozenset[str], forbid: frozenset[str]
    ) -> str:
        """The logical model to ask for, see `Scheduler.resolve`."""
        for lane in self._admitted(require, forbid):
            lane.start()
        while True:
            lanes = self._admitted(require, forbid)  # some may have joined or left
            if refused := denied(lanes):
                raise NoEndpointError(explain(refused, model), "auth")
            states = {lane.state for lane in lanes}
            served = {name for lane in lanes if lane.state in _SERVING for name in lane.serves}
            if model is None:
                served.discard(FUNCTIONS)
            if model is not None and model in served:
                return model
            if not states & {State.COLD, State.PROBING, State.STARTING, State.EJECTED}:
                break
            if model is None and served and State.COLD not in states:
                break
            self._changed.clear()
            self.waiting += 1
            try:
                await self._changed.wait()
            finally:
                self.waiting -= 1
        if model is None and len(served) == 1:
            return served.pop()
        if model is None and served:
            raise NoEndpointError(
                f"The pool serves several models ({self._who_serves_what()}); say which one is "
                "meant with model=..., or have endpoints that serve the same model call it by "
                "the same name.",
                "permanent",
            )
        raise NoEndpointError(explain([why_not(lane) for lane in lanes], model))

    def _admitted(self, require: frozenset[str], forbid: frozenset[str]) -> list[Lane]:
        """The lanes that these tags leave.

        Raises:
            NoEndpointError: If they leave none.
        """
        if not self._lanes:
            raise NoEndpointError("The pool has no endpoint left; pool.add() one.", "permanent")
        lanes = [lane for lane in self._lanes if are_admitted(lane.tags, require, forbid)]
        if not lanes:
            wish = [f"requires {sorted(require)}"] * bool(require)
            wish += [f"forbids {sorted(forbid)}"] * bool(forbid)
            tags = "; ".join(f"{lane.name}: {sorted(lane.tags) or 'none'}" for lane in self._lanes)
            raise NoEndpointError(
                f"No endpoint may be asked: the task {' and '.join(wish)}, and their tags are "
                f"{tags}. Change either.",
                "permanent",
            )
        return lanes

    def _who_serves_what(self) -> str:
        served = [
            f"{lane.name}: {', '.join(sorted(lane.serves - {FUNCTIONS}))}"
            for lane in self._lanes
            if lane.condition.is_hot
        ]
        return "; ".join(served)
