"""Whole graphs within budgets: what is spent is told, and a larger budget goes on."""

from __future__ import annotations

import pytest
from graphs import build, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_hpc_fanout import (
    Budget,
    ChatError,
    FanOutError,
    FanOutNode,
    FunctionEndpoint,
    Journal,
    Limits,
    OpenAIEndpoint,
    Pool,
    Price,
    Prompt,
    reducers,
)
from langgraph_hpc_fanout.testing.fleet import Fault

SOLUBLE = Prompt("Is {smiles} soluble?", max_tokens=16)
OPEN = Prompt("Is {smiles} soluble?")
PRICE = Price(input=1.0, output=2.0)
CONFIG = {"configurable": {"thread_id": "1"}}


def priced(fleet):
    return [OpenAIEndpoint(url, price=PRICE) for url in fleet.urls]


def dollars(tokens):
    return (tokens["prompt"] + 2 * tokens["completion"]) / 1e6


def test_the_report_says_what_it_cost(fake_fleet, pool_over):
    graph = build(pool_over(priced(fake_fleet())), reduce={"reducer": reducers.outcomes})
    state = graph.invoke({"molecules": molecules(50)})
    report, outcomes = state["report"], state["predictions"]
    assert report["usd"] == pytest.approx(dollars(report["tokens"]))
    assert report["usd"] > 0
    assert sum(each["cost"] for each in outcomes) == pytest.approx(report["usd"])


def test_progress_says_what_it_cost_and_will_cost(fake_fleet, pool_over):
    graph = build(pool_over(priced(fake_fleet())))
    events = list(graph.stream({"molecules": molecules(50)}, stream_mode="custom"))
    cost = events[-1]["cost"]
    assert cost["usd"] == pytest.approx(dollars(events[-1]["tokens"]))
    assert cost["projected"]["usd"] == pytest.approx(cost["usd"])
    assert cost["per_success"]["usd"] == pytest.approx(cost["usd"] / 50)
    assert cost["unconfirmed"]["attempts"] == 0


def test_without_prices_and_budgets_there_is_no_cost(fake_fleet, pool_over):
    graph = build(pool_over(fake_fleet().urls), reduce={"reducer": reducers.outcomes})
    *_, (mode, last) = graph.stream({"molecules": molecules(5)}, stream_mode=["custom", "values"])
    assert mode == "values"
    assert last["report"]["usd"] == 0
    assert {each["cost"] for each in last["predictions"]} == {None}


def test_a_spent_budget_is_failures_and_a_larger_one_goes_on(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    items = molecules(200)

    def run(requests):
        fan_out = {"journal": Journal(tmp_path / "run"), "budget": Budget(requests=requests)}
        return build(pool_over(fleet.urls), task=SOLUBLE, **fan_out).invoke({"molecules": items})

    first = run(80)
    assert first["report"]["failures"] == {"budget": 120}
    assert "run again with a larger budget" in first["failures"][0]["error"]["message"]
    second = run(120)
    assert right_answers(second["predictions"], items)
    assert fleet.record().arrived == 200


@pytest.mark.parametrize(
    ("requests", "failures"), [(100, {}), (90, {"budget": 10}), (50, {"budget": 50})]
)
def test_a_run_that_goes_on_has_what_it_left_of_its_budget(
    fake_fleet, pool_over, tmp_path, requests, failures
):
    fleet = fake_fleet(faults=(Fault("http_401", contains="C50 ", times=1),))
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1)))
    journal = Journal(tmp_path / "run")

    def goes_on(saver, requests):
        budget = Budget(requests=requests)
        return build(pool, task=SOLUBLE, budget=budget, journal=journal, checkpointer=saver)

    saver = InMemorySaver()
    with pytest.raises(FanOutError, match="answered 401"):
        goes_on(saver, 100).invoke({"molecules": molecules(100)}, CONFIG)
    assert fleet.record().served == 51
    report = goes_on(saver, requests).invoke(None, CONFIG)["report"]
    assert report["failures"] == failures
    assert fleet.record().served == 1 + requests
    # What was spent by a run is not spent by the next one, which asks only what is missing.
    again = goes_on(InMemorySaver(), 50).invoke({"molecules": molecules(100)}, CONFIG)
    assert again["report"]["ok"] == 100


def test_two_runs_share_the_budget_of_their_pool(fake_fleet):
    fleet = fake_fleet()
    with Pool(fleet.urls, budget=Budget(requests=150)) as pool:
        graph = build(pool, task=SOLUBLE)
        reports = [graph.invoke({"molecules": molecules(100)})["report"] for _ in range(2)]
        assert [report["failures"] for report in reports] == [{}, {"budget": 50}]
        with pytest.raises(ChatError, match="budget of 150 requests is spent"):
            pool.chat_model().invoke("Hello")
    assert fleet.record().arrived == 150


@pytest.mark.parametrize(
    ("task", "budget", "says"),
    [
        (SOLUBLE, Budget(tokens=10), "budget of 10 tokens is too small for one call"),
        (OPEN, Budget(tokens=10_000), "needs max_tokens"),
        (SOLUBLE, Budget(usd=1), "needs to know what .* costs"),
        (SOLUBLE, Budget(node_hours=1), "needs to know the nodes"),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_is_sent(
    fake_fleet, pool_over, task, budget, says
):
    fleet = fake_fleet()
    with pytest.raises(FanOutError, match=says):
        build(pool_over(fleet.urls), task=task, budget=budget).invoke({"molecules": molecules(5)})
    assert fleet.record().arrived == 0


@pytest.mark.parametrize("task", [SOLUBLE, lambda item: item])
def test_what_is_no_budget_is_refused(task):
    pool = Pool(FunctionEndpoint(lambda request: "yes"))
    with pytest.raises(TypeError, match=r"FanOutNode(.*)budget"):
        FanOutNode("molecules", task, pool=pool, budget=5)


def test_a_runnable_has_no_budget_of_its_own():
    with pytest.raises(ValueError, match="its pool may have a budget"):
        FanOutNode("molecules", lambda item: item, budget=Budget(usd=1))
