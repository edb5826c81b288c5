"""Endpoints that misbehave: every item ends as one outcome, and the run always ends."""

from __future__ import annotations

import time

import pytest
from graphs import PROMPT, build, molecules, right_answers

from langgraph_hpc_fanout import (
    FanOutError,
    Journal,
    Limits,
    OpenAIEndpoint,
    Policy,
    Prompt,
    Retry,
)
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault

QUICK = Retry(base=0.01, cap=0.05)

PASSING = {
    "http_429": {"retry_after": 0.05},
    "http_500": {},
    "http_503": {},
    "html_502": {},
    "html_200": {},
    "malformed_json": {},
    "truncated_body": {},
    "reset": {},
    "disconnect": {},
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_costs_no_item(fake_fleet, pool_over, kind):
    fleet = fake_fleet(endpoints=2, faults=(Fault(kind, times=1, contains="C1", **PASSING[kind]),))
    state = build(pool_over(fleet.urls), retry=QUICK).invoke({"molecules": molecules(40)})
    assert right_answers(state["predictions"], molecules(40))
    assert fleet.record().faults[kind] == 11
    assert state["report"]["attempts"] == 51


def test_429_without_retry_after_backs_off_and_ends(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("http_429", times=3),))
    state = build(pool_over(fleet.urls), retry=QUICK).invoke({"molecules": molecules(10)})
    assert right_answers(state["predictions"], molecules(10))


def test_being_turned_away_for_ever_ends_with_patience(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("http_429"),))
    retry = Retry(base=0.01, cap=0.05, patience=0.3)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(3)})
    assert {failure["error"]["kind"] for failure in state["failures"]} == {"rate_limited"}
    assert len(state["failures"]) == 3


@pytest.mark.parametrize("kind", ["http_500", "html_200", "malformed_json", "reset"])
def test_an_item_that_always_fails(fake_fleet, pool_over, kind):
    fleet = fake_fleet(endpoints=2, faults=(Fault(kind, contains="C3"),))
    retry = Retry(attempts=3, base=0.01, cap=0.05)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(10)})
    (failure,) = state["failures"]
    assert failure["index"] == 3
    assert failure["error"]["kind"] == "transient"
    assert failure["attempts"] == fleet.record().faults[kind] == 3
    assert state["predictions"].count(None) == 1


def test_all_fail(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("http_500"),))
    retry = Retry(attempts=2, base=0.01)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(80)})
    assert state["predictions"] == [None] * 80
    assert state["report"]["failures"] == {"transient": 80}
    with pytest.raises(FanOutError, match="0 of 3 items have an answer"):
        build(pool_over(fleet.urls), retry=retry, reduce={"min_success": 0.01}).invoke(
            {"molecules": molecules(3)}
        )


def test_an_items_own_fault_is_not_tried_again(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C1"),))
    state = build(pool_over(fleet.urls)).invoke({"molecules": molecules(3)})
    (failure,) = state["failures"]
    assert failure["error"]["kind"] == "permanent"
    assert failure["error"]["status"] == 400
    assert "maximum context length" in failure["error"]["message"]
    assert fleet.record().served == 3


ANSWERS = {
    "length": "was cut off",
    "empty": "is empty",
    "refusal": "was refused by the model",
    "reasoning_only": "has reasoning but no answer",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_none_keeps_its_text(fake_fleet, pool_over, kind):
    fleet = fake_fleet(faults=(Fault(kind, contains="C1"),))
    state = build(pool_over(fleet.urls)).invoke({"molecules": molecules(3)})
    (failure,) = state["failures"]
    assert failure["error"]["kind"] == "invalid_output"
    assert ANSWERS[kind] in failure["error"]["message"]
    assert "raw" in failure["meta"]
    assert bool(failure["meta"]["raw"]) == (kind != "empty")
    assert failure["usage"]["completion_tokens"] >= 0
    assert state["predictions"][1] is None
    assert fleet.record().served == 3, "an answer of the model is not asked for again"


def test_a_truncated_answer_may_be_accepted(fake_fleet, pool_over):
    fleet = fake_fleet()
    task = Prompt("Is {smiles} soluble?", max_tokens=2, allow_truncated=True)
    state = build(pool_over(fleet.urls), task=task).invoke({"molecules": molecules(2)})
    assert all(state["predictions"])
    assert state["failures"] == []


def test_several_choices_and_no_usage_are_answers(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("many_choices", contains="C0"), Fault("no_usage")))
    journal = Journal(tmp_path)
    state = build(pool_over(fleet.urls), journal=journal).invoke({"molecules": molecules(2)})
    assert right_answers(state["predictions"], molecules(2))
    assert state["report"]["tokens"]["estimated_items"] == 1
    assert state["report"]["tokens"]["completion"] > 0


def test_the_served_model_is_reported(fake_fleet, pool_over):
    from langgraph_hpc_fanout import reducers

    fleet = fake_fleet(models=("org/tiny-v2",), faults=(Fault("wrong_model", contains="C1"),))
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], models={"tiny": "org/tiny-v2"}))
    graph = build(pool, reduce={"reducer": reducers.outcomes}, task=PROMPT)
    right, wrong = graph.invoke({"molecules": molecules(2)})["predictions"]
    assert right["model"] == "org/tiny-v2"
    assert wrong["model"] != "org/tiny-v2"


