"""Tasks that run where LangGraph called the node: chains, agents, graphs, functions."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.graph.state import CompiledStateGraph

from langgraph_hpc_fanout.tasks.keys import item_key

_INJECTED = ("config", "run_manager")
"""Parameters that RunnableLambda fills in itself."""


class RunnableTask:
    """A Runnable, or a function of the item, sync or async.

    Args:
        given: The Runnable or function.
        version: Set another one when the task changes, so that old answers do not count.

    Attributes:
        name: Qualified name, part of every key.
        in_thread: Whether it is a plain function, which may block and needs a thread.
        only_async: Whether it is a coroutine function, which needs an event loop.

    Raises:
        TypeError: If it is neither, or does not take one item.
    """

    def __init__(self, given: Runnable[Any, Any] | Callable[..., Any], version: str | None) -> None:
        self.version = version
        self.in_thread = self.only_async = False
        if isinstance(given, Runnable):
            self._runnable = given
            self.name, self.is_named = _name_of(given)
            if isinstance(given, RunnableLambda):
                self.only_async = not hasattr(given, "func")
                self.in_thread = not hasattr(given, "afunc")
        elif callable(given):
            _check_is_no_generator(given)
            _check_arity(given)
            self.only_async = _is_coroutine_function(given)
            self.in_thread = not self.only_async
            self.name, self.is_named = _qualified_name(given)
            self._runnable = RunnableLambda(given, name=self.name.rpartition(".")[2])
        else:
            raise TypeError(
                "FanOutNode(task=...) takes a Prompt, a Runnable or a function of the item, not "
                f"{type(given).__name__}."
            )

    def __repr__(self) -> str:
        return f"RunnableTask({self.name})"

    def describe(self) -> str:
        """The task in a word, for graphs and logs."""
        return self.name

    def input(self, item: Any, shared: Mapping[str, Any]) -> Any:
        """What the task gets: the item, with the shared fields it does not have."""
        if not shared:
            return item
        fields = item if isinstance(item, Mapping) else {"item": item}
        return {**shared, **fields}

    def misses(self, item: Any, shared: Mapping[str, Any]) -> list[str]:
        """The keys of a graph's input, when an item has none of them: it would be asked nothing."""
        if not isinstance(self._runnable, CompiledStateGraph):
            return []
        wanted = list(self._runnable.get_input_jsonschema().get("properties", {}))
        given = self.input(item, shared)
        if not isinstance(given, Mapping) or any(name in given for name in wanted):
            return []
        return wanted

    def key(self, item: Any, shared: Mapping[str, Any]) -> str:
        """Identity of what is asked: the task's name and version, and the input.

        Raises:
            TypeError: If the item has no form by which it would be known again.
        """
        given = self.input(item, shared)
        try:
            return item_key({"task": self.name, "version": self.version, "input": given})
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"it has no key by which a journal would know it again ({error}); give "
                "FanOutNode a key="
            ) from None

    def key_or_any(self, item: Any, shared: Mapping[str, Any]) -> str:
        """The same where no journal looks for it: of an odd item, a key of its own."""
        try:
            return self.key(item, shared)
        except TypeError:
            return uuid.uuid4().hex

    def hash_of(self, item: Any, shared: Mapping[str, Any]) -> str | None:
        """What tells two items apart that have the same key of the user's; None of an odd item."""
        try:
            return self.key(item, shared)
        except TypeError:
            return None

    def invoke(self, given: Any, config: RunnableConfig) -> Any:
        """Run it, in sync code."""
        return self._runnable.invoke(given, config)

    async def ainvoke(self, given: Any, config: RunnableConfig) -> Any:
        """Run it on the running loop."""
        return await self._runnable.ainvoke(given, config)


def _name_of(runnable: Runnable[Any, Any]) -> tuple[str, bool]:
    """Its name, and whether that says which one it is, not only of which class."""
    config = getattr(runnable, "config", None) or {}  # of what with_config(run_name=...) gives
    if given := config.get("run_name"):
        return str(given), True
    if isinstance(runnable, RunnableLambda):
        return _qualified_name(getattr(runnable, "func", None) or runnable.afunc)
    name = runnable.get_name()
    is_own = bool(getattr(runnable, "name", None))
    return name, is_own and name not in (type(runnable).__name__, "LangGraph")


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose call is a coroutine
    )


def _qualified_name(function: Callable[..., Any]) -> tuple[str, bool]:
    """Module and name, and whether no other task in the program is called so."""
    inner = inspect.unwrap(getattr(function, "func", function))
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    name = f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"
    owner = getattr(inner, "__self__", None)  # of a method: which instance, no name tells
    is_bound = owner is not None and not isinstance(owner, type) and not inspect.ismodule(owner)
    return name, inner is function and named is inner and not is_bound and "<" not in name


def _check_is_no_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"FanOutNode(task={name}) is a generator; return a list instead.")


def _check_arity(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with one item, before anything is asked."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins do not tell
        return
    wanted = [each for each in signature.parameters.values() if each.name not in _INJECTED]
    try:
        signature.replace(parameters=wanted).bind(None)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(
            f"FanOutNode(task={name}) must take one argument, the item: {name}{signature} does "
            f"not ({error})."
        ) from None
