"""The conformance suite: good endpoints pass, and every kind of bad one is caught."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from langgraph_hpc_fanout.endpoints.function import FunctionEndpoint
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Endpoint, Health
from langgraph_hpc_fanout.records import Failure, Reply, Usage
from langgraph_hpc_fanout.testing.conformance import EndpointConformance

KEY = "sk-very-secret"
PASSWORD = "hunter2hunter2"


class TestOpenAIEndpoint(EndpointConformance):
    """Over HTTP, with a token."""

    secrets = (KEY,)

    @pytest.fixture
    def endpoint(self, fake_fleet):
        self.fleet = fake_fleet(latency=0.1, api_key=KEY, models=("tiny", "other"))
        return OpenAIEndpoint(self.fleet.urls[0], api_key=KEY)

    async def in_flight(self):
        return self.fleet.record().in_flight


class TestOpenAIEndpointWithMapping(EndpointConformance):
    """Logical names, a user in the URL, and a server that turns some away."""

    secrets = (PASSWORD,)

    @pytest.fixture
    def endpoint(self, fake_fleet):
        self.fleet = fake_fleet(latency=0.02, capacity=4, max_queue=16)
        url = self.fleet.urls[0].replace("http://", f"http://me:{PASSWORD}@")
        return OpenAIEndpoint(url, models={"small": "tiny"})

    async def in_flight(self):
        return self.fleet.record().in_flight


class TestFunctionEndpoint(EndpointConformance):
    """A sync function, in threads; calls are in flight when they are cancelled."""

    @pytest.fixture
    def endpoint(self):
        def answer(request):
            time.sleep(0.02)
            return request.body["messages"][-1]["content"]

        return FunctionEndpoint(answer, models={"small": "here"}, limits=Limits(concurrency=8))


class TestAsyncFunctionEndpoint(EndpointConformance):
    """An async function, which is told of a cancellation."""

    @pytest.fixture
    def endpoint(self):
        self.working = 0

        async def answer(request):
            self.working += 1
            try:
                await asyncio.sleep(0.05)
            finally:
                self.working -= 1
            return {"content": request.body["messages"][-1]["content"]}

        return FunctionEndpoint(answer)

    async def in_flight(self):
        return self.working


BODY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "1"}}]}


@dataclass
class Minimal:
    """The least that is an endpoint: answers from memory, several at once."""

    name: str = "minimal"
    limits: Limits = field(default_factory=Limits)
    bundling: Bundling = field(default_factory=lambda: Bundling(5))
    models: dict = field(default_factory=dict)
    seconds: float = 0.0

    async def open(self):
        pass

    async def close(self):
        pass

    async def probe(self):
        self.models = {"m": "minimal/m"}
        return Health(ok=True)

    async def send(self, requests):
        for position in reversed(range(len(requests))):
            await asyncio.sleep(self.seconds)
            yield self.reply(position, requests[position])

    def reply(self, position, request):
        if request.model not in self.models:
            failure = Failure("cold", f"{self.name} has no {request.model}.", None, True, self.name)
            return Reply(position, failure=failure)
        return Reply(position, body=BODY, usage=Usage(3, 1))


class TestMinimalEndpoint(EndpointConformance):
    """Many in a bundle, answered back to front."""

    @pytest.fixture
    def endpoint(self):
        return Minimal()


class TestSlowMinimalEndpoint(EndpointConformance):
    """Sends are in flight when they are cancelled."""

    promptly = 0.5

    @pytest.fixture
    def endpoint(self):
        return Minimal(seconds=0.06)


# What it catches


class Suite(EndpointConformance):
    """Impatient, as the tests below are to end."""

    patience = 0.3
    promptly = 0.3
    secrets = (KEY,)


async def failures_of(endpoint, suite=None):
    """What each test of the suite says of an endpoint; of those that it fails."""
    suite = suite or Suite()
    said = {}
    for name, test in inspect.getmembers(suite, inspect.ismethod):
        if name.startswith("test_"):
            try:
                if inspect.iscoroutinefunction(test):
                    await test(endpoint)
                else:  # has a loop of its own
                    await asyncio.to_thread(test, endpoint)
            except AssertionError as error:
                said[name.removeprefix("test_")] = str(error)
    return said


ANSWERS = {
    "it_opens_and_closes_twice",
    "it_opens_again_after_a_close",
    "it_opens_again_on_another_loop",
    "one_request_is_answered",
    "a_cancelled_send_lets_go",
    "an_unknown_model_is_a_failure",
}
REPLIES = ANSWERS | {
    "a_close_lets_go_of_every_connection",
    "each_request_of_a_full_bundle_gets_one_reply",
    "each_request_of_too_large_a_bundle_gets_one_reply",
    "many_sends_run_at_once",
    "it_shows_no_secret",
}


async def test_a_good_endpoint_passes():
    assert await failures_of(Minimal()) == {}


def replying(make):
    """An endpoint whose replies to each request are made by a function."""

    class Replying(Minimal):
        async def send(self, requests):
            for position, request in enumerate(requests):
                for reply in make(self.reply(position, request)):
                    yield reply

    return Replying()


def edited(**changes):
    """An endpoint whose good replies have other fields."""

    def edit(reply):
        fields = {"body": reply.body, "failure": reply.failure, "usage": reply.usage}
        return [reply if reply.failure else Reply(reply.position, **{**fields, **changes})]

    return replying(edit)


WRONG = Failure("transient", "It did not work.")


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (replying(lambda reply: [reply, reply]), "Position 0 was answered twice"),
        (replying(lambda reply: []), "send() ended without a reply for the positions [0]"),
        (replying(lambda reply: [Reply(7, BODY, None, Usage())]), "position 7 in a bundle of 1"),
        (replying(lambda reply: [BODY]), "no Reply"),
        (edited(failure=WRONG), "either a body or a failure"),
        (edited(body=None), "either a body or a failure"),
        (edited(usage=None), "has no usage"),
        (edited(body={"choices": []}), "no choices"),
        (edited(body={"choices": None}), "choices=None"),
        (edited(body={"choices": ["yes"]}), "'yes' is no choice"),
        (edited(body={"choices": [{}]}), "message=None"),
        (edited(retry_after=-1.0), "retry_after=-1.0"),
    ],
)
async def test_wrong_replies_are_caught(endpoint, says):
    said = await failures_of(endpoint)
    assert said.keys() == REPLIES
    assert says in said["one_request_is_answered"]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (WRONG, "A good request failed: Failure(kind='transient'"),
        (Failure("unheard_of", "It did not work."), "'unheard_of' is no kind"),
        (Failure("transient", ""), "says nothing"),
        ("broken", "'broken' is no Failure"),
    ],
)
async def test_wrong_failures_are_caught(failure, says):
    said = await failures_of(edited(body=None, usage=None, failure=failure))
    assert said.keys() >= ANSWERS
    assert says in said["one_request_is_answered"]


async def test_an_endpoint_that_raises_is_caught():
    def refuse(reply):
        raise LookupError("no such model")

    said = await failures_of(replying(refuse))
    assert said.keys() == REPLIES
    assert said["one_request_is_answered"].startswith("send() raised LookupError('no such model')")


async def test_an_endpoint_that_times_out_by_itself_is_caught():
    def refuse(reply):
        raise TimeoutError

    said = await failures_of(replying(refuse))
    assert said["one_request_is_answered"] == "send() of 1 requests raised TimeoutError()."


async def test_an_endpoint_that_raises_for_an_unknown_model_is_caught():
    def refuse(reply):
        if reply.failure is not None:
            raise LookupError("no such model")
        return [reply]

    said = await failures_of(replying(refuse))
    assert said.keys() == {"an_unknown_model_is_a_failure", "it_shows_no_secret"}


async def test_an_endpoint_that_answers_for_any_model_is_caught():
    class Willing(Minimal):
        def reply(self, position, request):
            return Reply(position, body=BODY, usage=Usage())

    said = await failures_of(Willing())
    assert said == {"an_unknown_model_is_a_failure": "A model that is not served was answered."}


async def test_an_endpoint_that_fails_the_whole_bundle_for_one_is_caught():
    class Strict(Minimal):
        async def send(self, requests):
            worst = max(requests, key=lambda request: request.model not in self.models)
            for position in range(len(requests)):
                yield self.reply(position, worst)

    said = await failures_of(Strict())
    assert said.keys() == {"an_unknown_model_is_a_failure"}
    assert said["an_unknown_model_is_a_failure"].startswith("Its neighbour failed")


async def test_an_endpoint_that_never_answers_is_caught():
    class Silent(Minimal):
        async def send(self, requests):
            await asyncio.Event().wait()
            yield

    with pytest.raises(AssertionError, match=r"^send\(\) of 1 requests took more than 0.3 s"):
        await Suite().test_one_request_is_answered(Silent())
    with pytest.raises(AssertionError, match=r"^send\(\) of 5 requests took more than 0.3 s"):
        await Suite().test_each_request_of_a_full_bundle_gets_one_reply(Silent())


async def test_an_endpoint_that_answers_for_ever_is_caught():
    class Chatty(Minimal):
        async def send(self, requests):
            while True:
                for position, request in enumerate(requests):
                    yield self.reply(position, request)

    said = await failures_of(Chatty())
    assert "answered twice" in said["one_request_is_answered"]


class Stubborn(Minimal):
    """Turns a cancellation into a failure."""

    async def send(self, requests):
        for position, request in enumerate(requests):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                yield Reply(position, failure=Failure("cancelled", "It was cancelled."))
            else:
                yield self.reply(position, request)


class Slow(Minimal):
    """Takes its time to let go."""

    async def send(self, requests):
        try:
            async for reply in Minimal(models=self.models, seconds=0.1).send(requests):
                yield reply
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            raise


@pytest.mark.parametrize(
    ("endpoint", "says"), [(Stubborn(), "swallowed its cancellation"), (Slow(), "goes on 0.3 s")]
)
async def test_an_endpoint_that_does_not_let_go_is_caught(endpoint, says):
    suite = Suite()
    suite.patience = 5.0
    with pytest.raises(AssertionError, match=says):
        await suite.test_a_cancelled_send_lets_go(endpoint)
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def test_an_endpoint_whose_server_never_hears_of_it_is_caught():
    class Detached(Minimal):
        working = 0

        async def send(self, requests):
            for position, request in enumerate(requests):
                await asyncio.shield(asyncio.ensure_future(self.work()))
                yield self.reply(position, request)

        async def work(self):
            self.working += 1
            await asyncio.sleep(1.0)
            self.working -= 1

    endpoint, suite = Detached(), Suite()

    async def in_flight():
        return endpoint.working

    suite.in_flight, suite.patience = in_flight, 5.0
    with pytest.raises(AssertionError, match="The server works at 8 requests; 0 were expected"):
        await suite.test_a_cancelled_send_lets_go(endpoint)
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


class NamedByKey(Minimal):
    def __init__(self):
        super().__init__(name=f"minimal {KEY}")


class ShownByKey(Minimal):
    def __repr__(self):
        return f"Minimal({KEY!r})"


class FailsWithKey(Minimal):
    def reply(self, position, request):
        return Reply(position, failure=Failure("auth", f"{KEY} was refused."))


@pytest.mark.parametrize(
    ("leaky", "says"),
    [
        (NamedByKey, "The name holds a secret"),
        (ShownByKey, "The repr holds a secret"),
        (FailsWithKey, "A failure's message holds a secret"),
    ],
)
async def test_an_endpoint_that_shows_its_key_is_caught(leaky, says):
    said = await failures_of(leaky())
    assert said["it_shows_no_secret"].startswith(says)
    assert KEY not in str(said)


async def test_a_key_that_shows_only_in_use_is_caught():
    class Leaky(Minimal):
        key = ""

        def __repr__(self):
            return f"Leaky({self.key!r})"

        async def open(self):
            self.key = KEY

        async def close(self):
            self.key = ""

    unhurried = Suite()
    unhurried.promptly = 5.0
    assert (await failures_of(Leaky(), unhurried)).keys() == {"it_shows_no_secret"}


async def test_without_secrets_there_is_nothing_to_look_for():
    with pytest.raises(pytest.skip.Exception, match="no secrets="):
        await EndpointConformance().test_it_shows_no_secret(Minimal())


class OnceOnly(Minimal):
    """Cannot be opened again."""

    used = False

    async def open(self):
        if self.used:
            raise RuntimeError("used")

    async def close(self):
        self.used = True


class Bound(Minimal):
    """Belongs to the loop that it was first opened on."""

    loop = None

    async def open(self):
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("another loop")


@pytest.mark.parametrize(
    ("endpoint", "test"),
    [
        (OnceOnly(), "test_it_opens_and_closes_twice"),
        (OnceOnly(), "test_it_opens_again_after_a_close"),
    ],
)
async def test_an_endpoint_with_one_life_is_caught(endpoint, test):
    with pytest.raises(RuntimeError, match="used"):
        await getattr(Suite(), test)(endpoint)


def test_an_endpoint_that_is_bound_to_its_loop_is_caught():
    with pytest.raises(RuntimeError, match="another loop"):
        Suite().test_it_opens_again_on_another_loop(Bound())


@pytest.mark.parametrize("method", ["open", "close", "probe"])
async def test_an_endpoint_that_hangs_is_caught(method):
    class Hanging(Minimal):
        pass

    async def hang(self):
        await asyncio.Event().wait()

    setattr(Hanging, method, hang)
    with pytest.raises(AssertionError, match=rf"^{method}\(\).* took more than 0.3 s"):
        await Suite().test_it_opens_and_closes_twice(Hanging())


async def test_an_endpoint_that_keeps_its_connections_is_caught():
    class Hoarder(Minimal):
        async def open(self):
            self.sockets = socket.socketpair()

    endpoint = Hoarder()
    with pytest.raises(AssertionError, match="2 sockets are still open"):
        await Suite().test_a_close_lets_go_of_every_connection(endpoint)
    for each in endpoint.sockets:
        each.close()


@pytest.mark.parametrize(
    ("health", "says"),
    [
        (True, "returned True, no Health"),
        (Health(ok=False, failure=WRONG), "found it unwell"),
        (Health(ok=True, failure=WRONG), "was ok, but with"),
        (Health(ok=False, failure=Failure("auth", f"{KEY} was refused.")), "holds a secret"),
    ],
)
async def test_wrong_probes_are_caught(health, says):
    class Probed(Minimal):
        async def probe(self):
            await Minimal.probe(self)
            return health

    with pytest.raises(AssertionError, match=says):
        await Suite().test_a_probe_finds_it_well(Probed())


@pytest.mark.parametrize(
    ("models", "says"), [({1: "m"}, "has 1 for a name"), ({"m": None}, "is None, not an id")]
)
async def test_wrong_models_are_caught(models, says):
    class Modelled(Minimal):
        async def probe(self):
            self.models = models
            return Health(ok=True)

    with pytest.raises(AssertionError, match=says):
        await Suite().test_a_probe_finds_it_well(Modelled())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name is empty"),
        ({"name": None}, "not a text"),
        ({"models": ["m"]}, "no mapping"),
        ({"limits": 8}, "no Limits"),
        ({"bundling": 8}, "bundling is 8"),
        ({"bundling": Bundling(0)}, "at least one request"),
    ],
)
def test_wrong_attributes_are_caught(changes, says):
    with pytest.raises(AssertionError, match=says):
        Suite().test_it_is_an_endpoint(Minimal(**changes))


def test_what_lacks_a_method_is_no_endpoint():
    class Half:
        name = "half"
        models, limits, bundling = {}, Limits(), Bundling()

        async def open(self):
            pass

    with pytest.raises(AssertionError, match="lacks close, probe, send"):
        Suite().test_it_is_an_endpoint(Half())
    assert not isinstance(Half(), Endpoint)


# How it is used


SUBCLASS = """
import asyncio
import pytest
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.records import Failure, Reply, Usage
from langgraph_hpc_fanout.testing.conformance import EndpointConformance

