"""Lines in the log, or on stderr where a program has no log."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
from progress_events import event, new_run

from langgraph_hpc_fanout.watch.display.figures import duration, line, times
from langgraph_hpc_fanout.watch.display.lines import LogLines, StderrLines

LINE = (
    "screen: 5/10 done, 4 ok, 1 failed {'timeout': 1}, 2 in flight, 0.5 items/s, 15 tokens/s, 8.0 s"
)


@contextmanager
def no_logging():
    """The test as a program that has configured no logging; pytest does so in each phase."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield patch


def test_the_line_says_where_the_run_stands():
    assert line(event()) == LINE


def test_the_line_of_a_run_that_took_no_time():
    assert line(new_run(in_flight=0)) == (
        "screen: 0/10 done, 0 ok, 0 failed, 0 in flight, 0.0 items/s, 0 tokens/s, 0.0 s"
    )


@pytest.mark.parametrize(
    ("usd", "hours", "share", "words"),
    [
        (0.0, 0.0, 0.5, ""),
        (1.5, 0.0, 0.5, ", $1.50 of about $3.00"),
        (0.00042, 0.0, 1.0, ", $0.00042"),
        (0.0, 12.0, 0.5, ", 12 node-hours of about 24 node-hours"),
        (2.0, 3.0, 1.0, ", $2.00, 3 node-hours"),
    ],
)
def test_the_line_says_what_it_costs_and_will_cost(usd, hours, share, words):
    amounts = {"usd": usd, "node_hours": hours}
    projected = {name: amount / share for name, amount in amounts.items()}
    told = event() | {"cost": {**amounts, "projected": projected}}
    assert line(told) == LINE + words
    assert line(event() | {"cost": {**amounts, "projected": None}}).startswith(LINE)


@pytest.mark.parametrize(
    ("fields", "ended", "words"),
    [
        ({}, False, "0:00:08, 0:00:10 left"),
        ({"remaining_seconds": None}, False, "0:00:08"),
        ({"done": 10, "remaining_seconds": 0.0}, True, "0:00:08"),
        ({}, True, "0:00:08, stopped"),
    ],
    ids=str,
)
def test_the_times_of_a_run(fields, ended, words):
    assert times(event(**fields), ended=ended) == words


def test_days_are_written_out():
    assert duration(90061) == "1 day, 1:01:01"


def test_lines_are_logged_every_five_seconds_and_at_the_end(caplog):
    caplog.set_level(logging.INFO, "langgraph_hpc_fanout")
    lines = LogLines()
    written = []
    for half_seconds in range(1, 23):
        lines.show(event(seconds=half_seconds / 2))
        written.append(len(caplog.messages))
    assert (written[8], written[9], written[18], written[19]) == (0, 1, 1, 2)
    lines.close(event())
    assert caplog.messages[2:] == [LINE]


def test_lines_go_to_stderr_where_no_logging_is_configured(capsys):
    lines = StderrLines()
    with no_logging():
        lines.show(event(seconds=4.9))
        assert capsys.readouterr().err == ""
        lines.show(event())
        lines.show(event(seconds=12.9))
        lines.close(event())
    assert capsys.readouterr() == ("", f"{LINE}\n{LINE}\n")


def test_short_runs_write_nothing(capsys):
    with no_logging():
        StderrLines().close(event(seconds=4.9))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("logger", ["", "langgraph_hpc_fanout"])
def test_a_program_with_logging_has_no_lines_on_stderr(capsys, logger):
    with no_logging() as patch:
        patch.setattr(logging.getLogger(logger), "handlers", [logging.NullHandler()])
        StderrLines().show(event())
    assert capsys.readouterr().err == ""


def test_a_program_without_stderr(capsys):
    with no_logging() as patch:
        patch.setattr("sys.stderr", None)
        StderrLines().show(event())
    assert capsys.readouterr() == ("", "")


QUEUED = "no endpoint can be asked for m (m on sophia is queued)"


def test_the_line_says_for_what_a_run_waits():
    assert line(event(waiting=QUEUED)) == f"{LINE}, waiting: {QUEUED}"


def test_a_wait_is_told_soon_and_then_every_minute(caplog):
    caplog.set_level(logging.INFO, "langgraph_hpc_fanout")
    lines = LogLines()
    at = []

    def show(start, end, **fields):
        for second in range(start, end):
            count = len(caplog.messages)
            lines.show(event(seconds=float(second), **fields))
            at.extend([second] * (len(caplog.messages) - count))

    show(0, 12)
    show(12, 200, waiting=QUEUED)
    show(200, 212, waiting="no endpoint can be asked for m (m on sophia is loading)")
    show(212, 223)
    assert at == [5, 10, 15, 75, 135, 195, 200, 212, 217, 222]
