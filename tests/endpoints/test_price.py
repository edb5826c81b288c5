"""Price: exact where it can be, never too low where it cannot, and no nonsense."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS, Price, Tier

usd = st.decimals(0, 1000, places=6).map(float)
tokens = st.integers(0, 10**7)
tiers = st.lists(
    st.builds(Tier, st.integers(0, 10**6), usd, usd), max_size=3, unique_by=lambda t: t.above
)


@repeatable
@given(usd, usd, tokens, tokens)
def test_tokens_cost_what_the_digits_of_the_price_say(read_price, write_price, read, written):
    price = Price(read_price, write_price)
    exact = Decimal(str(read_price)) * read + Decimal(str(write_price)) * written
    assert Fraction(price.token_cost(read, written), PICODOLLARS) == Fraction(exact) / 10**6


@repeatable
@given(st.floats(0, 1e4), tokens)
def test_a_price_of_more_digits_is_rounded_up(read_price, read):
    cost = Fraction(Price(read_price, 0).token_cost(read, 0), PICODOLLARS)
    exact = Fraction(Decimal(str(read_price))) * read / 10**6
    assert exact <= cost <= exact + Fraction(read, PICODOLLARS)


@repeatable
@given(usd, usd, tiers, tokens, tokens, st.data())
def test_no_request_within_the_bounds_costs_more_than_the_bound(
    first, second, levels, read, written, data
):
    price = Price(first, second, tiers=tuple(levels))
    less = data.draw(st.integers(0, read)), data.draw(st.integers(0, written))
    assert price.token_cost(*less) <= price.token_bound(read, written)


def test_a_tier_holds_for_all_tokens_of_a_prompt_above_it():
    price = Price(3, 15, tiers=(Tier(400_000, 9, 30), Tier(200_000, 6, 22.5)))
    per_token = PICODOLLARS // 10**6
    assert price.token_cost(200_000, 10) == (200_000 * 3 + 10 * 15) * per_token
    assert price.token_cost(200_001, 10) == (200_001 * 6 + 10 * 22.5) * per_token
    assert price.token_cost(400_001, 10) == (400_001 * 9 + 10 * 30) * per_token


def test_a_bound_looks_at_dearer_tiers_below():
    price = Price(3, 15, tiers=(Tier(1_000, 1, 1),))
    assert price.token_bound(1_001, 0) == 3 * 1_001 * PICODOLLARS // 10**6
    assert price.token_cost(1_001, 0) == 1 * 1_001 * PICODOLLARS // 10**6


@repeatable
@given(st.floats(0, 1e6), st.floats(0.1, 1e4), st.floats(0.01, 1), usd)
def test_node_time_is_nodes_times_share_times_seconds(seconds, nodes, share, hour):
    price = Price(nodes=nodes, share=share, usd_per_node_hour=hour)
    node_time = price.node_time(seconds)
    assert node_time == pytest.approx(seconds * nodes * share * 1e6, abs=1, rel=1e-12)
    exact = Fraction(node_time, NODE_HOUR) * Fraction(Decimal(str(hour))) * PICODOLLARS
    assert exact <= price.node_cost(node_time) < exact + 1


def test_two_halves_of_nodes_for_an_hour():
    price = Price(nodes=2, share=0.5, usd_per_node_hour=3.0)
    assert price.node_time(3600) == NODE_HOUR
    assert price.node_cost(NODE_HOUR) == 3 * PICODOLLARS
    assert price.token_cost(1_000, 1_000) == price.token_bound(1_000, 1_000) == 0


def test_what_has_no_nodes_uses_none():
    assert Price(1, 1).node_time(3600) == 0
    assert Price(1, 1).node_cost(0) == 0


def test_a_price_in_words():
    assert Price(0.15, 0.6).describe() == "$0.15 in and $0.6 out per million tokens"
    assert Price(nodes=1).describe() == "1 node"
    both = Price(1, 2, nodes=2, share=0.5, usd_per_node_hour=3, tiers=(Tier(9, 2, 3),))
    assert both.describe() == (
        "$1 in and $2 out per million tokens, more for long prompts, 50% of 2 nodes,"
        " $3 per node-hour"
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "has no price; give input= and output="),
        ({"input": 1}, "needs input= and output= together"),
        ({"output": 1}, "needs input= and output= together"),
        ({"input": -1, "output": 1}, "input=-1"),
        ({"input": 1, "output": math.nan}, "output=nan"),
        ({"input": math.inf, "output": 1}, "input=inf"),
        ({"input": "0.15", "output": 1}, "input='0.15'"),
        ({"input": True, "output": 1}, "input=True"),
        ({"nodes": 0}, "uses no node"),
        ({"nodes": -2}, "nodes=-2"),
        ({"nodes": 2, "share": 0}, "share above 0"),
        ({"nodes": 2, "share": 1.5}, "share above 0 and at most 1"),
        ({"usd_per_node_hour": 3, "input": 1, "output": 1}, "needs nodes="),
        ({"share": 0.5, "input": 1, "output": 1}, "needs nodes="),
        ({"nodes": 1, "tiers": (Tier(1, 1, 1),)}, "prices below them"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Price(**settings)


@pytest.mark.parametrize("tier", [(-1, 1, 1), (1, -1, 1), (1, 1, math.nan)])
def test_so_is_a_tier(tier):
    with pytest.raises(ValueError, match=r"^Tier\("):
        Tier(*tier)


# -- the table of genai-prices ----------------------------------------------------------------


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ImportError, match=r"langgraph-hpc-fanout\[prices\]"):
        Price.of("gpt-4o-mini")


@pytest.fixture
def table():
    """genai-prices with a table of this test's own: the real one changes."""
    import genai_prices
    from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
    from genai_prices.types import (
        ClauseEquals,
        ClauseStartsWith,
        ModelInfo,
        ModelPrice,
        Provider,
        Tier,
        TieredPrices,
    )

    def model(name, **prices):
        return ModelInfo(id=name, match=ClauseEquals(equals=name), prices=ModelPrice(**prices))

    one, two, six = Decimal("0.15"), Decimal("0.60"), Decimal(6)
    tiered = TieredPrices(
        base=one, tiers=[Tier(start=1000, price=two), Tier(start=9000, price=six)]
    )
    models = [
        model("acme-mini", input_mtok=one, output_mtok=two),
        model("acme-long", input_mtok=tiered, output_mtok=two),
        model("acme-search", input_mtok=one, output_mtok=two, requests_kcount=six),
        model("acme-embed", input_mtok=one),
    ]
    acme = Provider(
        id="acme",
        name="Acme",
        api_pattern="acme",
        model_match=ClauseStartsWith(starts_with="acme-"),
        models=models,
    )
    set_custom_snapshot(DataSnapshot(providers=[acme], from_auto_update=False))
    yield genai_prices
    set_custom_snapshot(None)


