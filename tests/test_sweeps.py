"""Sweeps: every item in every combination of prompts, models and parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from graphs import build, molecules
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Prompt,
    ReduceNode,
    Results,
    Sweep,
    add_fan_out,
    reducers,
)
from langgraph_hpc_fanout.testing.fleet import Fault

CONFIG = {"configurable": {"thread_id": "1"}}
QUESTIONS = {"soluble": "Is {smiles} soluble?", "toxic": "Is {smiles} toxic?"}


def said(body):
    text = body["messages"][-1]["content"]
    return f"{body['model']} {text} {body.get('temperature')}"


def outcomes_of(graph, items, config=None):
    return graph.invoke({"molecules": items}, config)["predictions"]


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_every_combination_is_an_outcome_with_its_coordinates(
    fake_fleet, pool_over, tmp_path, kept
):
    fleet = fake_fleet(answer=said)
    sweep = Sweep("molecules", prompts=QUESTIONS, params={"temperature": [0, 1]}, samples=2)
    graph = build(
        pool_over(fleet.urls),
        items=sweep,
        task=None,
        journal=Journal(tmp_path / "run") if kept == "journal" else None,
        reduce={"reducer": reducers.outcomes},
    )
    outcomes = outcomes_of(graph, molecules(70))
    expected = itertools.product(range(70), QUESTIONS, [0, 1], range(2))
    for outcome, (index, name, temperature, sample) in zip(outcomes, expected, strict=True):
        assert (outcome["index"], outcome["sample"]) == (index, sample)
        assert outcome["meta"]["sweep"] == {"prompt": name, "temperature": temperature}
        assert outcome["value"] == f"tiny Is C{index} {name}? {temperature}"
    assert fleet.record().arrived == len(outcomes) == 70 * 8


def test_known_answers_have_the_coordinates_of_their_place(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(answer=said)
    journal = Journal(tmp_path / "run")

    def run(names, items):
        sweep = Sweep("molecules", prompts={name: QUESTIONS[name] for name in names})
        reduce = {"reducer": reducers.reference}
        graph = build(pool_over(fleet.urls), items=sweep, task=None, journal=journal, reduce=reduce)
        return list(Results.open(outcomes_of(graph, items)))

    run(["soluble"], molecules(3))
    outcomes = run(["toxic", "soluble"], [*molecules(3), *molecules(1)])
    assert fleet.record().arrived == 6, "of the last item nothing is new"
    assert [outcome.meta["sweep"]["prompt"] for outcome in outcomes] == ["toxic", "soluble"] * 4
    assert [outcome.index for outcome in outcomes] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(outcome.meta["sweep"]["prompt"] in outcome.value for outcome in outcomes)


def two_models(fake_fleet, **second):
    one, other = (
        fake_fleet(models=("one",), answer=said),
        fake_fleet(models=("other",), answer=said, **second),
    )
    return one, other


def test_each_model_is_asked_where_it_is(fake_fleet, pool_over):
    one, other = two_models(fake_fleet)
    graph = build(
        pool_over([one.urls[0], other.urls[0]]),
        items=Sweep("molecules", models=["one", "other"]),
        reduce={"reducer": reducers.outcomes},
    )
    outcomes = outcomes_of(graph, molecules(100))
    assert [outcome["model"] for outcome in outcomes] == ["one", "other"] * 100
    assert [outcome["meta"]["sweep"]["model"] for outcome in outcomes] == ["one", "other"] * 100
    assert (one.record().arrived, other.record().arrived) == (100, 100)


def test_a_slow_model_holds_up_no_other(fake_fleet, pool_over):
    one, other = two_models(fake_fleet, latency=0.3)
    lanes = [OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4)) for fleet in (one, other)]
    graph = build(pool_over(lanes), items=Sweep("molecules", models=["other", "one"]))
    graph.invoke({"molecules": molecules(12)})
    last = max(row.ended for row in one.record().requests)
    ended = sorted(row.ended for row in other.record().requests)
    assert last < ended[4], "the quick one had ended before the slow one's second round"


def test_an_ensemble_of_models_votes(fake_fleet, pool_over):
    fleets = [
        fake_fleet(models=(name,), answer=lambda body, word=word: word)
        for name, word in (("a", "yes"), ("b", "no"), ("c", "yes"))
    ]
    graph = build(
        pool_over([fleet.urls[0] for fleet in fleets]),
        items=Sweep("molecules", models=["a", "b", "c"]),
        reduce={"reducer": reducers.vote(abstain_below=0.6)},
    )
    votes = graph.invoke({"molecules": molecules(3)})["predictions"]
    assert [(vote["value"], vote["samples"]) for vote in votes] == [("yes", 3)] * 3


def test_conditions_times_hypotheses(fake_fleet, pool_over):
    class Study(TypedDict, total=False):
        conditions: list
        hypotheses: list
        answers: list

    sweep = Sweep({"condition": "conditions", "hypothesis": "hypotheses"}, samples=1)
    study = FanOutNode(
        sweep, Prompt("Under {condition}, {hypothesis}?"), pool=pool_over(fake_fleet().urls)
    )
    builder = StateGraph(Study)
    add_fan_out(builder, study, ReduceNode(study, into="answers"), after=START, before=END)
    state = builder.compile().invoke({"conditions": ["heat", "cold"], "hypotheses": ["a", "b"]})
    asked = ["Under heat, a?", "Under heat, b?", "Under cold, a?", "Under cold, b?"]
    assert len(state["answers"]) == 4
    assert all(text in answer for text, answer in zip(asked, state["answers"], strict=True))


def test_a_key_of_ones_own_is_good_for_every_combination(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(answer=said)
    sweep = Sweep("molecules", prompts=QUESTIONS, samples=2)
    for _ in range(2):
        graph = build(
            pool_over(fleet.urls),
            items=sweep,
            task=None,
            key="smiles",
            journal=Journal(tmp_path / "run"),
            reduce={"reducer": reducers.outcomes},
        )
        outcomes = outcomes_of(graph, molecules(5))
        assert len({outcome["key"] for outcome in outcomes}) == 20
        assert all(outcome["meta"]["sweep"]["prompt"] in outcome["value"] for outcome in outcomes)
    assert fleet.record().arrived == 20


def test_a_sweep_that_was_interrupted_goes_on(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(answer=said, faults=(Fault("http_401", contains="C30 toxic", times=1),))
    graph = build(
        pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4))),
        items=Sweep("molecules", prompts=QUESTIONS),
        task=None,
        journal=Journal(tmp_path / "run"),
        checkpointer=InMemorySaver(),
        reduce={"reducer": reducers.outcomes},
    )
    with pytest.raises(FanOutError, match="answered 401"):
        outcomes_of(graph, molecules(64), CONFIG)
    outcomes = graph.invoke(None, CONFIG)["predictions"]
    assert [outcome["meta"]["sweep"]["prompt"] for outcome in outcomes] == [*QUESTIONS] * 64
    assert [outcome["index"] for outcome in outcomes] == [n // 2 for n in range(128)]
    assert fleet.record().statuses[200] <= 128 + 3


def test_the_context_leaves_what_is_swept_alone(fake_fleet, pool_over):
    class Settings(TypedDict, total=False):
        temperature: float
        max_tokens: int

    fleet = fake_fleet(answer=lambda body: f"{body['temperature']} {body['max_tokens']}")
    screen = FanOutNode(
        Sweep("molecules", params={"temperature": [0, 1]}),
        Prompt("Is {smiles} soluble?"),
        pool=pool_over(fleet.urls),
    )

    class State(TypedDict, total=False):
        molecules: list
        answers: list

    builder = StateGraph(State, context_schema=Settings)
    add_fan_out(builder, screen, ReduceNode(screen, into="answers"), after=START, before=END)
    graph = builder.compile()
    context = {"temperature": 0.5, "max_tokens": 7}
    state = graph.invoke({"molecules": molecules(2)}, context=context)
    assert state["answers"] == ["0 7", "1 7"] * 2


class Endless:
    """Ten million items that nobody should list."""

    name = "endless"
    ready = False

    def __init__(self):
        self.given = 0

    def __len__(self):
        return 10_000_000

    def fields(self):
        return ("smiles",)

    def read(self, start, stop) -> Iterator[dict]:
        for number in range(start, stop):
            self.given += 1
            yield {"smiles": f"C{number}"}

    def anew(self):
        return self

    def reference(self, start, stop):
        return {"kind": "endless"}


def test_a_sweep_over_ten_million_items_is_not_written_out(fake_fleet, pool_over):
    source = Endless()
    fleet = fake_fleet(latency=0.01, faults=(Fault("http_401", contains="C100 "),))
    graph = build(
        pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8))),
        items=Sweep(
            source, prompts=[*QUESTIONS.values(), "A {smiles}", "B {smiles}", "C {smiles}"]
        ),
        task=None,
    )
    with pytest.raises(FanOutError, match="answered 401") as caught:
        graph.invoke({"question": "?"})
    assert len(list(caught.value.outcomes)) >= 490
    assert source.given < 5_000


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"prompts": []}, ValueError, r"Sweep\(prompts=\.\.\.\) is empty"),
        ({"models": []}, ValueError, r"Sweep\(models=\.\.\.\) is empty"),
        ({"params": {"temperature": []}}, ValueError, "temperature.* is empty"),
        ({"models": "gpt"}, TypeError, "takes a list, .*not 'gpt'"),
        ({"prompts": "x"}, TypeError, "takes a list, .*not 'x'"),
        ({"params": {"model": ["a"]}}, ValueError, r"is written Sweep\(models=\.\.\.\)"),
        ({"prompts": ["x"], "params": {"n": [2]}}, ValueError, "may not set n"),
        ({"prompts": ["x"], "params": {"max_tokens": [0]}}, ValueError, "leaves no room"),
        ({"prompts": ["x"], "samples": 0}, ValueError, "must be at least 1"),
        (
            {"prompts": [Prompt("x"), Prompt("y", samples=2)]},
            ValueError,
            r"different samples; say Sweep\(samples=\)",
        ),
    ],
)
def test_a_sweep_that_makes_no_sense(given, error, said):
    with pytest.raises(error, match=said):
        Sweep("molecules", **given)


def test_a_sweep_and_its_task(pool_over, fake_fleet):
    pool = pool_over(fake_fleet().urls)
    with pytest.raises(ValueError, match="say only once what is asked"):
        FanOutNode(Sweep("molecules", prompts=["x"]), Prompt("y"), pool=pool)
    with pytest.raises(TypeError, match=r"task=\.\.\.\) is missing"):
        FanOutNode(Sweep("molecules", models=["a"]), pool=pool)
    with pytest.raises(TypeError, match="A sweep over model is for a Prompt"):
        FanOutNode(Sweep("molecules", models=["a"]), lambda item: item, pool=pool)
