"""Sweeps in graphs: each combination is asked once, of those who serve it, and told."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass

import pyarrow.parquet as pq
import pytest
from graphs import PROMPT, State, build, molecules
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import PromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    FunctionEndpoint,
    Journal,
    Limits,
    OpenAIBatch,
    OpenAIEndpoint,
    Outcome,
    Prompt,
    ReduceNode,
    Results,
    Sweep,
    add_fan_out,
    reducers,
)
from langgraph_hpc_fanout.runs.registry import registry
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault

CONFIG = {"configurable": {"thread_id": "1"}}
PROMPTS = {"soluble": "Is {smiles} soluble?", "toxic": Prompt("Is {smiles} toxic?", max_tokens=40)}
SIZE = 70


def full(body):
    """An answer that says all that was asked."""
    return f"{body['model']} {body.get('temperature')} {body['messages'][-1]['content']}"


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet([FakeEndpoint(models=(name,), answer=full) for name in ("large", "small")])


@pytest.fixture
def pool(fleet, pool_over):
    return pool_over(fleet.urls)


def sweep(items="molecules", **changes):
    axes = {
        "prompts": PROMPTS,
        "models": ["large", "small"],
        "params": {"temperature": [0, 0.5]},
        "samples": 2,
    }
    return Sweep(items, **{**axes, **changes})


COMBINATIONS = list(itertools.product(("soluble", "toxic"), ("large", "small"), (0, 0.5)))


def check(outcomes, size=SIZE):
    """Every combination is there once, in order, and answered by what it says."""
    outcomes = list(outcomes)
    places = itertools.product(range(size), COMBINATIONS, range(2))
    for outcome, (index, (prompt, model, temperature), sample) in zip(
        outcomes, places, strict=True
    ):
        assert (outcome.index, outcome.sample) == (index, sample)
        assert outcome.meta["sweep"] == {
            "prompt": prompt,
            "model": model,
            "temperature": temperature,
        }
        assert outcome.value == f"{model} {temperature} Is C{index} {prompt}?"
        assert outcome.model == model
    assert len({outcome.key for outcome in outcomes}) == len(outcomes)


def outcomes_of(state):
    return [Outcome.from_dict(each) for each in state["predictions"]]


def endpoints_of(outcomes):
    return {(each.meta["sweep"]["model"], each.endpoint) for each in outcomes}


# -- every combination ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 64, SIZE])
def test_every_combination_is_asked_of_those_who_serve_it(pool, fleet, size):
    graph = build(pool, items=sweep(), task=None, reduce={"reducer": reducers.outcomes})
    state = graph.invoke({"molecules": molecules(size)})
    outcomes = outcomes_of(state)
    check(outcomes, size)
    assert len(endpoints_of(outcomes)) == (2 if size else 0)
    assert [each.served for each in fleet.record().endpoints] == [8 * size, 8 * size]
    assert state["report"]["total"] == 16 * size


async def test_what_is_known_keeps_its_place_in_the_sweep(pool, fleet, tmp_path):
    journal = Journal(tmp_path / "run")
    for served in (16 * SIZE, 0):
        fleet.reset_record()
        graph = build(
            pool,
            items=sweep(),
            task=None,
            journal=journal,
            reduce={"reducer": reducers.reference},
        )
        state = await graph.ainvoke({"molecules": molecules(SIZE)})
        results = await asyncio.to_thread(Results.open, state["predictions"])
        await asyncio.to_thread(check, results)
        assert fleet.record().served == served


def test_what_a_sweep_adds_is_all_that_is_asked(pool, fleet, tmp_path):
    journal = Journal(tmp_path / "run")
    given = {"molecules": molecules(SIZE)}
    part = sweep(prompts={"toxic": PROMPTS["toxic"]}, models=["small"], params={}, samples=1)
    build(pool, items=part, task=None, journal=journal).invoke(given)
    whole = sweep(params={"temperature": [None, 0.5]})
    report = build(pool, items=whole, task=None, journal=journal).invoke(given)["report"]
    assert report["cached"] == SIZE
    assert fleet.record().served == 16 * SIZE


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_a_resume(fake_fleet, pool_over, tmp_path, monkeypatch, kept):
    monkeypatch.setattr(registry, "register", lambda run: None)
    broken = Fault("http_401", contains="C30 toxic", times=1)
    fleet = fake_fleet(
        [FakeEndpoint(models=(name,), answer=full, faults=(broken,)) for name in ("large", "small")]
    )
    lanes = [OpenAIEndpoint(url, limits=Limits(concurrency=4)) for url in fleet.urls]
    graph = build(
        pool_over(lanes),
        items=sweep(),
        task=None,
        journal=Journal(tmp_path / "run") if kept == "journal" else None,
        checkpointer=InMemorySaver(),
        reduce={"reducer": reducers.outcomes},
    )
    with pytest.raises(FanOutError, match="answered 401"):
        graph.invoke({"molecules": molecules(SIZE)}, CONFIG)
    fleet.reset_record()
    state = graph.invoke(None, CONFIG)
    check(outcomes_of(state))
    assert state["report"]["total"] == state["report"]["ok"] == 16 * SIZE
    assert fleet.record().served < 16 * SIZE


def test_failures_tell_their_combination(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C1 toxic"),))
    (tmp_path / "m.jsonl").write_text('{"smiles": "C0"}\n{"smiles": "C1"}\n?\n')
    items = Sweep(tmp_path / "m.jsonl", prompts=PROMPTS)
    state = build(pool_over(fleet.urls), items=items, task=None).invoke({})
    assert [(each["index"], each["meta"]["sweep"]["prompt"]) for each in state["failures"]] == [
        (1, "toxic"),
        (2, "soluble"),
        (2, "toxic"),
    ]


def test_keys_of_ones_own_are_for_all_combinations(pool, fleet, tmp_path):
    items = [{"id": str(number), **each} for number, each in enumerate(molecules(SIZE))]
    journal = Journal(tmp_path / "run")
    for cached in (0, 16 * SIZE):
        graph = build(pool, items=sweep(), task=None, journal=journal, key="id")
        assert graph.invoke({"molecules": items})["report"]["cached"] == cached
    check(Results.of(tmp_path / "run"))
    assert fleet.record().served == 16 * SIZE


def test_two_items_with_one_key_of_ones_own(pool, tmp_path):
    items = [{"id": "same", **each} for each in molecules(2)]
    graph = build(pool, items=sweep(), task=None, key="id", journal=Journal(tmp_path / "run"))
    for _ in range(2):
        state = graph.invoke({"molecules": items})
        assert [each["index"] for each in state["failures"]] == [1] * 16
        assert "of item 0 and asks something else" in state["failures"][0]["error"]["message"]


def test_a_table_has_a_column_for_each_coordinate(pool, tmp_path):
    path = tmp_path / "sweep.parquet"
    reduce = {"reducer": reducers.table(path)}
    build(pool, items=sweep(), task=None, reduce=reduce).invoke({"molecules": molecules(2)})
    rows = pq.read_table(path).to_pylist()
    assert [
        (row["sweep_prompt"], row["sweep_model"], row["sweep_temperature"]) for row in rows[::2]
    ] == COMBINATIONS * 2


def test_models_vote(fake_fleet, pool_over):
    says = {"a": "yes", "b": "no", "c": "yes"}
    fleet = fake_fleet([FakeEndpoint(models=(name,), answer=says[name]) for name in says])
    items = Sweep("molecules", models=["a", "b", "c"], samples=2)
    reduce = {"reducer": reducers.vote(abstain_below=0.6)}
    graph = build(pool_over(fleet.urls), items=items, reduce=reduce)
    votes = graph.invoke({"molecules": molecules(3)})["predictions"]
    assert [(vote["value"], vote["votes"]) for vote in votes] == [("yes", 6)] * 3


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_models_vote_on_each_prompt(fake_fleet, pool_over, tmp_path, kept):
    def answer(body):
        return "no" if "toxic" in str(body) else "yes"

    fleet = fake_fleet([FakeEndpoint(models=("large", "small"), answer=answer)])
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    reduce = {"reducer": reducers.vote(by="prompt")}
    graph = build(pool_over(fleet.urls), items=sweep(), task=None, journal=journal, reduce=reduce)
    for _ in range(2):  # the second time, what is known is told of its place as well
        votes = graph.invoke({"molecules": molecules(3)})["predictions"]
        assert [(each["index"], each["sweep"], each["value"], each["votes"]) for each in votes] == [
            (index, {"prompt": prompt}, value, 8)
            for index in range(3)
            for prompt, value in (("soluble", "yes"), ("toxic", "no"))
        ]


def test_by_key_has_an_entry_for_each_sample_and_variant(pool):
    items = [{"id": str(number), **each} for number, each in enumerate(molecules(3))]
    for key in (None, "id"):
        reduce = {"reducer": reducers.by_key}
        graph = build(pool, items=sweep(), task=None, key=key, reduce=reduce)
        assert len(graph.invoke({"molecules": items})["predictions"]) == 16 * 3
    # Of samples, the first has the item's own key.
    graph = build(
        pool,
        task=Prompt("Is {smiles} soluble?", model="large", samples=2),
        key="id",
        reduce={"reducer": reducers.by_key},
    )
    by_key = graph.invoke({"molecules": items})["predictions"]
    assert len(by_key) == 6
    assert {"0", "1", "2"} < by_key.keys()


def test_a_batch_asked_of_several_models(pool, tmp_path):
    message = '{"role": "user", "content": "Is C%d soluble?"}'
    lines = [
        f'{{"custom_id": "r{number}", "body": {{"messages": [{message % number}], "seed": 1}}}}\n'
        for number in range(3)
    ]
    (tmp_path / "batch.jsonl").write_text("".join(lines))
    items = OpenAIBatch(tmp_path / "batch.jsonl")
    swept = Sweep(items, models=["large", "small"], params={"temperature": [0, 1]})
    state = build(pool, items=swept, task=None).invoke({})
    assert state["predictions"] == [
        f"{model} {temperature} Is C{number} soluble?"
        for number in range(3)
        for model in ("large", "small")
        for temperature in (0, 1)
    ]


def test_the_first_items_of_a_sweep_are_traced_in_all_combinations(pool):
    seen = []

    class Callback(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, *, invocation_params, **more):
            parameters = invocation_params
            seen.append((messages[0][0].text, parameters["model"], parameters["temperature"]))

    graph = build(pool, items=sweep(samples=1), task=None, trace=1)
    graph.invoke({"molecules": molecules(3)}, {"callbacks": [Callback()]})
    assert seen == [
        (f"Is C0 {prompt}?", model, temperature) for prompt, model, temperature in COMBINATIONS
    ]


# -- products ---------------------------------------------------------------------------------


class Study(State, total=False):
    conditions: list
    hypotheses: list


def test_conditions_by_hypotheses(pool_over):
    pool = pool_over(FunctionEndpoint(lambda request: request.body["messages"][0]["content"]))
    items = Sweep({"condition": "conditions", "hypothesis": "hypotheses"}, samples=2)
    task = Prompt("{condition}: {hypothesis}?")
    given = {"conditions": ["dry", "wet"], "hypotheses": ["H0", "H1", "H2"]}
    graph = build(pool, items=items, task=task, state=Study)
    pairs = itertools.product(given["conditions"], given["hypotheses"], range(2))
    wanted = [f"{condition}: {hypothesis}?" for condition, hypothesis, _ in pairs]
    assert graph.invoke(given)["predictions"] == wanted
    assert graph.invoke({**given, "hypotheses": []})["predictions"] == []


def test_fields_within_factors_are_for_templates_that_know_them(pool_over):
    pool = pool_over(FunctionEndpoint(lambda request: request.body["messages"][0]["content"]))
    text = "{{paper.title}}: {{question}}"
    task = Prompt(PromptTemplate.from_template(text, template_format="mustache"))
    papers = [{"title": "On cats"}, {"title": "On dogs"}]
    items = Sweep({"paper": papers, "question": ["Who?", "Why?"]})
    assert build(pool, items=items, task=task).invoke({})["predictions"] == [
        "On cats: Who?",
        "On cats: Why?",
        "On dogs: Who?",
        "On dogs: Why?",
    ]


def test_a_function_of_pairs(pool_over):
    def pair(item):
        return [item["a"], item["b"]]

    graph = build(None, items=Sweep({"a": [1, 2], "b": "molecules"}), task=pair)
    state = graph.invoke({"molecules": [3, 4]})
    assert state["predictions"] == [[1, 3], [1, 4], [2, 3], [2, 4]]


# -- size and time ----------------------------------------------------------------------------


class Counting:
    """So many molecules, nowhere, and how many of them were read."""

    name = "counting"
    ready = False

    def __init__(self, size):
        self.size = size
        self.rows = 0

    def __len__(self):
        return self.size

    def fields(self):
        return ("smiles",)

    def anew(self):
        return self

    def read(self, start, stop):
        for number in range(start, min(stop, self.size)):
            self.rows += 1
            yield {"smiles": f"C{number}"}

    def reference(self, start, stop):
        return {"kind": "counting"}


def test_ten_million_items_by_five_are_routed_without_reading_them(pool_over):
    async def never(request):
        await asyncio.sleep(3600)

    items = Counting(10_000_000)
    questions = [f"{number}: {{smiles}}?" for number in range(5)]
    graph = build(
        pool_over(FunctionEndpoint(never)), items=Sweep(items, prompts=questions), task=None
    )
    stream = graph.stream({}, stream_mode="custom")
    assert next(stream)["total"] == 50_000_000
    stream.close()
    assert items.rows < 4_000


def test_a_model_that_is_away_holds_up_no_other(pool_over):
    """And the other's items do not pile up in memory."""
    done = Counter()
    everything = asyncio.Event()

    async def waits(request):
        await everything.wait()
        return "late"

    async def answers(request):
        done["quick"] += 1
        if done["quick"] == 10_000:
            done["read meanwhile"] = items.rows
            everything.set()
        return "soon"

    items = Counting(10_000)
    endpoints = [
        FunctionEndpoint(waits, models=["slow"], limits=Limits(concurrency=1_000)),
        FunctionEndpoint(answers, models=["quick"], limits=Limits(concurrency=1_000)),
    ]
    graph = build(pool_over(endpoints), items=Sweep(items, models=["slow", "quick"]))
    state = graph.invoke({})
    assert state["predictions"] == ["late", "soon"] * 10_000
    assert done["read meanwhile"] < 14_000


