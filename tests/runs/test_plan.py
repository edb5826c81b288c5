"""What a fan-out has been told to do: places, keys, and what a context changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import FanOutError, Journal, Prompt, Retry, Sweep
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.runs.plan import Plan, check_meaning
from langgraph_hpc_fanout.tasks.ready import ReadyRequest
from langgraph_hpc_fanout.tasks.remote import RemoteFunction
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.tasks.sweep import Variant

PROMPT = Prompt("Is {smiles} soluble?")


def plan(task=PROMPT, *, sweep=None, **changes):
    fields = {
        "name": "screen",
        "variants": (Variant(task),) if sweep is None else sweep.variants(task),
        "swept": () if sweep is None else sweep.axes,
        "pool": None,
        "key": None,
        "journal": None,
        "retry": Retry(),
        "item_deadline": None,
        "deadline": None,
        "task_concurrency": None,
        "trace": 0,
    }
    return Plan(**{**fields, **changes})


def swept(models=2, samples=3):
    names = [f"m{number}" for number in range(models)]
    return plan(sweep=Sweep("xs", models=names, samples=samples))


def own(item):
    return item["id"]


@repeatable
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3))
def test_places_are_counted_by_item_variant_and_sample(models, samples, start, count):
    some = swept(models, samples)
    shard = some.shard(0, Rows(list(range(9))), start, count)
    assert some.per_item == models * samples
    assert some.steps(range(models)) == list(range(some.per_item))
    found = [
        (shard.index(offset), some.coordinates(shard, offset)["model"], shard.sample(offset))
        for offset in range(shard.size)
    ]
    assert found == [
        (index, f"m{model}", sample)
        for index in range(start, start + count)
        for model in range(models)
        for sample in range(samples)
    ]


def test_the_places_of_some_variants():
    assert swept(3, 2).steps([0, 2]) == [0, 1, 4, 5]


def test_a_key_of_ones_own_is_another_for_each_place():
    some = swept()
    shard = some.shard(0, Rows([0, 1]), 0, 2)
    keys = [some.key_of("a", shard, offset) for offset in range(6)]
    assert len(set(keys)) == 6
    assert [some.key_of("a", shard, offset) for offset in range(6, 12)] == keys
    assert "a" not in keys


def test_a_key_of_ones_own_stays_as_it_is_where_there_is_one_place():
    shard = plan().shard(0, Rows([0]), 0, 1)
    assert plan().key_of("a", shard, 0) == "a"


def test_keys_of_ones_own_are_good_for_their_fan_out():
    assert (plan().scope, plan(key=own).scope) == ("", "screen")


def test_who_makes_keys(tmp_path):
    item = {"id": "i"}
    assert plan().identify({}) is None
    assert plan(key=own).identify({})(item) == ("i", None)
    task = RunnableTask(own, "1")
    key, asked = plan(task).identify({})(item)
    assert (key, asked) == (task.key(item, {}), None)
    key, asked = plan(task, key=own).identify({})(item)
    assert (key, asked) == ("i", task.hash_of(item, {}))
    odd = {"id": object()}
    assert plan(task).identify({})(odd)[0]
    with pytest.raises(TypeError):
        plan(task, journal=Journal(tmp_path)).identify({})(odd)


def test_a_context_changes_what_is_free():
    context = {"model": "mine", "temperature": 0.3, "max_tokens": 5, "concurrency": 2}
    changed = plan().adapted(context)
    request = changed.task.request({"smiles": "C"})
    assert (request.model, request.body["temperature"], request.max_tokens) == ("mine", 0.3, 5)
    assert changed.concurrency == 2
    some = plan(sweep=Sweep("xs", models=["a", "b"], params={"temperature": [0, 1]}))
    requests = [each.task.request({"smiles": "C"}) for each in some.adapted(context).variants]
    assert [(each.model, each.body["temperature"], each.max_tokens) for each in requests] == [
        ("a", 0, 5),
        ("a", 1, 5),
        ("b", 0, 5),
        ("b", 1, 5),
    ]


@pytest.mark.parametrize("task", [RunnableTask(own, "1"), RemoteFunction("a:b", None)])
def test_a_function_heeds_the_concurrency_only(task):
    context = {"model": "mine", "temperature": -1, "concurrency": 2}
    changed = plan(task).adapted(context)
    assert changed.task is task
    assert changed.concurrency == 2


def test_a_context_that_changes_nothing():
    assert plan().adapted(None) == plan()
    with pytest.raises(FanOutError, match="screen: the context's concurrency=0 cannot be used"):
        plan().adapted({"concurrency": 0})


def test_requests_that_are_ready_say_their_model():
    items = [{"body": {"model": "theirs"}}]
    ready = plan(ReadyRequest())
    assert ready.adapted(None, items).task.model == "theirs"
    assert ready.adapted({"model": "mine"}, items).task.model == "mine"
    assert ready.adapted(None).task.model is None


def test_what_a_journal_says_of_it():
    assert plan().describe() == {"fan_out": "screen", "task": "Is {smiles} soluble?"}
    assert swept(2, 3).describe() == {
        "fan_out": "screen",
        "task": "Is {smiles} soluble?",
        "samples": 3,
        "per_item": 6,
        "sweep": [{"model": "m0"}, {"model": "m1"}],
    }


@pytest.mark.parametrize(
    ("task", "settings", "version", "says"),
    [
        (PROMPT, {"trace": -1}, None, r"trace=-1\) must not be negative"),
        (len, {"task_concurrency": 0}, None, r"task_concurrency=0\) must be at least 1"),
        (PROMPT, {"task_concurrency": 2}, None, "is for Runnables and functions; what a Prompt"),
        (PROMPT, {}, "1", "is for Runnables and functions; a Prompt's answers are known by"),
        (len, {"trace": 1}, None, r"trace=\.\.\.\) is for a Prompt; a Runnable is traced anyway"),
        ("a:b", {"task_concurrency": 2}, None, "is for what runs here; how many calls of"),
        (len, {"retry": Retry(attempts=9)}, None, r"retry=\.\.\.\) is for a Prompt; use Runnable"),
        (lambda item: item, {"journal": "j"}, None, "has no name of its own by which a journal"),
    ],
)
def test_settings_that_mean_nothing(task, settings, version, says):
    if isinstance(task, str):
        task = RemoteFunction(task, version)
    elif callable(task):
        task = RunnableTask(task, version)
    with pytest.raises(ValueError, match=says):
        check_meaning(plan(task, **settings), version)
