"""A real core endpoint: `globus-compute-endpoint configure` and `start`.

It registers with the service, takes start commands, and forks the user endpoints itself. It
does so only for a user without privileges: for root it becomes a multi-user endpoint that
wants an identity mapping (globus_compute_endpoint/endpoint/utils/__init__.py,
`is_privileged`). Run by root, the stack therefore starts it as another user.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

from langgraph_hpc_fanout.testing.globus.processes import (
    Process,
    descendants,
    send,
)
from langgraph_hpc_fanout.testing.globus.service.service import Service
from langgraph_hpc_fanout.testing.globus.settings import EndpointSettings, endpoint_config
from langgraph_hpc_fanout.testing.globus.unprivileged import Account
from langgraph_hpc_fanout.testing.globus.user_endpoint import USER_DIR, environment

NAME = "core"
_SCRIPT = Path(__file__).with_name("run_core_endpoint.py")
_PATIENCE = 90.0


class CoreEndpoint:
    """One core endpoint.

    Args:
        service: Who it registers with.
        endpoint_id: Its id, which the service knows already.
        settings: How its user endpoints run tasks.
        folder: Its own folder.
    """

    def __init__(
        self, service: Service, endpoint_id: str, settings: EndpointSettings, folder: Path
    ) -> None:
        self._service = service
        self._endpoint_id = endpoint_id
        self._settings = settings
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, service_url: str) -> None:
        """Start it; returns at its first heartbeat.

        Raises:
            RuntimeError: If it ends instead, or takes too long.
        """
        self._folder.mkdir(parents=True)
        loop = asyncio.get_running_loop()
        account = await loop.run_in_executor(None, Account.choose, self._folder)
        for name, text in self._files().items():
            (self._folder / name).write_text(text)
        account.own(self._folder)
        console = self._folder / "console.log"
        with console.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - it returns at once
                [*account.python, str(_SCRIPT), service_url, NAME, self._endpoint_id],
                env={
                    **environment(self._folder / "endpoints", self._settings),
                    **account.environment,
                    USER_DIR: str(self._folder / "endpoints"),
                    "HOME": str(self._folder),
                    "GLOBUS_COMPUTE_CLIENT_ID": self._endpoint_id,
                    "GLOBUS_COMPUTE_CLIENT_SECRET": "none",
                    "GLOBUS_SDK_SERVICE_URL_AUTH": f"{service_url}/",
                },
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **account.identity,
            )
        endpoint = self._service.endpoint(self._endpoint_id)
        deadline = loop.time() + _PATIENCE
        while not endpoint.seen:
            endpoint = self._service.endpoint(self._endpoint_id)  # it registers anew
            if self._process.poll() is not None or loop.time() > deadline:
                said = console.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"The core endpoint did not start:\n{said}")
            await asyncio.sleep(0.05)

    def own_pids(self) -> set[int]:
        """The processes that we wait for ourselves."""
        return {self._process.pid} if self._process else set()

    def pid(self, user_endpoint_id: str) -> int | None:
        """The process of a user endpoint: its name ends with the id."""
        for process in self._user_endpoints():
            if user_endpoint_id in process.command:
                return process.pid
        return None

    def kill(self, user_endpoint_id: str) -> int | None:
        """Kill a user endpoint; the core endpoint starts it again when it is next asked to.

        What it leaves behind stays, as it does in reality, but its PID file goes.
        """
        if (pid := self.pid(user_endpoint_id)) is None:
            return None
        send([pid], signal.SIGKILL)
        if not self._settings.keep_pid_file:
            name = f"uep.{self._endpoint_id}.{user_endpoint_id}"
            (self._folder / "endpoints" / name / "daemon.pid").unlink(missing_ok=True)
        return pid

    def pause(self) -> None:
        """Let it and its user endpoints stand still, so that its heartbeats cease."""
        send(self._everybody(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        send(self._everybody(), signal.SIGCONT)

    def heartbeat(self) -> None:
        """It sends its own."""

    def revive(self) -> int:
        """It does so itself."""
        return 0

    def _user_endpoints(self) -> list[Process]:
        everybody = descendants(self._process.pid) if self._process else []
        return [process for process in everybody if process.state != "Z"]

    def _everybody(self) -> list[int]:
        return [*self.own_pids(), *(process.pid for process in self._user_endpoints())]

    def _files(self) -> dict[str, str]:
        """What `configure` takes; its own template installs things over the network."""
        core = {
            "display_name": "stack",
            "local_compute_services": True,
            "heartbeat_period": self._settings.real_heartbeat,
        }
        if self._settings.allowed_functions is not None:
            core["allowed_functions"] = list(self._settings.allowed_functions)
        template = json.loads(endpoint_config(self._settings))
        given = template.pop("endpoint_setup", "true")
        # JSON is YAML, and jinja's braces are added where a submit may have a say.
        text = json.dumps(template)[:-1]
        setup = "{{ setup | default(" + json.dumps(given) + ") | tojson }}"
        return {
            "core.yaml": json.dumps(core),
            "schema.json": json.dumps({"type": "object"}),
            "template.yaml.j2": f'{text}, "endpoint_setup": {setup}}}',
        }
