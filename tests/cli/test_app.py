"""The program as such: its version, its help, what it imports for them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import langgraph_hpc_fanout

PAGE = Path(__file__, "../../../docs/cli.md").resolve().read_text()
HEAVY = {"aiohttp", "globus_sdk", "langchain_core", "langgraph", "numpy", "orjson", "uvloop"}


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


def test_the_version(run):
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"hpc-fanout {langgraph_hpc_fanout.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("auth",), ("auth", "--help")])
def test_the_help(run, arguments):
    done = run(*arguments)
    assert "Usage: hpc-fanout" in done.output
    assert ("status" if "auth" in arguments else "auth") in done.output


def test_an_unknown_command(run):
    done = run("atuh")
    assert done.exit_code == 2
    assert "No such command 'atuh'" in done.output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["auth", "status", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    script = f"""
import sys
from langgraph_hpc_fanout.cli.app import app
try:
    app({arguments!r}, prog_name="hpc-fanout")
finally:
    print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = process("-c", script)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_the_program_as_a_module():
    done = process("-m", "langgraph_hpc_fanout.cli", "--version")
    assert done.stdout == f"hpc-fanout {langgraph_hpc_fanout.__version__}\n"


def test_the_page_names_what_there_is(run):
    commands = {*re.findall(r"`?hpc-fanout((?: [a-z]+)+(?: --[a-z]+)?)", PAGE)}
    assert {" auth status", " auth status --json"} <= commands
    for command in commands:
        assert run(*command.split(), "--help").exit_code == 0, command
