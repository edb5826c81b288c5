"""Why nobody can be asked, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.records import Failure, FailureKind

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.lane import Lane

_MOST_REASONS = 4


class NoEndpointError(LookupError):
    """No endpoint serves the model that is asked for; the message says why for each.

    Attributes:
        kind: The kind of failure that this is to who asked.
    """

    def __init__(self, message: str, kind: FailureKind = "cold") -> None:
        super().__init__(message)
        self.kind = kind


def in_short(failures: Sequence[Failure]) -> str:
    """A few of many reasons, as the end of a sentence."""
    reasons = "; ".join(failure.message.rstrip(".") for failure in failures[:_MOST_REASONS])
    if (more := len(failures) - _MOST_REASONS) > 0:
        return f"{reasons}; and {more} more."
    return reasons if reasons.endswith("?") else f"{reasons}."


def explain(failures: Sequence[Failure], model: str | None) -> str:
    """One message from one reason an endpoint."""
    reasons = in_short(failures)
    if any(failure.kind in ("auth", "cancelled", "budget") for failure in failures):
        return reasons
    if model == FUNCTIONS:
        return (
            "No endpoint of the pool can call a function on the HPC side; give it a "
            f"GlobusComputeEndpoint with ship='package': {reasons}"
        )
    if model is not None and any(not failure.retryable for failure in failures):
        return f"No endpoint serves model {model!r}: {reasons}"
    return f"No endpoint can be used: {reasons}"


def denied(lanes: Iterable[Lane]) -> list[Failure]:
    """Tokens that were refused."""
    failures = [lane.failure for lane in lanes]
    return [failure for failure in failures if failure is not None and failure.kind == "auth"]


def why_not(lane: Lane) -> Failure:
    """Why a lane does not serve a model that no lane serves."""
    if lane.condition.is_hot:
        offered = ", ".join(sorted(lane.serves - {FUNCTIONS})) or "nothing"
        message = f"{lane.name} does not serve it, it serves {offered}"
        return Failure("cold", message, None, False, lane.name)
    if lane.failure is not None:
        return lane.failure
    return Failure("cold", f"{lane.name} is {lane.state.value}", None, True, lane.name)
