"""What a run has spent before it was interrupted, as far as its journal tells."""

from __future__ import annotations

from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.endpoints.price import PICODOLLARS
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Outcome


def spent_by(log: Log, run: str) -> Charge:
    """What the outcomes of a run have cost: requests, tokens of answers, dollars. Blocks.

    Node time is not in outcomes, and neither is what was in flight when the process ended. A line
    that is damaged is passed over; its item is asked, and paid for, again.

    Args:
        log: The journal.
        run: Id of the run; one that has not begun has spent nothing.
    """
    spent = NO_CHARGE
    for place in range(log.length(run)):
        try:
            for outcome in log.outcomes(run, place, place + 1):
                spent += _charge_of(outcome)
        except JournalError:
            continue
    return spent


def _charge_of(outcome: Outcome) -> Charge:
    """Of an outcome that another run paid for, nothing: it was not sent by this one."""
    if not outcome.attempts:
        return NO_CHARGE
    usage, money = outcome.usage, round((outcome.cost or 0.0) * PICODOLLARS)
    read, written = (0, 0) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return Charge(read, written, outcome.attempts, money)
