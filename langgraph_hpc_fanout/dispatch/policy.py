"""How a pool decides who gets which request when: what may be set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How a pool treats endpoints and requests that fail.

    Args:
        retries: Retries that each answer pays for. What fails beyond it (and beyond ten retries
            a second) waits until more is answered, so that a storm of failures ends.
        ejected: Largest share of the endpoints that may be left alone at the same time because
            they answer with faults only. With 1.0 a run waits while all of them do, and with
            less some are asked all the same.
        hedging: Tokens that may be spent on asking a second endpoint, as a share of those that
            answers use. When a lane is idle and nothing waits, a request that is late is asked
            there, too: what a slow lane has, or what takes longer than 95 % of its kind. The
            first answer counts, and the other request is cancelled. 0 for never.
        absence: Seconds for which a run waits when no endpoint is left that it could ask, but one
            that has answered before may come back: after a restart, or with the next job of a batch
            scheduler. 0 to end at once.

    Raises:
        ValueError: If a share is out of range.
    """

    retries: float = 0.2
    ejected: float = 0.5
    hedging: float = 0.02
    absence: float = 60.0

    def __post_init__(self) -> None:
        if not self.retries >= 0.0:
            raise ValueError(f"Policy(retries={self.retries!r}) must be a share, at least 0.")
        if not self.absence >= 0.0:
            raise ValueError(f"Policy(absence={self.absence!r}) must be seconds, at least 0.")
        for name in ("ejected", "hedging"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"Policy({name}={share!r}) must be a share from 0 to 1.")
