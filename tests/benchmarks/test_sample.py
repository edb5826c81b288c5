from __future__ import annotations

import pytest

from benchmarks.cases import scaling
from benchmarks.sample import FreshProcess, Sample, contest, in_fresh_process


def test_a_function_is_measured_in_a_process_of_its_own() -> None:
    sample = in_fresh_process(scaling.calibrate, 10)
    assert (sample.items, sample.lost, sample.stopped) == (10, 0, False)
    assert sample.peak > 0


def test_what_costs_too_much_is_stopped_and_says_what_it_has_cost() -> None:
    sample = FreshProcess(most_cpu=0.05)(scaling.calibrate, 400_000)
    assert sample.stopped
    assert sample.lost == sample.items == 400_000
    assert sample.cpu > 0


def test_a_process_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="scaling:calibrate ended with 1"):
        in_fresh_process(scaling.calibrate, "many")  # type: ignore[arg-type]
    assert "TypeError" in capfd.readouterr().err


def test_whoever_loses_answers_is_not_compared() -> None:
    with pytest.raises(ValueError, match="leaky lost 2 of 10 answers"):
        contest(1, {"leaky": lambda: Sample(10, 1.0, 1.0, 1, lost=2)})
