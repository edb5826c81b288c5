"""Voting: several answers to one item."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, repeatable
from some_outcomes import bad, good

from langgraph_hpc_fanout import reducers
from langgraph_hpc_fanout.reducers import allowance


def samples(*ballots, index=0):
    return [
        bad(index, sample=number) if ballot is None else good(index, ballot, sample=number)
        for number, ballot in enumerate(ballots)
    ]


@pytest.mark.parametrize(
    ("ballots", "value", "share", "entropy"),
    [
        (["a", "a", "b"], "a", 2 / 3, 0.9183),
        (["a", "b"], "a", 0.5, 1.0),
        (["b", "a"], "b", 0.5, 1.0),
        (["a", "a"], "a", 1.0, 0.0),
        (["a", None, None], "a", 1.0, 0.0),
        ([None, None], None, 0.0, 0.0),
        ([{"x": 1, "y": 2}, {"y": 2, "x": 1}, 3], {"x": 1, "y": 2}, 2 / 3, 0.9183),
    ],
)
def test_samples_vote(ballots, value, share, entropy):
    (result,) = reducers.vote()(samples(*ballots))
    assert result["value"] == value
    assert result["share"] == pytest.approx(share)
    assert result["entropy"] == pytest.approx(entropy, abs=1e-4)
    assert result["samples"] == len(ballots)
    assert result["votes"] == sum(ballot is not None for ballot in ballots)
    assert is_plain(result)


def test_each_item_has_a_vote_of_its_own():
    outcomes = [*samples("a", "a"), *samples("b", None, index=1), *samples("c", "d", index=2)]
    assert [each["value"] for each in reducers.vote()(iter(outcomes))] == ["a", "b", "c"]
    assert reducers.vote()([]) == []


def test_too_small_a_share_abstains():
    ballots = samples("a", "a", "b")
    assert reducers.vote(abstain_below=0.6)(ballots)[0]["value"] == "a"
    assert reducers.vote(abstain_below=0.7)(ballots)[0]["value"] is None


def test_part_of_a_value_may_count():
    ballots = samples({"class": "a", "why": 1}, {"class": "a", "why": 2}, {"class": "b", "why": 3})
    (result,) = reducers.vote(of=lambda value: value["class"])(ballots)
    assert (result["value"], result["share"]) == ("a", pytest.approx(2 / 3))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="is no share from 0 to 1"):
        reducers.vote(abstain_below=share)


@repeatable
@given(st.lists(st.one_of(st.none(), st.sampled_from("abc")), min_size=1, max_size=9))
def test_votes_add_up(ballots):
    (result,) = reducers.vote()(samples(*ballots))
    given = [ballot for ballot in ballots if ballot is not None]
    assert result["votes"] == len(given)
    if given:
        assert given.count(result["value"]) == max(map(given.count, given))
        assert result["share"] == pytest.approx(given.count(result["value"]) / len(given))
        assert 0 <= result["entropy"] <= 1.585


def test_what_counts_must_be_json():
    reduce = reducers.vote(of=set)
    with pytest.raises(ValueError, match=r"vote\(of=\.\.\.\) made \{'a'\} of an answer to item 3"):
        reduce(samples("a", index=3))


def test_votes_have_a_bound(monkeypatch):
    monkeypatch.setattr(allowance, "STATE_BYTES", 300)
    with pytest.raises(ValueError, match="The votes are more than"):
        reducers.vote()(outcome for index in range(9) for outcome in samples("a", index=index))


def test_variants_of_a_sweep_vote_on_their_item():
    variants = [
        good(index, ballot, sample=sample, meta={"sweep": {"model": model}})
        for index, ballots in enumerate(["aab", "bbb"])
        for sample, (model, ballot) in enumerate(zip("xyz", ballots, strict=True))
    ]
    results = reducers.vote()(variants)
    assert [(each["value"], each["samples"]) for each in results] == [("a", 3), ("b", 3)]


# -- groups of variants -----------------------------------------------------------------------


PROMPTS, MODELS = ("toxic", "soluble"), ("x", "y", "z")
BALLOTS = {("toxic", 0): "aab", ("soluble", 0): "ccc", ("toxic", 1): "bbb", ("soluble", 1): "cdd"}


def swept(order):
    """Two items, asked by two prompts of three models; whichever of these varies faster."""
    for index in range(2):
        for one, other in itertools.product(*order):
            prompt, model = (one, other) if one in PROMPTS else (other, one)
            ballot = BALLOTS[prompt, index][MODELS.index(model)]
            coordinates = {"prompt": prompt, "model": model, "stop": [model]}
            yield good(index, ballot, meta={"sweep": coordinates})


@pytest.mark.parametrize("order", [(PROMPTS, MODELS), (MODELS, PROMPTS)])
def test_each_group_of_variants_has_a_vote_of_its_own(order):
    results = reducers.vote(by="prompt")(swept(order))
    told = [(each["index"], each["sweep"], each["value"], each["samples"]) for each in results]
    assert told == [
        (0, {"prompt": "toxic"}, "a", 3),
        (0, {"prompt": "soluble"}, "c", 3),
        (1, {"prompt": "toxic"}, "b", 3),
        (1, {"prompt": "soluble"}, "d", 3),
    ]
    assert is_plain(results)
    together = reducers.vote()(swept(order))
    assert [each["samples"] for each in together] == [6, 6]
    assert all(each.keys() == {*results[0]} - {"index", "sweep"} for each in together)


def test_groups_by_several_coordinates():
    results = reducers.vote(by=["stop", "prompt"])(swept((PROMPTS, MODELS)))
    assert [each["samples"] for each in results] == [1] * 12
    assert results[0]["sweep"] == {"stop": ["x"], "prompt": "toxic"}


def test_numbers_and_truths_are_other_groups():
    variants = [good(0, "a", meta={"sweep": {"seed": seed}}) for seed in (0, False, 0.0, 1, True)]
    assert len(reducers.vote(by="seed")(variants)) == 5


def test_a_coordinate_that_is_none():
    with pytest.raises(ValueError, match=r"vote\(by='promt'\) names .*; they have prompt, model"):
        reducers.vote(by=("model", "promt"))(swept((PROMPTS, MODELS)))
    with pytest.raises(ValueError, match=r"vote\(by='prompt'\) names .*; they are of no sweep\."):
        reducers.vote(by="prompt")(samples("a"))
