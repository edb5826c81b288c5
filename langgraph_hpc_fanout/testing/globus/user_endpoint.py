"""User endpoints that the stack starts itself, as a core endpoint would.

A core endpoint forks `globus-compute-endpoint _start-user-endpoint NAME` and feeds it its
configuration and addresses on standard input (globus_compute_endpoint/endpoint/
core_endpoint.py, `cmd_start_endpoint`). That command asks no web service and no log-in, and
it works as root, which a core endpoint without an identity mapping refuses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langgraph_hpc_fanout.testing.globus.processes import (
    Process,
    end_all,
    send,
    session,
)
from langgraph_hpc_fanout.testing.globus.service.service import FAILING_SETUP, Service
from langgraph_hpc_fanout.testing.globus.settings import EndpointSettings, endpoint_config

_GRACE = 30.0
"""Seconds (`mu_child_ep_grace_period_s` of a core endpoint's configuration)."""

_SPAWNED = "spawn_main"
_WORKER_POOL = "-m parsl.executors.high_throughput.process_worker_pool"
_INTERCHANGE = "parsl: HTEX interchange"
PROGRAM = "globus-compute-endpoint"
USER_DIR = "GLOBUS_COMPUTE_USER_DIR"


class UserEndpoint:
    """One process of `_start-user-endpoint`.

    It begins to import at once, and waits for `feed` before it connects to anything.

    Args:
        name: Its name, and that of its folder.
        settings: How it runs tasks.
        folder: The folder of all endpoints, `GLOBUS_COMPUTE_USER_DIR`.
    """

    def __init__(self, name: str, settings: EndpointSettings, folder: Path) -> None:
        self.settings = settings
        self._folder = folder / name
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not settings.keep_pid_file:
            (self._folder / "daemon.pid").unlink(missing_ok=True)
        with (self._folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(  # noqa: S603 - the installed endpoint itself
                [str(Path(sys.executable).with_name(PROGRAM)), "_start-user-endpoint", name],
                env=environment(folder, settings),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and id of the session that all its processes live in."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def stopped_well(self) -> bool:
        """Whether it ended by itself, and not by a failure or a signal."""
        return self._process.poll() == 0

    def feed(self, credentials: Mapping[str, Any]) -> None:
        """Tell it what to do and where the broker is."""
        given: dict[str, Any] = {
            "ep_info": {"posix_ppid": os.getpid()},
            "config": endpoint_config(self.settings),
            "amqp_creds": credentials,
        }
        if self.settings.allowed_functions is not None:
            given["allowed_functions"] = list(self.settings.allowed_functions)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended already; `alive` tells
            self._process.stdin.write(json.dumps(given).encode())
            self._process.stdin.close()

    def kill(self) -> None:
        """Kill the endpoint and nothing that it started."""
        self._process.kill()
        self._process.wait()

    def clear_away(self) -> None:
        """End everything that it started and left behind."""
        end_all(lambda: session(self.pid))
        self._process.wait()


class UserEndpoints:
    """The user endpoints of one endpoint; a `Starter` of the service.

    Args:
        service: Who hands out addresses and wants the endpoints.
        endpoint_id: The endpoint that they belong to.
        settings: How they run tasks, where a submit says nothing else.
        folder: The folder of all endpoints.
    """

    def __init__(
        self, service: Service, endpoint_id: str, settings: EndpointSettings, folder: Path
    ) -> None:
        self._service = service
        self._endpoint_id = endpoint_id
        self._settings = settings
        self._folder = folder
        self._running: dict[str, UserEndpoint] = {}
        self._asked: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._paused = False

    def prepare(self, user_endpoint_id: str) -> UserEndpoint:
        """Launch one that is fed later: it imports while the broker starts."""
        launched = UserEndpoint(self._name(user_endpoint_id), self._settings, self._folder)
        self._running[user_endpoint_id] = launched
        return launched

    def feed(self, user_endpoint_id: str) -> None:
        """Let a prepared one go on, now that the broker runs."""
        self._running[user_endpoint_id].feed(self._service.credentials(user_endpoint_id))

    def own_pids(self) -> set[int]:
        """The processes that we wait for ourselves."""
        return {running.pid for running in self._running.values()}

    def start(self, user_endpoint_id: str, submitted: Mapping[str, Any]) -> bool:
        """Start one that does not run; what an earlier one left behind goes first."""
        running = self._running.get(user_endpoint_id)
        failed = self._service.start_failures.pop(user_endpoint_id, None)
        if running is not None and running.alive and failed is None:
            self._asked[user_endpoint_id] = (time.monotonic(), submitted)
            return False
        if running is not None:
            running.clear_away()
        try:
            settings = self._settings.changed(submitted.get("user_endpoint_config") or {})
        except (TypeError, ValueError) as error:
            text = f"Unable to start user endpoint process: ({type(error).__name__}) {error}"
            self._service.fail_soon(user_endpoint_id, text)
            return True
        if self._service.faults.elsewhere("start_fails"):
            settings = dataclasses.replace(settings, setup=FAILING_SETUP)
        launched = UserEndpoint(self._name(user_endpoint_id), settings, self._folder)
        launched.feed(self._service.credentials(user_endpoint_id))
        self._running[user_endpoint_id] = launched
        return True

    def pid(self, user_endpoint_id: str) -> int | None:
        """The process of one that runs."""
        running = self._running.get(user_endpoint_id)
        return running.pid if running is not None and running.alive else None

    def kill(self, user_endpoint_id: str) -> int | None:
        """Kill one, as a login node does that runs out of memory."""
        running = self._running.get(user_endpoint_id)
        if running is None or not running.alive:
            return None
        running.kill()
        return running.pid

    def pause(self) -> None:
        """Let them all stand still, so that their heartbeats cease."""
        self._paused = True
        send([process.pid for process in self._all()], signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._paused = False
        send([process.pid for process in self._all()], signal.SIGCONT)

    def heartbeat(self) -> None:
        """The core endpoint that the stack stands for lives."""
        if not self._paused:
            period = self._settings.heartbeat
            self._service.endpoint(self._endpoint_id).heartbeat({"heartbeat_period": period})

    def revive(self) -> int:
        """Start again what stopped by itself just when it was asked for; returns how many.

        A core endpoint does so, too (globus_compute_endpoint/endpoint/core_endpoint.py,
        `_revive_child`).
        """
        ended = [name for name, running in self._running.items() if not running.alive]
        asked = {name: self._asked.pop(name) for name in ended if name in self._asked}
        revived = 0
        for name, (moment, submitted) in asked.items():
            fresh = time.monotonic() - moment < _GRACE
            if fresh and self._running[name].stopped_well:
                revived += self.start(name, submitted)
        return revived

    def _all(self) -> list[Process]:
        pids = [running.pid for running in self._running.values() if running.alive]
        return [process for pid in pids for process in session(pid)]

    @staticmethod
    def _name(user_endpoint_id: str) -> str:
        return f"uep.{user_endpoint_id}"


def environment(folder: Path, settings: EndpointSettings) -> dict[str, str]:
    """Ours, with the endpoint's programs on the PATH, where HTEX looks for them.

    globus_compute_endpoint/engines/globus_compute.py, `_get_compute_launch_cmd`.
    """
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        USER_DIR: str(folder),
        **settings.env,
    }


def workers(user_endpoint: int) -> list[int]:
    """The processes that run tasks for a user endpoint; none if its threads do.

    With ProcessPoolEngine they are children of the endpoint. With HTEX they are spawned by a
    block's worker pool, whose first child serves the pool's shared dictionaries
    (parsl/executors/high_throughput/process_worker_pool.py, `Manager.__init__`).
    """
    everybody = session(user_endpoint)
    if not any(_INTERCHANGE in process.command for process in everybody):
        return [process.pid for process in everybody if process.parent == user_endpoint]
    found = []
    for pool in [p.pid for p in everybody if _WORKER_POOL in p.command]:
        spawned = [p for p in everybody if p.parent == pool and _SPAWNED in p.command]
        spawned.sort(key=lambda process: (process.started, process.pid))
        found += [process.pid for process in spawned[1:]]
    return found
