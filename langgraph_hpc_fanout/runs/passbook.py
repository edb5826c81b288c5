"""What a run has used of its budget, kept in its journal, so that it holds when the run goes on."""

from __future__ import annotations

import threading

from langgraph_hpc_fanout.dispatch.costs.budget import Past, Purse
from langgraph_hpc_fanout.journal.log import Log

NOTE = "used"
"""Kind of the journal's notes, each of what a run has used of its budget until then."""
_SHARE = 0.01
"""Seconds between two notes, over those since the run began: so a run of ten hours writes about a
thousand, and a process that is killed forgets what a hundredth of its time has cost."""


class Passbook:
    """Notes what goes out of a run's purse. Pure but for the journal: the caller tells the time.

    What outlives the process may be much at once, and its answers are charged to nobody when they
    are fetched later, so it is noted at once. May be used in any thread.

    Outcomes do not tell it: they lack the tokens of attempts that were lost, node time, and what
    was asked again after a failure.

    Args:
        run: Id of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()  # so that the newest note is of the newest look
        self._began: float | None = None
        self._noted_at = 0.0
        self._noted: Past | None = None

    def past(self, log: Log) -> Past:
        """What the run has used before, by its newest note. Reads the disk.

        Raises:
            JournalError: If a note is damaged, or gone.
        """
        used = Past()
        for note in log.notes(NOTE):
            if note["run"] == self._run:
                used = Past.from_dict(note["used"])
        return used

    def note(self, log: Log, purse: Purse, now: float, *, at_once: bool = False) -> None:
        """Note what was used until now, if it is time for it and there is anything new.

        Args:
            log: The journal, which is written by the next flush.
            purse: The run's.
            now: Seconds, by the clock of the purse.
            at_once: Whether it is time for it, however new the last note is.

        Raises:
            JournalError: If the journal is not held by this process any more.
        """
        if purse.is_unused:
            return
        with self._lock:
            if self._began is None:
                self._began = now
            if not at_once and now < self._noted_at + _SHARE * (now - self._began):
                return
            used = purse.used(now)
            if used != self._noted:
                log.note(NOTE, {"run": self._run, "used": used.to_dict()})
                self._noted, self._noted_at = used, now
