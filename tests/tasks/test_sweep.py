"""Sweeps: which variants there are, in which order, and what can be none."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import Prompt, Sweep

names = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)
temperatures = st.lists(st.sampled_from([None, 0, 0.5, 1.0]), min_size=1, max_size=3, unique=True)


def sent(variant):
    """What a variant sends for an item."""
    return variant.task.request({"x": "X"}, model="m")


@repeatable
@given(names, st.none() | names, st.none() | temperatures, st.none() | st.integers(1, 3))
def test_every_combination_once_the_last_varies_fastest(prompts, models, values, samples):
    texts = {name: f"{name}: {{x}}" for name in prompts}
    params = {} if values is None else {"temperature": values}
    sweep = Sweep("xs", prompts=texts, models=models, params=params, samples=samples)
    variants = sweep.variants(None)
    wanted = itertools.product(prompts, models or [None], values or [None])
    assert [
        (each.coordinates["prompt"], each.coordinates.get("model"), each.coordinates.get(*params))
        if params
        else (each.coordinates["prompt"], each.coordinates.get("model"), None)
        for each in variants
    ] == list(wanted)
    for each in variants:
        request = sent(each)
        assert request.body["messages"][0]["content"] == f"{each.coordinates['prompt']}: X"
        assert request.model == each.coordinates.get("model", "m")
        assert request.body.get("temperature") == each.coordinates.get("temperature")
        assert each.task.samples == (samples or 1)
    assert len({sent(each).key for each in variants}) == len(variants)


def test_prompts_without_names_are_numbered():
    variants = Sweep("xs", prompts=["a {x}", Prompt("b {x}", max_tokens=3)]).variants(None)
    assert [each.coordinates for each in variants] == [{"prompt": 0}, {"prompt": 1}]
    assert sent(variants[1]).body["max_tokens"] == 3


def test_without_prompts_the_fan_outs_own_is_varied():
    sweep = Sweep("xs", params={"top_k": [1, 2], "stop": ["a", ["b"]]}, samples=2)
    assert sweep.axes == ("samples", "top_k", "stop")
    variants = sweep.variants(Prompt("{x}", temperature=1))
    assert [each.coordinates for each in variants] == [
        {"top_k": 1, "stop": "a"},
        {"top_k": 1, "stop": ["b"]},
        {"top_k": 2, "stop": "a"},
        {"top_k": 2, "stop": ["b"]},
    ]
    assert sent(variants[0]).body["temperature"] == 1
    assert {each.task.samples for each in variants} == {2}


def test_a_sweep_over_nothing_but_items_is_for_any_task():
    (only,) = Sweep({"a": "as", "b": "bs"}).variants(print)
    assert (only.task, only.coordinates) == (print, {})


def test_nothing_is_written_out():
    sweep = Sweep(range(10**12), prompts=["{item}"] * 1, models=["a", "b"], samples=5)
    assert len(sweep.variants(None)) == 2


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"prompts": []}, ValueError, r"Sweep\(prompts=\.\.\.\) is empty, so nothing would be"),
        ({"prompts": {}}, ValueError, r"Sweep\(prompts=\.\.\.\) is empty"),
        ({"models": []}, ValueError, r"Sweep\(models=\.\.\.\) is empty"),
        ({"params": {"seed": []}}, ValueError, r'params=\{"seed": \.\.\.\}\) is empty'),
        ({"prompts": "{x}"}, TypeError, r"takes a list, of one if there is only one; not '\{x\}'"),
        ({"prompts": Prompt("{x}")}, TypeError, r"takes a list, of one.*not Prompt\('\{x\}'\)"),
        ({"prompts": [7]}, TypeError, r"has 7 under 0; it takes prompts or their texts"),
        ({"prompts": {("a", 1): "{x}"}}, TypeError, r"under \('a', 1\); it takes .* texts as name"),
        ({"models": "m"}, TypeError, r"models=\.\.\.\) takes a list, of one .* not 'm'"),
        ({"models": 5}, TypeError, "takes a list, of one if there is only one; not 5"),
        ({"models": ["m", None]}, TypeError, "has None; it takes names of models"),
        ({"models": ["m", "m"]}, ValueError, "has 'm' twice, which would be asked once"),
        ({"prompts": ["{x}", "{x}"]}, ValueError, r"has '\{x\}' twice"),
        ({"params": {"seed": [1, 1]}}, ValueError, "has 1 twice"),
        ({"params": {"seed": 1}}, TypeError, r'params=\{"seed": \.\.\.\}\) takes a list'),
        ({"params": ["seed"]}, TypeError, r"params=\['seed'\]\) takes lists of values by name"),
        ({"params": {"model": ["m"]}}, ValueError, r"is written Sweep\(models=\.\.\.\)"),
        ({"params": {"samples": [1]}}, ValueError, r"is written Sweep\(samples=\.\.\.\)"),
        ({"params": {"prompt": ["?"]}}, ValueError, r"is written Sweep\(prompts=\.\.\.\)"),
        ({"params": {"schema": [int]}}, ValueError, "no parameter of a request; give prompts="),
        ({"params": {"max_tokens": [0]}}, ValueError, "leaves no room for an answer"),
        ({"params": {"stream": [True]}}, ValueError, "may not set stream"),
        ({"params": {"seed": [object()]}}, ValueError, "cannot be sent as JSON"),
        ({"samples": 0}, ValueError, r"samples=0\) must be at least 1"),
        ({"prompts": [Prompt("{x}", samples=2), "{x}"]}, ValueError, "different samples; say"),
    ],
    ids=str,
)
def test_what_is_no_sweep(wrong, error, says):
    with pytest.raises(error, match=says):
        Sweep("xs", **wrong).variants(Prompt("{x}"))


@pytest.mark.parametrize("axis", [{"models": ["m"]}, {"samples": 2}, {"params": {"seed": [1]}}])
def test_only_prompts_are_varied(axis):
    with pytest.raises(TypeError, match="is for a Prompt; what a Runnable or a function varies"):
        Sweep("xs", **axis).variants(print)
