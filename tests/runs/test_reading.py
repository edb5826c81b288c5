"""The reader: every place once, in order, whatever is read and however it is taken."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.items.source import BadRow, SourceError
from langgraph_hpc_fanout.runs import reading
from langgraph_hpc_fanout.runs.reading import Reader
from langgraph_hpc_fanout.runs.shard import Shard


class OnDisk:
    """Items that are read in a thread."""

    name = "papers.jsonl"
    ready = False

    def __init__(self, items, count=None):
        self._items = items
        self._count = len(items) if count is None else count

    def __len__(self):
        return self._count

    def read(self, start, stop):
        for item in self._items[start:stop]:
            if isinstance(item, Exception):
                raise item
            yield item


def shards_of(source, sizes, per_item=1):
    starts = itertools.accumulate(sizes, initial=0)
    pairs = zip(starts, sizes, strict=False)
    return [Shard(at, source, start, size, per_item) for at, (start, size) in enumerate(pairs)]


class Taking:
    """A reader, and what it gave and said."""

    def __init__(self, shards, steps=(0,), identify=None):
        self._more = asyncio.Event()
        self.failures = []
        self.reader = Reader(steps, identify, self._more.set, self.failures.append)
        for shard in shards:
            self.reader.add(shard)

    async def some(self, most):
        """Up to so many places; fewer when there is nothing left to wait for."""
        places = []
        while len(places) < most and self.reader.untaken and not self.failures:
            if (place := self.reader.take()) is None:
                await asyncio.wait_for(self._more.wait(), 10)
                self._more.clear()
            else:
                places.append(place)
        return places

    async def all(self):
        return await self.some(10**9)


def take_all(shards, **how):
    async def main():
        taking = Taking(shards, **how)
        return await taking.all(), taking

    return asyncio.run(main())


@repeatable
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    variants=st.integers(1, 4),
    data=st.data(),
    is_ready=st.booleans(),
    rows=st.integers(1, 20),
    ahead=st.integers(1, 30),
)
def test_every_place_once_and_in_order(sizes, variants, data, is_ready, rows, ahead):
    steps = data.draw(st.lists(st.integers(0, variants - 1), min_size=1, unique=True).map(sorted))
    items = list(range(sum(sizes)))
    shards = shards_of(Rows(items) if is_ready else OnDisk(items), sizes, variants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_ROWS", rows)
        patch.setattr(reading, "_AHEAD", ahead)
        places, taking = take_all(shards, steps=steps)
    assert [(each.item, each.shard.place(each.offset)) for each in places] == [
        (item, item * variants + step) for item in items for step in steps
    ]
    assert all(each.key is each.asked is None for each in places)
    assert taking.reader.untaken == 0


@pytest.mark.parametrize("kind", [Rows, OnDisk])
def test_shards_that_come_later_are_read_too(kind):
    async def main():
        source = kind(list(range(30)))
        first, second, third = shards_of(source, [10, 10, 10])
        taking = Taking([first])
        places = await taking.some(4)
        taking.reader.add(second)
        places += await taking.all()
        taking.reader.add(third)
        return places + await taking.all()

    assert [place.item for place in asyncio.run(main())] == list(range(30))


@pytest.mark.parametrize("kind", [Rows, OnDisk])
def test_no_more_is_read_than_soon_is_needed(kind, monkeypatch):
    monkeypatch.setattr(reading, "_ROWS", 8)
    monkeypatch.setattr(reading, "_AHEAD", 16)
    read = []

    class Watched(kind):
        def read(self, start, stop):
            for item in super().read(start, stop):
                read.append(item)
                yield item

    async def main():
        taking = Taking(shards_of(Watched(list(range(1000))), [1000]))
        await taking.some(100)
        return len(read)

    assert asyncio.run(main()) <= 100 + 16 + 8


def test_keys_are_made_in_a_thread_and_what_they_raise_is_the_items_fault():
    def identify(item):
        if item == 1:
            raise LookupError("it has no id")
        return ("" if item == 2 else f"k{item}"), f"asked {item}"

    places, _ = take_all(
        shards_of(Rows([0, 1, 2, BadRow("line 4"), 4]), [5]), steps=[0], identify=identify
    )
    found = [(place.key, place.asked) for place in places]
    assert found[0] == ("k0", "asked 0")
    assert isinstance(found[1][0], LookupError)
    assert str(found[2][0]) == "key= gave '', not a text"
    assert found[3] == (None, None), "the row has no item"
    assert found[4] == ("k4", "asked 4")


def test_a_row_has_one_key_for_all_its_places():
    made = itertools.count()
    places, _ = take_all(
        shards_of(OnDisk(["a", "b"]), [2], 3),
        steps=[0, 1, 2],
        identify=lambda item: (f"{item}{next(made)}", None),
    )
    assert [place.key for place in places] == ["a0"] * 3 + ["b1"] * 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SourceError("papers.jsonl has changed."), "papers.jsonl has changed."),
        (ValueError("no idea"), "Its items cannot be read: ValueError('no idea')."),
    ],
)
def test_a_source_that_raises_half_way(error, said):
    places, taking = take_all(shards_of(OnDisk([0, 1, error, 3]), [4]))
    assert places == []
    assert taking.failures == [said]


@pytest.mark.parametrize("there", [0, 3])
def test_a_source_that_has_less_than_was_counted(there):
    _, taking = take_all(shards_of(OnDisk(list(range(there))), [5]))
    assert taking.failures == [f"papers.jsonl ended before item {there}, though 5 were counted."]


@pytest.mark.parametrize("kind", [Rows, OnDisk])
@pytest.mark.parametrize("taken", [0, 7])
def test_it_stops_in_the_middle(kind, taken, monkeypatch):
    monkeypatch.setattr(reading, "_ROWS", 8)
    monkeypatch.setattr(reading, "_AHEAD", 1)

    async def main():
        taking = Taking(shards_of(kind(list(range(100))), [50, 50]))
        await taking.some(taken)
        taking.reader.take()  # a thread may be reading now
        taking.reader.stop()
        assert taking.reader.take() is None
        assert taking.reader.untaken == 0
        await asyncio.sleep(0.05)
        assert taking.reader.take() is None
        assert taking.failures == []

    asyncio.run(main())
