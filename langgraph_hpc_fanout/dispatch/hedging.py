"""Asking a second endpoint for what is late, when there is nothing else to do."""

from __future__ import annotations


class HedgeBudget:
    """Tokens that may be spent on second requests, as a share of those that answers used.

    What a hedge costs is not known before its end, and of the one that loses never; it is paid
    for with the tokens that a request of its kind is expected to use.

    Args:
        share: Of the tokens; 0 for no hedges at all.
    """

    __slots__ = ("_level", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._level = 0.0

    @property
    def is_on(self) -> bool:
        """Whether there are any hedges."""
        return self._share > 0.0

    def answered(self, tokens: float) -> None:
        """A request that used so many tokens has its answer."""
        self._level += self._share * tokens

    def take(self, tokens: float) -> bool:
        """Pay for a hedge of so many tokens, if there is enough."""
        if tokens > self._level:
            return False
        self._level -= tokens
        return True
