"""Tasks whose code lives on the HPC side: named here, called there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.records import NOTHING, Outcome, Request
from langgraph_hpc_fanout.tasks.answer import Answer
from langgraph_hpc_fanout.tasks.keys import item_key
from langgraph_hpc_fanout.tasks.values import to_json

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class RemoteFunction:
    """A function of one item, `"package.module:function"`, that endpoints call where they work.

    It is never imported here: only the workers of the endpoint need it.

    Args:
        name: Module and function.
        version: Set another one when the function changes, so that old answers do not count.

    Raises:
        ValueError: If the name is none of a function.
    """

    model = FUNCTIONS

    def __init__(self, name: str, version: str | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"FanOutNode(task={name!r}) names no function on the HPC side; write "
                '"package.module:function". A question to a model is a Prompt.'
            )
        self.name = name
        self.version = version

    def __repr__(self) -> str:
        return f"RemoteFunction({self.name!r})"

    def describe(self) -> str:
        """The task in a word, for graphs and logs."""
        return self.name

    def request(
        self,
        item: Any,
        shared: Mapping[str, Any] = NOTHING,
        *,
        model: str | None = None,
        sample: int = 0,
    ) -> Request:
        """The call for an item, with the shared fields that the item does not have.

        Raises:
            TypeError: If the item is no plain data, which alone can travel.
        """
        fields = item if isinstance(item, Mapping) else {"item": item}
        given = to_json({**shared, **fields} if shared else item)
        key = item_key({"task": self.name, "version": self.version, "input": given})
        return Request(key, FUNCTIONS, {"item": given}, function=self.name)

    def accepts(self, outcome: Outcome) -> bool:
        """Whether an earlier answer counts here as well: a key says all there is to know."""
        return True

    def read(self, body: Mapping[str, Any]) -> Answer:
        """What the function returned."""
        return Answer("", body["value"], None, None, None, 1)
