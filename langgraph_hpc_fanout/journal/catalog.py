"""What is known of a journal: where the best line about each question stands, and every place."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.journal import line
from langgraph_hpc_fanout.journal.index import Index
from langgraph_hpc_fanout.journal.location import OK, pack
from langgraph_hpc_fanout.records import NOTHING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langgraph_hpc_fanout.journal.scan import Heads

_NOWHERE = array("Q")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that a journal holds.

    Attributes:
        run: Its id.
        about: What was said of it when it last began.
        places: The place after its last outcome.
        ok: How many places have an answer.
        failed: How many have a failure.
    """

    run: str
    about: Mapping[str, Any]
    places: int
    ok: int
    failed: int

    @property
    def outcomes(self) -> int:
        """How many places have an outcome."""
        return self.ok + self.failed


@dataclass(slots=True)
class _Run:
    about: Mapping[str, Any]
    places: array[int] = field(default_factory=lambda: array("Q"))
    end: int = 0

    def reach(self, place: int) -> None:
        """Make room for a place, and for some more where a run grows place by place."""
        if place < self.end:
            return
        self.end = place + 1
        missing = place + 1 - len(self.places)
        if missing > 0:
            self.places.frombytes(bytes(8 * max(missing, len(self.places) // 8)))


class Catalog:
    """Locations by question and by place. Pure; not safe for several threads."""

    def __init__(self) -> None:
        self.index = Index()
        self._runs: dict[str, _Run] = {}
        self._numbered: dict[tuple[int, int], str] = {}
        self._notes = array("Q")

    # -- filling it ------------------------------------------------------------------------

    def begin(self, segment: int, number: int, run: str, about: Mapping[str, Any]) -> None:
        """A run has a number in a segment."""
        self._numbered[segment, number] = run
        known = self._runs.setdefault(run, _Run(about))
        known.about = {**known.about, **about}  # a run that is resumed says less of itself

    def put(self, run: str, place: int, at: int) -> None:
        """A line about a place of a run that has begun."""
        known = self._runs[run]
        known.reach(place)
        known.places[place] = at

    def note(self, at: int) -> None:
        """A note."""
        self._notes.append(at)

    def put_all(self, segment: int, heads: Heads) -> None:
        """Lines of a segment, whose runs have begun."""
        import numpy as np  # noqa: PLC0415 - slow, and imported by whoever found the heads

        kinds = heads.kinds
        ok = np.isin(kinds, _letters(line.VALUE, line.AGAIN))
        at = (heads.offsets + pack(segment, 0)).astype(np.uint64)
        at |= ok.astype(np.uint64) << np.uint64(63)
        about_questions = np.isin(kinds, _letters(line.VALUE, line.ERROR))
        self.index.put_all(heads.fingerprints[about_questions], at[about_questions])
        of_places = about_questions | np.isin(kinds, _letters(line.AGAIN, line.STILL))
        for number in np.unique(heads.runs[of_places]).tolist():
            if (run := self._numbered.get((segment, number))) is not None:
                chosen = of_places & (heads.runs == number)
                self._put_places(self._runs[run], heads.places[chosen], at[chosen])
        for each in at[kinds == ord(line.NOTED[0])].tolist():
            self.note(each)

    @staticmethod
    def _put_places(known: _Run, places: NDArray[Any], at: NDArray[Any]) -> None:
        import numpy as np  # noqa: PLC0415

        known.reach(int(places.max()))
        table = np.frombuffer(known.places, np.uint64)
        table[places] = at  # of several lines about one place the last stays

    # -- asking it -------------------------------------------------------------------------

    def best(self, digest: str) -> int:
        """Where the newest answer to a question stands, else its newest failure, else 0."""
        return self.index.get(line.fingerprint_of(digest))

    def places(self, run: str) -> array[int]:
        """Locations by place, 0 where nothing is known; it goes on growing."""
        known = self._runs.get(run)
        return _NOWHERE if known is None else known.places

    def at_place(self, run: str, place: int) -> int:
        """Location of the line about a place, or 0."""
        places = self.places(run)
        return places[place] if place < len(places) else 0

    def run_of(self, segment: int, number: int) -> str:
        """The run that has a number in a segment; empty if the line that says so is lost."""
        return self._numbered.get((segment, number), "")

    def notes(self) -> list[int]:
        """Locations of all notes, oldest first."""
        return self._notes.tolist()

    def about(self, run: str) -> Mapping[str, Any]:
        """What was said of a run; empty where nothing is known."""
        known = self._runs.get(run)
        return NOTHING if known is None else known.about

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        import numpy as np  # noqa: PLC0415

        records = []
        for run, known in self._runs.items():
            table = np.frombuffer(known.places, np.uint64)
            ok, outcomes = np.count_nonzero(table >= OK), np.count_nonzero(table)
            records.append(RunRecord(run, known.about, known.end, int(ok), int(outcomes - ok)))
        return records


def _letters(*kinds: str) -> list[int]:
    return [ord(kind[0]) for kind in kinds]
