"""Molecules in, solubility classes out: the graph that `langgraph dev` shows in Studio.

Nothing is opened before the first run, so the graph also loads where no model is reachable.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutNode,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
)

URL = os.environ.get("LLM_URL", "http://127.0.0.1:8081/v1")
MOST_AT_ONCE = 64


class Molecule(TypedDict):
    """One molecule."""

    name: Annotated[str, Field(description="Name as a chemist writes it.")]
    smiles: Annotated[str, Field(description="Structure, in SMILES.")]


class Prediction(BaseModel):
    """What the model is to answer for each molecule."""

    solubility: Literal["low", "medium", "high"] = Field(description="Solubility in water.")
    reason: str = Field(description="Why, in a few words.", max_length=200)


EXAMPLES: list[Molecule] = [
    {"name": "ethanol", "smiles": "CCO"},
    {"name": "hexane", "smiles": "CCCCCC"},
    {"name": "diethyl ether", "smiles": "CCOCC"},
    {"name": "glucose", "smiles": "OCC1OC(O)C(O)C(O)C1O"},
    {"name": "naphthalene", "smiles": "c1ccc2ccccc2c1"},
]


class Input(TypedDict):
    """What to ask about."""

    molecules: Annotated[
        list[Molecule],
        Field(
            description="Molecules to rate, any number of them.",
            json_schema_extra={"default": EXAMPLES},  # what Studio's form begins with
        ),
    ]


class Output(TypedDict):
    """What came of it."""

    predictions: Annotated[
        list[dict[str, Any] | None],
        Field(description="Solubility and reason, in the order of the molecules; null if failed."),
    ]
    failures: Annotated[list[dict[str, Any]], Field(description="What failed, and why.")]
    report: Annotated[dict[str, Any], Field(description="Counts, tokens, latencies, seconds.")]


class State(Input, Output):
    """Both."""


class Context(BaseModel):
    """Settings of one run. The fan-out reads them by these names."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"langgraph_nodes": ["screen"]})

    model: str | None = Field(None, description="Model; null for the only one that is served.")
    max_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature.")
    concurrency: int = Field(16, ge=1, le=MOST_AT_ONCE, description="Most requests at once.")


def build(url: str) -> StateGraph[State, Context, Input, Output]:
    """The graph over the model at a URL, to compile with a checkpointer of yours or without."""
    settings = Context()  # a script that gives no context gets the same
    pool = Pool(OpenAIEndpoint(url, name="LLM", limits=Limits(concurrency=MOST_AT_ONCE)))
    prompt = Prompt(
        "How soluble in water is {name} (SMILES {smiles})?",
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        schema=Prediction,
    )
    screen = FanOutNode("molecules", prompt, pool=pool, name="screen")
    gather = ReduceNode(
        screen, into="predictions", failures_into="failures", report_into="report", name="gather"
    )
    builder = StateGraph(State, Context, input_schema=Input, output_schema=Output)
    add_fan_out(builder, screen, gather, after=START, before=END)
    return builder


graph = build(URL).compile(name="molecules")
