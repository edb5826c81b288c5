"""The fake of the FIRST gateway, as tests hold it."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Callable, Sequence
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from langgraph_hpc_fanout.testing.first import v1, v2
from langgraph_hpc_fanout.testing.first.admission import UsageLimits
from langgraph_hpc_fanout.testing.first.faults import Fault
from langgraph_hpc_fanout.testing.first.host import Host, LocalHost
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import FirstRecord
from langgraph_hpc_fanout.testing.first.settings import Settings
from langgraph_hpc_fanout.testing.first.spec import (
    AnswerRule,
    Batching,
    Cluster,
    ColdStart,
    Maintenance,
    ModelState,
    Times,
    alcf,
)
from langgraph_hpc_fanout.testing.first.worker import RemoteHost
from langgraph_hpc_fanout.testing.fleet.host import LOOPBACK
from langgraph_hpc_fanout.testing.fleet.record import Detail
from langgraph_hpc_fanout.testing.fleet.spec import Constant, Latency

_DAY = 86_400.0
_POLL = 0.002


class FirstFake:
    """The FIRST gateway on loopback, with clusters, quotas, tokens and cold models.

    ```python
    with FirstFake(time_scale=600) as fake:
        url = fake.base_url("sophia")
        ask(url, token=fake.token())
        assert fake.record().models["sophia/openai/gpt-oss-120b"].served == 1
    ```

    Use `with`, `async with`, or `start()` and `stop()`.

    All of its times are on a clock of its own, which runs `time_scale` times as fast as the
    real one and jumps with `advance`: with `time_scale=0` it stands still in between, so a test
    of quotas or of a cold start neither waits nor depends on the machine.

    Args:
        clusters: What is behind the gateway; None for clusters like ALCF's, see `spec.alcf`.
        version: Which gateway: 1 as it runs today, below `/resource_server`, or 2, its rewrite,
            below `/api`, without Globus Compute in the way of requests and without batches.
        quotas: The limits: `Quotas` of version 1, `UsageLimits` of version 2.
        cold_start: How cold models are loaded.
        times: The gateway's own times.
        time_scale: Seconds of the fake's clock for each real one.
        token_life: Seconds that an access token holds.
        login_life: Seconds after which policy wants a new log-in.
        latency: Seconds that a model works on a request, or a law for them.
        answer: What models answer: a text, or a function of the request's body; None for `echo`
            of the last user message. Functions run on the server's loop, so they must be quick.
        backend: Base URL of an OpenAI server that answers instead, such as a `FakeFleet`'s.
        files: A directory that stands for the clusters' file systems: `/eagle/in.jsonl` is
            `eagle/in.jsonl` in it. Batches need one.
        batching: How batches run.
        faults: What goes wrong; the first that strikes a request is the one it gets.
        seed: Seed of faults and latencies.
        record: `full` keeps every inference request, `counts` only counts them.
        port: Port on 127.0.0.1; 0 for a free one.
        process: Whether it runs in a process of its own, and not in a thread of this one. An
            answer rule must then be a function of an importable module.

    Raises:
        ValueError: If two clusters share a name, the clock would run backwards, both `answer`
            and `backend` are given, or a setting is of the other version.
    """

    def __init__(
        self,
        clusters: Sequence[Cluster] | None = None,
        *,
        version: Literal[1, 2] = 1,
        quotas: Quotas | UsageLimits | None = None,
        cold_start: ColdStart | None = None,
        times: Times | None = None,
        time_scale: float = 1.0,
        token_life: float = 2 * _DAY,
        login_life: float = 30 * _DAY,
        latency: float | Latency = 0.0,
        answer: AnswerRule | None = None,
        backend: str | None = None,
        files: str | Path | None = None,
        batching: Batching | None = None,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        record: Detail = "full",
        port: int = 0,
        process: bool = False,
    ) -> None:
        if time_scale < 0:
            raise ValueError(f"FirstFake(time_scale={time_scale!r}) must not be negative.")
        if backend is not None and answer is not None:
            raise ValueError("FirstFake takes answer= or backend=, not both.")
        if version == 2 and (files is not None or batching is not None):
            raise ValueError("FirstFake(version=2) has no batches; drop files= and batching=.")
        self._settings = Settings(
            clusters=alcf() if clusters is None else tuple(clusters),
            quotas=_limits(version, quotas),
            cold_start=cold_start or ColdStart(),
            times=times or Times(),
            time_scale=time_scale,
            token_life=token_life,
            login_life=login_life,
            latency=Constant(latency) if isinstance(latency, int | float) else latency,
            answer=answer,
            backend=backend,
            files=None if files is None else Path(files),
            batching=batching or Batching(),
            faults=tuple(faults),
            seed=seed,
            record=record,
            port=port,
        )
        self._version = version
        self._process = process
        self._host: Host | None = None
        self._port = 0

    # Where it is

    @property
    def url(self) -> str:
        """Its root, such as `http://127.0.0.1:40001/resource_server`, or `.../api` in version 2."""
        self._running()
        root = v1.ROOT if self._version == 1 else v2.ROOT
        return f"http://{LOOPBACK}:{self._port}{root}"

    def base_url(self, cluster: str) -> str:
        """Base URL of a cluster for OpenAI clients, such as `.../sophia/vllm/v1`; version 1.

        Raises:
            ValueError: If there is no such cluster, or clusters have no URL of their own.
        """
        self._need(1, "base_url")
        for each in self._settings.clusters:
            if each.name == cluster:
                return f"{self.url}/{cluster}/{each.framework}/v1"
        raise ValueError(f"FirstFake has no cluster {cluster!r}.")

    @property
    def federated_url(self) -> str:
        """Base URL of all deployments, such as `.../api/federated/v1`; version 2.

        Raises:
            ValueError: If this is version 1, which has no such route.
        """
        self._need(2, "federated_url")
        return f"{self.url}/federated/v1"

    def deployment_url(self, cluster: str, model: str) -> str:
        """Base URL of one deployment, such as `.../api/deployments/sophia~tiny/v1`; version 2.

        Raises:
            ValueError: If there is no such deployment, or this is version 1.
        """
        self._need(2, "deployment_url")
        for each in self._settings.clusters:
            if each.name == cluster and any(model == one.name for one in each.models):
                return f"{self.url}/deployments/{v2.slug(cluster, model)}/v1"
        raise ValueError(f"FirstFake has no model {model!r} on {cluster!r}.")

    # Life

    def start(self) -> Self:
        """Start; returns when it listens."""
        if self._host is not None:
            raise RuntimeError("This FirstFake is running already.")
        host: Host = (RemoteHost if self._process else LocalHost)(self._settings)
        self._port = host.start()
        self._host = host
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop; returns when no thread or port is left."""
        atexit.unregister(self.stop)
        host, self._host = self._host, None
        if host is not None:
            host.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    # Tokens

    def token(self, user: str = "alice", *, life: float | None = None) -> str:
        """A new access token of a user, as a token provider would fetch it.

        Args:
            user: Whose it is; the first logs the user in.
            life: Seconds that it holds; `token_life` by default.
        """
        token: str = self._call("issue_token", user, life)
        return token

    def expire_tokens(self) -> None:
        """Let all tokens that were issued so far be expired."""
        self._call("expire_tokens")

    def log_out(self, user: str = "alice") -> None:
        """Let policy want a new log-in of a user: no token helps before `log_in`."""
        self._call("log_out", user)

    def log_in(self, user: str = "alice") -> None:
        """Let a user log in anew."""
        self._call("log_in", user)

    # Time and trouble

    @property
    def now(self) -> float:
        """Seconds of the fake's clock since it was started."""
        now: float = self._call("now")
        return now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once, and everything happen that is due in them."""
        self._call("advance", seconds)

    def set_state(self, cluster: str, model: str, state: ModelState) -> None:
        """Let a model be hot, cold or offline from now on.

        Raises:
            ValueError: If there is no such model.
        """
        self._call("set_state", cluster, model, state)

    def set_maintenance(self, cluster: str, kind: Maintenance | None = "notice") -> None:
        """Let a cluster go down, in the words of the application or of nginx; None: come back.

        Raises:
            ValueError: If there is no such cluster.
        """
        self._call("set_maintenance", cluster, kind)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong from the next request on."""
        self._call("inject", fault)

    def clear_faults(self) -> None:
        """Let nothing more go wrong."""
        self._call("clear_faults")

    # The record

    def record(self) -> FirstRecord:
        """What happened so far, a request that has just been answered included."""
        record: FirstRecord = self._call("record")
        return record

    def wait(self, until: Callable[[FirstRecord], bool], timeout: float = 10.0) -> FirstRecord:
        """Wait for something to be in the record; returns the record.

        Raises:
            TimeoutError: If it is not there in time, in real seconds.
        """
        deadline = time.monotonic() + timeout
        while not until(record := self.record()):
            _check(deadline, record)
            time.sleep(_POLL)
        return record

    async def until(
        self, condition: Callable[[FirstRecord], bool], timeout: float = 10.0
    ) -> FirstRecord:
        """`wait` for async tests.

        Raises:
            TimeoutError: If it is not there in time, in real seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(record := self.record()):
            _check(deadline, record)
            await asyncio.sleep(_POLL)
        return record

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the gateway, wherever it lives."""
        return self._running().call(methodcaller(method, *arguments))

    def _need(self, version: int, what: str) -> None:
        if self._version != version:
            raise ValueError(
                f"FirstFake.{what} is of version {version}, and this is {self._version}."
            )

    def _running(self) -> Host:
        if self._host is None:
            raise RuntimeError("This FirstFake is not running; use `with FirstFake(...) as fake:`.")
        return self._host


def _check(deadline: float, record: FirstRecord) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"Not in time; {record.served} requests were served.")


def _limits(version: int, quotas: Quotas | UsageLimits | None) -> Quotas | UsageLimits:
    """The limits given, or else the version's own.

    Raises:
        ValueError: If there is no such version, or it has other limits.
    """
    kinds: dict[int, type[Quotas | UsageLimits]] = {1: Quotas, 2: UsageLimits}
    if version not in kinds:
        raise ValueError(f"FirstFake(version={version!r}) is neither 1 nor 2.")
    kind = kinds[version]
    if quotas is None:
        return kind()
    if not isinstance(quotas, kind):
        raise ValueError(f"FirstFake(version={version}) takes quotas={kind.__name__}(...).")
    return quotas
