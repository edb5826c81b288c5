"""FirstFake as a command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from langgraph_hpc_fanout.testing.first import Fault
from langgraph_hpc_fanout.testing.first.__main__ import main, parse_fault, parser

COMMAND = [sys.executable, "-m", "langgraph_hpc_fanout.testing.first"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("internal_error", Fault("internal_error")),
        ("throttled=0.25,times=3", Fault("throttled", rate=0.25, times=3)),
        ("upstream,status=400,cluster=metis", Fault("upstream", status=400, cluster="metis")),
    ],
)
def test_faults_are_read(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["nonsense", "throttled=x", "throttled,colour=red", "upstream"])
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_fault(text)


def test_settings_that_do_not_fit_are_told(capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        main(["--version", "2", "--files", "."])
    assert "no batches" in capsys.readouterr().err


def test_the_defaults_are_those_of_the_fake():
    options = parser().parse_args([])
    assert (options.version, options.time_scale, options.port) == (1, 1.0, 0)


@pytest.mark.parametrize(("version", "path"), [("1", "/sophia/vllm/v1"), ("2", "/federated/v1")])
def test_it_serves_until_it_is_told_to_stop(version, path):
    process = subprocess.Popen(
        [*COMMAND, "--version", version, "--no-quotas", "--time-scale", "60"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    try:
        url, token = (process.stdout.readline().strip() for _ in range(2))
        message = {"role": "user", "content": "hello"}
        asked = urllib.request.Request(
            f"{url}{path}/chat/completions",
            data=json.dumps({"model": "openai/gpt-oss-120b", "messages": [message]}).encode(),
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.load(answer)["choices"]
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert told.startswith("served 1, peak in flight 1, refused {}")
