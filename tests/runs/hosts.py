"""A run as keepers see it, for tests of keepers and of those who ask them."""

from __future__ import annotations

from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.runs.keeper import Keeper
from langgraph_hpc_fanout.runs.shard import Shard


class Host:
    """Holds shards, and remembers what it was told."""

    def __init__(self, *sizes):
        source = Rows(range(sum(sizes)))
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        pairs = zip(starts, sizes, strict=True)
        self.shards = [Shard(at, source, start, size) for at, (start, size) in enumerate(pairs)]
        self.told = []

    def keeper(self, journal=None, run="run", scope=""):
        return Keeper(run, "screen", scope, journal, {}, self)

    def all_shards(self):
        return self.shards

    def is_complete(self):
        return all(shard.complete for shard in self.shards)

    def reported(self):
        self.told.append("reported")

    def stall(self, why):
        self.told.append(f"stall: {why}")

    def unstall(self):
        self.told.append("unstall")

    def lose(self, why):
        self.told.append(f"lose: {why}")
