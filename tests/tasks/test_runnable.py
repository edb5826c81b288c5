"""Runnables and functions as tasks: what is taken, its name, its key and its input."""

from __future__ import annotations

import functools
import math

import pytest
from hypothesis import given
from langchain_core.runnables import RunnableConfig, RunnableLambda
from properties import jsons, repeatable
from pydantic import BaseModel

from langgraph_hpc_fanout.tasks.runnable import RunnableTask


def double(item):
    return 2 * item


async def adouble(item):
    return 2 * item


def with_config(item, config: RunnableConfig):
    return config["tags"]


class Doubler:
    def __call__(self, item):
        return 2 * item

    async def later(self, item):
        return 2 * item


class AsyncDoubler:
    async def __call__(self, item):
        return 2 * item


def add(first, second):
    return first + second


HERE = __name__


@pytest.mark.parametrize(
    ("given", "name", "named", "in_thread"),
    [
        (double, f"{HERE}.double", True, True),
        (adouble, f"{HERE}.adouble", True, False),
        (math.sqrt, "math.sqrt", True, True),
        (Doubler().later, f"{HERE}.Doubler.later", False, False),
        (Doubler(), f"{HERE}.Doubler", False, True),
        (AsyncDoubler(), f"{HERE}.AsyncDoubler", False, False),
        (functools.partial(add, 1), f"{HERE}.add", False, True),
        (lambda item: item, f"{HERE}.<lambda>", False, True),
        (RunnableLambda(double), f"{HERE}.double", True, True),
        (RunnableLambda(double, afunc=adouble), f"{HERE}.double", True, False),
        (RunnableLambda(adouble), f"{HERE}.adouble", True, False),
        (str.upper, "builtins.str.upper", True, True),
        (RunnableLambda(double) | RunnableLambda(double), "RunnableSequence", False, False),
        ((RunnableLambda(double) | double).with_config(run_name="twice"), "twice", True, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_taken(given, name, named, in_thread):
    task = RunnableTask(given, None)
    assert (task.name, task.is_named, task.in_thread) == (name, named, in_thread)
    assert task.describe() == name


async def test_it_runs():
    assert RunnableTask(double, None).invoke(2, {}) == 4
    assert await RunnableTask(adouble, None).ainvoke(2, {}) == 4
    assert await RunnableTask(RunnableLambda(double), None).ainvoke(2, {}) == 4
    assert RunnableTask(functools.partial(add, 1), None).invoke(2, {}) == 3
    assert RunnableTask(with_config, None).invoke(2, {"tags": ["a"]}) == ["a"]


@pytest.mark.parametrize("given", [lambda: 0, add, lambda *, item: item])
def test_the_wrong_arity(given):
    with pytest.raises(TypeError, match=r"must take one argument, the item: .* does not"):
        RunnableTask(given, None)


@pytest.mark.parametrize("given", ["package.module:function", 3, None])
def test_what_is_no_task(given):
    with pytest.raises(TypeError, match="takes a Prompt, a Runnable or a function of the item"):
        RunnableTask(given, None)


@pytest.mark.parametrize(
    ("item", "shared", "given"),
    [
        (1, {}, 1),
        (1, {"question": "?"}, {"item": 1, "question": "?"}),
        ({"a": 1}, {"question": "?"}, {"a": 1, "question": "?"}),
        ({"question": "own"}, {"question": "?"}, {"question": "own"}),
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_the_input_has_the_shared_fields(item, shared, given):
    assert RunnableTask(double, None).input(item, shared) == given


class Molecule(BaseModel):
    smiles: str


@repeatable
@given(jsons, jsons)
def test_equal_items_have_equal_keys_and_others_others(one, other):
    task = RunnableTask(double, None)
    assert task.key(one, {}) == RunnableTask(double, None).key(one, {})
    if one != other:
        assert task.key(one, {}) != task.key(other, {})


def test_the_key_knows_task_version_and_shared():
    keys = {
        RunnableTask(task, version).key(item, shared)
        for task in (double, adouble)
        for version in (None, "1", "2")
        for item in (1, {"a": 1}, Molecule(smiles="C"), Molecule(smiles="CC"), math.nan)
        for shared in ({}, {"question": "?"})
    }
    assert len(keys) == 2 * 3 * 5 * 2
    mine = Molecule(smiles="C")
    assert RunnableTask(double, None).key(mine, {}) == RunnableTask(double, None).key(mine, {})


def generator(item):
    yield item


async def async_generator(item):
    yield item


@pytest.mark.parametrize("given", [generator, async_generator])
def test_a_generator_is_refused(given):
    with pytest.raises(TypeError, match="is a generator; return a list instead"):
        RunnableTask(given, None)


def test_an_odd_item_has_a_key_of_its_own_where_no_journal_looks():
    task = RunnableTask(double, None)
    with pytest.raises(TypeError, match="no key by which a journal would know it again"):
        task.key({1, 2}, {})
    assert task.key_or_any({1, 2}, {}) != task.key_or_any({1, 2}, {})
    assert task.key_or_any(1, {}) == task.key(1, {})
