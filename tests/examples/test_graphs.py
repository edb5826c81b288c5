"""The examples' graphs, without a server around them."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from examples.literature import graph as literature
from examples.molecules import graph as molecules
from langgraph_hpc_fanout import Journal
from langgraph_hpc_fanout.testing import scripted

MOLECULES = {"molecules": molecules.EXAMPLES}
CLAIMS = {"claims": literature.EXAMPLES}


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet(answer=scripted)


@pytest.fixture
def screen(fleet):
    return molecules.build(fleet.urls[0]).compile()


@pytest.fixture
def check(fleet, tmp_path):
    return literature.build(fleet.urls[0], Journal(tmp_path / "runs")).compile()


async def invoke(graph, given):
    return await asyncio.to_thread(graph.invoke, given)


async def ainvoke(graph, given):
    return await graph.ainvoke(given)


@pytest.mark.parametrize("ask", [invoke, ainvoke])
async def test_molecules_are_rated(screen, fleet, ask):
    output = await ask(screen, MOLECULES)
    assert set(output) == {"predictions", "failures", "report"}
    for prediction, molecule in zip(output["predictions"], molecules.EXAMPLES, strict=True):
        assert molecules.Prediction.model_validate(prediction).solubility == "low"
        assert molecule["name"] in prediction["reason"]
    assert fleet.record().served == len(molecules.EXAMPLES)


@pytest.mark.parametrize("ask", [invoke, ainvoke])
async def test_claims_are_checked_by_agents_and_remembered(check, fleet, ask):
    output = await ask(check, CLAIMS)
    assert set(output) == {"verdicts", "failures", "report"}
    for verdict, item in zip(output["verdicts"], literature.EXAMPLES, strict=True):
        literature.Verdict.model_validate(verdict)
        assert verdict["reason"].split(": ")[1] in item["claim"]
    assert fleet.record().served == 3 * len(literature.EXAMPLES)
    again = await ask(check, CLAIMS)
    assert again["verdicts"] == output["verdicts"]
    assert fleet.record().served == 3 * len(literature.EXAMPLES)


async def test_an_agent_that_searches_for_ever_fails(fake_fleet, tmp_path):
    def search(body):
        return scripted({**body, "tool_choice": "required"} if "tools" in body else body)

    fleet = fake_fleet(answer=search)
    graph = literature.build(fleet.urls[0], Journal(tmp_path / "runs")).compile()
    output = await graph.ainvoke({"claims": literature.EXAMPLES[:1]})
    assert output["verdicts"] == [None]
    assert "GraphRecursionError" in output["failures"][0]["error"]["message"]
    assert fleet.record().served == literature.MOST_STEPS / 2


def test_the_search_finds_what_bears_on_a_claim():
    found = literature.search_notes.invoke({"query": "Salts of basic drugs"})
    assert found.startswith("[serajuddin-2007] Salt formation. ")
    assert found.count("[") == 3


@pytest.mark.parametrize(
    ("context", "message"),
    [({"temprature": 1}, "temprature\n.*not permitted"), ({"concurrency": 0}, "concurrency\n")],
)
def test_contexts_that_cannot_be_are_refused(screen, check, fleet, context, message):
    for graph, given in ((screen, MOLECULES), (check, CLAIMS)):
        with pytest.raises(ValidationError, match=message):
            graph.invoke(given, context=context)
    assert fleet.record().served == 0


@pytest.mark.parametrize(
    ("graph", "shown"),
    [
        (molecules.graph, ["task = How soluble in water", "endpoints = LLM", "into = predictions"]),
        (literature.graph, ["task = check_claim", "task_concurrency = 64", "into = verdicts"]),
    ],
    ids=["molecules", "literature"],
)
def test_they_are_drawn_where_no_model_is(graph, shown):
    drawing = graph.get_graph().draw_mermaid()
    for each in ("kind = fan-out", "kind = reduce", *shown):
        assert each in drawing
