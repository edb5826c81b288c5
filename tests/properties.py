"""What property tests share: settings that repeat themselves, and records of every shape."""

from __future__ import annotations

from typing import get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from langgraph_hpc_fanout.records import Failure, FailureKind, Outcome, Usage

# The same examples on every machine, however slow it is today.
repeatable = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

texts = st.text(max_size=12)
whole = st.integers(-(2**63), 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | whole | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 2**31)
failures = st.builds(
    Failure,
    kind=st.sampled_from(get_args(FailureKind)),
    message=texts,
    status=st.none() | st.integers(100, 599),
    retryable=st.booleans(),
    endpoint=st.none() | texts,
)
usages = st.builds(Usage, counts, counts, st.booleans())
outcomes = st.builds(
    Outcome,
    key=texts,
    index=counts,
    ok=st.booleans(),
    value=jsons,
    error=st.none() | failures,
    usage=st.none() | usages,
    model=st.none() | texts,
    endpoint=st.none() | texts,
    attempts=counts,
    latency=st.floats(0, 1e6),
    finish_reason=st.none() | texts,
    meta=st.dictionaries(texts, jsons, max_size=2),
)


def is_plain(data) -> bool:
    """Whether data is made of dicts, lists and scalars only, and of no class derived from them."""
    if type(data) is dict:
        return all(type(key) is str and is_plain(value) for key, value in data.items())
    if type(data) is list:
        return all(map(is_plain, data))
    return data is None or type(data) in (bool, int, float, str)


def turned(data):
    """The same JSON with the fields of all its objects in the opposite order."""
    if isinstance(data, dict):
        return {name: turned(data[name]) for name in reversed(data)}
    return [turned(each) for each in data] if isinstance(data, list) else data


alike = st.recursive(
    st.sampled_from([None, False, True, 0, 0.0, 1, 1.0, "", "0", "1", "null"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=3,
)
"""Small JSON, so much alike that two are often equal, or nearly so."""
