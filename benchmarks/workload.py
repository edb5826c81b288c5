"""The work that all contenders are given: the same items, the same question, the same fleet."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_hpc_fanout.testing.fleet import FakeFleet

MODEL = "tiny"
QUESTION = "Is {smiles} soluble in water? Answer yes or no."
MAX_TOKENS = 16
IN_FLIGHT = 1_000
ENDPOINTS = 4

Item = dict[str, str]


def molecules(count: int) -> list[Item]:
    """Items that are all different, as the rows of a data set are."""
    return [{"smiles": f"CC(C)C{number}"} for number in range(count)]


def fleet(latency: float, answer: str | None = None, endpoints: int = ENDPOINTS) -> FakeFleet:
    """Endpoints that serve 1,000 requests at once, in one process beside those measured."""
    return FakeFleet(
        endpoints,
        processes=1,
        record="counts",
        models=(MODEL,),
        latency=latency,
        capacity=IN_FLIGHT,
        answer=answer,
    )


def check(answers: Sequence[object], count: int) -> None:
    """A contender that loses answers must not look cheap.

    Raises:
        ValueError: If an answer is missing.
    """
    good = sum(isinstance(answer, str) and bool(answer) for answer in answers)
    if good != count or len(answers) != count:
        raise ValueError(f"{good} answers in {len(answers)} places to {count} questions.")
