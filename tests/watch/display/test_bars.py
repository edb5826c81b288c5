"""What a bar says, on terminals of any width."""

from __future__ import annotations

import io

import pytest
from progress_events import event, new_run
from rich.console import Console

from langgraph_hpc_fanout.watch.display.bars import bar


def lines(event, *, ended=False, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(bar(event, ended=ended))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_bar_says_how_far_a_run_is_and_how_it_goes():
    first, second = lines(event(failed={"timeout": 1, "cold": 2}))
    assert first.startswith("screen ━")
    assert first.endswith("5/10  50% 0:00:08, 0:00:10 left")
    assert second == "  3 failed: 2 cold, 1 timeout, 2 in flight, 0.5 items/s, 15 tokens/s"


def test_the_bar_of_a_run_that_was_stopped():
    first, second = lines(event(failed={}), ended=True)
    assert first.endswith("5/10  50% 0:00:08, stopped")
    assert second == "  0.5 items/s, 15 tokens/s"


def test_the_bars_of_a_new_run_and_of_an_empty_one():
    assert lines(new_run())[0].endswith("0/10   0% 0:00:00")
    assert lines(new_run(total=0), ended=True)[0].endswith("0/0 100% 0:00:00")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_bar_has_two_lines_on_terminals_of_any_width(width):
    many = event(node="n" * 300, total=10**7, done=10**6, failed={f"k{n}": n for n in range(40)})
    found = lines(many, width=width)
    assert len(found) == 2
    assert max(map(len, found)) <= width


def test_control_characters_in_names_do_not_reach_the_terminal():
    first, _ = lines(event(node="a\x1b[2Jb\n\x07[bold]"))
    assert first.startswith("a?[2Jb??[bold] ━")


def test_a_bar_says_for_what_a_run_waits():
    _, second = lines(event(failed={}, waiting="no endpoint can be asked (a\x1b[2J is away)"))
    assert second.startswith("  waiting: no endpoint can be asked (a?[2J is away), 2 in flight, ")