# -- the context ------------------------------------------------------------------------------


@dataclass
class Settings:
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


@pytest.mark.parametrize("swept", [True, False])
def test_a_context_does_not_override_what_is_swept(pool, swept):
    axes = {"models": ["large", "small"], "params": {"temperature": [0, 0.5]}} if swept else {}
    screen = FanOutNode(Sweep("molecules", prompts=PROMPTS, **axes), pool=pool)
    builder = StateGraph(State, Settings)
    add_fan_out(builder, screen, ReduceNode(screen, "predictions"), after=START, before=END)
    context = Settings("small", temperature=0.9)
    said = builder.compile().invoke({"molecules": molecules(1)}, context=context)["predictions"]
    models, temperatures = (("large", "small"), (0, 0.5)) if swept else (("small",), (0.9,))
    assert said == [
        f"{model} {temperature} Is C0 {prompt}?"
        for prompt, model, temperature in itertools.product(PROMPTS, models, temperatures)
    ]


# -- what is refused --------------------------------------------------------------------------


def test_what_no_fan_out_can_do(pool):
    with pytest.raises(ValueError, match=r"task=\.\.\.\) beside Sweep\(prompts=\.\.\.\): say only"):
        FanOutNode(sweep(), PROMPT, pool=pool)
    with pytest.raises(TypeError, match=r"task=\.\.\.\) is missing: say what to do for each item"):
        FanOutNode(Sweep("molecules", models=["large"]), pool=pool)
    with pytest.raises(TypeError, match=r"pool=\.\.\.\) is missing: a Prompt needs to know where"):
        FanOutNode(sweep())
    for task in (len, "my_lab:dock"):
        with pytest.raises(TypeError, match="A sweep over model is for a Prompt; what a Runnable"):
            FanOutNode(Sweep("molecules", models=["large"]), task, pool=pool)
    with pytest.raises(ValueError, match="The prompts of a sweep want different samples"):
        FanOutNode(Sweep("molecules", prompts=["a", Prompt("b", samples=2)]), pool=pool)
    with pytest.raises(TypeError, match=r"takes a state key, a path, a source.* not Sweep"):
        FanOutNode(Sweep(sweep()), PROMPT, pool=pool)


def test_a_field_that_one_of_the_prompts_wants(pool, fleet):
    items = sweep(prompts=["Is {smiles} soluble?", "Is {name} toxic?"])
    with pytest.raises(FanOutError, match=r"the prompt wants 'name', which neither the items \(sm"):
        build(pool, items=items, task=None).invoke({"molecules": molecules(3)})
    assert fleet.record().arrived == 0


def test_a_model_that_nobody_serves(pool):
    items = sweep(models=["large", "medium"])
    with pytest.raises(FanOutError, match="medium"):
        build(pool, items=items, task=None).invoke({"molecules": molecules(3)})


def test_drawings_tell_what_is_swept(pool):
    shown = FanOutNode(sweep(), pool=pool).metadata()
    assert shown["model"] == "large, small"
    assert shown["sweep"] == "prompt, model, samples, temperature: 16 an item"
