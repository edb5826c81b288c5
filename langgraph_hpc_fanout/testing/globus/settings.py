"""How an endpoint of the stack runs its tasks, and the endpoint's own configuration for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

EngineName = Literal["htex", "threads", "processes"]
"""The engines.

| name | engine of globus-compute-endpoint | workers |
|---|---|---|
| `htex` | GlobusComputeEngine: Parsl's HighThroughputExecutor over LocalProvider | processes |
| `threads` | ThreadPoolEngine | threads of the user endpoint |
| `processes` | ProcessPoolEngine | processes |
"""

_SHORTEST_HEARTBEAT = 5.0
_LOST_BLOCK = 20
"""Seconds of silence after which HTEX takes a block for lost; its default is 120."""

_ENGINES = frozenset(get_args(EngineName))


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How one endpoint runs tasks. The defaults are fast on a small machine.

    Attributes:
        engine: What runs the tasks, see `EngineName`.
        workers: Tasks that run at once, with `htex` per block.
        init_blocks: Blocks to begin with (`htex` only, as all that is about blocks).
        min_blocks: Blocks that are never given up.
        max_blocks: Blocks that it may grow to; above `init_blocks` it scales out and in.
        prefetch: Tasks that a block takes ahead of its workers.
        strategy: Parsl's way to scale: `simple`, `htex_auto_scale` or `none`.
        strategy_period: Seconds between two looks at what to scale; Globus Compute's 5 s
            make the first task late.
        max_idletime: Seconds after which an idle block above `min_blocks` is given up.
        worker_init: Shell commands before a block's workers start.
        retries: Times that a task is tried again after its worker was lost.
        heartbeat: Seconds between two heartbeats of the endpoint that the stack stands in for.
            Real ones have no less than 5 s, whatever is asked for
            (globus_compute_endpoint/endpoint/config/config.py, `MINIMUM_HEARTBEAT`).
        idle_stop: Idle heartbeats after which the user endpoint stops; 0 is never.
        allowed_functions: Ids of the only functions that it runs; None lets all run.
        env: Variables for the user endpoint and so for its workers, such as PYTHONPATH.
        setup: Shell commands before the user endpoint starts; if they fail, so does it.
        engine_options: More settings of the engine, as in `user_config_template.yaml.j2`.
        core: Run a real core endpoint, which forks the user endpoints itself. Without it the
            stack starts them as a core endpoint would, which is faster and works as root. Of a
            submit's `user_endpoint_config` a core endpoint's template here reads only `setup`.
        keep_pid_file: Leave the PID file of a killed user endpoint alone, so that the real
            endpoint refuses to start again for three heartbeats
            (globus_compute_endpoint/cli.py, `_pidfile_check`).

    Raises:
        ValueError: If there is no such engine, or no worker.
    """

    engine: EngineName = "htex"
    workers: int = 2
    init_blocks: int = 1
    min_blocks: int = 1
    max_blocks: int = 1
    prefetch: int = 0
    strategy: str = "simple"
    strategy_period: float = 0.2
    max_idletime: float = 120.0
    worker_init: str = ""
    retries: int = 0
    heartbeat: float = 1.0
    idle_stop: int = 0
    allowed_functions: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    core: bool = False
    keep_pid_file: bool = False

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            known = ", ".join(sorted(_ENGINES))
            raise ValueError(f"There is no engine {self.engine!r}; known: {known}.")
        if self.workers < 1:
            raise ValueError(f"An endpoint needs a worker; workers={self.workers!r} is too few.")

    @property
    def real_heartbeat(self) -> float:
        """Seconds between two heartbeats of a real endpoint."""
        return max(_SHORTEST_HEARTBEAT, self.heartbeat)

    def changed(self, user_endpoint_config: Mapping[str, Any]) -> EndpointSettings:
        """These settings with what a submit's `user_endpoint_config` says.

        Raises:
            ValueError: If it names no setting, or a value that the setting cannot have.
        """
        known = {item.name for item in dataclasses.fields(self)} - {"core", "allowed_functions"}
        if unknown := sorted(set(user_endpoint_config) - known):
            raise ValueError(f"user_endpoint_config has unknown settings: {', '.join(unknown)}.")
        return dataclasses.replace(self, **user_endpoint_config)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def endpoint_config(settings: EndpointSettings) -> str:
    """The user endpoint's configuration as YAML, of which JSON is a part.

    The fields are those of globus_compute_endpoint/endpoint/config/config.py
    (`UserEndpointConfig`).
    """
    config: dict[str, Any] = {
        "heartbeat_period": settings.real_heartbeat,
        "idle_heartbeats_soft": settings.idle_stop,
        "engine": _engine(settings) | dict(settings.engine_options),
    }
    if settings.setup:
        config["endpoint_setup"] = settings.setup
    return json.dumps(config)


def _engine(settings: EndpointSettings) -> dict[str, Any]:
    if settings.engine == "threads":
        return {"type": "ThreadPoolEngine", "max_workers": settings.workers}
    if settings.engine == "processes":
        return {"type": "ProcessPoolEngine", "max_workers": settings.workers}
    return {
        "type": "GlobusComputeEngine",
        "address": "127.0.0.1",
        "encrypted": False,
        "max_workers_per_node": settings.workers,
        "prefetch_capacity": settings.prefetch,
        "max_retries_on_system_failure": settings.retries,
        # Whole seconds; after one such period a lost worker is noticed, and not after 30 s.
        "heartbeat_period": max(1, round(settings.heartbeat)),
        "heartbeat_threshold": _LOST_BLOCK,
        "job_status_kwargs": {
            "strategy": settings.strategy,
            "strategy_period": settings.strategy_period,
            "max_idletime": settings.max_idletime,
        },
        "provider": {
            "type": "LocalProvider",
            "init_blocks": settings.init_blocks,
            "min_blocks": settings.min_blocks,
            "max_blocks": settings.max_blocks,
            "worker_init": settings.worker_init,
        },
    }
