"""Claims in, verdicts out: a fan-out whose task is an agent with a tool.

Each claim has an agent of its own, which searches a shelf of notes until it has read enough. All
agents ask through one pool, so they keep its limits together, and a journal remembers their
verdicts. `langchain.agents.create_agent` makes such agents, too; written out, this one needs no
further package.

The model behind the URL must be able to call tools, which the small local one of `make demo` is
not.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from langchain_core.messages import AnyMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Pool,
    ReduceNode,
    add_fan_out,
)

URL = os.environ.get("LLM_URL", "http://127.0.0.1:8081/v1")
RUNS = os.environ.get("RUNS", "runs")
NOTES = json.loads((Path(__file__).parent / "notes.json").read_text(encoding="utf-8"))
MOST_AT_ONCE = 64
MOST_STEPS = 16
"""Steps after which an agent that goes on and on fails: a search and its result are two."""

# -- the agent ----------------------------------------------------------------------------


@tool
def search_notes(query: str) -> str:
    """Search the notes for what bears on a claim; returns the three that fit best.

    Args:
        query: A few words to look for.
    """
    wanted = _words(query)
    best = sorted(NOTES, key=lambda note: -len(wanted & _words(note["title"] + note["text"])))[:3]
    return "\n\n".join(f"[{note['id']}] {note['title']}. {note['text']}" for note in best)


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"\W+", text.lower()) if len(word) > 3}


class Claim(TypedDict):
    """What an agent is given."""

    claim: Annotated[str, Field(description="One sentence that may be true or not.")]


class Notebook(Claim):
    """What an agent knows."""

    messages: Annotated[list[AnyMessage], add_messages]


class Verdict(BaseModel):
    """What an agent gives back."""

    verdict: Literal["supported", "contradicted", "open"]
    reason: str = Field(description="Why, in a sentence.")
    sources: list[str] = Field(description="Ids of the notes that say so.")


SEARCH = ChatPromptTemplate(
    [
        ("system", "Search the notes until you can say whether the claim is true."),
        ("user", "Claim: {claim}"),
        ("placeholder", "{messages}"),
    ]
)
JUDGE = ChatPromptTemplate(
    [
        ("system", "Judge the claim by what the notes say, and by nothing else."),
        ("user", "Claim: {claim}"),
        ("placeholder", "{messages}"),
        ("user", "Your verdict on the claim: {claim}"),
    ]
)


def build_agent(pool: Pool) -> CompiledStateGraph[Notebook, None, Claim, Verdict]:
    """An agent that searches as often as it wants, then judges in a form that is checked."""
    model = pool.chat_model(temperature=0, max_tokens=512)
    search = SEARCH | model.bind_tools([search_notes]) | (lambda said: {"messages": [said]})
    judge = JUDGE | model.with_structured_output(Verdict, method="json_schema") | dict
    builder = StateGraph(Notebook, input_schema=Claim, output_schema=Verdict)
    builder.add_node("search", search)
    builder.add_node("tools", ToolNode([search_notes]))
    builder.add_node("judge", judge)
    builder.add_edge(START, "search")
    builder.add_conditional_edges("search", tools_condition, {"tools": "tools", END: "judge"})
    builder.add_edge("tools", "search")
    builder.add_edge("judge", END)
    return builder.compile(name="check_claim").with_config(recursion_limit=MOST_STEPS)


# -- the graph ----------------------------------------------------------------------------

EXAMPLES: list[Claim] = [
    {"claim": "A high melting point lowers the solubility of a solid in water."},
    {"claim": "Salts of basic drugs dissolve more slowly than the bases themselves."},
    {"claim": "Weak acids dissolve better at high pH."},
    {"claim": "Cyclodextrins make nonpolar drugs less soluble."},
    {"claim": "Solubility can be estimated from a molecule's structure alone."},
    {"claim": "Sugar dissolves more slowly in microgravity."},
]


class Input(TypedDict):
    """What to check."""

    claims: Annotated[
        list[Claim],
        Field(
            description="Claims about solubility.",
            json_schema_extra={"default": EXAMPLES},  # what Studio's form begins with
        ),
    ]


class Output(TypedDict):
    """What came of it."""

    verdicts: Annotated[
        list[dict[str, Any] | None],
        Field(description="Verdict, reason and sources, in the order of the claims."),
    ]
    failures: Annotated[list[dict[str, Any]], Field(description="What failed, and why.")]
    report: Annotated[dict[str, Any], Field(description="Counts, tokens, latencies, seconds.")]


class State(Input, Output):
    """Both."""


class Context(BaseModel):
    """Settings of one run. The fan-out reads them by these names."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"langgraph_nodes": ["check"]})

    concurrency: int = Field(8, ge=1, le=MOST_AT_ONCE, description="Most agents at once.")


def build(url: str, journal: Journal) -> StateGraph[State, Context, Input, Output]:
    """The graph over the model at a URL, to compile with a checkpointer of yours or without."""
    pool = Pool(OpenAIEndpoint(url, name="LLM", limits=Limits(concurrency=MOST_AT_ONCE)))
    check = FanOutNode("claims", build_agent(pool), name="check", journal=journal)
    gather = ReduceNode(
        check, into="verdicts", failures_into="failures", report_into="report", name="gather"
    )
    builder = StateGraph(State, Context, input_schema=Input, output_schema=Output)
    add_fan_out(builder, check, gather, after=START, before=END)
    return builder


graph = build(URL, Journal(Path(RUNS) / "literature")).compile(name="literature")
