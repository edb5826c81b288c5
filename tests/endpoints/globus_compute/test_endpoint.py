"""The endpoint over the real SDK and a real Globus Compute endpoint with a thread pool."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import first_function
import pytest
from globus_compute import endpoint_of, quiet_sdk
from globus_compute_sdk import Executor
from globus_sdk import AccessTokenAuthorizer

from langgraph_hpc_fanout import Failure, GlobusComputeEndpoint, Pool, Retry
from langgraph_hpc_fanout.endpoints.globus_compute import register_function
from langgraph_hpc_fanout.endpoints.globus_compute.quota import Quota
from langgraph_hpc_fanout.endpoints.globus_compute.submitter import MOST_BYTES
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.conformance import EndpointConformance
from langgraph_hpc_fanout.testing.globus import GlobusStack

HERE = str(Path(__file__).parent)
ID = "4b116d3c-1703-4f8f-9f6f-39921e5864df"
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket"),
    # Said of every result that an endpoint made without a worker; as an error it would end the
    # SDK's thread.
    pytest.mark.filterwarnings("ignore:\\s*Environment differences"),
]


@pytest.fixture(scope="module")
def stack():
    quiet_sdk()
    with GlobusStack("threads", workers=2, env={"PYTHONPATH": HERE}) as stack:
        yield stack


@pytest.fixture(scope="module")
def fleet():
    with FakeFleet(latency=0.05, capacity=2_000, processes=1) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def as_new(request):
    yield
    gc.collect()
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").service.reset()


def chat(number=0, text="", model="tiny"):
    content = f"Is C{number} soluble? {text}"
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 64}
    return Request(str(number), model, body, prompt_tokens=8, max_tokens=64)


def call(item, function):
    return Request(str(item), FUNCTIONS, {"item": item}, function=function)


async def replies_of(endpoint, requests):
    """Reply by position; each comes once."""
    replies = {}
    async for reply in endpoint.send(requests):
        assert reply.position not in replies
        replies[reply.position] = reply
    assert sorted(replies) == list(range(len(requests)))
    return [replies[position] for position in range(len(requests))]


def asked(endpoint, requests):
    """Send in a loop of its own, and close."""

    async def main():
        try:
            return await replies_of(endpoint, requests), endpoint.traffic
        finally:
            await endpoint.close()

    return asyncio.run(main())


def text_of(reply):
    assert reply.failure is None, reply.failure
    return reply.body["choices"][0]["message"]["content"]


class TestConformance(EndpointConformance):
    """Everything that the dispatcher relies on."""

    promptly = 10.0
    at_once = 12

    @pytest.fixture
    def endpoint(self, stack, fleet, monkeypatch):
        # A client of its own, which it closes; one that is given is the user's.
        monkeypatch.setattr(
            "globus_compute_sdk.sdk.client.get_web_service_url", lambda _name=None: stack.url
        )
        anybody = AccessTokenAuthorizer("anybody")
        return endpoint_of(stack, fleet, model="tiny", client=None, authorizer=anybody)


# -- three ways to ship --------------------------------------------------------------------


@pytest.mark.parametrize("ship", ["package", "source"])
def test_bundles_are_answered(stack, fleet, ship):
    endpoint = endpoint_of(stack, fleet, ship=ship, model={"small": "tiny"})
    replies, traffic = asked(endpoint, [chat(number, model="small") for number in range(200)])
    assert all(f"Is C{number} soluble?" in text_of(each) for number, each in enumerate(replies))
    assert all(each.body["model"] == "tiny" for each in replies)
    assert all(each.usage.total_tokens > 0 and each.seconds >= 0.04 for each in replies)
    assert (traffic.bundles, traffic.requests, traffic.executors) == (1, 200, 1)


def test_no_model_is_whatever_the_node_serves(stack, fleet):
    endpoint = endpoint_of(stack, fleet)
    assert sorted(endpoint.models) == [FUNCTIONS, "default"]
    (reply,), _ = asked(endpoint, [chat(model="default")])
    assert reply.body["model"] == "tiny"


def test_firsts_own_function(stack, fleet):
    source = inspect.getsource(first_function)
    function_id = stack.client().register_source_code(source, "vllm_inference_function")
    endpoint = endpoint_of(stack, fleet, ship="first", function_id=function_id, model="tiny")
    assert FUNCTIONS not in endpoint.models
    assert endpoint.bundling.max_items == 1
    replies, traffic = asked(endpoint, [chat(number) for number in range(6)])
    assert [f"Is C{number} soluble?" in text_of(each) for number, each in enumerate(replies)]
    assert "response_time" not in replies[0].body
    assert (traffic.bundles, traffic.submits) == (6, 1)
    wrong = endpoint_of(
        stack, fleet, ship="first", function_id=function_id, model={"tiny": "another"}
    )
    (reply,), _ = asked(wrong, [chat()])
    assert (reply.failure.kind, reply.failure.status) == ("cold", 404)


def test_an_endpoint_that_allows_only_registered_functions(stack, fleet):
    function_id = register_function("source", client=stack.client())
    picky = stack.add_endpoint("threads", workers=1, allowed_functions=[function_id])
    options = {"url": fleet.urls[0], "model": "tiny", "ship": "source", "client": stack.client()}
    allowed = GlobusComputeEndpoint(picky, function_id=function_id, **options)
    (reply,), _ = asked(allowed, [chat()])
    assert "Is C0 soluble?" in text_of(reply)
    (reply,), _ = asked(GlobusComputeEndpoint(picky, **options), [chat()])
    assert (reply.failure.kind, "not permitted" in reply.failure.message) == ("cold", True)


def test_another_version_is_refused_and_the_lane_knows(stack, fleet, monkeypatch):
    module = "langgraph_hpc_fanout.endpoints.globus_compute.shipping.__version__"
    monkeypatch.setattr(module, "9.1.0")
    endpoint = endpoint_of(stack, fleet, model="tiny")

    async def main():
        replies = await replies_of(endpoint, [chat(number) for number in range(3)])
        health = await endpoint.probe()
        await endpoint.close()
        return replies, health

    replies, health = asyncio.run(main())
    for reply in replies:
        assert reply.failure.kind == "cold"
        assert "9.1.0" in reply.failure.message
        assert "pip install langgraph-hpc-fanout==9.1.0" in reply.failure.message
    assert not health.ok
    assert health.failure.message == replies[0].failure.message


def test_a_server_that_is_not_there_is_told_and_waited_for(stack, fleet, caplog):
    """The endpoint is well, so the lane stays; the item's patience is what ends it."""
    endpoint = endpoint_of(
        stack, fleet, url="http://127.0.0.1:9/v1", model="tiny", server_patience=0.5
    )
    with Pool([endpoint]) as pool:
        reply = asyncio.run(pool.ask(chat(), Retry(patience=3.0, base=0.1)))
    assert reply.failure.kind == "overloaded"
    assert "nobody answers at http://127.0.0.1:9/v1" in reply.failure.message
    said = [each for each in caplog.records if "nobody answers" in each.getMessage()]
    assert len(said) == 1
    assert endpoint.traffic.bundles >= 2