def test_an_endpoint_that_hangs_is_left_for_another(fake_fleet, pool_over):
    fleet = fake_fleet([FakeEndpoint(faults=(Fault("hang"),)), FakeEndpoint()])
    retry = Retry(timeout=0.3)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(20)})
    assert right_answers(state["predictions"], molecules(20))
    record = fleet.wait(lambda record: record.in_flight == 0)
    assert record.endpoints[0].closed_early == record.endpoints[0].served


def test_a_slow_drip_ends_with_the_attempt(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("drip", times=1, seconds=30.0),))
    retry = Retry(timeout=0.3, base=0.01)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(2)})
    assert right_answers(state["predictions"], molecules(2))


def test_an_item_deadline(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("hang", contains="C1"), Fault("http_500", contains="C2")))
    retry = Retry(attempts=1000, base=0.05, cap=0.05)
    graph = build(pool_over(fleet.urls), retry=retry, item_deadline=0.4)
    state = graph.invoke({"molecules": molecules(3)})
    kinds = [(failure["index"], failure["error"]["kind"]) for failure in state["failures"]]
    assert kinds[0] == (1, "timeout")
    assert kinds[1] in [(2, "transient"), (2, "timeout")], "as it was at when time was up"


@pytest.mark.parametrize("size", [3, 200])
def test_a_runs_deadline_keeps_what_there_is(fake_fleet, pool_over, size):
    fleet = fake_fleet(faults=(Fault("hang", when=lambda body: "C0" not in str(body)),))
    graph = build(pool_over(fleet.urls), deadline=0.5)
    state = graph.invoke({"molecules": molecules(size)})
    assert state["predictions"][0] is not None
    assert {failure["error"]["kind"] for failure in state["failures"]} == {"timeout"}
    assert len(state["failures"]) == size - 1
    assert "deadline of 0.5 s" in state["failures"][0]["error"]["message"]
    record = fleet.wait(lambda record: record.in_flight == 0)
    assert record.closed_early == record.faults["hang"]


def test_a_deadline_with_a_server_that_never_comes(pool_over):
    graph = build(pool_over("http://127.0.0.1:9/v1"), deadline=0.2)
    state = graph.invoke({"molecules": molecules(2)})
    assert [failure["error"]["kind"] for failure in state["failures"]] == ["timeout"] * 2


def test_a_server_that_dies_and_comes_back(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.05)
    endpoint = OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4))
    graph = build(pool_over(endpoint), retry=QUICK)

    def disturb(record):
        return record.served >= 8

    import threading

    def trouble():
        fleet.wait(disturb)
        fleet.kill(0)
        time.sleep(0.3)
        fleet.revive(0)

    thread = threading.Thread(target=trouble)
    thread.start()
    state = graph.invoke({"molecules": molecules(60)})
    thread.join()
    assert right_answers(state["predictions"], molecules(60))


def test_a_server_that_dies_for_good_ends_the_run_and_keeps_the_answers(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.02)
    endpoint = OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4))
    graph = build(pool_over(endpoint, policy=Policy(absence=0.0)), retry=QUICK)
    import threading

    thread = threading.Thread(
        target=lambda: (fleet.wait(lambda record: record.served >= 8), fleet.kill(0))
    )
    thread.start()
    with pytest.raises(FanOutError, match="nobody answers at") as caught:
        graph.invoke({"molecules": molecules(500)})
    thread.join()
    answered = [outcome for outcome in caught.value.outcomes if outcome.ok]
    assert len(answered) >= 8


def test_401_in_mid_run_aborts_and_keeps_the_answers(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(latency=0.01, faults=(Fault("http_401", contains="C50 "),))
    endpoint = OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1))
    graph = build(pool_over(endpoint), journal=Journal(tmp_path / "run"))
    with pytest.raises(FanOutError, match="answered 401") as caught:
        graph.invoke({"molecules": molecules(100)})
    assert caught.value.journal == str(tmp_path / "run")
    assert len(list(caught.value.outcomes)) == 50
    assert fleet.record().served == 51


def test_a_storm_of_faults_loses_nothing(fake_fleet, pool_over):
    storm = tuple(Fault(kind, rate=0.04, **options) for kind, options in PASSING.items())
    fleet = fake_fleet(endpoints=4, latency=0.002, faults=storm, seed=7)
    retry = Retry(attempts=12, base=0.005, cap=0.05)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": molecules(1000)})
    assert right_answers(state["predictions"], molecules(1000))
    assert state["report"]["attempts"] == fleet.record().served
    assert sum(fleet.record().faults.values()) > 200
