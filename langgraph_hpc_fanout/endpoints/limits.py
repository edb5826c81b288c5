"""What may be asked of an endpoint at once and per second."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

_UNIT_SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
_RATE = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*/\s*([a-z]+)\s*", re.IGNORECASE)

_SLOWEST = 1 / 86_400
_FASTEST = 1e9
"""Rates between which a limit makes sense, per second."""

Window = Literal["rolling", "fixed"]
"""How a server counts against a rate: over any time of its length, or from edge to edge."""


def per_second(rate: str, what: str = "rate") -> float:
    """The rate `"10/s"`, `"600/min"` or `"36000/h"` in units per second.

    Raises:
        ValueError: If the text is no such rate, or one that makes no sense.
    """
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if match is None or match[2].lower() not in _UNIT_SECONDS:
        raise ValueError(
            f"Limits({what}={rate!r}) is no rate; write a number per s, min or h, such as '10/s'."
        )
    value = float(match[1]) / _UNIT_SECONDS[match[2].lower()]
    if value < _SLOWEST:
        raise ValueError(f"Limits({what}={rate!r}) would let nothing through for over a day.")
    if value > _FASTEST:
        raise ValueError(f"Limits({what}={rate:.20}...) is no limit at all; leave it out.")
    return value


def window_seconds(rate: str) -> float:
    """The time that a rate is meant for: 60.0 of `"600/min"`."""
    return _UNIT_SECONDS[rate.rpartition("/")[2].strip().lower()]


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be asked of one endpoint.

    Args:
        concurrency: Most requests in flight; None to have it found by trying.
        requests: Rate of requests, such as `"10/s"` or `"600/min"`; None for no limit.
        tokens: Rate of prompt and completion tokens, such as `"60000/min"`; None for no limit.
        burst: Most requests let through at once after a pause. By default a tenth of a
            second's worth, at least one; never more than a second's worth.
        window: How the server counts: `"rolling"`, or `"fixed"` for one that begins to count
            anew after each second, minute or hour, whichever the rate is given for, as FIRST
            does with tokens per minute.
        shared: Name of a rate of requests that all endpoints of this name are counted against
            together, those of other pools in the process too, as where a gateway counts by user
            over all its models.

    Raises:
        ValueError: If a limit would let nothing through or a rate cannot be read.
    """

    concurrency: int | None = None
    requests: str | None = None
    tokens: str | None = None
    burst: int | None = None
    window: Window = "rolling"
    shared: str | None = None
    requests_per_second: float | None = field(init=False, repr=False, compare=False, default=None)
    tokens_per_second: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.concurrency is not None and (
            isinstance(self.concurrency, bool)
            or not isinstance(self.concurrency, int)
            or self.concurrency < 1
        ):
            raise ValueError(
                f"Limits(concurrency={self.concurrency!r}) must be a whole number, at least 1."
            )
        if self.requests is not None:
            object.__setattr__(self, "requests_per_second", per_second(self.requests, "requests"))
        if self.tokens is not None:
            object.__setattr__(self, "tokens_per_second", per_second(self.tokens, "tokens"))
        if self.burst is not None:
            self._check_burst(self.burst)
        self._check_window()
        if self.shared is not None and self.requests is None:
            raise ValueError(
                f"Limits(shared={self.shared!r}) needs requests=, the rate that is shared."
            )

    def _check_burst(self, burst: int) -> None:
        if self.requests_per_second is None:
            raise ValueError(
                f"Limits(burst={burst!r}) needs requests=, the rate that it belongs to."
            )
        most = max(1, int(self.requests_per_second))
        if not 1 <= burst <= most:
            raise ValueError(
                f"Limits(burst={burst!r}) must lie between 1 and a second's worth, {most}."
            )

    def _check_window(self) -> None:
        if self.window not in get_args(Window):
            raise ValueError(f"Limits(window={self.window!r}) must be 'rolling' or 'fixed'.")
        if self.window == "fixed" and self.requests is None and self.tokens is None:
            raise ValueError(
                "Limits(window='fixed') needs requests= or tokens=, the rate that it belongs to."
            )

    def at_most(self, concurrency: int) -> Limits:
        """The same, with this limit of requests in flight where none was given."""
        return self if self.concurrency is not None else replace(self, concurrency=concurrency)

    def describe(self) -> str:
        """The limits in a few words, for graphs and logs."""
        parts = ["as many at once as it takes"]
        if self.concurrency is not None:
            parts = [f"{self.concurrency} at once"]
        if self.requests:
            together = "" if self.shared is None else f" (shared: {self.shared})"
            parts.append(f"{self.requests} requests{together}")
        if self.tokens:
            parts.append(f"{self.tokens} tokens")
        if self.window == "fixed":
            parts.append("in fixed windows")
        return ", ".join(parts)
