"""Several samples an item: places, journals, receipts and votes."""

from __future__ import annotations

import itertools

import pytest
from graphs import build, molecules

from langgraph_hpc_fanout import Journal, Prompt, Results, reducers
from langgraph_hpc_fanout.testing.fleet import Fault


def prompt(samples, **options):
    return Prompt("Is {smiles} soluble?", samples=samples, **options)


@pytest.mark.parametrize("size", [0, 1, 64, 150])
@pytest.mark.parametrize("kept", ["state", "journal"])
def test_each_item_has_so_many_outcomes_in_order(fake_fleet, pool_over, tmp_path, size, kept):
    fleet = fake_fleet()
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    reduce = {"reducer": reducers.outcomes}
    graph = build(pool_over(fleet.urls), task=prompt(3), journal=journal, reduce=reduce)
    outcomes = graph.invoke({"molecules": molecules(size)})["predictions"]
    places = list(itertools.product(range(size), range(3)))
    assert [(each["index"], each["sample"]) for each in outcomes] == places
    assert all(f"Is C{each['index']} soluble?" in each["value"] for each in outcomes)
    assert len({each["key"] for each in outcomes}) == 3 * size
    assert fleet.record().served == 3 * size


def test_samples_are_kept_and_asked_once(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()

    def run(samples, **options):
        journal = Journal(tmp_path / "run")
        reduce = {"reducer": reducers.reference}
        graph = build(
            pool_over(fleet.urls), task=prompt(samples), journal=journal, reduce=reduce, **options
        )
        state = graph.invoke({"molecules": molecules(70)})
        return list(Results.open(state["predictions"]))

    run(2)
    assert fleet.record().served == 140
    outcomes = run(3)
    assert fleet.record().served == 210, "only the third sample of each is new"
    assert [(each.index, each.sample) for each in outcomes] == list(
        itertools.product(range(70), range(3))
    )
    assert all(f"Is C{each.index} soluble?" in each.value for each in outcomes)
    keyed = run(3, key="smiles")
    assert fleet.record().served == 420
    assert len({each.key for each in keyed}) == 210


def test_a_seed_is_raised_by_the_sample(fake_fleet, pool_over):
    fleet = fake_fleet(answer=lambda body: str(body["seed"]))
    state = build(pool_over(fleet.urls), task=prompt(3, seed=7)).invoke({"molecules": molecules(2)})
    assert state["predictions"] == ["7", "8", "9"] * 2


def test_a_failed_sample_has_no_vote(fake_fleet, pool_over):
    fleet = fake_fleet(
        answer=lambda body: "no" if body["seed"] == 1 else "yes",
        faults=(Fault("http_400", contains="C1 "),),
    )
    reduce = {"reducer": reducers.vote(abstain_below=0.6)}
    graph = build(pool_over(fleet.urls), task=prompt(3, seed=0), reduce=reduce)
    votes = graph.invoke({"molecules": molecules(3)})["predictions"]
    assert [(vote["value"], vote["votes"], vote["samples"]) for vote in votes] == [
        ("yes", 3, 3),
        (None, 0, 3),
        ("yes", 3, 3),
    ]


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples(samples):
    with pytest.raises(ValueError, match=r"samples=.*must be at least 1"):
        prompt(samples)


def test_samples_do_not_meet_keys_that_look_like_theirs(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    items = [{"id": "page", "smiles": "A"}, {"id": "page#1", "smiles": "B"}]
    journal = Journal(tmp_path / "run")
    for _ in range(2):
        graph = build(pool_over(fleet.urls), task=prompt(2), journal=journal, key="id")
        answers = graph.invoke({"molecules": items})["predictions"]
        assert [("Is A" in answer, "Is B" in answer) for answer in answers] == [
            (True, False),
            (True, False),
            (False, True),
            (False, True),
        ]
    assert fleet.record().served == 4
