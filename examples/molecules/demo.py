"""Screen real molecules with a real local LLM, through a LangGraph graph.

Starts a small LLM server on loopback, fans 120 molecules with measured solubility out through a
compiled graph, shows progress, and prints every answer beside the truth. `make demo` runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any, Literal

from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from examples.molecules.dataset import Molecule, load_molecules
from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
)
from langgraph_hpc_fanout.testing.local_llm import LocalLLM

PARALLEL = 8


class Answer(BaseModel):
    """What the model is to answer for each molecule; the server keeps it to this."""

    solubility: Literal["low", "medium", "high"]


TURNS = ChatPromptTemplate.from_messages(
    [
        ("system", "Rate the solubility in water: low, medium or high. Answer in JSON."),
        ("human", "How soluble in water is hexane?"),
        ("ai", '{{"solubility": "low"}}'),
        ("human", "How soluble in water is ethanol?"),
        ("ai", '{{"solubility": "high"}}'),
        ("human", "How soluble in water is diethyl ether?"),
        ("ai", '{{"solubility": "medium"}}'),
        ("human", "How soluble in water is {name}?"),
    ]
)
"""A model this small answers in the form that it is shown; without examples it rambles."""


class State(TypedDict, total=False):
    """What goes in, and what comes back."""

    molecules: list[Molecule]
    predictions: list[dict[str, str] | None]
    report: dict[str, Any]


def build_graph(url: str) -> Any:
    """A graph that asks the server at `url` about every molecule in its state."""
    pool = Pool(OpenAIEndpoint(url, name="local LLM", limits=Limits(concurrency=PARALLEL)))
    prompt = Prompt(TURNS, schema=Answer, max_tokens=32, temperature=0)
    screen = FanOutNode("molecules", prompt, pool=pool, name="screen")
    gather = ReduceNode(screen, into="predictions", report_into="report")
    builder = StateGraph(State)
    add_fan_out(builder, screen, gather, after=START, before=END)
    return builder.compile()


def print_table(
    molecules: list[Molecule], predictions: list[dict[str, str] | None], rows: int
) -> None:
    """The first molecules, what the model said, and what was measured."""
    print(f"{'molecule':34} {'answer':10} {'measured':9} log S")
    for molecule, answer in list(zip(molecules, predictions, strict=True))[:rows]:
        shown = "(none)" if answer is None else answer["solubility"]
        print(
            f"{molecule['name'][:34]:34} {shown:10} "
            f"{molecule['solubility']:9} {molecule['log_s']:5.2f}"
        )
    if len(molecules) > rows:
        print(f"… and {len(molecules) - rows} more (--rows {len(molecules)} shows all)")


def print_summary(state: dict[str, Any]) -> None:
    """Rates, and the honest score: agreement beside what guessing would give."""
    molecules, report = state["molecules"], state["report"]
    total, seconds = len(molecules), report["seconds"]
    pairs = [
        (answer and answer["solubility"], molecule["solubility"])
        for answer, molecule in zip(state["predictions"], molecules, strict=True)
    ]
    right = sum(guess == truth for guess, truth in pairs)
    majority, count = Counter(truth for _, truth in pairs).most_common(1)[0]
    tokens = report["tokens"]
    print(
        f"\n{report['ok']} of {total} molecules answered in {seconds:.1f} s: "
        f"{report['attempts'] / seconds:.1f} calls/s, "
        f"{tokens['completion'] / seconds:.0f} tokens/s written, "
        f"{tokens['prompt'] / seconds:.0f} tokens/s read."
    )
    if report["failures"]:
        print(f"Failures by kind: {report['failures']}.")
    print(
        f"{right} of {total} classes ({right / total:.0%}) agree with the measured one.\n"
        f"Guessing would get 33%, always saying {majority!r} {count / total:.0%}: "
        "a model of 135 million parameters\nproves that the plumbing works, and nothing about "
        "chemistry. Point the graph at a real one: make demo URL=http://127.0.0.1:8000/v1"
    )


def ask(molecules: list[Molecule], url: str | None) -> dict[str, Any]:
    """Run the graph against the server at `url`, or against one that lives as long."""
    given = {"molecules": molecules}
    if url:
        return build_graph(url).invoke(given)
    with LocalLLM(parallel=PARALLEL) as server:
        print(f"A real LLM ({server.model}) answers at {server.url}.", file=sys.stderr)
        return build_graph(server.url).invoke(given)


def main() -> int:
    """Run the demonstration; 0 when every molecule has an outcome and most an answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--molecules", type=int, default=120, help="how many (default: 120)")
    parser.add_argument("--rows", type=int, default=20, help="rows of the table (default: 20)")
    parser.add_argument("--url", help="an OpenAI-compatible server to ask instead")
    options = parser.parse_args()
    molecules = load_molecules()[::2][: options.molecules]
    try:
        state = ask(molecules, options.url)
    except FanOutError:
        return 1  # the run has logged one sentence that says why
    print_table(state["molecules"], state["predictions"], options.rows)
    print_summary(state)
    return 0 if state["report"]["ok"] >= 0.9 * len(molecules) else 1


if __name__ == "__main__":
    raise SystemExit(main())
