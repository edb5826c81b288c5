"""Keepers: what is kept is found again, and no branch goes on before its outcomes are safe."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest
from hosts import Host

from langgraph_hpc_fanout import Journal, Results
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Failure, Outcome
from langgraph_hpc_fanout.runs import keeper as module


def good(index, value="x", **more):
    return Outcome(f"k{index}", index, ok=True, value=value, attempts=1, **more)


def fill(keeper, shard):
    """Keep an answer for each of a shard's places."""
    for offset in range(shard.size):
        outcome = good(shard.index(offset), f"answer {shard.index(offset)}")
        keeper.keep(shard, offset, outcome)
        shard.take_note(offset, outcome)


def values_in(directory, run="run"):
    """What another process would read."""
    log = Log(Path(directory))
    log.refresh()
    return [outcome.value for outcome in log.outcomes(run)]


async def flushed(keeper):
    keeper.flush_soon()
    while keeper._flushing is not None:
        await asyncio.sleep(0.001)


# -- in graph state ----------------------------------------------------------------------------


def test_few_outcomes_travel_in_graph_state():
    host = Host(2, 1)
    keeper = host.keeper()
    asyncio.run(keeper.open())
    for shard in host.shards:
        fill(keeper, shard)
        keeper.report(shard)
    assert keeper.directory is keeper.log is None
    receipts = [shard.future.result(0) for shard in host.shards]
    assert [receipt["outcomes"]["value"] for receipt in receipts] == [
        ["answer 0", "answer 1"],
        ["answer 2"],
    ]
    assert [outcome.index for outcome in keeper.outcomes()] == [0, 1, 2]
    assert host.told == ["reported"] * 2


def test_the_best_that_is_known_of_a_key_is_found():
    host = Host(3)
    keeper = host.keeper()
    failed = Outcome("k", 0, ok=False, error=Failure("timeout", "slow"))
    answered = Outcome("k", 1, ok=True, value="x")
    assert keeper.find("k") is None
    for offset, outcome in enumerate([failed, answered, failed]):
        keeper.keep(host.shards[0], offset, outcome)
        assert keeper.find("k").outcome.ok is (offset > 0)


# -- outgrown ----------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "INLINE_BYTES", 600)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_outcomes_that_outgrow_graph_state_move_to_a_journal(small, tmp_path, caplog):
    async def main():
        host = Host(3, 3)
        keeper = host.keeper()
        await keeper.open()
        for shard in host.shards:
            fill(keeper, shard)
            keeper.report(shard)
        await flushed(keeper)
        await keeper.close()
        return [shard.future.result(0) for shard in host.shards]

    first, second = asyncio.run(main())
    assert len(first["outcomes"]["value"]) == 3, "it had gone before"
    assert "outcomes" not in second
    assert values_in(second["journal"])[-3:] == ["answer 3", "answer 4", "answer 5"]
    assert f"are kept in {tmp_path}" in caplog.text


