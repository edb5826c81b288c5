"""The examples in a real `langgraph dev`, asked the way Studio asks it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter

import pytest
from dev_server import ROOT, DevServer
from langgraph_sdk import get_client

from langgraph_hpc_fanout.testing import FakeFleet, scripted
from langgraph_hpc_fanout.testing.fleet import Fault

EXAMPLES = ("molecules", "literature")


class Model:
    """A fleet's answers, and what it was asked."""

    def __init__(self):
        self.bodies = []

    def __call__(self, body):
        self.bodies.append(body)
        return scripted(body)


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.fixture(scope="module")
def whole_fleet(model):
    with FakeFleet(answer=model) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def servers(whole_fleet, tmp_path_factory):
    """A server for each example, started together."""
    variables = {"LLM_URL": whole_fleet.urls[0]}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in EXAMPLES:
            place = tmp_path_factory.mktemp(name)
            servers[name] = DevServer(ROOT / "examples" / name, place, variables)
            stack.callback(servers[name].stop)
        for server in servers.values():
            server.wait()
        yield servers


@pytest.fixture
def fleet(whole_fleet, model):
    """The fleet, quick and faultless, with nothing asked of it yet."""
    whole_fleet.change(0, latency=0.01, faults=())
    whole_fleet.reset_record()
    model.bodies.clear()
    return whole_fleet


@pytest.fixture
def may_complain():
    """Ask for it in tests of what the server logs an error about."""
    return True


@pytest.fixture(autouse=True)
def quiet(request, servers):
    """What a test makes the servers log: shown if it fails, and no complaint if it does not."""
    starts = {name: len(server.log()) for name, server in servers.items()}
    yield
    for name, server in servers.items():
        log = server.log(starts[name])
        sys.stdout.write(f"--- {name} ---\n{log}")
        assert "BlockingError" not in log
        if "may_complain" not in request.fixturenames:
            assert not server.complaints(starts[name])


@pytest.fixture
async def molecules(servers):
    async with get_client(url=servers["molecules"].url) as client:
        yield client


@pytest.fixture
async def literature(servers):
    async with get_client(url=servers["literature"].url) as client:
        yield client


def some(count, prefix="m"):
    return {"molecules": [{"name": f"{prefix}{i}", "smiles": "C" * (i + 1)} for i in range(count)]}


def question(molecule):
    return f"How soluble in water is {molecule['name']} (SMILES {molecule['smiles']})?"


def own_answers(output, given):
    """Whether each molecule has an answer to the question about it: the fleet quotes it."""
    return len(output["predictions"]) == len(given["molecules"]) and all(
        prediction is not None and question(molecule).startswith(prediction["reason"])
        for prediction, molecule in zip(output["predictions"], given["molecules"], strict=True)
    )


async def answers(client, assistant, given, **options):
    """What a run on a thread of its own comes to, as in Studio."""
    thread = await client.threads.create()
    return await client.runs.wait(thread["thread_id"], assistant, input=given, **options)


async def about(client, ask):
    """What the server tells of its only assistant, as Studio asks: by id."""
    (assistant,) = await client.assistants.search()
    return await ask(client.assistants, assistant["assistant_id"])


async def schemas_of(client):
    return await about(client, lambda assistants, each: assistants.get_schemas(each))


async def drawing_of(client):
    return await about(client, lambda assistants, each: assistants.get_graph(each))


def described(schema):
    return [each.get("description") for each in (schema, *schema["properties"].values())]


def test_they_start_without_a_complaint(servers):
    for server in servers.values():
        assert not server.complaints()
        assert "Starting 8 background workers" in server.log()


@pytest.mark.parametrize("name", EXAMPLES)
async def test_forms(servers, name):
    async with get_client(url=servers[name].url) as client:
        (assistant,) = await client.assistants.search()
        schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    assert assistant["graph_id"] == name
    assert assistant["description"]
    for schema in ("input_schema", "output_schema", "context_schema"):
        assert all(described(schemas[schema])), schema
    (items,) = schemas["input_schema"]["properties"].values()
    assert len(items["default"]) >= 5
    settings = schemas["context_schema"]["properties"]
    assert settings["concurrency"]["type"] == "integer"
    assert settings["concurrency"]["minimum"] == 1


async def test_the_form_of_the_context(molecules):
    schemas = await schemas_of(molecules)
    context = schemas["context_schema"]
    assert list(context["properties"]) == ["model", "max_tokens", "temperature", "concurrency"]
    assert context["langgraph_nodes"] == ["screen"]
    assert context["additionalProperties"] is False


async def test_the_drawing(molecules, literature):
    drawing = await drawing_of(molecules)
    nodes = {node["id"]: node.get("metadata") for node in drawing["nodes"]}
    assert nodes["screen"]["kind"] == "fan-out"
    assert nodes["screen"]["endpoints"] == "LLM"
    assert nodes["screen"]["limits"] == "64 at once"
    assert nodes["gather"] == {"kind": "reduce", "reducer": "collect", "into": "predictions"}
    edges = {(edge["source"], edge["target"]) for edge in drawing["edges"]}
    assert edges == {("__start__", "screen"), ("screen", "gather"), ("gather", "__end__")}
    drawing = await drawing_of(literature)
    check = next(node for node in drawing["nodes"] if node["id"] == "check")
    assert check["metadata"]["task"] == "check_claim"


async def test_a_run(molecules, fleet):
    given = some(100)
    output = await answers(molecules, "molecules", given)
    assert own_answers(output, given)
    assert output["failures"] == []
    assert output["report"]["ok"] == fleet.record().served == 100


