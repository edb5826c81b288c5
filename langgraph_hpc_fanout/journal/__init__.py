"""What must survive: outcomes on disk, the look-up of what was asked before, results in order."""

from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.journal.results import Results

__all__ = ["Journal", "JournalError", "Results"]
