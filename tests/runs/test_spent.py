"""What a run has spent before, as its journal tells."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from journals import held, write
from properties import repeatable

from langgraph_hpc_fanout import Failure, Outcome, Usage
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.endpoints.price import PICODOLLARS
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.runs.spent import spent_by

usages = st.none() | st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6))


@st.composite
def outcomes(draw):
    """Outcomes of a run, at some of its places."""
    places = draw(st.lists(st.integers(0, 30), unique=True, max_size=8))
    return [
        Outcome(
            f"k{place}",
            place,
            ok=ok,
            value="x" if ok else None,
            error=None if ok else Failure("timeout", "too slow"),
            usage=draw(usages),
            attempts=draw(st.integers(0, 5)),
            cost=draw(st.none() | st.integers(0, 10**12).map(lambda money: money / PICODOLLARS)),
        )
        for place in places
        for ok in [draw(st.booleans())]
    ]


@settings(repeatable, max_examples=50)
@given(outcomes())
def test_it_is_the_sum_of_what_was_sent(tmp_path_factory, some):
    log = Log(tmp_path_factory.mktemp("journal") / "run")
    write(log, *some)
    sent = [each for each in some if each.attempts]
    assert spent_by(log, "r") == Charge(
        sum(each.usage.prompt_tokens for each in sent if each.usage),
        sum(each.usage.completion_tokens for each in sent if each.usage),
        sum(each.attempts for each in sent),
        sum(round((each.cost or 0.0) * PICODOLLARS) for each in sent),
    )
    assert spent_by(log, "another") == NO_CHARGE


def answered(place):
    return Outcome(f"k{place}", place, ok=True, value="x", usage=Usage(3, 4), attempts=1)


def test_what_another_run_has_paid_for_costs_nothing(tmp_path):
    log = Log(tmp_path)
    (at,) = write(log, answered(0), run="earlier")
    with held(log):
        log.begin("r", {})
        log.reuse("r", 0, at)
        log.append("r", "", 1, answered(1))
    assert spent_by(log, "r") == Charge(3, 4, 1)


def test_a_damaged_line_is_passed_over(tmp_path):
    log = Log(tmp_path)
    write(log, *map(answered, range(3)))
    (segment,) = (tmp_path / "segments").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b"k1", b"k9"))
    assert spent_by(log, "r") == Charge(6, 8, 2)
