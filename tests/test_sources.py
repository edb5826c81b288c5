"""Graphs whose items are in files, iterators, products or state, and what may be wrong there."""

from __future__ import annotations

import asyncio
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import build, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver

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
    Parquet,
    Prompt,
    ReduceNode,
    Results,
    Sweep,
    TextFiles,
    create_map_reduce,
    reducers,
)
from langgraph_hpc_fanout.journal.export import to_dead_letters
from langgraph_hpc_fanout.nodes import intake
from langgraph_hpc_fanout.runs.registry import registry
from langgraph_hpc_fanout.testing.fleet import Fault

CONFIG = {"configurable": {"thread_id": "1"}}
SIZE = 130


def json_lines(directory, rows):
    path = directory / "items.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def zipped(directory, rows):
    path = directory / "items.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(directory, rows).read_bytes()))
    return path


def csv(directory, rows):
    path = directory / "items.csv"
    path.write_text("smiles\n" + "".join(f"{row['smiles']}\n" for row in rows))
    return path


def parquet(directory, rows):
    path = directory / "items.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
    return path


def letters(directory, rows):
    lines = [{"item": row, "index": n, "key": "k", "failure": {}} for n, row in enumerate(rows)]
    return json_lines(directory, lines)


def function_of(path):
    return lambda state: JsonLines(path)


