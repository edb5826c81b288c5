"""What to simulate: clusters and their models, how they start, and the gateway's own times."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

ModelState = Literal["hot", "cold", "offline"]
"""`hot` is always loaded, `cold` is loaded when somebody asks, `offline` is not there."""

Maintenance = Literal["notice", "detail", "html"]
"""Who says that a cluster is down: the application, nginx in JSON, nginx in HTML."""

Door = Literal["globus", "direct"]
"""How the gateway reaches a cluster: through Globus Compute, or by HTTP (DirectAPI)."""

AnswerRule = str | Callable[[Mapping[str, Any]], str | Mapping[str, Any]]

CHAT = "chat/completions"
COMPLETIONS = "completions"
EMBEDDINGS = "embeddings"
ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS)
"""The OpenAI endpoints that the fake serves."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a cluster.

    Attributes:
        name: Its id on that cluster.
        state: Whether it is loaded, see `ModelState`.
        batch: Whether it takes batches.
        context: Its context window, in tokens; a longer request is vLLM's 400.
        capacity: Requests that it works on at once; others wait. 100 are the workers of one
            Globus Compute endpoint (FIRST main 329c0cd).
        users: Who may use it; None for everybody.
    """

    name: str
    state: ModelState = "hot"
    batch: bool = False
    context: int = 131_072
    capacity: int = 100
    users: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster behind the gateway.

    Attributes:
        name: Its name in paths.
        framework: The one that it offers.
        models: Its models.
        door: How the gateway reaches it.
        endpoints: The OpenAI endpoints that it serves, out of `ROUTES`.
        free_nodes: What `/jobs` says of its free nodes; -1 for not known.

    Raises:
        ValueError: If an endpoint is none of `ROUTES`, or a batch model is not behind Globus
            Compute.
    """

    name: str
    framework: str
    models: tuple[Model, ...]
    door: Door = "globus"
    endpoints: tuple[str, ...] = ROUTES
    free_nodes: int = 5

    def __post_init__(self) -> None:
        if unknown := set(self.endpoints).difference(ROUTES):
            raise ValueError(
                f"Cluster({self.name!r}, endpoints=...): {', '.join(sorted(unknown))} is none of "
                f"{', '.join(ROUTES)}."
            )
        if self.door == "direct" and any(model.batch for model in self.models):
            raise ValueError(
                f"Cluster({self.name!r}): only clusters behind Globus Compute take batches; drop "
                "batch=True or use door='globus'."
            )

    def slug(self, model: str) -> str:
        """The gateway's name for a model here, as Django's slugify makes it."""
        text = re.sub(r"[^\w\s-]", "", f"{self.name} {self.framework} {model}".lower())
        return re.sub(r"[-\s]+", "-", text).strip("-_")


@dataclass(frozen=True, slots=True)
class ColdStart:
    """How a cold model is loaded; 10 to 15 minutes in all (ALCF user guide 7d04a3f).

    Attributes:
        queued: Seconds that its job waits for a node.
        starting: Seconds that its server takes to load it.
    """

    queued: float = 120.0
    starting: float = 600.0


@dataclass(frozen=True, slots=True)
class Times:
    """The gateway's own times, in seconds of the fake's clock.

    Attributes:
        wait: How long a request waits for its Globus Compute task, before 408 (FIRST 1a92ca4,
            globus_utils.py).
        trigger: How long nobody else may wake a model that somebody has woken (the same).
        trigger_lag: How long after a submit that is known. The flag is set after the submit, so
            requests of one burst do not see it.
        status_cache: How long the gateway believes what it knows of a Globus Compute endpoint
            (the same).
        jobs_cache: How long `/jobs` says the same to a user (FIRST 1a92ca4,
            clusters/globus_compute.py).
        idle: How long a model that was woken stays without work (ALCF user guide 7d04a3f).
        upstream: How long the gateway waits for a DirectAPI backend, before 504 (FIRST 01aabea,
            endpoints/direct_api.py).
        first_chunk: How long a stream of Globus Compute may take to begin (FIRST 3dde68d,
            endpoints/globus_compute.py).
        next_chunk: After how long without a chunk a stream is taken for complete (the same).
        stream: How long a stream of Globus Compute may take in all (the same).
        batch_status: How long the gateway believes what it knows of a batch (FIRST 1a92ca4,
            globus_utils.py).
        batch_fails: After how long an unfinished batch counts as failed (FIRST main 329c0cd).
    """

    wait: float = 300.0
    trigger: float = 600.0
    trigger_lag: float = 0.5
    status_cache: float = 60.0
    jobs_cache: float = 60.0
    idle: float = 7200.0
    upstream: float = 120.0
    first_chunk: float = 30.0
    next_chunk: float = 5.0
    stream: float = 300.0
    batch_status: float = 30.0
    batch_fails: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Batching:
    """How batches run (FIRST main 329c0cd; ALCF user guide 7d04a3f).

    Attributes:
        lines: Most lines of a file; a longer one fails.
        chunk: Lines that one server process answers. The model is loaded anew for each chunk.
        blocks: Batches that a cluster runs at once, for everybody.
        tokens_per_second: How fast; the documented sample made 3,899.8.
        context: The context window, whatever the model's own is.
        result: `repr` for a Python dict as text, which is what the code makes, `metrics` for the
            JSON that the user guide shows.

    Raises:
        ValueError: If a number is not positive.
    """

    lines: int = 150_000
    chunk: int = 20_000
    blocks: int = 2
    tokens_per_second: float = 3_900.0
    context: int = 28_672
    result: Literal["repr", "metrics"] = "repr"

    def __post_init__(self) -> None:
        for name in ("lines", "chunk", "blocks", "tokens_per_second", "context"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Batching({name}={getattr(self, name)!r}) must be positive.")


def alcf() -> tuple[Cluster, ...]:
    """Clusters like ALCF's (user guide 7d04a3f), each with its own ids of the models."""
    sophia = (
        Model("openai/gpt-oss-120b", batch=True),
        Model("openai/gpt-oss-20b"),
        Model("meta-llama/Llama-3.3-70B-Instruct", state="cold", batch=True),
    )
    metis = (Model("gpt-oss-120b"), Model("Llama-4-Maverick-17B-128E-Instruct", state="offline"))
    minerva = (Model("openai/gpt-oss-120b"),)
    return (
        Cluster("sophia", "vllm", sophia),
        Cluster("metis", "api", metis, door="direct", endpoints=(CHAT,), free_nodes=-1),
        Cluster(
            "minerva", "api", minerva, door="direct", endpoints=(CHAT, COMPLETIONS), free_nodes=-1
        ),
    )