def test_the_price_of_a_model_that_the_table_has(table):
    assert Price.of("acme-mini") == Price.of("acme-mini", "acme") == Price(0.15, 0.6)


def test_tiers_come_along_and_mean_the_same(table):
    price = Price.of("acme-long")
    assert price == Price(0.15, 0.6, tiers=(Tier(1000, 0.6, 0.6), Tier(9000, 6, 0.6)))
    for read in (0, 1000, 1001, 9000, 9001):
        usage = table.Usage(input_tokens=read, output_tokens=7)
        theirs = table.calc_price(usage, "acme-long").total_price
        assert Fraction(price.token_cost(read, 7), PICODOLLARS) == Fraction(theirs)


def test_an_unknown_model_is_refused_and_near_misses_are_named(table):
    with pytest.raises(ValueError, match="no model 'acme-mni', perhaps acme-mini"):
        Price.of("acme-mni")
    with pytest.raises(ValueError, match="'acme-mni' of 'acme', perhaps acme-mini"):
        Price.of("acme-mni", "acme")
    with pytest.raises(ValueError, match="no such provider, perhaps acme"):
        Price.of("acme-mini", "acmee")
    with pytest.raises(ValueError, match=r"no model 'zzz'; correct the name, or give the price"):
        Price.of("zzz")


@pytest.mark.parametrize("model", ["acme-search", "acme-embed"])
def test_a_model_that_costs_something_else_is_refused(table, model):
    with pytest.raises(ValueError, match="not per token read and written alone"):
        Price.of(model)


def test_the_table_that_comes_with_the_package_can_be_read():
    price = Price.of("gpt-4o-mini", "openai")
    assert price.input is not None
    assert 0 < price.input < 10
    assert Price.of("gemini-2.5-pro").tiers
