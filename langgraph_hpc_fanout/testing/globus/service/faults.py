"""What may go wrong in the service, on demand."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

ROUTES = frozenset(
    {
        "submit",
        "functions",
        "amqp_url",
        "batch_status",
        "task",
        "taskgroup",
        "endpoint",
        "endpoint_status",
        "version",
        "token",
    }
)
_STATUS = re.compile(r"http_([45]\d\d)")
_ON_ROUTES = frozenset({"lost_request", "lost_reply"})
_ELSEWHERE = frozenset({"start_fails", "duplicate_result", "lost_result"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with the next so many occasions.

    | kind | what happens |
    |---|---|
    | `http_413` and every other 4xx and 5xx | the request is refused with that status |
    | `lost_request` | the connection is cut before the request takes effect |
    | `lost_reply` | the request takes effect, then the connection is cut without an answer |
    | `start_fails` | the next start of a user endpoint fails, and its tasks with it |
    | `duplicate_result` | a result is delivered twice |
    | `lost_result` | a result never arrives, and its task stays unfinished |

    Attributes:
        kind: What goes wrong.
        times: With how many occasions.
        after: How many go well before.
        route: Which requests it strikes, of `http_*`, `lost_request` and `lost_reply`.
        retry_after: Seconds for the Retry-After header of `http_*`. What the real service
            sends is not known; without it there is none.

    Raises:
        ValueError: If the fault or the route is unknown.
    """

    kind: str
    times: int = 1
    after: int = 0
    route: str = "submit"
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if not (_STATUS.fullmatch(self.kind) or self.kind in _ON_ROUTES | _ELSEWHERE):
            known = ", ".join(sorted(_ON_ROUTES | _ELSEWHERE))
            raise ValueError(
                f"Fault({self.kind!r}) is unknown; known: http_4xx, http_5xx, {known}."
            )
        if self.route not in ROUTES:
            known = ", ".join(sorted(ROUTES))
            raise ValueError(f"Fault(route={self.route!r}) is unknown; known: {known}.")
        if self.times < 1 or self.after < 0:
            raise ValueError(f"Fault({self.kind!r}) needs times >= 1 and after >= 0.")

    @property
    def status(self) -> int | None:
        """The status of `http_*`."""
        found = _STATUS.fullmatch(self.kind)
        return int(found[1]) if found else None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class Faults:
    """The faults that are yet to strike."""

    def __init__(self) -> None:
        self._waiting: list[list[Any]] = []

    def add(self, fault: Fault) -> None:
        """Let a fault strike."""
        self._waiting.append([fault, fault.after, fault.times])

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._waiting.clear()

    def on_route(self, route: str) -> Fault | None:
        """The fault that strikes this request, if any."""
        return self._take(lambda f: f.kind not in _ELSEWHERE and f.route == route)

    def elsewhere(self, kind: str) -> bool:
        """Whether a fault of this kind strikes now."""
        return self._take(lambda f: f.kind == kind) is not None

    def _take(self, fits: Any) -> Fault | None:
        for entry in self._waiting:
            fault: Fault = entry[0]
            if not fits(fault):
                continue
            if entry[1] > 0:
                entry[1] -= 1
                return None
            entry[2] -= 1
            if not entry[2]:
                self._waiting.remove(entry)
            return fault
        return None
