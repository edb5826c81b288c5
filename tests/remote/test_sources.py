"""The task functions as text: they need nothing around them, and say what is missing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
from bundles import bundle, texts

from langgraph_hpc_fanout import __version__
from langgraph_hpc_fanout.endpoints.globus_compute.shipping import source_of
from langgraph_hpc_fanout.testing.fleet import echo

# A worker: for every task it executes the text in an empty namespace and calls the function.
WORKER = """
import json, sys
name, source, bundles = json.load(sys.stdin)
results = []
for bundle in bundles:
    namespace = {}
    exec(source, namespace)
    results.append(namespace[name](bundle))
json.dump(results, sys.stdout)
"""


def in_a_worker(ship, bundles, *flags, **options):
    done = subprocess.run(
        [sys.executable, *flags, "-W", "error", "-c", WORKER],
        input=json.dumps([*reversed(source_of(ship)), bundles]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_without_any_package_and_with_connections_that_stay(fake_fleet):
    fleet = fake_fleet(latency=0.01)
    results = in_a_worker("source", [bundle(fleet.urls, "abcd", window=4)] * 3, "-I", "-S")
    assert [texts(result) for result in results] == [[echo(each) for each in "abcd"]] * 3
    assert results[0]["version"] == __version__
    record = fleet.record()
    assert record.probes == 1
    assert record.connections <= 5


@pytest.mark.parametrize("ship", ["package", "source"])
def test_texts_are_one_function_for_old_pythons(ship):
    text, name = source_of(ship)
    *before, function = ast.parse(text, feature_version=(3, 9)).body
    assert all(isinstance(each, ast.Expr | ast.ImportFrom) for each in before)
    assert isinstance(function, ast.FunctionDef)
    assert function.name == name
    assert not function.decorator_list
    annotations = [function.args.args[0].annotation, function.returns]
    assert [ast.unparse(each) for each in annotations] == ["object", "dict[str, object]"]
    assert len(text) < 60_000


def test_where_the_package_is(fake_fleet):
    fleet = fake_fleet(latency=0.01)
    results = in_a_worker("package", [bundle(fleet.urls, "abcd", window=4)] * 3)
    assert [texts(result) for result in results] == [[echo(each) for each in "abcd"]] * 3
    assert fleet.record().probes == 1


def test_where_the_package_is_not():
    (result,) = in_a_worker("package", [bundle([], ["a"])], "-I", "-S")
    error = result["error"]
    assert error["kind"] == "permanent"
    assert result["format"] == 1
    for part in (
        "No module named 'langgraph_hpc_fanout'",
        f"pip install langgraph-hpc-fanout=={__version__}",
        "worker_init",
        f"Python {sys.version_info[0]}.{sys.version_info[1]}",
        "ship='source'",
    ):
        assert part in error["message"]
