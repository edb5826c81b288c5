"""Beginning again: with a checkpointer, with a journal, with both."""

from __future__ import annotations

import pytest
from graphs import State, build, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Prompt,
    ReduceNode,
    Results,
    Retry,
    add_fan_out,
    reducers,
)
from langgraph_hpc_fanout.runs import keeper
from langgraph_hpc_fanout.testing.fleet import Fault

CONFIG = {"configurable": {"thread_id": "1"}}


def one_lane(fleet, pool_over, concurrency=4):
    return pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=concurrency)))


@pytest.mark.parametrize("size", [8, 64, 300])
def test_a_failure_in_mid_run_then_invoke_none(fake_fleet, pool_over, tmp_path, size):
    unlucky = f"C{size // 2} "
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains=unlucky, times=1),))
    graph = build(
        one_lane(fleet, pool_over),
        checkpointer=InMemorySaver(),
        journal=Journal(tmp_path / "run"),
    )
    with pytest.raises(FanOutError, match="answered 401") as caught:
        graph.invoke({"molecules": molecules(size)}, CONFIG)
    kept = len([outcome for outcome in caught.value.outcomes if outcome.ok])
    assert kept >= size // 2 - 4
    fleet.reset_record()
    state = graph.invoke(None, CONFIG)
    assert right_answers(state["predictions"], molecules(size))
    assert fleet.record().served == size - kept
    assert state["report"]["total"] == state["report"]["ok"] == size


async def test_the_same_in_async_with_sqlite(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains="C30 ", times=1),))
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "state.db")) as saver:
        graph = build(
            one_lane(fleet, pool_over), checkpointer=saver, journal=Journal(tmp_path / "run")
        )
        with pytest.raises(FanOutError):
            await graph.ainvoke({"molecules": molecules(64)}, CONFIG)
        fleet.reset_record()
        state = await graph.ainvoke(None, CONFIG)
    assert right_answers(state["predictions"], molecules(64))
    assert fleet.record().served < 64


def test_without_a_journal_finished_branches_are_kept(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains="C30 ", times=1),))
    graph = build(one_lane(fleet, pool_over, concurrency=1), checkpointer=InMemorySaver())
    with pytest.raises(FanOutError):
        graph.invoke({"molecules": molecules(64)}, CONFIG)
    state = graph.invoke(None, CONFIG)
    assert right_answers(state["predictions"], molecules(64))


def test_a_resume_in_another_process_like_start(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(latency=0.002, faults=(Fault("http_401", contains="C30 ", times=1),))

    def fresh(saver):
        return build(
            one_lane(fleet, pool_over), checkpointer=saver, journal=Journal(tmp_path / "run")
        )

    database = str(tmp_path / "state.db")
    with SqliteSaver.from_conn_string(database) as saver, pytest.raises(FanOutError):
        fresh(saver).invoke({"molecules": molecules(64)}, CONFIG)
    with SqliteSaver.from_conn_string(database) as saver:
        state = fresh(saver).invoke(None, CONFIG)
    assert right_answers(state["predictions"], molecules(64))
    assert fleet.record().statuses[200] <= 64 + 3, "all but those in flight at the abort"


def test_a_journal_asks_only_what_is_missing(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(faults=(Fault("http_400", contains="C7 ", times=1),))
    journal = Journal(tmp_path / "run")
    graph = build(pool_over(fleet.urls), journal=journal)
    first = graph.invoke({"molecules": molecules(100)})
    assert first["predictions"][7] is None
    assert first["report"]["cached"] == 0
    fleet.reset_record()
    again = build(pool_over(fleet.urls), journal=Journal(tmp_path / "run")).invoke(
        {"molecules": molecules(101)}
    )
    assert right_answers(again["predictions"], molecules(101))
    assert sorted(row.prompt for row in fleet.record().requests) == [
        "Is C100 soluble?",
        "Is C7 soluble?",
    ]
    assert again["report"]["cached"] == 99


def test_another_question_is_another_key(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    pool, journal = pool_over(fleet.urls), Journal(tmp_path / "run")
    build(pool, journal=journal).invoke({"molecules": molecules(3)})
    for task in (
        Prompt("Is {smiles} toxic?"),
        Prompt("Is {smiles} soluble?", temperature=0.5),
        Prompt("Is {smiles} soluble?", system="You know."),
    ):
        report = build(pool, journal=journal, task=task).invoke({"molecules": molecules(3)})[
            "report"
        ]
        assert report["cached"] == 0
    assert fleet.record().served == 12


def test_ones_own_keys_are_good_for_their_fan_out(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    pool, journal = pool_over(fleet.urls), Journal(tmp_path / "run")
    items = [{"id": "a", "smiles": "C0"}]
    build(pool, journal=journal, key="id").invoke({"molecules": items})
    changed = [{"id": "a", "smiles": "C9"}]
    state = build(pool, journal=journal, key="id").invoke({"molecules": changed})
    assert state["report"]["cached"] == 1
    other = FanOutNode(
        "molecules", Prompt("Toxic? {smiles}"), pool=pool, name="toxic", key="id", journal=journal
    )
    builder = StateGraph(State)
    add_fan_out(builder, other, ReduceNode(other, into="predictions"), after=START, before=END)
    builder.compile().invoke({"molecules": items})
    assert fleet.record().served == 2


def test_two_runs_at_once_on_one_journal(fake_fleet, pool_over, tmp_path):
    import asyncio

    fleet = fake_fleet(latency=0.005)
    pool = pool_over(fleet.urls)
    graphs = [build(pool, journal=Journal(tmp_path / "run")) for _ in range(2)]

    async def both():
        return await asyncio.gather(
            graphs[0].ainvoke({"molecules": molecules(150)}),
            graphs[1].ainvoke({"molecules": molecules(300)[150:]}),
        )

    first, second = asyncio.run(both())
    assert right_answers(first["predictions"], molecules(150))
    assert right_answers(second["predictions"], molecules(300)[150:])


def test_an_outgrown_state_goes_to_a_temporary_journal(
    fake_fleet, pool_over, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(keeper, "INLINE_BYTES", 20_000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    fleet = fake_fleet(latency=0.001)
    graph = build(pool_over(fleet.urls))
    state = graph.invoke({"molecules": molecules(500)})
    assert right_answers(state["predictions"], molecules(500))
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"are kept in {tmp_path}" in warning.getMessage()
    assert "give FanOutNode a journal=" in warning.getMessage()


def test_results_of_a_journal_that_is_gone(tmp_path):
    reference = {"run": "r", "journal": str(tmp_path / "gone"), "total": 1, "ok": 1, "failed": 0}
    with pytest.raises(FileNotFoundError, match="is gone"):
        Results.open(reference)


def test_a_journal_that_cannot_be_written(fake_fleet, pool_over, tmp_path):
    (tmp_path / "file").write_text("in the way")
    fleet = fake_fleet()
    graph = build(pool_over(fleet.urls), journal=Journal(tmp_path / "file" / "run"))
    with pytest.raises(FanOutError, match=r"cannot be written|could not start"):
        graph.invoke({"molecules": molecules(3)})


def test_the_reference_is_small(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    graph = build(
        pool_over(fleet.urls),
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": reducers.reference},
        retry=Retry(attempts=1),
    )
    reference = graph.invoke({"molecules": molecules(10)})["predictions"]
    assert set(reference) == {"run", "journal", "total", "ok", "failed"}
