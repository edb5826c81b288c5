"""What an endpoint costs: by the token, by the node-hour, or both.

Money is counted in picodollars and node time in node-microseconds, as whole numbers, because sums
of floats drift and a budget must not. Every rounding is upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from langgraph_hpc_fanout.endpoints.protocol import Endpoint

PICODOLLARS = 10**12
"""Of a dollar. A dollar per million tokens is a million of them per token."""
NODE_HOUR = 3_600_000_000
"""Node-microseconds of an hour of one node."""

_PER_TOKEN = PICODOLLARS // 10**6
_NODE_SECOND = 10**6
_OTHER_FEES = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok", "input_mchars")
"""What genai-prices knows of that is neither per token read nor per token written."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Prices of requests with long prompts: they hold for all tokens of such a request.

    Args:
        above: Tokens of a prompt that is not among them yet.
        input: Dollars per million tokens read.
        output: Dollars per million tokens written.

    Raises:
        ValueError: If a number is negative or not finite.
    """

    above: int
    input: float
    output: float

    def __post_init__(self) -> None:
        for name in ("above", "input", "output"):
            _check(f"Tier({name}={getattr(self, name)!r})", getattr(self, name))


@dataclass(frozen=True, slots=True)
class Price:
    """What an endpoint costs.

    Tokens that a server reads from its cache count as any others, so the cost may come out too
    high. What a server asks for writing into its cache is not counted.

    Args:
        input: Dollars per million tokens read; given together with `output`.
        output: Dollars per million tokens written.
        nodes: Nodes that the endpoint runs on.
        share: The part of them that counts for this endpoint, above 0 and at most 1.
        usd_per_node_hour: Dollars that an hour of one node costs.
        tiers: Prices of requests with longer prompts.

    Raises:
        ValueError: If nothing has a price, or a price makes no sense.

    Examples:
        ```python
        Price(input=0.15, output=0.60)
        Price(nodes=2, share=0.5, usd_per_node_hour=3.0)
        ```
    """

    input: float | None = None
    output: float | None = None
    nodes: float | None = None
    share: float = 1.0
    usd_per_node_hour: float | None = None
    tiers: tuple[Tier, ...] = ()
    _rates: tuple[tuple[int, int, int], ...] = field(
        init=False, repr=False, compare=False, default=()
    )
    _node_rate: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        for name in ("input", "output", "nodes", "share", "usd_per_node_hour"):
            if (value := getattr(self, name)) is not None:
                _check(f"Price({name}={value!r})", value)
        self._check_whole()
        if self.input is not None and self.output is not None:
            levels = [(-1, self.input, self.output)]
            levels += [(each.above, each.input, each.output) for each in self.tiers]
            rates = ((above, _rate(read), _rate(write)) for above, read, write in levels)
            # The longest prompts first, so that the first tier that fits is the one.
            object.__setattr__(self, "_rates", tuple(sorted(rates, reverse=True)))
        if self.usd_per_node_hour is not None:
            hour = math.ceil(Decimal(str(self.usd_per_node_hour)) * PICODOLLARS)
            object.__setattr__(self, "_node_rate", hour)

    def _check_whole(self) -> None:
        if (self.input is None) != (self.output is None):
            raise ValueError(
                "Price() needs input= and output= together, in dollars per million tokens; give 0"
                " for what is free."
            )
        if self.input is None and self.nodes is None:
            raise ValueError(
                "Price() has no price; give input= and output=, in dollars per million tokens, or"
                " nodes=, or both."
            )
        if self.tiers and self.input is None:
            raise ValueError("Price(tiers=) needs input= and output=, the prices below them.")
        if self.nodes is None and (self.usd_per_node_hour is not None or self.share != 1.0):
            raise ValueError("Price() needs nodes=, how many the endpoint runs on.")
        if self.nodes == 0 or not 0 < self.share <= 1:
            raise ValueError(
                f"Price(nodes={self.nodes!r}, share={self.share!r}) uses no node, or more than"
                " there are; nodes must be above 0, and share above 0 and at most 1."
            )

    @classmethod
    def of(cls, model: str, provider: str | None = None) -> Price:
        """The price that the package genai-prices has for a model at this moment.

        Needs the extra `prices`. Its table is the one that came with the package, unless the
        program had it updated (`genai_prices.UpdatePrices`).

        Args:
            model: The provider's name of the model, such as `"gpt-4o-mini"`.
            provider: The provider's id, such as `"openai"`; None for the one whose models have
                such names.

        Raises:
            ImportError: If genai-prices is not installed.
            ValueError: If it does not know the model, or the model costs something besides its
                tokens.
        """
        try:
            import genai_prices  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ImportError(
                'Price.of needs genai-prices: pip install "langgraph-hpc-fanout[prices]".',
                name="genai_prices",
            ) from error
        asked = f"{model!r}" if provider is None else f"{model!r} of {provider!r}"
        try:
            found = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider)
        except LookupError:
            raise ValueError(
                f"genai-prices knows no model {asked}{_near(model, provider)}; correct the name, or"
                " give the price itself: Price(input=, output=)."
            ) from None
        return cls._from_table(asked, found.model_price)

    @classmethod
    def _from_table(cls, asked: str, table: Any) -> Price:
        read, write = table.input_mtok, table.output_mtok
        fees = [name for name in _OTHER_FEES if getattr(table, name) is not None]
        if read is None or write is None or fees:
            raise ValueError(
                f"genai-prices has a price for {asked} that is not per token read and written alone"
                f" ({table}); give an upper bound yourself: Price(input=, output=)."
            )
        starts = sorted({tier.start for price in (read, write) for tier in _tiers(price)})
        tiers = (Tier(start, _price_at(read, start), _price_at(write, start)) for start in starts)
        return cls(_price_at(read, -1), _price_at(write, -1), tiers=tuple(tiers))

    def token_cost(self, read: int, written: int) -> int:
        """Picodollars for the tokens of one request."""
        for above, rate_in, rate_out in self._rates:
            if read > above:
                return read * rate_in + written * rate_out
        return 0

    def token_bound(self, read: int, written: int) -> int:
        """The most picodollars for one request of at most so many tokens.

        Not the cost of that many: a tier for longer prompts may be the cheaper one.
        """
        costs = (read * rate_in + written * rate_out for above, rate_in, rate_out in self._rates
                 if read > above)  # fmt: skip
        return max(costs, default=0)

    def node_time(self, seconds: float) -> int:
        """Node-microseconds that count for this endpoint while its nodes run for some time."""
        if self.nodes is None:
            return 0
        return math.ceil(seconds * self.nodes * self.share * _NODE_SECOND)

    def node_cost(self, node_time: int) -> int:
        """Picodollars for node-microseconds."""
        return -(-node_time * self._node_rate // NODE_HOUR)

    def describe(self) -> str:
        """The price in a few words, for graphs and logs."""
        parts = []
        if self.input is not None:
            parts.append(f"${self.input:g} in and ${self.output:g} out per million tokens")
        if self.tiers:
            parts.append("more for long prompts")
        if self.nodes is not None:
            share = "" if self.share == 1 else f"{self.share:.0%} of "
            parts.append(f"{share}{self.nodes:g} {'node' if self.nodes == 1 else 'nodes'}")
        if self.usd_per_node_hour is not None:
            parts.append(f"${self.usd_per_node_hour:g} per node-hour")
        return ", ".join(parts)


def price_of(endpoint: Endpoint) -> Price | None:
    """The price of an endpoint; one of a user's own need not have any.

    Raises:
        TypeError: If it has one that is none.
    """
    price = getattr(endpoint, "price", None)
    if price is not None and not isinstance(price, Price):
        raise TypeError(f"{endpoint.name} has the price {price!r}; give it a Price(...).")
    return price


def _check(what: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(f"{what} must be a number, finite and not negative.")


def _rate(usd: float) -> int:
    """Picodollars per token. By way of its digits, so that 0.15 is not a little more."""
    return math.ceil(Decimal(str(usd)) * _PER_TOKEN)


def _tiers(price: Any) -> Any:
    return getattr(price, "tiers", ())


def _price_at(price: Any, above: int) -> float:
    """What genai-prices has, a number or a base with tiers, for prompts just above some length."""
    applies = getattr(price, "base", price)
    for tier in _tiers(price):
        if tier.start <= above:
            applies = tier.price
    return float(applies)


def _near(model: str, provider: str | None) -> str:
    """Names that were perhaps meant, or nothing."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - an extra

    providers = get_snapshot().providers
    ids = [each.id for each in providers]
    if provider is not None and provider.lower() not in ids:
        near = get_close_matches(provider.lower(), ids, 3)
        return f": no such provider, perhaps {' or '.join(near)}" if near else ": no such provider"
    known = {
        each.id
        for owner in providers
        if provider is None or owner.id == provider.lower()
        for each in owner.models
    }
    near = get_close_matches(model.lower(), sorted(known), 3)
    return f", perhaps {' or '.join(near)}" if near else ""
