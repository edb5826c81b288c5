"""Graphs over each kind of items: however they are run, after restarts, and where it is bad."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import PROMPT, build, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_hpc_fanout import (
    Csv,
    DeadLetters,
    FanOutError,
    FanOutNode,
    FunctionEndpoint,
    Journal,
    JsonLines,
    Limits,
    OpenAIBatch,
    OpenAIEndpoint,
    Outcome,
    Parquet,
    Prompt,
    ReduceNode,
    Results,
    Sweep,
    TextFiles,
    create_map_reduce,
    reducers,
)
from langgraph_hpc_fanout.journal import export
from langgraph_hpc_fanout.nodes import intake
from langgraph_hpc_fanout.runs.registry import registry
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault

CONFIG = {"configurable": {"thread_id": "1"}}
SIZE = 150


def lines(items):
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def json_lines(place, items):
    (place / "m.jsonl").write_bytes(lines(items))
    return place / "m.jsonl"


def gz(place, items):
    (place / "m.jsonl.gz").write_bytes(gzip.compress(lines(items)))
    return JsonLines(place / "m.jsonl.gz")


def zst(place, items):
    with pa.output_stream(str(place / "m.jsonl.zst"), compression="zstd") as stream:
        stream.write(lines(items))
    return JsonLines(place / "m.jsonl.zst")


def csv(place, items):
    rows = "".join(f"{number},{item['smiles']}\n" for number, item in enumerate(items))
    (place / "m.csv").write_text(f"id,smiles\n{rows}")
    return Csv(place / "m.csv")


def parquet(place, items):
    table = pa.Table.from_pylist(items, schema=pa.schema([("smiles", pa.string())]))
    pq.write_table(table, place / "m.parquet", row_group_size=40)
    return Parquet(place / "m.parquet")


def texts(place, items):
    (place / "texts").mkdir(exist_ok=True)
    for number, item in enumerate(items):
        (place / "texts" / f"{number:04d}.txt").write_text(item["smiles"])
    return TextFiles(place / "texts")


def batch(place, items):
    requests = [
        {"custom_id": f"request {number}", "body": {"messages": messages(item), "max_tokens": 64}}
        for number, item in enumerate(items)
    ]
    (place / "batch.jsonl").write_bytes(lines(requests))
    return OpenAIBatch(place / "batch.jsonl")


def messages(item):
    return [{"role": "user", "content": f"Is {item['smiles']} soluble?"}]


def dead_letters(place, items):
    (place / "dead.jsonl").write_bytes(lines({"item": item, "index": 7} for item in items))
    return DeadLetters(place / "dead.jsonl")


def product(place, items):
    (place / "names.jsonl").write_bytes(lines(item["smiles"] for item in items))
    return Sweep({"smiles": str(place / "names.jsonl"), "property": ["soluble"]})


KINDS = {
    "state": lambda place, items: "molecules",
    "list": lambda place, items: items,
    "function": lambda place, items: lambda state: state["molecules"],
    "iterator": lambda place, items: lambda state: iter(items),
    "function of a source": lambda place, items: lambda state: parquet(place, items),
    "path": lambda place, items: str(json_lines(place, items)),
    "gz": gz,
    "zst": zst,
    "csv": csv,
    "parquet": parquet,
    "texts": texts,
    "batch": batch,
    "dead letters": dead_letters,
    "product": product,
}
TASKS = {"texts": Prompt("Is {text} soluble?"), "batch": None}


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    """A graph over items of one kind, from a pool and settings."""

    def make(pool, **options):
        items = KINDS[request.param](tmp_path, molecules(SIZE))
        return build(pool, items=items, task=TASKS.get(request.param, PROMPT), **options)

    return make


@pytest.fixture
def new_process(monkeypatch):
    """As if the process were new: no run is registered, so branches bring their own shards."""
    monkeypatch.setattr(registry, "register", lambda run: None)


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet(latency=0.001)


@pytest.fixture
def pool(fleet, pool_over):
    return pool_over(fleet.urls)


GIVEN = {"molecules": molecules(SIZE)}


def is_answered(state):
    return right_answers(state["predictions"], GIVEN["molecules"])


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_every_item_gets_its_own_answer(made, pool, tmp_path, kept):
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    graph = made(pool, journal=journal)
    assert is_answered(graph.invoke(GIVEN))
    again = graph.invoke(GIVEN)
    assert is_answered(again)
    assert again["report"]["cached"] == (SIZE if journal else 0)


async def test_in_async_code_nothing_blocks(made, pool, tmp_path):
    """Not the loop of the caller, nor the dispatch loop; see conftest.py."""
    graph = made(pool, journal=Journal(tmp_path / "run"))
    assert is_answered(await graph.ainvoke(GIVEN))
    assert is_answered([state async for state in graph.astream(GIVEN, stream_mode="values")][-1])


async def test_branches_find_their_items_again(made, pool, new_process):
    graph = made(pool)
    assert is_answered(await graph.ainvoke(GIVEN))
    state = await graph.ainvoke(GIVEN, CONFIG)
    assert is_answered(state)
    assert state["report"]["total"] == SIZE


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_a_resume_in_another_process(
    made, fake_fleet, pool_over, tmp_path, monkeypatch, new_process, kept
):
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains="C75 ", times=1),))
    lane = OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1))
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    with SqliteSaver.from_conn_string(str(tmp_path / "state.db")) as saver:
        graph = made(pool_over(lane), checkpointer=saver, journal=journal)
        with pytest.raises(FanOutError, match="answered 401"):
            graph.invoke(GIVEN, CONFIG)
        fleet.reset_record()
        assert is_answered(graph.invoke(None, CONFIG))
        if journal:
            assert fleet.record().served < SIZE


def test_branches_hold_where_items_are_and_not_the_items(pool_over, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_bytes(lines({"smiles": f"C{number}" * 10} for number in range(100_000)))

    async def never(request):
        await asyncio.sleep(3600)

    graph = build(pool_over(FunctionEndpoint(never)), items=path)
    stream = graph.stream({}, stream_mode="tasks")
    branches = list(islice((each["input"] for each in stream if each["name"] == "screen"), 64))
    stream.close()
    assert sum(branch["count"] for branch in branches) == 100_000
    assert max(len(json.dumps(branch)) for branch in branches) < 1000


# -- bad input --------------------------------------------------------------------------------


def failures(state):
    return {each["index"]: each["error"]["message"] for each in state["failures"]}


def test_a_corrupt_row_fails_alone_and_is_named(pool, fleet, tmp_path):
    rows = [b'{"smiles": "C%d"}' % number for number in range(200)]
    rows[77] = b'{"smiles": "C77'
    rows[78] = b'{"smiles": "C\xff"}'
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(rows))
    state = build(pool, items=JsonLines(tmp_path / "m.jsonl")).invoke({})
    assert fleet.record().served == 198
    told = failures(state)
    assert set(told) == {77, 78}
    assert f"{tmp_path / 'm.jsonl'}, line 78: no JSON" in told[77]
    assert f"{tmp_path / 'm.jsonl'}, line 79: " in told[78]
    assert "UTF-8" in told[78]
    del state["predictions"][77:79]
    assert right_answers(state["predictions"], molecules(77) + molecules(200)[79:])


def test_a_corrupt_row_of_a_product_fails_in_all_its_combinations(pool, tmp_path):
    (tmp_path / "m.jsonl").write_text('"C0"\n?\n"C2"\n')
    sweep = Sweep({"smiles": tmp_path / "m.jsonl", "as": ["salt", "acid"]}, samples=2)
    state = build(pool, items=sweep, task=Prompt("Is {smiles} soluble as {as}?")).invoke({})
    assert [answer is None for answer in state["predictions"]] == [0] * 4 + [1] * 4 + [0] * 4
    assert all("line 2: no JSON" in message for message in failures(state).values())


def test_rows_with_a_value_too_few(pool, tmp_path):
    (tmp_path / "m.csv").write_text("id,smiles\n0,C0\n1\n2,C2\n")
    state = build(pool, items=str(tmp_path / "m.csv"), key="id").invoke({})
    assert failures(state) == {1: f"{tmp_path / 'm.csv'}, line 3: 1 values for 2 fields"}


def test_rows_of_mixed_types(pool, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"smiles": "C0"}\n7\nnull\n["C3"]\n{"smiles": 4}\n')
    state = build(pool, items=JsonLines(tmp_path / "m.jsonl")).invoke({})
    assert "Is C0 soluble?" in state["predictions"][0]
    assert "Is 4 soluble?" in state["predictions"][4]
    told = failures(state)
    assert told[1] == "Item 1 cannot be asked: it has no field 'smiles', which the prompt wants."
    assert told[2] == "Item 2 cannot be asked: it has no field 'smiles', which the prompt wants."
    assert "Item 3 cannot be asked: it is a list" in told[3]


@pytest.mark.parametrize("kind", ["gz", "csv", "parquet", "path", "dead letters"])
def test_a_column_that_is_missing_is_told_before_anything_is_sent(kind, pool, fleet, tmp_path):
    items = KINDS[kind](tmp_path, molecules(100))
    says = r"the prompt wants 'colour', which neither the items \((id, )?smiles\) nor shared="
    with pytest.raises(FanOutError, match=says):
        build(pool, items=items, task=Prompt("{smiles} {colour}")).invoke({})
    with pytest.raises(FanOutError, match=r"key='doi' names no field of the items \((id, )?smiles"):
        build(pool, items=items, key="doi").invoke({})
    assert fleet.record().arrived == 0


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz", "m.csv", "m.tsv"])
async def test_an_empty_file(pool, tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    state = await build(pool, items=tmp_path / name).ainvoke({})
    assert state["predictions"] == []


@pytest.mark.parametrize(
    "items",
    [
        "gone.jsonl",
        Csv("gone.csv"),
        Parquet("gone.parquet"),
        TextFiles("gone"),
        Sweep({"a": "gone.jsonl", "b": ["x"]}, models=["fake-model"]),
        lambda state: "gone.jsonl",
    ],
    ids=["path", "csv", "parquet", "texts", "sweep", "function"],
)
async def test_a_file_that_is_not_there(pool, fleet, items):
    with pytest.raises(
        FanOutError, match=r"^screen: gone\S* (is not there|is no directory|has no)"
    ):
        await build(pool, items=items, task=Prompt("{item}")).ainvoke({})
    assert fleet.record().arrived == 0


def test_a_file_of_a_kind_that_is_not_known(pool):
    with pytest.raises(
        FanOutError, match=r"screen: m\.xlsx is of no known kind; sources are \.json"
    ):
        build(pool, items="m.xlsx").invoke({})


def test_a_file_that_changes_between_runs(pool, tmp_path):
    journal = Journal(tmp_path / "run")
    graph = build(pool, items=JsonLines(json_lines(tmp_path, molecules(80))), journal=journal)
    assert graph.invoke({})["report"]["total"] == 80
    json_lines(tmp_path, molecules(100)[10:])
    state = graph.invoke({})
    assert right_answers(state["predictions"], molecules(100)[10:])
    assert state["report"]["cached"] == 70


def test_a_file_that_changes_before_a_run_goes_on(fake_fleet, pool_over, tmp_path, new_process):
    fleet = fake_fleet(faults=(Fault("http_401", contains="C50 ", times=1),))
    items = json_lines(tmp_path, molecules(100))
    graph = build(pool_over(fleet.urls), items=items, checkpointer=InMemorySaver())
    with pytest.raises(FanOutError, match="answered 401"):
        graph.invoke({}, CONFIG)
    json_lines(tmp_path, molecules(101))
    with pytest.raises(FanOutError, match=r"m\.jsonl has changed since the run began \(size"):
        graph.invoke(None, CONFIG)


def test_an_iterator_that_raises_half_way(pool, fleet, tmp_path):
    def rows(state):
        yield from molecules(40)
        raise TimeoutError("the archive is away")

    says = r"screen: items\(state\) raised TimeoutError.* after 40 items; nothing was sent\."
    with pytest.raises(FanOutError, match=says):
        build(pool, items=rows, journal=Journal(tmp_path / "run")).invoke({})
    assert fleet.record().arrived == 0


def test_an_iterator_of_what_cannot_be_written_down(pool, fleet):
    says = r"screen: Item 1 is a \w+ that cannot be written down.*; make plain data of it\."
    with pytest.raises(FanOutError, match=says):
        build(pool, items=lambda state: iter([{"smiles": "C"}, {"smiles": print}])).invoke({})
    assert fleet.record().arrived == 0


# -- requests that are ready, and what comes of them ------------------------------------------


def test_a_batch_is_asked_and_answered_as_batches_are(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C3 "),))
    graph = build(
        pool_over(fleet.urls),
        items=batch(tmp_path, molecules(5)),
        task=None,
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": reducers.reference},
    )
    results = Results.open(graph.invoke({})["predictions"])
    out, err = tmp_path / "out.jsonl", tmp_path / "err.jsonl"
    assert export.to_openai_batch(results, out, err) == (4, 1)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["custom_id"] for each in answers] == [f"request {n}" for n in (0, 1, 2, 4)]
    content = answers[3]["response"]["body"]["choices"][0]["message"]["content"]
    assert "Is C4 soluble?" in content
    (error,) = map(json.loads, err.read_text().splitlines())
    assert (error["custom_id"], error["response"]["status_code"]) == ("request 3", 400)


def test_a_batch_may_be_asked_by_a_prompt_of_ones_own(pool, tmp_path):
    task = Prompt("What is {custom_id}?")
    state = build(pool, items=batch(tmp_path, molecules(3)), task=task).invoke({})
    assert "What is request 2?" in state["predictions"][2]


def test_the_model_of_a_batch_is_that_of_its_bodies(fake_fleet, pool_over, tmp_path, new_process):
    fleet = fake_fleet([FakeEndpoint(models=(name,)) for name in ("large", "small")])
    models = ["large", "large", "small", "large"]
    rows = [
        {"custom_id": str(number), "body": {"model": model, "messages": messages(item)}}
        for number, (model, item) in enumerate(zip(models, molecules(4), strict=True))
    ]
    (tmp_path / "batch.jsonl").write_bytes(lines(["no request", *rows]))
    items = OpenAIBatch(tmp_path / "batch.jsonl")
    state = build(pool_over(fleet.urls), items=items, task=None).invoke({})
    told = failures(state)
    assert set(told) == {0, 3}
    assert "line 1: no batch request" in told[0]
    assert "names the model 'small', that of the first 'large'" in told[3]
    assert [each.served for each in fleet.record().endpoints] == [3, 0]


def test_a_batch_without_messages_fails_item_by_item(pool, tmp_path):
    rows = [
        {"custom_id": "a", "body": {"input": "embed me"}},
        {"custom_id": "b", "body": {"messages": messages({"smiles": "C"})}},
    ]
    (tmp_path / "batch.jsonl").write_bytes(lines(rows))
    state = build(pool, items=OpenAIBatch(tmp_path / "batch.jsonl"), task=None).invoke({})
    assert failures(state) == {
        0: "Item 0 cannot be asked: its body has no messages; only chat completions can be asked."
    }


def test_dead_letters_are_asked_again_and_only_they(fake_fleet, pool_over, tmp_path):
    broken = tuple(Fault("http_400", contains=f"C{number} ", times=1) for number in (3, 50, 99))
    fleet = fake_fleet(faults=broken)
    pool, items = pool_over(fleet.urls), JsonLines(json_lines(tmp_path, molecules(100)))
    first = build(pool, items=items, reduce={"reducer": list})
    outcomes = first.invoke({})["predictions"]
    assert export.to_dead_letters(outcomes, tmp_path / "dead.jsonl", items) == 3
    fleet.reset_record()
    state = build(pool, items=DeadLetters(tmp_path / "dead.jsonl")).invoke({})
    asked = [molecules(100)[number] for number in (3, 50, 99)]
    assert right_answers(state["predictions"], asked)
    assert fleet.record().arrived == 3


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_answered_of_an_item_costs_nothing_again(
    fake_fleet, pool_over, tmp_path, elsewhere
):
    asked = {"soluble": "Is {smiles} soluble?", "toxic": "Is {smiles} toxic?"}
    broken = tuple(Fault("http_400", contains=each, times=1) for each in ("C3 toxic", "C7 soluble"))
    fleet = fake_fleet(faults=broken)
    pool, path = pool_over(fleet.urls), json_lines(tmp_path, molecules(10))

    def run(items, **where):
        sweep = Sweep(items, prompts=asked, samples=2)
        graph = build(pool, items=sweep, task=None, journal=Journal(**where))
        return graph.invoke({})["predictions"]

    run(path, directory=tmp_path / "run")
    assert export.to_dead_letters(Results.of(tmp_path / "run"), tmp_path / "dead.jsonl") == 2
    fleet.reset_record()
    where = {"directory": tmp_path / "run"}
    if elsewhere:
        where = {"directory": tmp_path / "again", "cache": tmp_path / "run"}
    answers = run(DeadLetters(tmp_path / "dead.jsonl"), **where)
    assert [answer.split(maxsplit=2)[2] for answer in answers] == [
        f"Is C{number} {what}?" for number in (3, 7) for what in asked for _ in range(2)
    ]
    assert fleet.record().arrived == 2


def test_dead_letters_of_what_an_iterator_yielded(fake_fleet, pool_over, tmp_path):
    pool = pool_over(fake_fleet(faults=(Fault("http_400", contains="C3 "),)).urls)
    dead = tmp_path / "dead.jsonl"
    options = {
        "items": lambda state: iter(molecules(10)),
        "reduce": {"reducer": lambda results: export.to_dead_letters(results, dead)},
    }
    graph = build(pool, journal=Journal(tmp_path / "run"), **options)
    assert graph.invoke({})["predictions"] == 1
    assert list(DeadLetters(dead).read(0, 1)) == [{"smiles": "C3"}]
    with pytest.raises(FanOutError, match=r"items=\.\.\.\) is missing: run \S+ has no journal"):
        build(pool, **options).invoke({})
    options["items"] = "molecules"
    graph = build(pool, journal=Journal(tmp_path / "run"), **options)
    with pytest.raises(FanOutError, match=r"the journal \S+ does not tell where the items of"):
        graph.invoke({"molecules": molecules(10)})


@pytest.mark.parametrize("source", [str, JsonLines])
def test_dead_letters_that_are_taken_for_items(fake_fleet, pool_over, tmp_path, source):
    fleet = fake_fleet(faults=(Fault("http_400"),))
    pool, dead, items = pool_over(fleet.urls), tmp_path / "dead.jsonl", molecules(2)
    outcomes = build(pool, reduce={"reducer": list}).invoke({"molecules": items})["predictions"]
    export.to_dead_letters(outcomes, dead, items)
    said = rf'nothing was sent\. These are dead letters; give DeadLetters\("{dead}"\) for the items'
    with pytest.raises(FanOutError, match=said):
        build(pool, items=source(dead)).invoke({})


def test_outcomes_as_files_hold_what_was_answered(pool, tmp_path):
    graph = build(
        pool,
        items=parquet(tmp_path, molecules(100)),
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": reducers.table(tmp_path / "answers.parquet")},
    )
    assert graph.invoke({})["predictions"]["rows"] == 100
    table = pq.read_table(tmp_path / "answers.parquet")
    assert right_answers(table["value"].to_pylist(), molecules(100))
    outcomes = list(Results.of(tmp_path / "run"))
    export.to_json_lines(outcomes, tmp_path / "outcomes.jsonl.gz")
    back = JsonLines(tmp_path / "outcomes.jsonl.gz").read(0, 100)
    assert [Outcome.from_dict(each) for each in back] == outcomes


def written(directory, count):
    path = directory / "molecules.jsonl"
    path.write_text("".join(f'{{"smiles": "C{number}"}}\n' for number in range(count)))
    return path


def test_a_file_that_is_cut_while_it_is_read(fake_fleet, pool_over, tmp_path):
    path = written(tmp_path, 20_000)
    lane = OpenAIEndpoint(fake_fleet(latency=0.02).urls[0], limits=Limits(concurrency=64))
    graph = build(pool_over(lane), items=str(path))

    def cut_in_mid_run():
        for event in graph.stream({"question": "?"}, stream_mode="custom"):
            if event["done"]:
                os.truncate(path, 0)

    with pytest.raises(FanOutError, match=r"molecules\.jsonl"):
        cut_in_mid_run()


def test_a_list_that_no_checkpoint_could_hold_stays_where_it_is(pool_over, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(intake, "_INLINE_BYTES", 10)
    rows = [{"smiles": f"C{number}", "handle": open} for number in range(5)]
    pool = pool_over(FunctionEndpoint(lambda messages: "yes"))
    graph = build(pool, items=lambda state: rows)
    config = {"configurable": {"thread_id": "1"}}
    assert graph.invoke({"question": "?"}, config)["predictions"] == ["yes"] * 5


def test_a_map_reduce_over_a_file_has_no_key_for_its_items(pool, tmp_path):
    screen = FanOutNode(str(written(tmp_path, 3)), PROMPT, pool=pool)
    graph = create_map_reduce(screen, ReduceNode(screen, into="predictions")).compile()
    assert set(graph.get_output_jsonschema()["properties"]) == {"predictions"}
    assert right_answers(graph.invoke({"predictions": []})["predictions"], molecules(3))
