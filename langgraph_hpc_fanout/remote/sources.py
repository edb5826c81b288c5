"""The task functions as source text, for `globus_compute_sdk.Client.register_source_code`.

Either text defines one function and needs nothing else, so it also works when it is executed in an
empty namespace for every task, as Globus Compute does with source text.
"""

from __future__ import annotations

import inspect
from typing import Literal

from langgraph_hpc_fanout.remote.standalone import standalone
from langgraph_hpc_fanout.remote.stub import stub

Ship = Literal["package", "source"]


def source_of(ship: Ship) -> tuple[str, str]:
    """Name and source text of a task function.

    Args:
        ship: `package` for workers that have this package installed, `source` for others.
    """
    function = {"package": stub, "source": standalone}[ship]
    return function.__name__, inspect.getsource(function)
