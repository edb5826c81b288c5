"""Running as a user without privileges, for root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PROGRAM = "globus-compute-endpoint"
# cli.py takes the program's name apart while it is imported, and wants a path there.
_TRIAL = "import sys; sys.argv[0] = '/a/program'; import globus_compute_endpoint.cli, pyprctl"
_TRIAL_TIME = 60.0
_LET_THROUGH = 0o011


@dataclass(frozen=True, slots=True)
class Account:
    """Who to run as, and with which Python.

    Attributes:
        python: The command that runs a script.
        identity: `user`, `group` and `extra_groups` of `subprocess.Popen`; empty: as we are.
        environment: Variables that this Python needs.
    """

    python: tuple[str, ...]
    identity: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def choose(cls, folder: Path) -> Account:
        """Ourselves, or `nobody` if we are root.

        An interpreter in root's home cannot be executed by others. Then the machine's own Python
        of the same minor version takes its place, with the packages of this one, and if those
        cannot be read either, with a copy of them.

        Args:
            folder: Where programs for that Python may be written.

        Raises:
            RuntimeError: If no Python can be run as `nobody`.
        """
        if os.geteuid() != 0:
            return cls((sys.executable,))
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for packages in _packages(folder / "packages"):
            for python in _pythons():
                account = cls((python,), identity, {"PYTHONPATH": packages})
                if account._works():
                    return account._with_program(folder / "bin")
        raise RuntimeError(
            f"As nobody, no Python {_version()} runs the endpoint: {', '.join(_pythons())}."
        )

    def own(self, folder: Path) -> None:
        """Give a folder, and what is in it, to the user; the two above it let through."""
        if not self.identity:
            return
        user, group = self.identity["user"], self.identity["group"]
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, group, follow_symlinks=False)
        for parent in list(folder.parents)[:2]:
            parent.chmod(parent.stat().st_mode | _LET_THROUGH)

    def _works(self) -> bool:
        command = [*self.python, "-c", _TRIAL]
        try:
            tried = subprocess.run(  # noqa: S603 - an interpreter of this machine
                command,
                env={"PATH": os.defpath, **self.environment},
                cwd="/",
                capture_output=True,
                timeout=_TRIAL_TIME,
                check=False,
                **self.identity,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return tried.returncode == 0

    def _with_program(self, folder: Path) -> Account:
        """This account with an endpoint program on its PATH, which everything looks for."""
        folder.mkdir(parents=True)
        program = folder / _PROGRAM
        program.write_text(
            f"#!{self.python[0]}\n"
            "import sys\n"
            "from globus_compute_endpoint.cli import cli_run\n"
            "sys.exit(cli_run())\n"
        )
        program.chmod(0o755)
        path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
        return Account(self.python, self.identity, {**self.environment, "PATH": path})


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _pythons() -> list[str]:
    """This Python, and the machine's of the same minor version."""
    names = [os.path.realpath(sys.executable), f"/usr/bin/python{_version()}"]
    return [name for name in dict.fromkeys(names) if Path(name).exists()]


def _packages(copy: Path) -> Iterator[str]:
    """Where the installed packages are, and then a copy that everybody can read."""
    installed = list(dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib")))
    yield os.pathsep.join(installed)
    for number, path in enumerate(installed):
        shutil.copytree(path, copy / str(number), symlinks=True)
    yield os.pathsep.join(str(copy / str(number)) for number in range(len(installed)))
