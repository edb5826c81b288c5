"""Graphs and items that most tests use."""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langgraph_hpc_fanout import FanOutNode, Prompt, ReduceNode, add_fan_out


class State(TypedDict, total=False):
    """The state of most test graphs."""

    molecules: list
    question: str
    predictions: list
    failures: list
    report: dict


PROMPT = Prompt("Is {smiles} soluble?")


def molecules(count):
    return [{"smiles": f"C{number}"} for number in range(count)]


def build(
    pool, *, task=PROMPT, reduce=None, checkpointer=None, state=State, items="molecules", **fan
):
    """A compiled graph of one fan-out and its reduce node."""
    screen = FanOutNode(items, task, pool=pool, name="screen", **fan)
    gather = ReduceNode(
        screen,
        into="predictions",
        **{"failures_into": "failures", "report_into": "report", **(reduce or {})},
    )
    builder = StateGraph(state)
    add_fan_out(builder, screen, gather, after=START, before=END)
    return builder.compile(checkpointer=checkpointer)


def right_answers(answers, items):
    """Whether every item got its own answer: the fleet echoes the question."""
    return len(answers) == len(items) and all(
        answer is not None and f"Is {item['smiles']} soluble?" in answer
        for answer, item in zip(answers, items, strict=True)
    )
