"""The main job: real molecules, a real LLM on loopback, a compiled graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.molecules.dataset import load_molecules
from examples.molecules.demo import Answer, build_graph
from langgraph_hpc_fanout.testing.local_llm import LocalLLM

ROOT = Path(__file__).parents[2]


@pytest.mark.real_llm
def test_the_graph_gets_real_answers_from_a_real_model():
    molecules = load_molecules()[::16]
    with LocalLLM() as server:
        state = build_graph(server.url).invoke({"molecules": molecules})
    report = state["report"]
    assert report["ok"] == report["total"] == len(molecules)
    assert all(Answer.model_validate(answer) for answer in state["predictions"])
    assert report["tokens"]["completion"] >= len(molecules)
    assert report["tokens"]["estimated_items"] == 0
    assert report["endpoints"] == {"local LLM": len(molecules)}


@pytest.mark.real_llm
def test_the_demo_as_a_command():
    program = subprocess.run(
        [sys.executable, "-m", "examples.molecules.demo", "--molecules", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert "10 of 10 molecules answered" in program.stdout
    assert "agree with the measured one" in program.stdout
    assert "calls/s" in program.stdout
