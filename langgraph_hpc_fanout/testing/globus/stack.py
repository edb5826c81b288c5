"""The real Globus Compute SDK and endpoint, end to end on this machine and offline."""

from __future__ import annotations

import dataclasses
import http.client
import json
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from langgraph_hpc_fanout.testing.globus.broker import USERS, Installation
from langgraph_hpc_fanout.testing.globus.service.faults import Fault
from langgraph_hpc_fanout.testing.globus.service.limits import ServiceLimits
from langgraph_hpc_fanout.testing.globus.service.record import ServiceRecord
from langgraph_hpc_fanout.testing.globus.settings import EndpointSettings, EngineName

if TYPE_CHECKING:
    from globus_compute_sdk import Client

_HOST = "langgraph_hpc_fanout.testing.globus.run_host"
_SDK = "globus_compute_sdk.sdk.executor"
_TAIL = 3000
_STOP_PATIENCE = 20.0
_CONTROL_PATIENCE = 120.0

Side = Literal["sdk", "endpoint", "all"]


@dataclass(frozen=True, slots=True)
class _Running:
    """A host that answers."""

    process: subprocess.Popen[bytes]
    url: str
    endpoints: list[str]


class ServiceHandle:
    """The emulated web service: what it saw, and what goes wrong in it.

    Args:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def inject(
        self,
        kind: str,
        times: int = 1,
        *,
        after: int = 0,
        route: str = "submit",
        retry_after: float | None = None,
    ) -> None:
        """Let something go wrong; the arguments are those of `Fault`.

        Raises:
            ValueError: If there is no such fault.
        """
        fault = Fault(kind, times, after=after, route=route, retry_after=retry_after)
        self.call("inject", **fault.to_json())

    def clear_faults(self) -> None:
        """Let nothing more go wrong."""
        self.call("clear_faults")

    def set_limits(self, **changes: Any) -> None:
        """Change some of `ServiceLimits` from now on, such as `retention=1.0`."""
        self.call("set_limits", **changes)

    def record(self) -> ServiceRecord:
        """What it saw since the start or the last `reset`."""
        return ServiceRecord.from_json(self.call("record"))

    def requests(self, route: str | None = None) -> int:
        """How many requests came, in all or to one route, such as `submit`."""
        requests = self.record().requests
        return sum(requests.values()) if route is None else requests.get(route, 0)

    def reset(self) -> None:
        """Forget the record, and the faults that are yet to strike."""
        self.call("reset")

    def call(self, verb: str, **given: Any) -> Any:
        """Ask the host for something, over loopback and past any proxy.

        Raises:
            RuntimeError: If it cannot do it.
        """
        connection = http.client.HTTPConnection(
            urlsplit(self.url).netloc, timeout=_CONTROL_PATIENCE
        )
        try:
            connection.request("POST", f"/_stack/{verb}", json.dumps(given).encode())
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"The Globus stack cannot {verb}: {body}")
        return json.loads(body)


class GlobusStack:
    """A broker, the emulated web service and real endpoints, for a `with` block.

    What runs: RabbitMQ, an emulation of Globus Compute's web service, and
    globus-compute-endpoint itself with a real engine and real workers. The client is the real
    SDK. Everything lives on 127.0.0.1 at free ports, under one process that ends with this
    one, so several stacks may run side by side.

    Entering blocks for some seconds; in async code enter it in a thread or a sync fixture.

    Args:
        engine: What runs the tasks, see `EngineName`.
        workers: Tasks that run at once.
        limits: What the service takes.
        start_timeout: Seconds that the start may take.
        **settings: More of `EndpointSettings`, for the first endpoint.

    Raises:
        RabbitMQMissingError: If this machine has no RabbitMQ.
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        engine: EngineName = "htex",
        workers: int = 2,
        *,
        limits: ServiceLimits | None = None,
        start_timeout: float = 90.0,
        **settings: Any,
    ) -> None:
        Installation.find()  # a missing one is better said here than in a log
        self._settings = EndpointSettings(engine, workers, **settings)
        self._limits = limits or ServiceLimits()
        self._start_timeout = start_timeout
        self._folder: Path | None = None
        self._running: _Running | None = None
        self._service: ServiceHandle | None = None

    @property
    def endpoint_id(self) -> str:
        """The id of the first endpoint."""
        return self._live().endpoints[0]

    @property
    def service(self) -> ServiceHandle:
        """The web service."""
        self._live()
        assert self._service is not None
        return self._service

    @property
    def url(self) -> str:
        """Where the web service answers."""
        return self._live().url

    @property
    def pid(self) -> int:
        """The host's process id; everything else descends from it."""
        return self._live().process.pid

    @property
    def user_endpoint_pid(self) -> int | None:
        """The process of the first endpoint's user endpoint; None while it does not run."""
        return self.user_endpoint_pid_of()

    def client(self) -> Client:
        """A client of the real SDK that needs no log-in."""
        from langgraph_hpc_fanout.testing.globus.client import client_of  # noqa: PLC0415 - slow

        return client_of(self.url)

    def environment(self) -> dict[str, str]:
        """Variables with which the SDK logs in as a confidential client, at this service."""
        return {
            "GLOBUS_COMPUTE_CLIENT_ID": self.endpoint_id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": "none",
            "GLOBUS_COMPUTE_USER_DIR": str(self._files() / "sdk"),
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{self.url}/",
        }

    def add_endpoint(self, engine: EngineName = "htex", workers: int = 2, **settings: Any) -> str:
        """Start one more endpoint; returns its id when it is up."""
        wanted = EndpointSettings(engine, workers, **settings)
        endpoint_id: str = self.service.call("add_endpoint", **wanted.to_json())
        self._live().endpoints.append(endpoint_id)
        return endpoint_id

    def user_endpoint_pid_of(
        self,
        endpoint_id: str | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
    ) -> int | None:
        """The process of any user endpoint; None while it does not run."""
        pid: int | None = self._pids(endpoint_id, user_endpoint_config or {})["user_endpoint"]
        return pid

    def worker_pids(
        self,
        endpoint_id: str | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The processes that run a user endpoint's tasks; none with the engine `threads`."""
        pids: list[int] = self._pids(endpoint_id, user_endpoint_config or {})["workers"]
        return pids

    def kill_user_endpoint(
        self,
        endpoint_id: str | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Kill a user endpoint and not what it started; returns the process id it had.

        The next submit starts it again, and then what it left behind is cleared away.
        """
        killed: int | None = self._at("kill_user_endpoint", endpoint_id, user_endpoint_config or {})
        return killed

    def kill_worker(
        self,
        endpoint_id: str | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
    ) -> int:
        """Kill one worker process; returns its id.

        Raises:
            RuntimeError: If there is none.
        """
        killed: int = self._at("kill_worker", endpoint_id, user_endpoint_config or {})
        return killed

    def drop_connections(self, of: Side = "all") -> int:
        """Let the broker close connections; returns how many there were."""
        sides = [user for user in USERS if user != "service"] if of == "all" else [of]
        dropped: int = self.service.call("drop_connections", of=sides)
        return dropped

    def pause(self, endpoint_id: str | None = None) -> None:
        """Let an endpoint stand still: its heartbeats cease, and it goes offline."""
        self._at("pause", endpoint_id, {})

    def resume(self, endpoint_id: str | None = None) -> None:
        """Let it go on."""
        self._at("resume", endpoint_id, {})

    def logs(self) -> dict[str, Path]:
        """All log files, by their path below the stack's folder."""
        folder = self._files()
        found = [*folder.rglob("*.log"), *folder.rglob("*.stderr"), *folder.rglob("*.stdout")]
        return {str(path.relative_to(folder)): path for path in sorted(found)}

    def start(self) -> Self:
        """Start everything; returns when tasks can be submitted.

        Raises:
            RuntimeError: If it does not start; the message ends with the logs' tails.
        """
        if self._running is not None:
            raise RuntimeError("This GlobusStack is running already; make another one.")
        self._folder = Path(tempfile.mkdtemp(prefix="globus-stack-"))
        process = _launch(self._folder, [self._settings], self._limits)
        try:
            said = _first_line(process, self._start_timeout)
            if "url" not in said:
                raise RuntimeError(f"The Globus stack did not start: {self._tails(said)}")
        except BaseException:
            self._end(process)
            raise
        self._running = _Running(process, said["url"], said["endpoints"])
        self._service = ServiceHandle(said["url"])
        return self

    def stop(self) -> None:
        """End everything, whatever it is doing; no process, port or file is left."""
        running, self._running = self._live(), None
        if _SDK in sys.modules:
            from langgraph_hpc_fanout.testing.globus.client import let_go_of  # noqa: PLC0415

            let_go_of(running.url)
        self._end(running.process)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _live(self) -> _Running:
        if self._running is None:
            raise RuntimeError("This GlobusStack is not running; start it or use a with statement.")
        return self._running

    def _files(self) -> Path:
        if self._folder is None:
            raise RuntimeError("This GlobusStack has no files: it was not started.")
        return self._folder

    def _pids(
        self, endpoint_id: str | None, user_endpoint_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        pids: dict[str, Any] = self._at("pids", endpoint_id, user_endpoint_config)
        return pids

    def _at(self, verb: str, endpoint_id: str | None, config: Mapping[str, Any]) -> Any:
        """Do something at an endpoint, by default at the first."""
        chosen = endpoint_id or self.endpoint_id
        return self.service.call(verb, endpoint_id=chosen, user_endpoint_config=dict(config))

    def _tails(self, said: Mapping[str, Any]) -> str:
        """Why it did not start, as far as the logs know."""
        tails = [
            f"--- {name}\n{path.read_text(errors='replace')[-_TAIL:]}"
            for name, path in self.logs().items()
            if path.stat().st_size
        ]
        return "\n".join([said.get("error", "it said nothing."), *tails])

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """The host ends all others when its standard input does."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
            shutil.rmtree(self._files(), ignore_errors=True)
            self._folder = None


def _launch(
    folder: Path, endpoints: Sequence[EndpointSettings], limits: ServiceLimits
) -> subprocess.Popen[bytes]:
    """The host, with its task. A session of its own keeps Ctrl-C for us."""
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
            [sys.executable, "-m", _HOST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=console,
            start_new_session=True,
        )
    spec = {
        "folder": str(folder),
        "endpoints": [settings.to_json() for settings in endpoints],
        "limits": dataclasses.asdict(limits),
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin.flush()
    return process


def _first_line(process: subprocess.Popen[bytes], patience: float) -> dict[str, Any]:
    """What the host says first, or nothing if it ends or the time is over."""
    output: IO[bytes] | None = process.stdout
    assert output is not None
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        begun = time.monotonic()
        if not selector.select(patience):
            return {"error": f"it took longer than {time.monotonic() - begun:.0f} s."}
        said: dict[str, Any] = json.loads(output.readline() or b"{}")
        return said
