"""What a request will use: tokens and seconds, learned for each kind of prompt."""

from __future__ import annotations

import math
from collections.abc import Hashable

from langgraph_hpc_fanout.records import Request, Usage

_UNKNOWN_COMPLETION = 256
"""Tokens reserved for an answer of unknown length, where the request sets no bound."""
_GAIN = 0.05
"""Weight of the newest answer, once there are 1 / gain of them; before, all weigh the same."""
_DEVIATIONS = 1.0
_ENOUGH = 20
"""Answers after which a quantile in the tail may be told."""
_QUANTILE_95 = 1.645
"""The normal distribution's, in standard deviations."""


class Estimates:
    """What requests of each kind use, as an exponential moving average of what they used.

    A kind is whatever tells prompts apart that are answered at different lengths: the model and
    the template, for instance. There should be few of them, as each is kept. Averages and
    deviations are kept as TCP keeps those of its round trips (RFC 6298). Pure, O(1).
    """

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def __repr__(self) -> str:
        return f"Estimates({len(self._kinds)} kinds)"

    def tokens(self, kind: Hashable, request: Request) -> float:
        """Tokens to reserve for a request: a typical answer's and a deviation more.

        Never more than `request.max_tokens` for the answer; that many, or 256, before anything
        is known of the kind.
        """
        known = self._kinds.get(kind)
        most = request.max_tokens
        if known is None:
            return float(request.prompt_tokens + (_UNKNOWN_COMPLETION if most is None else most))
        completion = known.completion + _DEVIATIONS * known.deviation
        if most is not None and completion > most:
            completion = most
        return request.prompt_tokens * known.prompt_ratio + completion

    def pace(self, kind: Hashable) -> float | None:
        """Seconds that a token takes, of all endpoints; None before the first answer."""
        known = self._kinds.get(kind)
        return None if known is None else known.token_seconds

    def slow_after(self, kind: Hashable) -> float | None:
        """Seconds after which an answer is late: 95 % take less.

        The quantile of a lognormal distribution, which times of answers resemble. None until
        there are 20 answers of the kind.
        """
        known = self._kinds.get(kind)
        if known is None or known.answers < _ENOUGH:
            return None
        return math.exp(known.log_seconds + _QUANTILE_95 * math.sqrt(known.log_variance))

    def learn(self, kind: Hashable, request: Request, usage: Usage, seconds: float) -> None:
        """Take in an answer.

        Args:
            kind: As given to the other methods.
            request: What was asked.
            usage: The tokens it used.
            seconds: From its sending to its answer.
        """
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(usage)
        known.learn(request, usage, max(seconds, 1e-9))


class _Kind:
    """The averages of one kind."""

    __slots__ = (
        "answers",
        "completion",
        "deviation",
        "log_seconds",
        "log_variance",
        "prompt_ratio",
        "token_seconds",
    )

    def __init__(self, usage: Usage) -> None:
        self.answers = 0
        self.prompt_ratio = 1.0
        self.completion = 0.0
        # One answer says nothing of the spread; RFC 6298 begins with half of the first value.
        self.deviation = usage.completion_tokens / 2
        self.token_seconds = 0.0
        self.log_seconds = 0.0
        self.log_variance = 0.0

    def learn(self, request: Request, usage: Usage, seconds: float) -> None:
        self.answers += 1
        gain = max(_GAIN, 1 / self.answers)
        if request.prompt_tokens:
            ratio = usage.prompt_tokens / request.prompt_tokens
            self.prompt_ratio += gain * (ratio - self.prompt_ratio)
        off = usage.completion_tokens - self.completion
        if self.answers > 1:
            self.deviation += gain * (abs(off) - self.deviation)
        self.completion += gain * off
        token_seconds = seconds / max(1, usage.completion_tokens)
        self.token_seconds += gain * (token_seconds - self.token_seconds)
        # West's update of a weighted variance (Communications of the ACM 22(9), 1979).
        off = math.log(seconds) - self.log_seconds
        self.log_seconds += gain * off
        self.log_variance = (1 - gain) * (self.log_variance + gain * off * off)
