"""A model of a cluster with all that the gateway keeps of it."""

from __future__ import annotations

from langgraph_hpc_fanout.testing.first.hosting import Hosting
from langgraph_hpc_fanout.testing.first.quotas import TokenWindow
from langgraph_hpc_fanout.testing.first.record import ModelRecord, Tally
from langgraph_hpc_fanout.testing.first.spec import Cluster, ColdStart, Maintenance, Model, Times


class Site:
    """One model of one cluster.

    Args:
        cluster: The cluster.
        model: The model.
        cold: How it is loaded.
        times: The gateway's times.
    """

    __slots__ = ("cluster", "hosting", "model", "slug", "tally", "user_windows", "window")

    def __init__(self, cluster: Cluster, model: Model, cold: ColdStart, times: Times) -> None:
        self.cluster = cluster
        self.model = model
        self.slug = cluster.slug(model.name)
        self.hosting = Hosting(model.state, cold, times)
        self.window = TokenWindow()
        self.user_windows: dict[str, TokenWindow] = {}
        self.tally = Tally()

    def user_window(self, user: str) -> TokenWindow:
        """The tokens of one user."""
        window = self.user_windows.get(user)
        if window is None:
            window = self.user_windows[user] = TokenWindow()
        return window

    def permits(self, user: str) -> bool:
        """Whether a user may use the model."""
        return self.model.users is None or user in self.model.users

    def count(self, user: str, now: float, tokens: int) -> None:
        """Count an answer's tokens, as v1 does when the answer is there."""
        if tokens:
            self.window.add(now, tokens)
            self.user_window(user).add(now, tokens)

    def freeze(self) -> ModelRecord:
        """A copy of what was counted, for readers."""
        tally = self.tally
        return ModelRecord(
            arrived=tally.arrived,
            served=tally.served,
            in_flight=tally.in_flight,
            peak_in_flight=tally.peak_in_flight,
            refused=dict(tally.refused),
            statuses=dict(tally.statuses),
            tokens=tally.tokens,
            windows=tuple(self.window.totals),
            user_windows={user: tuple(window.totals) for user, window in self.user_windows.items()},
            wakeups=self.hosting.wakeups,
            tasks=tally.tasks,
            wasted=tally.wasted,
        )


class Estate:
    """All clusters, and which of them are down.

    Args:
        clusters: The clusters.
        cold: How models are loaded.
        times: The gateway's times.

    Raises:
        ValueError: If two clusters share a name.
    """

    def __init__(self, clusters: tuple[Cluster, ...], cold: ColdStart, times: Times) -> None:
        self.clusters = {cluster.name: cluster for cluster in clusters}
        if len(self.clusters) != len(clusters):
            raise ValueError("FirstFake(clusters=...): two clusters have one name.")
        self.sites = {
            (cluster.name, model.name): Site(cluster, model, cold, times)
            for cluster in clusters
            for model in cluster.models
        }
        self.down: dict[str, Maintenance] = {}

    def of(self, cluster: str, user: str) -> list[Site]:
        """The models of a cluster that a user may see."""
        return [
            site for (name, _), site in self.sites.items() if name == cluster and site.permits(user)
        ]
