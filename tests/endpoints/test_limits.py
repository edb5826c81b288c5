"""Limits: rates are read as they are meant, and nonsense is refused with a word on what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import Limits
from langgraph_hpc_fanout.endpoints.limits import per_second, window_seconds

UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


@repeatable
@given(
    st.floats(0.05, 1e9).map(lambda value: f"{value:.3f}"),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(["{0}/{1}", " {0} / {1} ", "{0}/{1}\n", "{0} /{1}"]),
    st.booleans(),
)
def test_a_rate_is_a_number_per_unit(number, unit, layout, upper):
    text = layout.format(number, unit.upper() if upper else unit)
    assert per_second(text) == pytest.approx(float(number) / UNITS[unit])


@pytest.mark.parametrize("unit", UNITS)
def test_a_window_is_as_long_as_the_unit(unit):
    assert window_seconds(f" 10 / {unit.upper()}\n") == UNITS[unit]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("10/s", 10.0), ("600/min", 10.0), ("36000/h", 10.0), ("1_000/s", 1000.0), ("0.5/s", 0.5)],
)
def test_the_rates_of_the_documentation(rate, expected):
    assert per_second(rate) == expected


NO_RATES = """
    10 /s 10/ 10/d s/10 -1/s +1/s 1e3/s .5/s 1./s 1,000/s 10/s/s ten/s 10/sss _1/s nan/s inf/s
    \u0661/s 10/\u017f
"""


@pytest.mark.parametrize("rate", ["", "10 per s", "10 s", *NO_RATES.split()])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"is no rate; write a number per s, min or h") as caught:
        per_second(rate)
    assert repr(rate) in str(caught.value)


@pytest.mark.parametrize("rate", ["1__0/s", "10_/s"])
def test_misplaced_underscores_are_refused_in_words(rate):
    with pytest.raises(ValueError, match=r"Limits\(requests=.* is no rate"):
        Limits(requests=rate)


@repeatable
@given(st.text("0123456789._/ sminhour", max_size=12) | st.from_regex(r"[0-9_.]{1,9}/(s|min|h)"))
def test_any_text_is_a_rate_above_zero_or_refused(text):
    try:
        rate = per_second(text)
    except ValueError:
        return
    assert rate > 0


@pytest.mark.parametrize("rate", [10, 10.0, None, b"10/s", ("10/s",)])
def test_a_rate_is_a_text(rate):
    with pytest.raises(ValueError, match=r"Limits\(tokens=.*\) is no rate"):
        per_second(rate, "tokens")


@pytest.mark.parametrize("rate", ["0/s", "0.0/min", "0_0/h", "0.04/h"])
def test_a_rate_of_next_to_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="would let nothing through for over a day"):
        per_second(rate)


@pytest.mark.parametrize("rate", ["1_000_000_001/s", "9" * 400 + "/s"])
def test_a_rate_that_limits_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="is no limit at all") as caught:
        per_second(rate)
    assert len(str(caught.value)) < 80


def test_limits_know_their_rates_per_second():
    limits = Limits(requests="600/min", tokens="7200/h")
    assert (limits.requests_per_second, limits.tokens_per_second) == (10.0, 2.0)
    free = Limits()
    assert (free.requests_per_second, free.tokens_per_second, free.burst) == (None, None, None)


@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_limits_name_the_parameter_that_is_wrong(what):
    with pytest.raises(ValueError, match=rf"Limits\({what}='fast'\) is no rate"):
        Limits(**{what: "fast"})


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "8", True])
def test_concurrency_is_a_whole_number_from_1(concurrency):
    with pytest.raises(ValueError, match=r"Limits\(concurrency=.*at least 1"):
        Limits(concurrency=concurrency)


@pytest.mark.parametrize(
    ("burst", "requests"), [(1, "1/h"), (1, "1/s"), (10, "10/s"), (10, "10.9/s"), (1, "0.5/s")]
)
def test_a_burst_of_up_to_a_second(burst, requests):
    assert Limits(burst=burst, requests=requests).burst == burst


@pytest.mark.parametrize(
    ("burst", "requests", "most"),
    [(0, "10/s", 10), (11, "10/s", 10), (2, "1/h", 1), (-1, "5/s", 5)],
)
def test_a_burst_of_nothing_or_too_much_is_refused(burst, requests, most):
    with pytest.raises(
        ValueError, match=rf"burst={burst}\).*between 1 and a second's worth, {most}"
    ):
        Limits(burst=burst, requests=requests)


def test_a_burst_without_a_rate_is_refused():
    with pytest.raises(ValueError, match=r"Limits\(burst=3\) needs requests="):
        Limits(burst=3, tokens="10/s")


def test_a_fixed_window_needs_a_rate():
    with pytest.raises(ValueError, match=r"Limits\(window='fixed'\) needs requests= or tokens="):
        Limits(window="fixed")
    assert Limits(tokens="6/min", window="fixed").window == "fixed"


def test_a_window_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"window='sliding'\) must be 'rolling' or 'fixed'"):
        Limits(tokens="6/min", window="sliding")


def test_limits_in_words():
    assert Limits(concurrency=64).describe() == "64 at once"
    assert Limits().describe() == "as many at once as it takes"
    assert Limits().at_most(8) == Limits(concurrency=8)
    assert Limits(concurrency=3, tokens="5/s").at_most(8).concurrency == 3
    full = Limits(concurrency=8, requests="10/s", tokens="60000/min")
    assert full.describe() == "8 at once, 10/s requests, 60000/min tokens"


def test_fixed_windows_in_words():
    limits = Limits(8, tokens="6/min", window="fixed")
    assert limits.describe() == "8 at once, 6/min tokens, in fixed windows"


def test_limits_are_values():
    assert Limits(8, "10/s") == Limits(8, "10/s") != Limits(8, "10/min")
    assert len({Limits(), Limits(), Limits(1)}) == 2
    assert (
        repr(Limits(8, "10/s"))
        == "Limits(concurrency=8, requests='10/s', tokens=None, burst=None, window='rolling', "
        "shared=None)"
    )
