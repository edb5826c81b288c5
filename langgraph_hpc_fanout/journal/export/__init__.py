"""Outcomes as files for others: Parquet, JSON Lines, OpenAI batch files, dead letters.

Each function takes the outcomes of a run (its `Results`, or any iterable), reads them one by one,
and writes beside the path it was given; the file is there when it is complete, and not before.
"""

from langgraph_hpc_fanout.journal.export.dead_letters import to_dead_letters
from langgraph_hpc_fanout.journal.export.json_lines import to_json_lines
from langgraph_hpc_fanout.journal.export.openai_batch import to_openai_batch
from langgraph_hpc_fanout.journal.export.parquet import to_parquet

__all__ = ["to_dead_letters", "to_json_lines", "to_openai_batch", "to_parquet"]
