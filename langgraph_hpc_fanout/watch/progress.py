"""Where a run stands: counters, and the event that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.dispatch.costs.spending import Spending
from langgraph_hpc_fanout.records import Outcome

EVENT_TYPE = "hpc_fanout.progress"
EVENT_VERSION = 1


class Progress:
    """Counts of one run. Cheap to update, for it is updated for every item.

    Args:
        node: Name of the fan-out.
        run: Id of the run.
        clock: Seconds, from any origin.
    """

    def __init__(self, node: str, run: str, clock: Callable[[], float]) -> None:
        self.total = 0
        self.ok = 0
        self.cached = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.failures: Counter[str] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.purse: Purse | None = None
        self.waiting_for: str | None = None
        self._messages: dict[str, str] = {}
        self._node = node
        self._run = run
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The run begins now."""
        self._started = self._clock()

    @property
    def done(self) -> int:
        """Items that have an outcome."""
        return self.ok + self.failures.total()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._started

    def count(self, outcome: Outcome, *, known: bool = False) -> None:
        """Take note of an outcome; of one that was known before, nothing was asked."""
        if outcome.error is not None:
            self.failures[outcome.error.kind] += 1
            self._messages.setdefault(outcome.error.kind, outcome.error.message)
        else:
            self.ok += 1
        if known or outcome.attempts == 0:
            self.cached += outcome.ok
            return
        if outcome.endpoint is not None:
            self.endpoints[outcome.endpoint] += 1
        if outcome.usage is not None:
            self.prompt_tokens += outcome.usage.prompt_tokens
            self.completion_tokens += outcome.usage.completion_tokens

    def why_failed(self) -> dict[str, tuple[int, str]]:
        """For each kind of failure how many there are, and what the first one said."""
        return {kind: (self.failures[kind], said) for kind, said in self._messages.items()}

    def event(self, in_flight: int) -> dict[str, Any]:
        """The progress event, as JSON data; its fields are documented in docs/progress.md."""
        asked = self.done - self.cached
        rate = asked / self.seconds if self.seconds > 0 else 0.0
        remaining = self.total - self.done
        return {
            "type": EVENT_TYPE,
            "v": EVENT_VERSION,
            "node": self._node,
            "run": self._run,
            "total": self.total,
            "done": self.done,
            "ok": self.ok,
            "failed": dict(self.failures),
            "cached": self.cached,
            "in_flight": in_flight,
            "seconds": round(self.seconds, 3),
            "remaining_seconds": round(remaining / rate, 1) if rate else None,
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens},
            "endpoints": dict(self.endpoints),
            **self._waiting(),
            **self._cost(),
        }

    def _waiting(self) -> dict[str, Any]:
        """What it waits for; nothing once all is done."""
        waits = self.waiting_for is not None and self.done < self.total
        return {"waiting": self.waiting_for} if waits else {}

    def _cost(self) -> dict[str, Any]:
        """What the run has cost; nothing where nothing has a price or a limit."""
        if self.purse is None or self.purse.is_unused:
            return {}
        asked, remaining = self.done - self.cached, self.total - self.done
        spending = Spending.of(self.purse, asked, self.ok - self.cached, remaining)
        return {"cost": spending.to_dict()}
