"""What a fan-out's outcomes become in graph state.

A reducer is a callable over an iterable of `Outcome` in input order; write your own the same
way. Those that take settings (`fold`, `top_k`, `best_of`, `vote`, `table`) return such a callable.
Values that go into graph state should be plain data. All read the outcomes one by one, so what a
run leaves in memory is what its reducer returns.
"""

from langgraph_hpc_fanout.reducers.counting import stats
from langgraph_hpc_fanout.reducers.folding import Reducer, fold
from langgraph_hpc_fanout.reducers.ranking import best_of, top_k
from langgraph_hpc_fanout.reducers.tables import table
from langgraph_hpc_fanout.reducers.trees import Tree, tree
from langgraph_hpc_fanout.reducers.values import by_key, collect, outcomes, reference
from langgraph_hpc_fanout.reducers.voting import vote

__all__ = [
    "Reducer",
    "Tree",
    "best_of",
    "by_key",
    "collect",
    "fold",
    "outcomes",
    "reference",
    "stats",
    "table",
    "top_k",
    "tree",
    "vote",
]
