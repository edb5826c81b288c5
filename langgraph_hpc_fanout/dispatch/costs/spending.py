"""What a run has cost so far, and what it will have cost at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.dispatch.costs.charges import Charge


@dataclass(frozen=True, slots=True)
class Spending:
    """The costs of a run, for progress and report.

    Items whose answers were there already cost nothing, so they count nowhere here.

    Attributes:
        spent: What settled attempts have cost.
        unconfirmed: The part of it that nobody confirmed.
        exceeded: Attempts that cost more than was reserved for them.
        done: Items that were asked and have an outcome.
        ok: Those with an answer.
        remaining: Items that are still to be asked.
    """

    spent: Charge
    unconfirmed: Charge
    exceeded: int
    done: int
    ok: int
    remaining: int

    @classmethod
    def of(cls, purse: Purse, done: int, ok: int, remaining: int) -> Spending:
        """What has gone out of a purse for these items."""
        return cls(purse.spent, purse.unconfirmed, purse.exceeded, done, ok, remaining)

    def to_dict(self) -> dict[str, Any]:
        """The costs as plain data.

        Returns:
            `{"usd", "tokens", "requests", "node_hours", "per_success", "projected", "unconfirmed",
            "exceeded"}`. `per_success` has the first four for each item with an answer, failures
            paid for by successes; None before the first. `projected` has them for the whole run,
            if what remains costs as much an item as what is done; None before the first outcome.
            `unconfirmed` has them for what nobody confirmed, and `attempts`, how many.
        """
        spent = _amounts(self.spent)
        whole = self.done + self.remaining
        return {
            **spent,
            "per_success": _scaled(spent, 1 / self.ok) if self.ok else None,
            "projected": _scaled(spent, whole / self.done) if self.done else None,
            "unconfirmed": {
                **_amounts(self.unconfirmed),
                "attempts": self.unconfirmed.unconfirmed,
            },
            "exceeded": self.exceeded,
        }


def _amounts(charge: Charge) -> dict[str, float]:
    return {
        "usd": charge.usd,
        "tokens": charge.tokens,
        "requests": charge.requests,
        "node_hours": charge.node_hours,
    }


def _scaled(amounts: dict[str, float], factor: float) -> dict[str, float]:
    return {name: amount * factor for name, amount in amounts.items()}
