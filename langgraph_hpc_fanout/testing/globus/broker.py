"""A private RabbitMQ on loopback: Globus Compute's messages travel over AMQP.

The node is RabbitMQ's own Erlang program, started without its shell scripts: those want a user
of their own, fixed ports, and epmd, a daemon that stays. This one takes free ports of
127.0.0.1, keeps everything in a folder, and ends with its standard input, so also when the
process that started it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LOOPBACK = "127.0.0.1"
_VARIABLE = "HPC_FANOUT_RABBITMQ"
MACHINE = Path("/")
_REPLY = "@reply "

User = Literal["service", "endpoint", "sdk"]
"""The accounts; the real service, too, gives every party credentials of its own."""

USERS: tuple[User, ...] = ("service", "endpoint", "sdk")

_READ_COMMANDS = (
    "spawn(fun Next() ->"
    ' case io:get_line(standard_io, "") of'
    "  eof -> erlang:halt(0, [{flush, false}]);"
    "  Line ->"
    "   Answer = try"
    "    {ok, Tokens, _} = erl_scan:string(Line),"
    "    {ok, Parsed} = erl_parse:parse_exprs(Tokens),"
    "    {value, Value, _} = erl_eval:exprs(Parsed, []), Value"
    "   catch Kind:Reason -> {failed, Kind, Reason} end,"
    '   io:format("~n@reply ~0p~n", [Answer]), Next()'
    " end end)."
)
"""Evaluates the lines of standard input: a hundred times faster than rabbitmqctl, which starts
an Erlang machine of its own for each command and needs the network for it."""

_CLOSE_CONNECTIONS = (
    'length([catch rabbit_networking:close_connection(P, <<"closed by the test stack">>)'
    " || P <- rabbit_networking:connections(),"
    # One that is ending is listed, and gone when it is asked.
    " case catch rabbit_reader:info(P, [user]) of"
    " [{user, User}] -> lists:member(User, [{users}]); _ -> false end])."
)


class RabbitMQMissingError(RuntimeError):
    """There is no RabbitMQ on this machine, or none that the stack can use."""

    def __init__(self) -> None:
        super().__init__(
            "The Globus Compute stack needs RabbitMQ: run requirements/rabbitmq.sh, or "
            "apt-get install --no-install-recommends rabbitmq-server, or let "
            f"{_VARIABLE} name the folder that its Debian packages were extracted to."
        )


@dataclass(frozen=True, slots=True)
class Installation:
    """Erlang and RabbitMQ, laid out as Debian's packages are.

    Attributes:
        erlang: Erlang's folder.
        emulator: The folder with Erlang's own programs.
        server: RabbitMQ's folder.
        libraries: Folders of shared libraries that came with a private copy.
    """

    erlang: Path
    emulator: Path
    server: Path
    libraries: tuple[Path, ...]

    @classmethod
    def find(cls) -> Installation:
        """What HPC_FANOUT_RABBITMQ names, else what is in `.venv/opt`, else the machine's.

        A private copy holds only what the machine lacks, so each part is looked for alone.

        Raises:
            RabbitMQMissingError: If there is none.
        """
        copy = Path(os.environ.get(_VARIABLE) or Path(sys.prefix, "opt", "rabbitmq")).absolute()
        emulators = _in_any((copy, MACHINE), "usr/lib/erlang/erts-*/bin/erlexec")
        servers = _in_any((copy, MACHINE), "usr/lib/rabbitmq/lib/rabbitmq_server-*")
        if not emulators or not servers:
            raise RabbitMQMissingError
        libraries = (*copy.glob("usr/lib/*-linux-gnu*"), *copy.glob("lib/*-linux-gnu*"))
        emulator = emulators[-1].parent
        return cls(emulator.parent.parent, emulator, servers[-1], libraries)

    def plugins(self) -> Iterator[Path]:
        """What the server itself needs, and none of the plugins proper: it starts faster."""
        for folder in (self.server / "plugins").iterdir():
            plugin = folder.name.startswith("rabbitmq_")
            if folder.is_dir() and (not plugin or folder.name.startswith("rabbitmq_prelaunch")):
                yield folder


def _in_any(roots: Iterable[Path], pattern: str) -> list[Path]:
    """What matches in the first root that has any."""
    return next((found for root in roots if (found := sorted(root.glob(pattern)))), [])


class Broker:
    """One RabbitMQ node.

    Args:
        folder: Where all its files go; a new one.
        installation: What to run.
    """

    def __init__(self, folder: Path, installation: Installation) -> None:
        self._folder = folder
        self._installation = installation
        self._password = secrets.token_urlsafe(12)
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self.port, self._distribution_port = free_ports(2)

    @property
    def pid(self) -> int | None:
        """Process id of the Erlang machine, when it was started."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        """Where the node writes."""
        return self._folder / "rabbit.log"

    def url(self, user: User) -> str:
        """The address for one of the accounts."""
        return f"amqp://{user}:{self._password}@{LOOPBACK}:{self.port}/%2F"

    async def start(self) -> None:
        """Start the node; returns when it takes connections.

        Raises:
            RuntimeError: If it ends instead.
        """
        self._prepare()
        with (self._folder / "console.log").open("wb") as console:
            self._process = await asyncio.create_subprocess_exec(
                str(self._installation.emulator / "erlexec"),
                *self._arguments(),
                env=self._environment(),
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=console,
                start_new_session=True,
            )
        while not await self._listens():
            if self._process.returncode is not None:
                assert self._process.stdout is not None
                said = (await self._process.stdout.read())[-3000:].decode(errors="replace")
                raise RuntimeError(f"RabbitMQ ended with {self._process.returncode}:\n{said}")
            await asyncio.sleep(0.05)

    async def close_connections(self, users: tuple[User, ...]) -> int:
        """Close every connection of these accounts, as the service may at any time.

        The clients are told CONNECTION_FORCED. Returns how many there were.
        """
        listed = ", ".join(f'<<"{user}">>' for user in users)
        return int(await self._ask(_CLOSE_CONNECTIONS.replace("{users}", listed)))

    async def _ask(self, expression: str) -> str:
        """Evaluate one line of Erlang in the node."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking:
            self._process.stdin.write(expression.encode() + b"\n")
            await self._process.stdin.drain()
            while line := (await self._process.stdout.readline()).decode():
                if line.startswith(_REPLY):
                    return line.removeprefix(_REPLY).strip()
        raise RuntimeError("RabbitMQ ended while it was asked something.")

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    def _prepare(self) -> None:
        plugins = self._folder / "plugins"
        self._folder.mkdir(mode=0o700, parents=True)  # the accounts' password is in it
        plugins.mkdir()
        for folder in self._installation.plugins():
            (plugins / folder.name).symlink_to(folder)
        # Erlang terms, not rabbitmq.conf: translating that takes a second of every start.
        settings = (
            f'[{{rabbit, [{{tcp_listeners, [{{"{LOOPBACK}", {self.port}}}]}}, '
            f'{{load_definitions, "{self._folder / "definitions.json"}"}}, '
            "{heartbeat, 60}, {disk_free_limit, 0}]}]."
        )
        (self._folder / "rabbit.config").write_text(settings)
        (self._folder / "definitions.json").write_text(json.dumps(self._definitions()))
        (self._folder / "enabled_plugins").write_text("[].")
        cookie = self._folder / ".erlang.cookie"  # in a file: everybody may read arguments
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_urlsafe(12))
        cookie.chmod(0o400)

    def _definitions(self) -> dict[str, object]:
        everything = {"vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        return {
            "vhosts": [{"name": "/"}],
            "users": [{"name": u, "password": self._password, "tags": ""} for u in USERS],
            "permissions": [{"user": user, **everything} for user in USERS],
        }

    def _arguments(self) -> list[str]:
        """As RabbitMQ's own script does it (bin/rabbitmq-server), for a small machine."""
        return [
            *("-noshell", "-boot", "start_sasl", "+W", "w", "+S", "2:2", "+A", "1"),
            *("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
            # With a port of its own the node asks no epmd where others are, and starts none.
            *("-start_epmd", "false", "-erl_epmd_port", str(self._distribution_port)),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
            *("-name", f"rabbit@{LOOPBACK}"),
            *("-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"),
            *("-eval", _READ_COMMANDS, "-s", "rabbit", "boot"),
        ]

    def _environment(self) -> Mapping[str, str]:
        folder, installed = self._folder, self._installation
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, installed.libraries)),
            # What the script `erl` sets; Debian's own always names /usr/lib/erlang.
            "ROOTDIR": str(installed.erlang),
            "BINDIR": str(installed.emulator),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": str(folder / "plugins"),
            "ERL_CRASH_DUMP": str(folder / "crash.dump"),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_HOME": str(installed.server),
            "RABBITMQ_NODENAME": f"rabbit@{LOOPBACK}",
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_PLUGINS_DIR": str(folder / "plugins"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_LOG": "warning",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
