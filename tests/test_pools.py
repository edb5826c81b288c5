"""Whole graphs over pools whose endpoints have tags, and whose members come and go."""

from __future__ import annotations

import asyncio
import threading

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import (
    ChatError,
    FanOutError,
    FanOutNode,
    FunctionEndpoint,
    Limits,
    OpenAIEndpoint,
    Policy,
    Pool,
    Prompt,
)
from langgraph_hpc_fanout.endpoints.protocol import Action
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.fleet import Fault

SOLUBLE = Prompt("Is {smiles} soluble?")


@pytest.fixture
def site_and_cloud():
    with FakeFleet() as site, FakeFleet() as cloud:
        yield site, cloud


def both(site, cloud):
    return [
        OpenAIEndpoint(site.urls[0], name="site", tags=["on-site", "gpu:a100"]),
        OpenAIEndpoint(cloud.urls[0], name="cloud", tags="cloud"),
    ]


@pytest.mark.parametrize("wish", [{"require": "on-site"}, {"forbid": ["cloud", "other"]}])
def test_a_run_asks_only_where_its_tags_allow(site_and_cloud, pool_over, wish):
    site, cloud = site_and_cloud
    graph = build(pool_over(both(site, cloud)), task=SOLUBLE, **wish)
    items = molecules(200)
    assert right_answers(graph.invoke({"molecules": items})["predictions"], items)
    assert (site.record().served, cloud.record().arrived) == (200, 0)


def test_tags_that_nobody_has_are_told_before_anything_is_sent(site_and_cloud, pool_over):
    site, cloud = site_and_cloud
    graph = build(pool_over(both(site, cloud)), task=SOLUBLE, require="gpu:h100")
    with pytest.raises(FanOutError, match=r"requires \['gpu:h100'\].*site: \['gpu:a100', 'on-"):
        graph.invoke({"molecules": molecules(5)})
    assert site.record().arrived == cloud.record().arrived == 0


def test_a_chat_model_keeps_to_its_tags(site_and_cloud, pool_over):
    site, cloud = site_and_cloud
    pool = pool_over(both(site, cloud))
    model = pool.chat_model(forbid="cloud")
    for _ in range(20):
        model.invoke("Is CCO soluble?")
    assert (site.record().served, cloud.record().arrived) == (20, 0)
    with pytest.raises(ChatError, match="No endpoint may be asked"):
        pool.chat_model(require="on-site", forbid="gpu:a100").invoke("Is CCO soluble?")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"require": "a", "forbid": ["b", "a"]}, r"both name 'a'"),
        ({"require": [1]}, r"FanOutNode\(require=...\) has 1 among its tags"),
        ({"forbid": ""}, r"FanOutNode\(forbid=...\) has '' among its tags"),
        ({"weight": 0}, r"FanOutNode\(weight=0\) must be a positive number"),
        ({"weight": float("inf")}, r"FanOutNode\(weight=inf\) must be a positive number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises((TypeError, ValueError), match=says):
        FanOutNode("molecules", SOLUBLE, pool=Pool("http://127.0.0.1:1/v1"), **settings)


def test_a_runnable_has_no_tags_of_its_own():
    with pytest.raises(ValueError, match=r"pool.chat_model\(require="):
        FanOutNode("molecules", lambda item: item, require="on-site")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_of_a_policy_are_shares(share):
    with pytest.raises(ValueError, match=r"Policy\(ejected="):
        Policy(ejected=share)


def test_retries_of_a_policy_are_not_negative():
    with pytest.raises(ValueError, match=r"Policy\(retries=-1\)"):
        Policy(retries=-1)


def test_endpoints_join_and_leave_a_run(pool_over):
    with FakeFleet(latency=0.05) as first, FakeFleet(latency=0.05) as second:
        pool = pool_over([OpenAIEndpoint(first.urls[0], name="first", limits=Limits(8))])
        graph = build(pool, task=SOLUBLE)
        items = molecules(600)
        done = []
        running = threading.Thread(target=lambda: done.append(graph.invoke({"molecules": items})))
        running.start()
        first.wait(lambda record: record.served >= 50)
        pool.add(OpenAIEndpoint(second.urls[0], name="second", limits=Limits(8)))
        second.wait(lambda record: record.served >= 50)
        pool.remove("first")
        running.join()
        assert right_answers(done[0]["predictions"], items)
        assert first.record().served < 400
        assert first.record().arrived + second.record().arrived == 600
        assert [endpoint.name for endpoint in pool.endpoints] == ["second"]


def test_a_pool_that_is_not_in_use_may_change(pool_over):
    pool = pool_over([FunctionEndpoint(lambda request: "one", name="one")])
    pool.add(FunctionEndpoint(lambda request: "two", name="two"))
    with pytest.raises(ValueError, match="has an endpoint named two already"):
        pool.add(FunctionEndpoint(lambda request: "two", name="two"))
    pool.remove("one")
    with pytest.raises(LookupError, match="has no endpoint 'one', only two"):
        pool.remove("one")
    assert pool.chat_model().invoke("Hello").content == "two"
    pool.add(FunctionEndpoint(lambda request: "one", name="one"))
    pool.remove("two")
    assert asyncio.run(pool.chat_model().ainvoke("Hello")).content == "one"


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        ({"timeout": "GIVE_UP"}, "one has the action 'GIVE_UP' for 'timeout'; give it an Action"),
        ({"timeout": "the item fails"}, "one has the action 'the item fails' for 'timeout'"),
        ({"time-out": Action.GIVE_UP}, "one has an action for 'time-out', which is no kind"),
        (Action.GIVE_UP, "one has the actions <Action.GIVE_UP: .*>; give it a mapping"),
        ((), r"one has the actions \(\); give it a mapping"),
    ],
)
def test_actions_of_an_endpoint_that_mean_nothing_are_refused(pool_over, actions, says):
    one, two = (FunctionEndpoint(lambda request: "yes", name=name) for name in ("one", "two"))
    one.actions = actions
    with pytest.raises((TypeError, ValueError), match=says):
        Pool([two, one])
    pool = pool_over([two])
    with pytest.raises((TypeError, ValueError), match=says):
        pool.add(one)
    assert pool.endpoints == (two,)
    one.actions = {"timeout": Action.GIVE_UP}
    pool.add(one)


@pytest.mark.parametrize("order", ["longest_first", "by_prefix"])
def test_outcomes_are_in_input_order_whatever_the_order(site_and_cloud, pool_over, order):
    items = molecules(300)
    graph = build(pool_over(both(*site_and_cloud)), task=SOLUBLE, order=order)
    assert right_answers(graph.invoke({"molecules": items})["predictions"], items)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match=r"order='random'\) is unknown; known: input, longest_"):
        FanOutNode("molecules", SOLUBLE, pool=Pool("http://127.0.0.1:1/v1"), order="random")


def test_a_request_that_hangs_is_asked_elsewhere_at_the_end(pool_over):
    with FakeFleet(latency=0.02) as well, FakeFleet(faults=(Fault("hang", first=1),)) as ill:
        pool = pool_over([well.urls[0], ill.urls[0]])
        items = molecules(400)
        state = build(pool, task=SOLUBLE).invoke({"molecules": items})
        assert right_answers(state["predictions"], items)
        # Waiting for it would take ten minutes, the timeout of an attempt.
        assert state["report"]["attempts"] <= 408, "2 % of the tokens"
