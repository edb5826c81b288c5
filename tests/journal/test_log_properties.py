"""The log against a list of what was done: nothing is lost, and nothing wrong is ever found."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from journals import answer, failed
from properties import repeatable

from langgraph_hpc_fanout.journal import line, unwritten
from langgraph_hpc_fanout.journal.location import OK
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Outcome

RUNS = ("a", "b")
PLACES = 6
KEYS = ("k0", "k1", "k2")

runs = st.sampled_from(RUNS)
places = st.integers(0, PLACES - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), runs, places, st.sampled_from(KEYS), st.booleans()),
        st.tuples(st.just("reuse"), runs, places, st.integers(0, 9)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("crash"), st.floats(0, 1)),
        st.tuples(st.just("release")),
    ),
    max_size=25,
)


@dataclass
class Told:
    """A line that was remembered: of which place, and which outcome it gives it."""

    run: str
    place: int
    outcome: Outcome
    at: int | None = None  # of an outcome of its own


@dataclass
class Model:
    """What a journal ought to hold."""

    safe: list[Told] = field(default_factory=list)
    pending: list[Told] = field(default_factory=list)

    @property
    def lines(self):
        return [*self.safe, *self.pending]

    def by_place(self, run):
        return {each.place: each.outcome for each in self.lines if each.run == run}

    def best(self, key):
        about = [each for each in self.lines if each.at is not None and each.outcome.key == key]
        return max(about, key=lambda each: each.at, default=None)


def assert_holds(log, model):
    for run in RUNS:
        expected = [outcome for _, outcome in sorted(model.by_place(run).items())]
        assert list(log.outcomes(run)) == expected
        assert log.count(run, 0, PLACES) == len(expected)
    for key in KEYS:
        hit, best = log.find("", key), model.best(key)
        assert (hit is None) is (best is None)
        if hit is not None:
            assert (hit.at, hit.run, hit.place) == (best.at, best.run, best.place)
            assert hit.outcome == best.outcome == log.read(hit.at)


def opened(directory, *, takeover=False):
    log = Log(directory)
    log.acquire(takeover=takeover)
    for run in RUNS:
        log.begin(run, {"name": run})
    return log


def crash(log, model, share):
    """Die while a share of what is left is being written."""
    parts = log._session.unwritten.take()
    left = int(share * sum(len(part.data) for part in parts))
    arrived = []
    for part in parts:
        part.data = part.data[:left]
        left -= len(part.data)
        log._session.store(part)
        whole = bytes(part.data).split(b"\n")[:-1]
        arrived += [each for each in whole if line.decode(each).kind != line.BEGIN]
    model.safe += model.pending[: len(arrived)]
    model.pending.clear()


def apply(log, model, number, step):
    match step:
        case "append", run, place, key, ok:
            made = answer if ok else failed
            outcome = made(place, number, key=key) if ok else made(place, key, str(number))
            at = log.append(run, "", place, outcome)
            assert bool(at & OK) is ok
            model.pending.append(Told(run, place, outcome, at))
        case "reuse", run, place, which:
            about = [each for each in model.lines if each.at is not None]
            if about:
                origin = about[which % len(about)]
                own = (origin.run, origin.place) == (run, place)
                log.reuse(run, place, origin.at, {"number": number})
                meta = {"number": number} if own else {"number": number, "cached": True}
                attempts = origin.outcome.attempts if own else 0
                outcome = Outcome(
                    origin.outcome.key,
                    place,
                    ok=origin.outcome.ok,
                    value=origin.outcome.value,
                    error=origin.outcome.error,
                    attempts=attempts,
                    meta=meta,
                )
                model.pending.append(Told(run, place, outcome))
        case ("flush",):
            log.flush()
            model.safe += model.pending
            model.pending.clear()


@repeatable
@given(steps, st.sampled_from([1, 700, 1 << 30]))
def test_what_was_flushed_is_found_and_nothing_that_was_not_said(steps, size):
    whole, unwritten.SEGMENT_BYTES = unwritten.SEGMENT_BYTES, size
    try:
        with tempfile.TemporaryDirectory() as directory:
            log, model = opened(Path(directory) / "journal"), Model()
            for number, step in enumerate(steps):
                if step[0] == "crash":
                    crash(log, model, step[1])
                    log = opened(log.directory, takeover=True)
                elif step[0] == "release":
                    log.release()
                    model.safe += model.pending
                    model.pending.clear()
                    log.refresh()
                    assert_holds(log, model)
                    log = opened(log.directory)
                else:
                    apply(log, model, number, step)
                assert_holds(log, model)
                reader = Log(log.directory)
                reader.refresh()
                assert_holds(reader, Model(model.safe))
            log.release()
    finally:
        unwritten.SEGMENT_BYTES = whole


@repeatable
@given(st.data())
def test_whatever_is_damaged_nothing_wrong_is_found(data):
    with tempfile.TemporaryDirectory() as directory:
        log = opened(Path(directory) / "journal")
        said = [answer(place, f"value {place}") for place in range(PLACES)]
        at = [log.append("a", "", each.index, each) for each in said]
        log.reuse("b", 0, at[0])
        log.release()
        (file,) = (log.directory / "segments").iterdir()
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        for reader in (log, Log(log.directory)):
            reader.refresh()
            for each in said:
                hit = reader.find("", each.key)
                assert hit is None or hit.outcome == each
        assert all(each in said for each in reader.outcomes("a"))
