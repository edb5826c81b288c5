"""Bundles: versions that fit and those that do not, settings that are none."""

from __future__ import annotations

import math
import platform
import socket

import pytest
from bundles import bundle

from langgraph_hpc_fanout.remote import bundle as module
from langgraph_hpc_fanout.remote import run
from langgraph_hpc_fanout.remote.bundle import BundleError, check_version, read_bundle


@pytest.mark.parametrize(
    ("sent", "here", "fit"),
    [
        ("0.1.0", "0.1.0", True),
        ("0.1.7", "0.1.0", True),
        ("0.1.0.dev1", "0.1.0", True),
        ("0.2.0", "0.1.0", False),
        ("0.10.0", "0.1.0", False),
        ("1.0.0", "0.1.0", False),
        ("1.0.0", "1.9.3", True),
        ("2.0.0", "1.9.3", False),
        ("12.0.0", "1.9.3", False),
        ("unknown", "0.1.0", False),
        (None, "0.1.0", False),
    ],
)
def test_versions(monkeypatch, sent, here, fit):
    monkeypatch.setattr(module, "__version__", here)
    if fit:
        check_version(sent)
        return
    with pytest.raises(BundleError):
        check_version(sent)


def test_versions_that_do_not_fit_are_told_with_the_cure():
    error = run({**bundle([], ["a"]), "version": "9.8.7"})["error"]
    assert error["kind"] == "permanent"
    for part in (
        "9.8.7",
        module.__version__,
        socket.gethostname(),
        platform.python_version(),
        "pip install langgraph-hpc-fanout==9.8.7",
        "worker_init",
    ):
        assert part in error["message"]


def test_what_is_left_out():
    read = read_bundle({"format": 1, "version": module.__version__, "requests": [1]})
    assert (read.window, read.attempts, read.timeout) == (64, 3, 600.0)
    assert (read.deadline, read.patience) == (3600.0, 3600.0)
    assert (read.function, read.servers, read.api_key_env, read.model) == (None, (), None, None)
    assert read.verify
    assert read_bundle(bundle([], deadline=5, patience=10)).patience == 5
    assert not read_bundle(bundle([], verify=False)).verify


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0},
        {"window": "64"},
        {"attempts": 0},
        {"attempts": True},
        {"timeout": 0},
        {"deadline": math.nan},
        {"patience": "long"},
        {"servers": "http://127.0.0.1:1/v1"},
        {"servers": [8000]},
        {"model": 7},
        {"function": ["f"]},
        {"requests": {"a": 1}},
    ],
)
def test_settings_that_are_none(wrong):
    result = run({**bundle([], ["a"]), **wrong})
    assert result["error"]["kind"] == "permanent"
    assert next(iter(wrong)) in result["error"]["message"]