WAYS = {
    "a path": lambda directory, rows: str(json_lines(directory, rows)),
    "json lines": lambda directory, rows: JsonLines(json_lines(directory, rows)),
    "gzip": lambda directory, rows: JsonLines(zipped(directory, rows)),
    "csv": lambda directory, rows: Csv(csv(directory, rows)),
    "parquet": lambda directory, rows: Parquet(parquet(directory, rows)),
    "dead letters": lambda directory, rows: DeadLetters(letters(directory, rows)),
    "state": lambda directory, rows: "molecules",
    "a function's list": lambda directory, rows: lambda state: state["molecules"],
    "a function's iterator": lambda directory, rows: lambda state: iter(state["molecules"]),
    "a function's source": lambda directory, rows: function_of(json_lines(directory, rows)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restarted", [False, True], ids=["live", "restarted"])
@pytest.mark.parametrize("kept", ["state", "journal"])
def test_items_from_anywhere(fake_fleet, pool_over, tmp_path, monkeypatch, way, restarted, kept):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    if restarted:  # as if the process were new: branches bring their own shards
        monkeypatch.setattr(registry, "register", lambda run: None)
        monkeypatch.setattr(intake, "_INLINE_BYTES", 100)
    rows = molecules(SIZE)
    graph = build(
        pool_over(fake_fleet().urls),
        items=WAYS[way](tmp_path, rows),
        journal=Journal(tmp_path / "run") if kept == "journal" else None,
        checkpointer=InMemorySaver(),
    )
    state = graph.invoke({"molecules": rows}, CONFIG)
    assert right_answers(state["predictions"], rows)
    again = {"configurable": {"thread_id": "2"}}
    state = asyncio.run(graph.ainvoke({"molecules": rows}, again))
    assert right_answers(state["predictions"], rows)
    assert state["report"]["cached"] == (SIZE if kept == "journal" else 0)


async def test_files_are_not_read_on_the_callers_loop(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    path = await asyncio.to_thread(zipped, tmp_path, molecules(SIZE))
    graph = build(pool_over(fleet.urls), items=path, journal=Journal(tmp_path / "run"))
    state = await graph.ainvoke({"question": "?"})
    assert right_answers(state["predictions"], molecules(SIZE))


def test_text_files(fake_fleet, pool_over, tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"The {name}.")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe not UTF-8")
    fleet = fake_fleet()
    graph = build(pool_over(fleet.urls), items=TextFiles(tmp_path), task=Prompt("Summarise {text}"))
    state = graph.invoke({"question": "?"})
    first, second, third = state["predictions"]
    assert "Summarise The a." in first
    assert second is None
    assert "Summarise The c." in third
    assert "b.txt" in state["failures"][0]["error"]["message"]


# -- requests that are ready ------------------------------------------------------------------


def batch(directory, *bodies):
    path = directory / "batch.jsonl"
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(bodies)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return OpenAIBatch(path)


def body(text, **more):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def test_a_batch_file_says_itself_what_is_asked(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(answer=lambda body: f"{body.get('max_tokens')} {body.get('temperature')}")
    source = batch(
        tmp_path,
        body("A?", max_tokens=9, temperature=0.5),
        body("B?", model="other"),
        {"model": "tiny", "input": "an embedding"},
        body("D?"),
    )
    graph = build(
        pool_over(fleet.urls), items=source, task=None, reduce={"reducer": reducers.by_key}
    )
    state = graph.invoke({"question": "?"})
    assert state["predictions"] == {"r0": "9 0.5", "r1": None, "r2": None, "r3": "None None"}
    said = [each["error"]["message"] for each in state["failures"]]
    assert said == [
        "Item 1 cannot be asked: its body names the model 'other', that of the first 'tiny'.",
        "Item 2 cannot be asked: its body has no messages; only chat completions can be asked.",
    ]


def test_a_batch_file_may_be_asked_something_else(fake_fleet, pool_over, tmp_path):
    source = batch(tmp_path, body("A?"))
    graph = build(pool_over(fake_fleet().urls), items=source, task=Prompt("Is {custom_id} in?"))
    assert "Is r0 in?" in graph.invoke({"question": "?"})["predictions"][0]


def test_failed_items_as_a_source(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C7 ", times=1),))
    source = JsonLines(json_lines(tmp_path, molecules(20)))
    graph = build(
        pool_over(fleet.urls),
        items=source,
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": reducers.reference},
    )
    results = Results.open(graph.invoke({"question": "?"})["predictions"])
    assert to_dead_letters(results, tmp_path / "failed.jsonl", source) == 1
    fleet.reset_record()
    again = build(pool_over(fleet.urls), items=DeadLetters(tmp_path / "failed.jsonl"))
    (answer,) = again.invoke({"question": "?"})["predictions"]
    assert "Is C7 soluble?" in answer
    assert fleet.record().served == 1


# -- what is wrong ----------------------------------------------------------------------------


def test_a_corrupt_row_fails_alone(fake_fleet, pool_over, tmp_path):
    path = json_lines(tmp_path, molecules(SIZE))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[60] = b'{"smiles": "C60\n'
    lines[61] = b'{"smiles": "\xff"}\n'
    path.write_bytes(b"".join(lines))
    state = build(pool_over(fake_fleet().urls), items=str(path)).invoke({"question": "?"})
    rows = molecules(SIZE)
    assert [n for n, answer in enumerate(state["predictions"]) if answer is None] == [60, 61]
    assert right_answers(state["predictions"][62:], rows[62:])
    first, second = (each["error"]["message"] for each in state["failures"])
    assert "items.jsonl, line 61" in first
    assert "items.jsonl, line 62" in second


def test_rows_of_many_kinds(fake_fleet, pool_over, tmp_path):
    path = json_lines(tmp_path, [{"smiles": "C"}, "text", 7, None, ["a"], {"smiles": 8}])
    state = build(pool_over(fake_fleet().urls), items=str(path)).invoke({"question": "?"})
    answered = [answer is not None for answer in state["predictions"]]
    assert answered == [True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("a,b\n1,2\n", "items.csv", r"the prompt wants 'smiles', which neither the items \(a, b\)"),
        (None, "items.jsonl", r"screen: .*items\.jsonl"),
        ("", "items.parquet", r"screen: .*items\.parquet"),
        ("x", "items.xlsx", r"screen: .*items\.xlsx is of no known kind"),
    ],
)
def test_a_source_that_cannot_be_used(fake_fleet, pool_over, tmp_path, content, name, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    fleet = fake_fleet()
    graph = build(pool_over(fleet.urls), items=str(tmp_path / name))
    with pytest.raises(FanOutError, match=said):
        graph.invoke({"question": "?"})
    assert fleet.record().arrived == 0


def test_an_empty_file_is_an_empty_list(fake_fleet, pool_over, tmp_path):
    path = json_lines(tmp_path, [])
    state = build(pool_over(fake_fleet().urls), items=str(path)).invoke({"question": "?"})
    assert (state["predictions"], state["report"]["total"]) == ([], 0)


def test_a_file_that_changes_between_runs_is_asked_what_is_new(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    path = json_lines(tmp_path, molecules(10))
    graph = build(pool_over(fleet.urls), items=str(path), journal=Journal(tmp_path / "run"))
    graph.invoke({"question": "?"})
    json_lines(tmp_path, molecules(12)[::-1])
    state = graph.invoke({"question": "?"})
    assert right_answers(state["predictions"], molecules(12)[::-1])
    assert state["report"]["cached"] == 10


def test_a_file_that_changed_is_not_resumed(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains="C30 ", times=1),))
    path = json_lines(tmp_path, molecules(64))
    graph = build(
        pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=4))),
        items=str(path),
        journal=Journal(tmp_path / "run"),
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(FanOutError, match="answered 401"):
        graph.invoke({"question": "?"}, CONFIG)
    json_lines(tmp_path, molecules(70))
    with pytest.raises(FanOutError, match=r"screen: .*items\.jsonl has changed"):
        graph.invoke(None, CONFIG)
    state = graph.invoke({"question": "?"}, {"configurable": {"thread_id": "2"}})
    assert right_answers(state["predictions"], molecules(70))
    assert state["report"]["cached"] >= 26


def test_a_file_that_is_cut_while_it_is_read(fake_fleet, pool_over, tmp_path):
    path = json_lines(tmp_path, molecules(20_000))
    fleet = fake_fleet(latency=0.02)
    graph = build(
        pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=64))), items=str(path)
    )

    def cut_in_mid_run():
        for event in graph.stream({"question": "?"}, stream_mode="custom"):
            if event["done"]:
                os.truncate(path, 0)

    with pytest.raises(FanOutError, match=r"items\.jsonl"):
        cut_in_mid_run()