class Mine:
    name, limits, bundling, models = "mine", Limits(), Bundling({bundle}), {{}}
    async def open(self): pass
    async def close(self): pass
    async def probe(self):
        self.models = {{"m": "m"}}
        return Health(ok=True)
    async def send(self, requests):
        for position, request in enumerate(requests[:{bundle}]):
            if request.model == "m":
                body = {{"choices": [{{"message": {{"content": "1"}}}}]}}
                yield Reply(position, body=body, usage=Usage(1, 1))
            else:
                yield Reply(position, failure=Failure("cold", "Not here."))

class TestMine(EndpointConformance):
    @pytest.fixture
    def endpoint(self):
        return Mine()

class TestForgotten(EndpointConformance):
    pass
"""


def test_users_run_it_over_their_endpoints(tmp_path):
    """In pytest-asyncio's strict mode; the tests above run in its auto mode."""
    (tmp_path / "test_mine.py").write_text(SUBCLASS.format(bundle=3))
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-W", "error", "--rootdir", "."]
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"]
    modes = ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [*command, *plugins, *modes, "test_mine.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = done.stdout
    assert "1 failed, 11 passed, 1 skipped, 13 errors" in report, report + done.stderr
    assert "send() ended without a reply for the positions [3]" in report
    assert "TestForgotten needs a fixture named `endpoint`" in report
    assert "FAILED test_mine.py::TestMine::test_each_request_of_too_large_a_bundle" in report


def test_the_suite_imports_no_langgraph_and_no_langchain():
    code = (
        "import sys, langgraph_hpc_fanout.testing.conformance, "
        "langgraph_hpc_fanout.testing.virtual_time;"
        "print([name for name in sys.modules if name.startswith(('langgraph.', 'langchain'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
