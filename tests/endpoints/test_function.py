"""FunctionEndpoint: what a function may return, what its exceptions mean, where it runs."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from graphs import build, molecules

from langgraph_hpc_fanout import (
    Endpoint,
    Failure,
    FunctionEndpoint,
    Health,
    Limits,
    OpenAIEndpoint,
    Request,
    Usage,
)


def question(prompt="hello", model="function"):
    return Request(prompt, model, {"messages": [{"role": "user", "content": prompt}]}, 7)


def prompt_of(request):
    return request.body["messages"][-1]["content"]


def echo(request):
    return prompt_of(request)


async def echo_later(request):
    await asyncio.sleep(0)
    return prompt_of(request)


class Caller:
    """Callable objects, sync and async."""

    def __call__(self, request):
        return prompt_of(request)


class AsyncCaller:
    async def __call__(self, request):
        return prompt_of(request)


@pytest.fixture
async def endpoint_of():
    """A factory of endpoints that are closed when the test ends."""
    made = []

    def make(function, **options):
        made.append(FunctionEndpoint(function, **options))
        return made[-1]

    yield make
    for endpoint in made:
        await endpoint.close()


async def ask(endpoint, request=None):
    """The one reply to a request."""
    (reply,) = [reply async for reply in endpoint.send([request or question()])]
    return reply


def threads_of(endpoint):
    prefix = f"hpc-fanout-{endpoint.name}"
    return [each for each in threading.enumerate() if each.name.startswith(prefix)]


# -- what a function may return ---------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [echo, echo_later, Caller(), AsyncCaller(), functools.partial(echo_later)],
)
async def test_a_text_is_an_answer(endpoint_of, function):
    reply = await ask(endpoint_of(function))
    assert reply.failure is None
    assert reply.usage == Usage(7, 2, estimated=True)
    assert reply.body == {
        "object": "chat.completion",
        "model": "function",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
    }


async def test_a_sync_function_may_return_an_awaitable(endpoint_of):
    def start(request):
        return echo_later(request)

    reply = await ask(endpoint_of(start))
    assert reply.body["choices"][0]["message"]["content"] == "hello"


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "reason"),
    [({"content": "yes"}, "stop"), ({"content": None, "tool_calls": [CALL]}, "tool_calls")],
)
async def test_a_message_is_an_answer(endpoint_of, message, reason):
    (choice,) = (await ask(endpoint_of(lambda request: message))).body["choices"]
    assert choice["message"] == {"role": "assistant", **message}
    assert choice["finish_reason"] == reason


async def test_a_completion_is_taken_as_it_is(endpoint_of):
    given = {
        "id": "mine",
        "model": "large",
        "choices": [{"message": {"content": "cut"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    reply = await ask(endpoint_of(lambda request: given))
    assert (reply.body, reply.usage) == (given, Usage(3, 1))
    assert reply.body is not given


async def test_a_completion_without_a_model_gets_the_served_one(endpoint_of):
    given = {"choices": [{"message": {"content": "yes"}}]}
    endpoint = endpoint_of(lambda request: given, models={"small": "here/small"})
    assert (await ask(endpoint, question(model="small"))).body["model"] == "here/small"


async def test_a_failure_is_handed_on(endpoint_of):
    failure = Failure("overloaded", "Busy.", 503, True)
    reply = await ask(endpoint_of(lambda request: failure, name="busy"))
    assert reply.failure == Failure("overloaded", "Busy.", 503, True, "busy")
    failure = Failure("overloaded", "Busy.", endpoint="behind it")
    assert (await ask(endpoint_of(lambda request: failure))).failure == failure


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "None is neither a text"),
        (42, "42 is neither a text"),
        ({"text": "yes"}, "{'text': 'yes'} is neither a text"),
        ({"choices": []}, "without choices"),
        ({"choices": [{}]}, "without a message"),
        ({"content": {1, 2}}, "not JSON serializable: set"),
        ("\ud800", "surrogates"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_anything_else_is_a_permanent_failure(endpoint_of, answer, says, is_async):
    async def later(request):
        return answer

    endpoint = endpoint_of(later if is_async else lambda request: answer, name="odd")
    failure = (await ask(endpoint)).failure
    assert (failure.kind, failure.retryable, failure.endpoint) == ("permanent", False, "odd")
    assert failure.message.startswith("odd returned what is no answer: ")
    assert says in failure.message


# -- what it may raise ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (TimeoutError("too\nlate"), "transient", "odd raised TimeoutError: too late"),
        (ConnectionResetError(), "transient", "odd raised ConnectionResetError"),
        (OSError(5, "broken"), "transient", "odd raised OSError: [Errno 5] broken"),
        (KeyError("smiles"), "permanent", "odd raised KeyError: 'smiles'"),
        (StopIteration(), "permanent", "odd raised StopIteration"),
        (SystemExit(3), "permanent", "odd raised SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_is_a_failure(endpoint_of, error, kind, says, is_async):
    def fail(request):
        raise error

    async def fail_later(request):
        raise error

    failure = (await ask(endpoint_of(fail_later if is_async else fail, name="odd"))).failure
    assert (failure.kind, failure.retryable) == (kind, kind == "transient")
    assert failure.endpoint == "odd"
    if not (is_async and isinstance(error, StopIteration)):  # Python makes a RuntimeError of it
        assert failure.message == says


# -- names and models -------------------------------------------------------------------------


def test_it_is_an_endpoint_named_like_its_function():
    assert isinstance(FunctionEndpoint(echo), Endpoint)
    assert FunctionEndpoint(echo).name == "echo"
    assert FunctionEndpoint(Caller()).name == "Caller"
    assert FunctionEndpoint(echo, name="mine").name == "mine"
    assert repr(FunctionEndpoint(echo)) == "FunctionEndpoint(echo, 64 at once)"


@pytest.mark.parametrize(
    ("models", "mapping"),
    [
        ("tiny", {"tiny": "tiny"}),
        (["tiny", "large"], {"tiny": "tiny", "large": "large"}),
        ({"tiny": "org/tiny"}, {"tiny": "org/tiny"}),
    ],
)
async def test_models_come_in_the_usual_forms(models, mapping):
    endpoint = FunctionEndpoint(echo, models=models)
    assert endpoint.models == mapping
    assert await endpoint.probe() == Health(ok=True)


def test_what_cannot_work_is_refused():
    with pytest.raises(TypeError, match=r"FunctionEndpoint\('echo'\) needs a function"):
        FunctionEndpoint("echo")
    with pytest.raises(ValueError, match="echo serves no model"):
        FunctionEndpoint(echo, models=[])


async def test_no_model_means_the_only_one(endpoint_of):
    assert (await ask(endpoint_of(echo), question(model=None))).failure is None
    two = endpoint_of(echo, models=["tiny", "large"])
    failure = (await ask(two, question(model=None))).failure
    assert (failure.kind, failure.message) == ("cold", "echo does not serve the model None.")


# -- where it runs ----------------------------------------------------------------------------


async def test_a_sync_function_runs_in_threads_of_its_own_and_they_end(endpoint_of):
    meeting = threading.Barrier(4)
    seen = set()

    def meet(request):
        meeting.wait(10)
        seen.add(threading.current_thread())
        return "met"

    endpoint = endpoint_of(meet, limits=Limits(concurrency=4))
    await endpoint.open()
    assert threads_of(endpoint) == []
    await asyncio.gather(*(ask(endpoint) for _ in range(8)))
    assert threading.current_thread() not in seen
    assert set(threads_of(endpoint)) == seen
    assert len(seen) == 4
    await endpoint.close()
    assert threads_of(endpoint) == []


async def test_an_async_function_needs_no_threads(endpoint_of):
    seen = []

    async def look(request):
        seen.append(threading.current_thread())
        return "seen"

    endpoint = endpoint_of(look)
    await ask(endpoint)
    assert seen == [threading.current_thread()]
    assert threads_of(endpoint) == []


async def test_a_cancelled_send_returns_while_its_thread_goes_on(endpoint_of):
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(request):
        loop.call_soon_threadsafe(begun.set)
        end.wait(10)
        return "done"

    endpoint = endpoint_of(work, limits=Limits(concurrency=1))
    sends = [asyncio.create_task(ask(endpoint)) for _ in range(2)]
    await begun.wait()
    for send in sends:  # one at work, one that waits for its thread
        send.cancel()
    assert [type(each) for each in await asyncio.gather(*sends, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    closing = asyncio.create_task(endpoint.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    end.set()
    await closing
    assert threads_of(endpoint) == []


def test_it_moves_to_another_loop_without_a_close():
    endpoint = FunctionEndpoint(echo)
    for _ in range(2):
        assert asyncio.run(ask(endpoint)).failure is None

    async def close():
        await ask(endpoint)
        await endpoint.close()

    asyncio.run(close())


# -- in a pool --------------------------------------------------------------------------------


def test_a_forked_process_has_threads_of_its_own():
    program = """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from graphs import build, molecules
    from langgraph_hpc_fanout import FunctionEndpoint, Pool
    graph = build(Pool(FunctionEndpoint(lambda request: request.body["messages"][0]["content"])))

    def right():
        answers = graph.invoke({"molecules": molecules(9)})["predictions"]
        return answers == [f"Is C{number} soluble?" for number in range(9)]

    assert right()
    child = os.fork()
    if child == 0:
        os._exit(0 if right() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(right())
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent.parent)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


async def test_a_pool_mixes_it_with_servers(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.01)

    def patient(request):
        fleet.wait(lambda record: record.arrived > 0)  # the server is probed first
        return prompt_of(request)

    mine = FunctionEndpoint(patient, models="tiny", limits=Limits(concurrency=2))
    pool = pool_over([OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2)), mine])
    result = await build(pool).ainvoke({"molecules": molecules(40)})
    assert result["failures"] == []
    for number, answer in enumerate(result["predictions"]):
        assert f"Is C{number} soluble?" in answer
    served = sum(answer.startswith("echo ") for answer in result["predictions"])
    assert fleet.record().served == served
    assert 0 < served < 40


def test_what_a_function_fails_another_endpoint_answers(fake_fleet, pool_over):
    asked = []

    def away(request):
        asked.append(request)
        raise ConnectionError("away")

    fleet = fake_fleet(latency=0.01)
    one = Limits(concurrency=1)
    servers = [OpenAIEndpoint(fleet.urls[0], limits=one)]
    pool = pool_over([*servers, FunctionEndpoint(away, models="tiny", limits=one)])
    result = build(pool).invoke({"molecules": molecules(9)})
    assert result["failures"] == []
    assert asked
    assert fleet.record().served == 9