def test_an_iterator_that_breaks(fake_fleet, pool_over, tmp_path):
    def rows(state):
        yield from molecules(3)
        raise OSError("the tape is torn")

    fleet = fake_fleet()
    graph = build(pool_over(fleet.urls), items=rows, journal=Journal(tmp_path / "run"))
    with pytest.raises(FanOutError, match="the tape is torn"):
        graph.invoke({"question": "?"})
    assert fleet.record().arrived == 0


def test_an_iterator_of_what_cannot_be_written(fake_fleet, pool_over, tmp_path):
    graph = build(
        pool_over(fake_fleet().urls),
        items=lambda state: iter([{"smiles": "C"}, {"smiles": object()}]),
        journal=Journal(tmp_path / "run"),
    )
    with pytest.raises(FanOutError, match=r"screen: .*1.*object"):
        graph.invoke({"question": "?"})


def test_a_list_that_no_checkpoint_could_hold_stays_where_it_is(pool_over, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(intake, "_INLINE_BYTES", 10)
    rows = [{"smiles": f"C{n}", "handle": open} for n in range(5)]
    graph = build(pool_over(FunctionEndpoint(lambda messages: "yes")), items=lambda state: rows)
    assert graph.invoke({"question": "?"}, CONFIG)["predictions"] == ["yes"] * 5


def test_a_map_reduce_over_a_file_has_no_key_for_its_items(fake_fleet, pool_over, tmp_path):
    path = json_lines(tmp_path, molecules(3))
    screen = FanOutNode(
        str(path), Prompt("Is {smiles} soluble?"), pool=pool_over(fake_fleet().urls)
    )
    graph = create_map_reduce(screen, ReduceNode(screen, into="predictions")).compile()
    assert set(graph.get_output_jsonschema()["properties"]) == {"predictions"}
    assert right_answers(graph.invoke({"predictions": []})["predictions"], molecules(3))


def test_a_product_of_lists_in_state(fake_fleet, pool_over):
    graph = build(
        pool_over(fake_fleet().urls),
        items=Sweep({"molecule": "molecules", "question": lambda state: ["toxic", "soluble"]}),
        task=Prompt("Is {molecule} {question}?"),
    )
    answers = graph.invoke({"molecules": ["A", "B"]})["predictions"]
    asked = ["Is A toxic?", "Is A soluble?", "Is B toxic?", "Is B soluble?"]
    assert [question in answer for question, answer in zip(asked, answers, strict=True)] == [
        True
    ] * 4