async def test_progress_and_updates_are_streamed(molecules, fleet):
    fleet.change(0, latency=0.2)
    thread, modes = await molecules.threads.create(), ["custom", "updates"]
    stream = molecules.runs.stream(
        thread["thread_id"], "molecules", input=some(80), stream_mode=modes
    )
    parts = [part async for part in stream]
    progress = [part.data for part in parts if part.event == "custom"]
    assert {(event["type"], event["node"]) for event in progress} == {
        ("hpc_fanout.progress", "screen")
    }
    assert [event["done"] for event in progress] == sorted(event["done"] for event in progress)
    assert len(progress) >= 4
    assert progress[-1]["ok"] == progress[-1]["total"] == 80
    updates = Counter(next(iter(part.data)) for part in parts if part.event == "updates")
    assert updates == {"screen": 40, "gather": 1}


async def test_a_cancelled_run_sends_nothing_more(molecules, fleet):
    fleet.change(0, latency=0.5)
    thread = await molecules.threads.create()
    run = await molecules.runs.create(thread["thread_id"], "molecules", input=some(200))
    await fleet.until(lambda record: record.served >= 16)
    await molecules.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
    record = await fleet.until(lambda record: record.in_flight == 0)
    await asyncio.sleep(1)
    assert fleet.record().arrived == record.arrived < 200
    run = await molecules.runs.get(thread["thread_id"], run["run_id"])
    assert run["status"] == "interrupted"
    fleet.change(0, latency=0.01)
    given = some(10)
    assert own_answers(await answers(molecules, "molecules", given), given)


async def test_two_runs_at_once(molecules, fleet):
    fleet.change(0, latency=0.5)
    both = [some(48, "left"), some(48, "right")]
    outputs = await asyncio.gather(*(answers(molecules, "molecules", given) for given in both))
    for output, given in zip(outputs, both, strict=True):
        assert own_answers(output, given)
    record = fleet.record()
    assert record.served == 96
    assert 16 < record.peak_in_flight <= 32


async def test_a_failed_run_is_resumed(molecules, fleet, may_complain):
    given, context = some(60), {"concurrency": 4}
    fleet.change(0, faults=(Fault("http_401", contains="is m30 "),))
    thread = (await molecules.threads.create())["thread_id"]
    with pytest.raises(Exception, match=r"FanOutError: .*answered 401"):
        await molecules.runs.wait(thread, "molecules", input=given, context=context)
    before = await fleet.until(lambda record: record.in_flight == 0)
    fleet.change(0, faults=())
    fleet.reset_record()
    output = await molecules.runs.wait(thread, "molecules", input=None, context=context)
    assert own_answers(output, given)
    missing = 60 - before.statuses[200]
    assert missing <= fleet.record().served < missing + 4


async def test_the_context_changes_requests(molecules, fleet, model):
    fleet.change(0, latency=0.05)
    context = {"model": "tiny", "max_tokens": 99, "temperature": 0.7, "concurrency": 3}
    await answers(molecules, "molecules", some(20), context=context)
    sent = {(body["model"], body["max_tokens"], body["temperature"]) for body in model.bodies}
    assert sent == {("tiny", 99, 0.7)}
    assert fleet.record().peak_in_flight == 3


async def test_the_context_of_an_assistant(molecules, fleet, model):
    """What is edited in Studio is kept as an assistant."""
    terse = await molecules.assistants.create("molecules", context={"max_tokens": 77})
    await answers(molecules, terse["assistant_id"], some(1))
    await molecules.assistants.delete(terse["assistant_id"])
    (body,) = model.bodies
    assert (body["max_tokens"], body["temperature"]) == (77, 0)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"temperature": 9}, r"ValidationError: .*\ntemperature\n.*less than or equal to 2"),
        ({"concurrency": "many"}, r"ValidationError: .*\nconcurrency\n.*valid integer"),
        ({"model": "big"}, r"FanOutError: No endpoint serves model 'big': LLM .* serves tiny"),
    ],
)
async def test_what_a_context_cannot_be_is_said(molecules, fleet, may_complain, context, message):
    with pytest.raises(Exception, match=message):
        await answers(molecules, "molecules", some(1), context=context)
    assert fleet.record().served == 0


async def test_an_input_without_molecules_is_said(molecules, fleet, may_complain):
    with pytest.raises(Exception, match="FanOutError: screen: the state has no 'molecules'"):
        await answers(molecules, "molecules", {})


async def test_agents_answer_and_are_remembered(literature, fleet, model):
    fleet.change(0, latency=0.05)
    schemas = await schemas_of(literature)
    given = {"claims": schemas["input_schema"]["properties"]["claims"]["default"]}
    output = await answers(literature, "literature", given, context={"concurrency": 2})
    assert [each["verdict"] for each in output["verdicts"]] == ["supported"] * 6
    for verdict, item in zip(output["verdicts"], given["claims"], strict=True):
        assert verdict["reason"].split(": ")[1] in item["claim"]
    assert fleet.record().served == 18  # a search, a look at what was found, a verdict
    assert fleet.record().peak_in_flight <= 2
    again = await answers(literature, "literature", given)
    assert again["verdicts"] == output["verdicts"]
    assert again["report"]["cached"] == 6
    assert fleet.record().served == 18


async def test_agents_are_cancelled(literature, fleet):
    fleet.change(0, latency=0.5)
    given = {"claims": [{"claim": f"Claim number {number}."} for number in range(30)]}
    thread = await literature.threads.create()
    run = await literature.runs.create(thread["thread_id"], "literature", input=given)
    await fleet.until(lambda record: record.served >= 4)
    await literature.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
    record = await fleet.until(lambda record: record.in_flight == 0)
    await asyncio.sleep(1)
    assert fleet.record().arrived == record.arrived < 60
