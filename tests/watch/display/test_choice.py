"""Which display a run gets."""

from __future__ import annotations

import io
import multiprocessing
import os
from types import SimpleNamespace

import pytest

from langgraph_hpc_fanout.watch.display import choice
from langgraph_hpc_fanout.watch.display.choice import VARIABLE, choose
from langgraph_hpc_fanout.watch.display.lines import StderrLines
from langgraph_hpc_fanout.watch.display.notebook import NotebookView
from langgraph_hpc_fanout.watch.display.terminal import TerminalBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """Where the program runs: no terminal, no notebook, no server; nothing is wished for."""
    ipython = SimpleNamespace(get_ipython=lambda: None)
    place = SimpleNamespace(stderr=io.StringIO(), modules={"IPython": ipython})
    monkeypatch.setattr(choice, "sys", place)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("LANGSERVE_GRAPHS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    return place


@pytest.fixture
def terminal(place):
    place.stderr = Terminal()


@pytest.fixture
def notebook(place):
    shell = SimpleNamespace(kernel="a kernel")
    place.modules["IPython"] = SimpleNamespace(get_ipython=lambda: shell)


def test_lines_elsewhere():
    assert isinstance(choose(), StderrLines)


def test_a_bar_on_a_terminal(terminal):
    assert isinstance(choose(), TerminalBar)


def test_html_in_a_notebook(notebook, terminal):
    assert isinstance(choose(), NotebookView)


def test_an_ipython_shell_on_a_terminal_is_no_notebook(terminal, place):
    place.modules["IPython"] = SimpleNamespace(get_ipython=SimpleNamespace)
    assert isinstance(choose(), TerminalBar)


@pytest.mark.parametrize("sign", ["dumb", "server", "fork", "multiprocessing", "no stderr"])
def test_no_bar_where_it_would_be_noise(terminal, place, monkeypatch, sign):
    changes = {
        "dumb": lambda: monkeypatch.setenv("TERM", "dumb"),
        "server": lambda: monkeypatch.setenv("LANGSERVE_GRAPHS", "{}"),
        "fork": lambda: monkeypatch.setattr(choice, "_loaded_in", os.getppid()),
        "multiprocessing": lambda: monkeypatch.setattr(multiprocessing, "parent_process", object),
        "no stderr": lambda: setattr(place, "stderr", None),
    }
    changes[sign]()
    assert isinstance(choose(), StderrLines)


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        ("bar", TerminalBar),
        ("lines", StderrLines),
        ("html", StderrLines),
        ("off", type(None)),
        (" OFF ", type(None)),
        ("auto", StderrLines),
        ("", StderrLines),
    ],
)
def test_the_variable_decides(monkeypatch, wish, kind):
    monkeypatch.setenv(VARIABLE, wish)
    assert isinstance(choose(), kind)


@pytest.mark.parametrize("wish", ["bar", "html"])
def test_the_child_of_a_fork_has_no_bar_whatever_is_wanted(notebook, monkeypatch, wish):
    monkeypatch.setenv(VARIABLE, wish)
    monkeypatch.setattr(choice, "_loaded_in", os.getppid())
    assert isinstance(choose(), StderrLines)


def test_a_wrong_value_is_named_once_and_means_auto(terminal, monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "fancy")
    choice._wish.cache_clear()
    assert isinstance(choose(), TerminalBar)
    assert isinstance(choose(), TerminalBar)
    assert caplog.messages == [
        "HPC_FANOUT_PROGRESS=fancy is none of auto, bar, html, lines, off; auto is taken."
    ]