# -- functions on the node -----------------------------------------------------------------


def test_functions_of_the_users(stack, fleet):
    endpoint = endpoint_of(stack, fleet)
    items = ["CCO", "bad", "CC"]
    replies, _ = asked(endpoint, [call(item, "node_tasks:measure") for item in items])
    assert [each.body and each.body["value"]["length"] for each in replies] == [3, None, 2]
    assert replies[0].body["value"]["pid"] == stack.user_endpoint_pid != os.getpid()
    assert replies[1].failure.kind == "permanent"
    assert "ValueError: no molecule" in replies[1].failure.message


def test_a_function_gets_a_client_of_the_nodes_server(stack, fleet):
    endpoint = endpoint_of(stack, fleet)
    replies, _ = asked(endpoint, [call(f"C{number}", "node_tasks:ask") for number in range(50)])
    assert all("soluble" in each.body["value"] for each in replies)


def test_a_function_that_is_not_there(stack, fleet):
    (reply,), _ = asked(endpoint_of(stack, fleet), [call(1, "no_such_module:f")])
    assert reply.failure.kind == "permanent"
    assert "no_such_module" in reply.failure.message


# -- what is too large ---------------------------------------------------------------------


def test_bundles_are_cut_by_bytes(stack, fleet):
    requests = [chat(number, "x" * 1_000_000) for number in range(18)]
    replies, traffic = asked(endpoint_of(stack, fleet, model="tiny"), requests)
    assert all(f"Is C{number} soluble?" in text_of(each) for number, each in enumerate(replies))
    assert traffic.bundles == 3
    submits = stack.service.record().submits
    assert len(submits) == 3
    assert all(each.size < 9_000_000 for each in submits)


