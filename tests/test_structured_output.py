"""Structured output in a graph: schemas sent, answers checked, asked again, told in words."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import pytest
from graphs import build, molecules
from pydantic import BaseModel

from langgraph_hpc_fanout import Journal, Limits, OpenAIEndpoint, Prompt, Retry
from langgraph_hpc_fanout.testing.fleet import Fault, scripted


class Solubility(BaseModel):
    level: Literal["low", "high"]


PROMPT = Prompt("Is {smiles} soluble?", schema=Solubility)
GOOD = '{"level": "high"}'


def conversation(body):
    return [message["role"] for message in body["messages"]]


def answers(*texts):
    """A model that gives the first text when asked first, the next one when asked again."""

    def answer(body):
        asked_before = conversation(body).count("assistant")
        return texts[min(asked_before, len(texts) - 1)]

    return answer


@pytest.mark.parametrize("schema", [Solubility, Solubility.model_json_schema()])
def test_values_are_plain_data(fake_fleet, pool_over, schema):
    fleet = fake_fleet(answer=scripted)
    prompt = Prompt("Is {smiles} low or high?", schema=schema)
    state = build(pool_over(fleet.urls), task=prompt).invoke({"molecules": molecules(70)})
    assert state["predictions"] == [{"level": "low"}] * 70
    assert fleet.record().served == 70


def test_the_model_comes_back(fake_fleet, pool_over):
    fleet = fake_fleet(answer=GOOD, faults=(Fault("http_400", contains="C1 "),))
    state = build(pool_over(fleet.urls), task=PROMPT).invoke({"molecules": molecules(3)})
    models = [PROMPT.parse(value) for value in state["predictions"]]
    assert models == [Solubility(level="high"), None, Solubility(level="high")]


def test_a_misfit_is_asked_again_with_the_reason(fake_fleet, pool_over):
    asked = []

    def answer(body):
        asked.append(body)
        return answers("High!", '{"level": "medium"}', GOOD)(body)

    fleet = fake_fleet(answer=answer)
    reduce = {"reducer": lambda outcomes: [outcome.to_dict() for outcome in outcomes]}
    graph = build(pool_over(fleet.urls), task=PROMPT, reduce=reduce)
    state = graph.invoke({"molecules": molecules(1)})
    ((outcome,), report) = (state["predictions"], state["report"])
    assert outcome["value"] == {"level": "high"}
    assert (outcome["attempts"], outcome["meta"]) == (3, {"reasks": 2})
    last = asked[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant"] * 2 + ["user"]
    assert last[1]["content"] == "High!"
    assert "Invalid JSON" in last[2]["content"]
    assert "level: Input should be 'low' or 'high'" in last[4]["content"]
    assert '"enum":["low","high"]' in last[4]["content"]
    # All three answers were paid for.
    assert outcome["usage"]["completion_tokens"] == sum(
        -(-len(text) // 4) for text in ("High!", '{"level": "medium"}', GOOD)
    )
    assert report["tokens"]["completion"] == outcome["usage"]["completion_tokens"]


@pytest.mark.parametrize("reasks", [0, 1, 3])
def test_after_the_last_time_it_is_a_failure_that_keeps_the_text(fake_fleet, pool_over, reasks):
    fleet = fake_fleet(answer="High!")
    prompt = Prompt("Is {smiles} soluble?", schema=Solubility, reasks=reasks)
    state = build(pool_over(fleet.urls), task=prompt).invoke({"molecules": molecules(2)})
    assert state["predictions"] == [None, None]
    for failure in state["failures"]:
        assert failure["error"]["kind"] == "invalid_output"
        assert "does not fit the schema: Invalid JSON" in failure["error"]["message"]
        assert failure["meta"]["raw"] == "High!"
        assert failure["attempts"] == reasks + 1
    assert fleet.record().served == 2 * (reasks + 1)


@pytest.mark.parametrize("allow_truncated", [False, True])
def test_whole_data_counts_although_blanks_behind_it_were_cut_off(
    fake_fleet, pool_over, allow_truncated
):
    fleet = fake_fleet(answer=GOOD + " " * 400)
    prompt = Prompt(
        "Is {smiles} soluble?", schema=Solubility, max_tokens=8, allow_truncated=allow_truncated
    )
    state = build(pool_over(fleet.urls), task=prompt).invoke({"molecules": molecules(2)})
    assert state["predictions"] == [{"level": "high"}] * 2
    assert fleet.record().served == 2


def test_the_users_own_response_format_is_not_ours_to_take_back(fake_fleet, pool_over):
    fleet = fake_fleet(answer="{}", faults=(Fault("schema_refused"),))
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}
    prompt = Prompt("Is {smiles} soluble?", extra_body=body)
    state = build(pool_over(fleet.urls), task=prompt).invoke({"molecules": molecules(2)})
    assert {each["error"]["kind"] for each in state["failures"]} == {"permanent"}


def test_a_key_of_the_users_does_not_hide_another_schema(fake_fleet, pool_over, tmp_path):
    class Other(BaseModel):
        level: Literal["good"]

    def run(schema, answer):
        fleet = fake_fleet(answer=answer)
        prompt = Prompt("Is {smiles} soluble?", schema=schema)
        journal = Journal(tmp_path / "run")
        graph = build(pool_over(fleet.urls), task=prompt, journal=journal, key="smiles")
        return graph.invoke({"molecules": molecules(1)})["predictions"], fleet.record().served

    assert run(Solubility, GOOD) == ([{"level": "high"}], 1)
    assert run(Solubility, GOOD) == ([{"level": "high"}], 0)
    assert run(Other, '{"level": "good"}') == ([{"level": "good"}], 1)


def test_a_cut_off_answer_is_not_asked_again(fake_fleet, pool_over):
    fleet = fake_fleet(answer='{"level": "hi', faults=(Fault("length"),))
    state = build(pool_over(fleet.urls), task=PROMPT).invoke({"molecules": molecules(1)})
    (failure,) = state["failures"]
    assert "cut off at max_tokens" in failure["error"]["message"]
    assert fleet.record().served == 1


def test_a_fault_between_two_answers_costs_an_attempt_only(fake_fleet, pool_over):
    fleet = fake_fleet(answer=answers("High!", GOOD), faults=(Fault("http_500", times=1),))
    state = build(pool_over(fleet.urls), task=PROMPT, retry=Retry(base=0.01)).invoke(
        {"molecules": molecules(1)}
    )
    assert state["predictions"] == [{"level": "high"}]
    assert state["report"]["attempts"] == 4, "the fault strikes both questions once"


def test_the_items_deadline_holds_over_all_its_answers(fake_fleet, pool_over):
    fleet = fake_fleet(answer="High!", latency=0.1)
    prompt = Prompt("Is {smiles} soluble?", schema=Solubility, reasks=1000)
    graph = build(pool_over(fleet.urls), task=prompt, item_deadline=1.5)
    state = graph.invoke({"molecules": molecules(1)})
    assert [each["error"]["kind"] for each in state["failures"]] == ["timeout"]
    assert state["failures"][0]["usage"]["completion_tokens"] > 0, "what was answered was paid for"
    assert fleet.record().served < 50


def test_two_lanes_share_what_is_asked_again(fake_fleet, pool_over):
    fleet = fake_fleet(2, answer=answers("High!", GOOD), latency=0.01)
    pool = pool_over([OpenAIEndpoint(url, limits=Limits(concurrency=2)) for url in fleet.urls])
    state = build(pool, task=PROMPT).invoke({"molecules": molecules(40)})
    assert state["predictions"] == [{"level": "high"}] * 40
    assert all(endpoint.served > 10 for endpoint in fleet.record().endpoints)
    assert max(endpoint.peak_in_flight for endpoint in fleet.record().endpoints) <= 2


# -- servers that do not keep to schemas -------------------------------------------------------


def told_in_words(body):
    """A model that gives JSON when the schema is in the prompt, and never saw it as a field."""
    assert "response_format" not in body
    first = body["messages"][0]
    in_words = first["role"] == "system" and '"enum":["low","high"]' in first["content"]
    return GOOD if in_words else "High!"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("system", [None, "You are a chemist."])
def test_a_server_that_refuses_gets_the_schema_in_words(
    fake_fleet, pool_over, caplog, system, is_async
):
    fleet = fake_fleet(answer=told_in_words, faults=(Fault("schema_refused"),))
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4)))
    prompt = Prompt("Is {smiles} soluble?", schema=Solubility, system=system)
    graph = build(pool, task=prompt)
    with caplog.at_level(logging.WARNING, "langgraph_hpc_fanout"):
        given = {"molecules": molecules(150)}
        state = asyncio.run(graph.ainvoke(given)) if is_async else graph.invoke(given)
    assert state["predictions"] == [{"level": "high"}] * 150
    said = [line for line in caplog.messages if "does not keep to the schema" in line]
    assert len(said) == 1
    assert "not supported by xgrammar" in said[0]
    refused = fleet.record().statuses[400]
    assert refused <= 64 + 4, "only what was made before the first refusal"


def test_answers_to_words_are_found_again_as_answers_to_the_schema(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(answer=told_in_words, faults=(Fault("schema_refused"),))
    journal = Journal(tmp_path / "run")
    build(pool_over(fleet.urls), task=PROMPT, journal=journal).invoke({"molecules": molecules(3)})
    fleet.reset_record()
    graph = build(pool_over(fleet.urls), task=PROMPT, journal=journal)
    state = graph.invoke({"molecules": molecules(3)})
    assert state["predictions"] == [{"level": "high"}] * 3
    assert fleet.record().arrived == 0


def test_a_model_that_ignores_the_schema_is_told_when_asked_again(fake_fleet, pool_over):
    fleet = fake_fleet(answer=answers("It is high.", f"```json\n{GOOD}\n```"))
    state = build(pool_over(fleet.urls), task=PROMPT).invoke({"molecules": molecules(5)})
    assert state["predictions"] == [{"level": "high"}] * 5


def test_another_400_is_the_items_own_fault(fake_fleet, pool_over):
    fleet = fake_fleet(answer=GOOD, faults=(Fault("http_400"),))
    state = build(pool_over(fleet.urls), task=PROMPT).invoke({"molecules": molecules(2)})
    assert {failure["error"]["kind"] for failure in state["failures"]} == {"permanent"}
    assert fleet.record().arrived == 2


# -- keys and journals -------------------------------------------------------------------------


def test_another_schema_is_another_question(fake_fleet, pool_over, tmp_path):
    class Other(BaseModel):
        level: str

    fleet = fake_fleet(answer=GOOD)
    for schema in (Solubility, Other, Solubility):
        prompt = Prompt("Is {smiles} soluble?", schema=schema)
        journal = Journal(tmp_path / "run")
        build(pool_over(fleet.urls), task=prompt, journal=journal).invoke(
            {"molecules": molecules(2)}
        )
    assert fleet.record().served == 4


@pytest.mark.real_llm
def test_a_real_model_keeps_to_the_schema(real_llm, pool_over):
    prompt = Prompt(
        "Is {smiles} soluble in water? Answer as JSON.",
        schema=Solubility,
        max_tokens=64,
        temperature=0,
    )
    items = [{"smiles": smiles} for smiles in ("CCO", "CCCCCC", "c1ccccc1", "O")]
    state = build(pool_over(real_llm.url), task=prompt).invoke({"molecules": items})
    models = [prompt.parse(value) for value in state["predictions"]]
    assert all(isinstance(model, Solubility) for model in models), state["failures"]
    assert state["report"]["tokens"]["estimated_items"] == 0


@pytest.mark.real_llm
def test_a_real_server_refuses_a_schema_that_it_cannot_keep_to(real_llm, pool_over, caplog):
    # llama.cpp makes a grammar of the schema, and this one is too long for it.
    schema = {
        "type": "object",
        "properties": {"why": {"type": "string", "minLength": 300_000}},
        "required": ["why"],
    }
    prompt = Prompt("Is {smiles} soluble?", schema=schema, max_tokens=16, reasks=0)
    state = build(pool_over(real_llm.url), task=prompt).invoke({"molecules": molecules(1)})
    assert [each["error"]["kind"] for each in state["failures"]] == ["invalid_output"]
    assert any("failed to parse grammar" in line for line in caplog.messages)
