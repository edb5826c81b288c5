"""Budgets: what a run or a pool may use, and the purse that is never overdrawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS, Price

_WHOLE = ("tokens", "requests")
_GO_ON = "run again with a larger budget to go on"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used, at most. At least one of these.

    Args:
        usd: Dollars.
        tokens: Tokens read and written.
        requests: Requests sent, those that are sent again and those that are turned away included.
        node_hours: Node-hours.
        seconds: Seconds from the first request that is sent to the last.

    Raises:
        ValueError: If nothing is given, or an amount is not positive and finite.
    """

    usd: float | None = None
    tokens: int | None = None
    requests: int | None = None
    node_hours: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        if all(value is None for value in given.values()):
            raise ValueError(
                "Budget() limits nothing; give usd=, tokens=, requests=, node_hours= or seconds=."
            )
        for name, value in given.items():
            if value is not None:
                _check(name, value)

    def needs_tokens(self, price: Price | None) -> bool:
        """Whether tokens must be bounded before they are asked for at this price."""
        by_token = price is not None and price.input is not None
        return self.tokens is not None or (self.usd is not None and by_token)

    def check_price(self, price: Price | None, endpoint: str) -> None:
        """See that the budget can be kept at an endpoint.

        Raises:
            ValueError: If the endpoint's price does not tell what the budget limits.
        """
        if self.usd is not None and (
            price is None or (price.input is None and price.usd_per_node_hour is None)
        ):
            raise ValueError(
                f"Budget(usd={self.usd!r}) needs to know what {endpoint} costs; give it a price="
                " with input= and output=, or with usd_per_node_hour=. What is free costs 0."
            )
        if self.node_hours is not None and (price is None or price.nodes is None):
            raise ValueError(
                f"Budget(node_hours={self.node_hours!r}) needs to know the nodes of {endpoint};"
                " give it a price= with nodes=."
            )

    def describe(self) -> str:
        """The budget in a few words: `at most $5.00, 1,000,000 tokens`."""
        parts = [each.words() for each in _limits(self)]
        if self.seconds is not None:
            parts.append(_in_seconds(self.seconds))
        return "at most " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Past:
    """What was used of a budget before, by an earlier part of what it is for.

    Attributes:
        charge: What attempts have cost.
        seconds: Seconds since the first of them was sent.
    """

    charge: Charge = NO_CHARGE
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The past as plain data: `{"seconds"}` and the fields of the charge."""
        return {**asdict(self.charge), "seconds": self.seconds}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Past:
        """The past that `to_dict` wrote."""
        amounts = dict(data)
        seconds = amounts.pop("seconds")
        return cls(Charge(**amounts), seconds)


class Purse:
    """What is left of a budget while requests are in flight.

    An upper bound is reserved before a request leaves, and settled with what it has cost. What is
    spent and what is reserved are together never more than the budget, as long as no attempt
    costs more than was reserved for it.

    Not safe to use from two threads, but for `used` and `is_unused`: what moves meanwhile from
    reserved to spent counts there once or twice, never not at all. Pure: the caller says what time
    it is.

    Args:
        budget: What may be used; None for a purse that only counts.
        of: Whose it is, for messages.
        past: What was used of the budget already, which is not counted in `spent`.

    Attributes:
        budget: As given.
        exceeded: Attempts that cost more than was reserved, of something that has a limit.
        unconfirmed: The part of what is spent that nobody confirmed: charged as reserved.
    """

    __slots__ = (
        "_end",
        "_held",
        "_limits",
        "_money",
        "_node_time",
        "_of",
        "_past",
        "_requests",
        "_spent",
        "_tokens",
        "budget",
        "exceeded",
        "unconfirmed",
    )

    def __init__(self, budget: Budget | None, of: str = "run", past: Past = Past()) -> None:
        self.budget = budget
        self.exceeded = 0
        self.unconfirmed = NO_CHARGE
        self._of = of
        self._past = past
        self._limits = () if budget is None else _limits(budget)
        most = {limit.of: limit.most - limit.of(past.charge) for limit in self._limits}
        self._tokens = most.get(_TOKENS, math.inf)
        self._requests = most.get(_REQUESTS, math.inf)
        self._money = most.get(_MONEY, math.inf)
        self._node_time = most.get(_NODE_TIME, math.inf)
        self._spent = _Sum()
        self._held = _Sum()
        self._end: float | None = None
        if budget is not None and past.seconds >= (budget.seconds or math.inf):
            self._end = -math.inf

    def __repr__(self) -> str:
        limits = "without limit" if self.budget is None else self.budget.describe()
        return f"Purse({self._of}, {limits}, spent {self.spent}, reserved {self.reserved})"

    @property
    def spent(self) -> Charge:
        """What settled attempts have cost, without the past."""
        return self._spent.charge()

    @property
    def _all_spent(self) -> Charge:
        return self._past.charge + self.spent

    @property
    def reserved(self) -> Charge:
        """What is reserved by attempts in flight."""
        return self._held.charge()

    @property
    def is_unused(self) -> bool:
        """Whether nothing was reserved or spent yet, nor before."""
        return self._in_all == NO_CHARGE

    @property
    def _in_all(self) -> Charge:
        reserved = self.reserved  # first, for `settle` in another thread adds before it subtracts
        return reserved + self._all_spent

    def next(self) -> Purse:
        """A purse for what comes after this: it has what is left of the budget and of its time."""
        purse = Purse(self.budget, self._of, Past(self._all_spent, self._past.seconds))
        purse._end = self._end
        return purse

    def used(self, now: float) -> Past:
        """What was used of the budget until now, the past included; `now` in seconds.

        What is in flight counts as it was reserved: if this is the last that is heard of the
        purse, nobody will know what became of it.
        """
        return Past(self._in_all, self._seconds(now))

    def _seconds(self, now: float) -> float:
        if self.budget is None or self.budget.seconds is None:
            return self._past.seconds
        if self._end is None or self._end == -math.inf:
            return self._past.seconds  # nothing was sent since
        return now - self._end + self.budget.seconds

    def fits(self, charge: Charge, now: float) -> bool:
        """Whether this could be reserved now; `now` in seconds."""
        spent, held = self._spent, self._held
        return (
            spent.tokens + held.tokens + charge.prompt_tokens + charge.completion_tokens
            <= self._tokens
            and spent.money + held.money + charge.picodollars <= self._money
            and spent.requests + held.requests + charge.requests <= self._requests
            and spent.node_time + held.node_time + charge.node_time <= self._node_time
            and (self._end is None or now < self._end)
        )

    def reserve(self, charge: Charge, now: float) -> bool:
        """Check and reserve in one step; `now` in seconds.

        Returns:
            False when it does not fit; then nothing has changed.
        """
        if not self.fits(charge, now):
            return False
        self._held.add(charge)
        if self._end is None:
            self._begin(now)
        return True

    def settle(self, reserved: Charge, actual: Charge | None) -> None:
        """Put what an attempt has cost in the place of what was reserved for it.

        Args:
            reserved: What was reserved.
            actual: What it has cost, more than that if it is so; `NO_CHARGE` when it was never
                sent; None when nobody knows: it is charged as reserved.
        """
        if actual is None:
            actual = reserved + _UNCONFIRMED
        elif (
            actual.completion_tokens > reserved.completion_tokens
            or actual.prompt_tokens > reserved.prompt_tokens
            or actual.picodollars > reserved.picodollars
            or actual.node_time > reserved.node_time
            or actual.requests > reserved.requests
        ):
            self.exceeded += any(each.of(actual) > each.of(reserved) for each in self._limits)
        self._spent.add(actual)
        self._held.subtract(reserved)
        if actual.unconfirmed:
            self.unconfirmed += actual

    def is_spent(self, charge: Charge, now: float) -> bool:
        """Whether this will not fit either when everything in flight turns out to cost nothing.

        As long as it may fit later, it is worth waiting for what is in flight.
        """
        if self._end is not None and now >= self._end:
            return True
        spent = self._all_spent
        return any(each.of(spent) + each.of(charge) > each.most for each in self._limits)

    def refusal(self, charge: Charge, now: float) -> str | None:
        """Why this does not fit now, in a sentence for a person; None when it does."""
        spent, held = self._all_spent, self.reserved
        for limit in self._limits:
            used, waits, more = limit.of(spent), limit.of(held), limit.of(charge)
            if used + waits + more <= limit.most:
                continue
            whole, more_words = f"The {self._of}'s budget of {limit.words()}", limit.number(more)
            if more > limit.most:
                return (
                    f"{whole} is too small for one call, which may use {more_words}; give a larger"
                    f" budget{limit.advice}."
                )
            reserved = f" {limit.number(waits)} reserved by what is in flight," if waits else ""
            return (
                f"{whole} is spent: {limit.number(used)} used,{reserved} and one more call may use"
                f" {more_words}; {_GO_ON}."
            )
        if self._end is not None and now >= self._end and self.budget and self.budget.seconds:
            return (
                f"The {self._of}'s budget of {_in_seconds(self.budget.seconds)} is spent: it has"
                f" been sending for {self._seconds(now):,.1f} s; {_GO_ON}."
            )
        return None

    def _begin(self, now: float) -> None:
        """The first request leaves: from now on the seconds count."""
        if self.budget is not None and self.budget.seconds is not None:
            self._end = now + self.budget.seconds - self._past.seconds


def reserve_in(purses: Sequence[Purse], charge: Charge, now: float) -> bool:
    """Reserve in all of these purses, or in none; `now` in seconds."""
    for purse in purses:
        if not purse.fits(charge, now):
            return False
    for purse in purses:
        purse.reserve(charge, now)
    return True


class _Sum:
    """Charges added up in place."""

    __slots__ = ("completion", "money", "node_time", "prompt", "requests", "tokens", "unconfirmed")

    def __init__(self) -> None:
        self.prompt = self.completion = self.tokens = self.requests = 0
        self.money = self.node_time = self.unconfirmed = 0

    def add(self, charge: Charge) -> None:
        prompt, completion = charge.prompt_tokens, charge.completion_tokens
        self.prompt += prompt
        self.completion += completion
        self.tokens += prompt + completion
        self.requests += charge.requests
        self.money += charge.picodollars
        self.node_time += charge.node_time
        self.unconfirmed += charge.unconfirmed

    def subtract(self, charge: Charge) -> None:
        prompt, completion = charge.prompt_tokens, charge.completion_tokens
        self.prompt -= prompt
        self.completion -= completion
        self.tokens -= prompt + completion
        self.requests -= charge.requests
        self.money -= charge.picodollars
        self.node_time -= charge.node_time
        self.unconfirmed -= charge.unconfirmed

    def charge(self) -> Charge:
        return Charge(
            self.prompt,
            self.completion,
            self.requests,
            self.money,
            self.node_time,
            self.unconfirmed,
        )


_UNCONFIRMED = Charge(unconfirmed=1)
_TOKENS: Callable[[Charge], int] = attrgetter("tokens")
_REQUESTS: Callable[[Charge], int] = attrgetter("requests")
_MONEY: Callable[[Charge], int] = attrgetter("picodollars")
_NODE_TIME: Callable[[Charge], int] = attrgetter("node_time")


@dataclass(frozen=True, slots=True)
class _Limit:
    """One limit of a budget: how much of what part of a charge, and how to say it."""

    most: int
    of: Callable[[Charge], int]
    number: Callable[[int], str]
    unit: str = ""
    advice: str = ""

    def words(self) -> str:
        number = self.number(self.most)
        return number + (self.unit[:-1] if number == "1" else self.unit)


def _limits(budget: Budget) -> tuple[_Limit, ...]:
    limits = []
    shorter = ", or a smaller max_tokens"
    if budget.usd is not None:
        most = int(Decimal(str(budget.usd)) * PICODOLLARS)
        limits.append(_Limit(most, _MONEY, _dollars, "", shorter))
    if budget.tokens is not None:
        limits.append(_Limit(budget.tokens, _TOKENS, _count, " tokens", shorter))
    if budget.requests is not None:
        limits.append(_Limit(budget.requests, _REQUESTS, _count, " requests"))
    if budget.node_hours is not None:
        most = int(Decimal(str(budget.node_hours)) * NODE_HOUR)
        limits.append(_Limit(most, _NODE_TIME, _hours, " node-hours", ", or a smaller timeout"))
    return tuple(limits)


def _check(name: str, value: Any) -> None:
    kind, word = (int, "whole number") if name in _WHOLE else (int | float, "finite number")
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"Budget({name}={value!r}) must be a {word} above 0.")


def _count(number: int) -> str:
    return f"{number:,}"


def _dollars(money: int) -> str:
    return f"${_decimals(money / PICODOLLARS, 2)}"


def _hours(node_time: int) -> str:
    return _decimals(node_time / NODE_HOUR, 0)


def _in_seconds(seconds: float) -> str:
    return f"{_decimals(seconds, 0)} s"


def _decimals(number: float, least: int) -> str:
    """A number with as many decimals as it has, up to six, and at least so many."""
    if 0 < number < 1e-6:
        return f"{number:.1e}"
    whole, decimals = f"{number:,.6f}".split(".")
    decimals = decimals.rstrip("0").ljust(least, "0")
    return f"{whole}.{decimals}" if decimals else whole