def test_an_item_that_is_too_large_for_any_task(stack, fleet):
    requests = [chat(0), chat(1, "é" * (MOST_BYTES // 7)), chat(2)]
    replies, _ = asked(endpoint_of(stack, fleet, model="tiny"), requests)
    assert [each.failure and each.failure.status for each in replies] == [None, 413, None]
    assert "8.0 MB long as it travels" in replies[1].failure.message


def test_answers_that_are_too_large_for_a_result(stack):
    with FakeFleet(answer="long " * 40_000) as fleet:
        endpoint = endpoint_of(stack, fleet, model="tiny")
        requests = [chat(number) for number in range(120)]
        replies, traffic = asked(
            endpoint,
            [Request(each.key, each.model, {**each.body, "max_tokens": None}) for each in requests],
        )
    assert all(len(text_of(each)) > 190_000 for each in replies)
    # 120 answers are 24 MB, 60 are 12, 30 are 6: seven tasks.
    assert traffic.bundles == 7
    assert endpoint.bundling.max_items <= 40


# -- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "executors"),
    [
        ({"kind": "http_429", "times": 2, "retry_after": 1.0}, 1),
        ({"kind": "http_503", "times": 2}, 1),
        ({"kind": "lost_request"}, 1),
        ({"kind": "lost_reply"}, 1),
        ({"kind": "duplicate_result"}, 1),
        ({"kind": "http_413"}, 2),
        ({"kind": "http_500", "times": 6}, 2),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_service_that_falters(stack, fleet, fault, executors):
    """Two bundles travel in one submit, so a refusal of it as too large can be mended."""
    endpoint = endpoint_of(stack, fleet, model="tiny")

    async def main():
        await replies_of(endpoint, [chat(99)])  # the first makes the connections
        await asyncio.to_thread(lambda: stack.service.inject(**fault))
        both = await asyncio.gather(
            replies_of(endpoint, [chat(number) for number in range(30)]),
            replies_of(endpoint, [chat(number) for number in range(30, 60)]),
        )
        traffic = endpoint.traffic
        await endpoint.close()
        return both[0] + both[1], traffic

    replies, traffic = asyncio.run(main())
    assert all(f"Is C{number} soluble?" in text_of(each) for number, each in enumerate(replies))
    assert traffic.executors == executors
    assert traffic.lost == 0


def test_an_endpoint_that_does_not_start(stack, fleet):
    stack.service.inject("start_fails")
    endpoint = endpoint_of(stack, fleet, model="tiny", user_endpoint_config={"workers": 1})
    (reply,), traffic = asked(endpoint, [chat()])
    assert reply.failure is not None
    assert traffic.lost == 1
    (reply,), _ = asked(endpoint, [chat()])
    assert "Is C0 soluble?" in text_of(reply)


def test_a_result_that_never_comes_is_given_up_and_sent_again(stack, fleet):
    stack.service.inject("lost_result")
    with Pool([endpoint_of(stack, fleet, model="tiny")]) as pool:
        reply = asyncio.run(pool.ask(chat(), Retry(base=0.01)))
        assert "Is C0 soluble?" in text_of(reply)
        (endpoint,) = pool.endpoints
        assert endpoint.traffic.lost == 1


def test_the_service_is_not_there(fleet, stack):
    client = stack.client()
    endpoint = GlobusComputeEndpoint("00000000-0000-4000-8000-000000000000", client=client)

    async def main():
        health = await endpoint.probe()
        await endpoint.close()
        return health

    health = asyncio.run(main())
    assert not health.ok
    assert isinstance(health.failure, Failure)
    assert health.failure.kind == "cold"


def test_client_credentials_from_the_environment(stack, fleet, monkeypatch):
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    given = GlobusComputeEndpoint(stack.endpoint_id, url=fleet.urls[0], model="tiny")
    monkeypatch.setattr(
        "globus_compute_sdk.sdk.client.get_web_service_url", lambda _name=None: stack.url
    )
    (reply,), _ = asked(given, [chat()])
    assert "Is C0 soluble?" in text_of(reply)


def test_the_interpreter_ends_with_bundles_under_way(stack):
    """Neither the SDK's threads nor ours wait for results that may never come."""
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from langgraph_hpc_fanout import GlobusComputeEndpoint, Pool
        from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
        from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
        from langgraph_hpc_fanout.records import Request
        from langgraph_hpc_fanout.testing.globus.client import client_of
        import asyncio, time

        endpoint = GlobusComputeEndpoint({stack.endpoint_id!r}, client=client_of({stack.url!r}))
        pool = Pool([endpoint])
        request = Request("k", FUNCTIONS, {{"item": 30}}, function="node_tasks:sleep")
        asked = dispatch_loop().submit(pool.ask(request))
        while not endpoint.outstanding:
            time.sleep(0.05)
        print("under way", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "under way\n"), done.stderr


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint_id": "polaris"}, "endpoint_id='polaris'.* is no UUID"),
        ({"function_id": "f"}, "function_id='f'.* is no UUID"),
        ({"url": []}, "has no url="),
        ({"model": []}, "serves no model"),
        ({"window": 0}, "window=0.* must be positive"),
        ({"workers": 0}, "workers=0.* must be positive"),
        ({"timeout": -1}, "timeout=-1.* must be positive"),
        ({"ship": "pigeon"}, "'package', 'source' or 'first'"),
        ({"ship": "first", "model": "m"}, "needs function_id="),
        ({"ship": "first", "function_id": ID}, "needs model="),
        ({"ship": "first", "function_id": ID, "model": "m", "window": 9}, "have no meaning"),
        (
            {"ship": "first", "function_id": ID, "model": "m", "url": "ports:1-2"},
            "takes one url= with a port",
        ),
        ({"user_endpoint_config": {"a": object()}}, "is no JSON"),
        ({"user_endpoint_config": "debug"}, "must be a mapping"),
        ({"url": "127.0.0.1:8000"}, "is neither a URL"),
        ({"url": "env:"}, "is neither a URL"),
        ({"client": object(), "authorizer": object()}, "give one"),
    ],
)
def test_what_cannot_be_meant(options, said):
    with pytest.raises(ValueError, match=said):
        GlobusComputeEndpoint(**{"endpoint_id": ID, **options})


# -- the thread that submits ---------------------------------------------------------------


@pytest.fixture
def scarce(monkeypatch):
    """One request to the service in three seconds."""
    quota = Quota(1, 3.0)
    monkeypatch.setattr(
        "langgraph_hpc_fanout.endpoints.globus_compute.session.service_quota", quota
    )
    return quota


def test_what_nobody_waits_for_any_more_is_not_submitted(stack, fleet, scarce):
    endpoint = endpoint_of(stack, fleet, model="tiny")

    async def main():
        await replies_of(endpoint, [chat(0)])
        given_up = asyncio.ensure_future(replies_of(endpoint, [chat(1)]))
        await asyncio.sleep(0.2)
        given_up.cancel()
        await asyncio.wait([given_up])
        replies = await replies_of(endpoint, [chat(2)])
        await endpoint.close()
        return replies

    assert "Is C2 soluble?" in text_of(asyncio.run(main())[0])
    assert stack.service.record().tasks == 2


def test_a_close_ends_sends_that_wait_for_their_turn(stack, fleet, scarce):
    endpoint = endpoint_of(stack, fleet, model="tiny")

    async def main():
        await replies_of(endpoint, [chat(0)])
        waiting = [asyncio.ensure_future(replies_of(endpoint, [chat(number)])) for number in (1, 2)]
        await asyncio.sleep(0.2)
        await endpoint.close()
        return await asyncio.gather(*waiting)

    for (reply,) in asyncio.run(main()):
        assert reply.failure.kind == "transient"
        assert "was closed" in reply.failure.message


def test_a_probe_that_was_given_up_does_not_end_the_thread(stack, fleet, scarce):
    endpoint = endpoint_of(stack, fleet, model="tiny")

    async def main():
        await replies_of(endpoint, [chat(0)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endpoint.probe(), 0.1)
        replies = await replies_of(endpoint, [chat(1)])
        health = await endpoint.probe()
        await endpoint.close()
        return replies, health

    (reply,), health = asyncio.run(main())
    assert "Is C1 soluble?" in text_of(reply)
    assert health.ok


def test_the_users_own_executors_do_not_share_our_task_group(stack, fleet):
    asked(endpoint_of(stack, fleet, model="tiny"), [chat()])
    with Executor(stack.endpoint_id, client=stack.client()) as own:
        assert own.task_group_id is None
        assert own.submit(abs, -2).result(30) == 2