def test_outcomes_that_cannot_move_are_not_lost(small, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    host = Host(9)
    keeper = host.keeper()
    with pytest.raises(JournalError, match=r"/proc/.* cannot be written"):
        fill(keeper, host.shards[0])
    kept = list(keeper.outcomes())
    assert [outcome.index for outcome in kept] == list(range(len(kept)))
    assert kept
    assert keeper.directory is None


# -- in a journal ------------------------------------------------------------------------------


def test_a_branch_goes_on_once_its_outcomes_are_on_disk(tmp_path, monkeypatch):
    async def main():
        host = Host(2)
        keeper = host.keeper(Journal(tmp_path))
        await keeper.open()
        (shard,) = host.shards
        fill(keeper, shard)
        assert values_in(tmp_path) == []
        keeper.report(shard)
        assert not shard.future.done()
        await flushed(keeper)
        assert values_in(tmp_path) == ["answer 0", "answer 1"]
        assert shard.future.result(0)["journal"] == str(tmp_path)
        assert host.told == ["unstall", "reported"]
        await keeper.close()
        await keeper.close()
        assert keeper.log is None

    asyncio.run(main())
    assert not (tmp_path / "owner.json").exists()


def test_much_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_UNWRITTEN_BYTES", 100)

    async def main():
        host = Host(2)
        keeper = host.keeper(Journal(tmp_path))
        await keeper.open()
        keeper.keep(host.shards[0], 0, good(0, "much" * 100))
        while not values_in(tmp_path):
            await asyncio.sleep(0.001)
        await keeper.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_what_is_left_is_written_when_it_closes(tmp_path):
    async def main():
        host = Host(2)
        keeper = host.keeper(Journal(tmp_path))
        await keeper.open()
        fill(keeper, host.shards[0])
        keeper.flush_soon()
        await keeper.close()
        assert [outcome.value for outcome in keeper.outcomes()] == ["answer 0", "answer 1"]

    asyncio.run(main())
    assert values_in(tmp_path) == ["answer 0", "answer 1"]


def test_an_outcome_is_used_again_at_its_own_price_or_none(tmp_path):
    async def main():
        host = Host(3)
        (shard,) = host.shards
        for run in ("one", "one", "two"):
            keeper = host.keeper(Journal(tmp_path), run)
            await keeper.open()
            if keeper.find("k0") is None:
                keeper.keep(shard, 0, good(0, "paid"))
            known = keeper.find("k0")
            own = keeper.reuse(shard, 0, known, {})
            other = keeper.reuse(shard, 2, known, {"sweep": {"p": 1}})
            assert (own.attempts, own.meta) == ((1, {}) if run == "one" else (0, {"cached": True}))
            assert (other.index, other.attempts) == (2, 0)
            assert other.meta == {"sweep": {"p": 1}, "cached": True}
            await keeper.close()

    asyncio.run(main())
    assert values_in(tmp_path, "one") == values_in(tmp_path, "two") == ["paid", "paid"]


def test_answers_of_other_journals_are_copied(tmp_path):
    async def main():
        host = Host(1)
        (shard,) = host.shards
        for name, cache in (("one", ()), ("two", [tmp_path / "one"])):
            keeper = host.keeper(Journal(tmp_path / name, cache=cache))
            await keeper.open()
            if (known := keeper.find("k0")) is None:
                keeper.keep(shard, 0, good(0, "paid"))
            else:
                keeper.reuse(shard, 0, known, {})
            await keeper.close()

    asyncio.run(main())
    shutil.rmtree(tmp_path / "one")
    (outcome,) = Results.of(tmp_path / "two")
    assert (outcome.value, outcome.attempts, outcome.meta) == ("paid", 0, {"cached": True})


def test_a_cache_that_cannot_be_read_keeps_nothing_open(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "journal.json").write_text("{}")
    keeper = Host(1).keeper(Journal(tmp_path / "two", cache=tmp_path / "one"))
    with pytest.raises(JournalError, match="is not the manifest of a journal"):
        asyncio.run(keeper.open())
    assert not (tmp_path / "two").exists()


# -- trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "stall: The journal {} cannot be written: "),
        (JournalError("It is gone."), "lose: It is gone."),
        (ZeroDivisionError("oh"), "lose: A fault in the journal {}: ZeroDivisionError('oh')"),
    ],
)
def test_trouble_is_told_and_the_branch_held(tmp_path, monkeypatch, error, told, caplog):
    caplog.set_level(logging.CRITICAL)

    async def main():
        host = Host(1)
        (shard,) = host.shards
        keeper = host.keeper(Journal(tmp_path))
        await keeper.open()
        fill(keeper, shard)
        with monkeypatch.context() as patch:
            patch.setattr(Log, "flush", lambda self: raise_(error))
            keeper.report(shard)
            await flushed(keeper)
            assert host.told[0].startswith(told.format(tmp_path))
            assert not shard.future.done()
        await flushed(keeper)
        assert shard.future.done() is (type(error) is OSError), "what was stalled goes on"
        await keeper.close()

    asyncio.run(main())


def raise_(error):
    raise error


def test_a_journal_that_is_lost_at_the_end_is_told(tmp_path, caplog):
    async def main():
        host = Host(1)
        keeper = host.keeper(Journal(tmp_path))
        await keeper.open()
        fill(keeper, host.shards[0])
        other = Log(tmp_path)  # as another process would
        await asyncio.to_thread(other.acquire, takeover=True)
        await keeper.close()
        await asyncio.to_thread(other.release)

    asyncio.run(main())
    assert "was taken over by process" in caplog.text
