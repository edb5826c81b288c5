"""Imports: every module stands alone, and the light ones drag nothing heavy along."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import langgraph_hpc_fanout

PACKAGE = langgraph_hpc_fanout.__name__
MODULES = [
    module.name
    for module in pkgutil.walk_packages(langgraph_hpc_fanout.__path__, prefix=f"{PACKAGE}.")
]

# One interpreter, and a fork of it for each module: none sees what another has imported.
SCRIPT = """
import importlib, json, os, sys, traceback

def in_a_fork(work):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer = work()
        except BaseException:
            answer = traceback.format_exc()
        with os.fdopen(writer, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.load(file)
    os.waitpid(pid, 0)
    return answer

def imported_by(name):
    importlib.import_module(name)
    return sorted({module.partition(".")[0] for module in sys.modules})

task = json.load(sys.stdin)
for name in task["preload"]:
    importlib.import_module(name)
assert "langgraph_hpc_fanout" not in sys.modules
json.dump({name: in_a_fork(lambda: imported_by(name)) for name in task["modules"]}, sys.stdout)
"""


def imported(modules, preload=()):
    """For each module what a fresh interpreter has imported after it, or a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps({"modules": modules, "preload": preload}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_can_be_imported_alone():
    assert len(MODULES) > 30
    # Others' packages are imported beforehand, or this would take a minute.
    heavy = ["aiohttp", "langgraph.graph", "pydantic", "pytest", "uvloop"]
    answers = imported(MODULES, heavy)
    assert set(answers) == set(MODULES)
    assert {name: each for name, each in answers.items() if isinstance(each, str)} == {}


GRAPHS = {"langgraph", "langchain_core"}
LIGHT = {
    PACKAGE: {*GRAPHS, "aiohttp", "pydantic", "uvloop"},
    f"{PACKAGE}.records": {*GRAPHS, "aiohttp", "pydantic", "uvloop"},
    f"{PACKAGE}.endpoints": GRAPHS,
    f"{PACKAGE}.endpoints.openai": GRAPHS,
    f"{PACKAGE}.dispatch": GRAPHS,
    f"{PACKAGE}.tokens": {*GRAPHS, "aiohttp", "globus_sdk", "requests"},
    f"{PACKAGE}.cli.app": {*GRAPHS, "aiohttp", "globus_sdk", "pydantic", "requests"},
    f"{PACKAGE}.remote": {*GRAPHS, "openai"},
    f"{PACKAGE}.journal": {*GRAPHS, "aiohttp"},
}


def test_light_modules_drag_nothing_heavy_along():
    answers = imported(list(LIGHT))
    assert {name: each for name, each in answers.items() if isinstance(each, str)} == {}
    dragged = {name: LIGHT[name] & set(answers[name]) for name in LIGHT}
    assert dragged == {name: set() for name in LIGHT}


def test_the_check_sees_what_is_imported():
    prompt, nowhere = f"{PACKAGE}.tasks.prompt", f"{PACKAGE}.nowhere"
    answers = imported([prompt, nowhere])
    assert {"langchain_core", "pydantic"} < set(answers[prompt])
    assert f"No module named '{nowhere}'" in answers[nowhere]


# -- the package's names ----------------------------------------------------------------------


@pytest.mark.parametrize("name", langgraph_hpc_fanout.__all__)
def test_every_public_name_resolves_and_is_listed(name):
    value = getattr(langgraph_hpc_fanout, name)
    assert value is not None
    assert getattr(value, "__name__", "").removeprefix("langgraph_hpc_fanout.") == name
    assert name in dir(langgraph_hpc_fanout)
    assert value is getattr(langgraph_hpc_fanout, name)


def test_a_star_import_brings_exactly_the_public_names():
    namespace = {}
    exec("from langgraph_hpc_fanout import *", namespace)
    assert sorted(set(namespace) - {"__builtins__"}) == sorted(langgraph_hpc_fanout.__all__)


def test_names_are_listed_before_they_are_used():
    script = "import langgraph_hpc_fanout as p; assert set(p.__all__) <= set(dir(p)), dir(p)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", ["Nothing", "fan_out_node", "__nothing__", "_HOME"])
def test_an_unknown_name_is_an_attribute_error(name):
    says = rf"^module 'langgraph_hpc_fanout' has no attribute '{name}'$"
    with pytest.raises(AttributeError, match=says):
        getattr(langgraph_hpc_fanout, name)
    assert not hasattr(langgraph_hpc_fanout, name)


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert langgraph_hpc_fanout.__version__ == version("langgraph-hpc-fanout")


def test_the_testing_kits_names_resolve():
    from langgraph_hpc_fanout import testing
    from langgraph_hpc_fanout.testing.fleet import FakeFleet, scripted
    from langgraph_hpc_fanout.testing.local_llm import LocalLLM

    assert testing.FakeFleet is FakeFleet
    assert testing.scripted is scripted
    assert testing.LocalLLM is LocalLLM
    with pytest.raises(AttributeError, match="no attribute 'Fleet'"):
        testing.Fleet  # noqa: B018
