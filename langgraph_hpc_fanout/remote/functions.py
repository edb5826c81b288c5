"""Users' functions that live on the node, found by their path."""

from __future__ import annotations

import functools
import importlib
import inspect
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph_hpc_fanout.remote.bundle import BundleError, worker_name

_HANDED_IN = ("client", "model")
_PATH = "package.module:function"
_KINDS = inspect.Parameter


@dataclass(frozen=True, slots=True)
class Function:
    """A function of an item, and what it wants besides.

    Parameters after the first are known by their names: `client` gets an OpenAI client of the
    node's servers, `openai.AsyncOpenAI` for an async function and `openai.OpenAI` for a sync one;
    `model` gets the model that the bundle names, or the first that the servers list. If they have
    defaults, they are left alone where a bundle names no servers.

    Attributes:
        path: What it was asked for by.
        call: The function.
        is_async: Whether a call is a coroutine.
        wants: Which of `client` and `model` it takes.
        needs: Which of them have no default.
        file: Where it was written, if that is known.
    """

    path: str
    call: Callable[..., Any]
    is_async: bool
    wants: frozenset[str]
    needs: frozenset[str]
    file: str | None


@functools.cache
def load(path: str) -> Function:
    """The function at a path, imported once.

    Raises:
        BundleError: If there is none that can be called with an item; says what to do.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise BundleError(f"{path!r} names no function; write {_PATH!r}.")
    found = _module(path, module_name)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            file = getattr(sys.modules[module_name], "__file__", None) or "built in"
            raise BundleError(
                f"{path}: {module_name} ({file}, on {worker_name()}) has no {name!r}; is it the "
                "version that you mean? Workers that run do not see later changes."
            ) from None
    if not callable(found):
        raise BundleError(f"{path} is no function but {type(found).__name__}.")
    wants, needs = _parameters(path, found)
    call = inspect.unwrap(found)
    code = getattr(call, "__code__", None)
    return Function(path, found, _is_async(found), wants, needs, code and code.co_filename)


def _module(path: str, name: str) -> Any:
    importlib.invalidate_caches()  # it may have been installed since this process began
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise BundleError(
            f"{path}: {name} cannot be imported by the worker {worker_name()} (Python "
            f"{platform.python_version()}): {said}. It must be installed there or lie on "
            f"PYTHONPATH, which worker_init may set; sys.path is {sys.path}."
        ) from error


def _parameters(path: str, function: Callable[..., Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Which parameters after the first are ours to fill, and which of these must be.

    Raises:
        BundleError: If it cannot be called with an item.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # of some functions written in C nobody knows
        return frozenset(), frozenset()
    named = [each for each in parameters if each.kind is not _KINDS.VAR_KEYWORD]
    if not named or named[0].kind is _KINDS.KEYWORD_ONLY:
        raise BundleError(f"{path} takes no item; its first parameter gets it.")
    rest = [each for each in named[1:] if each.kind is not _KINDS.VAR_POSITIONAL]
    ours = [
        each for each in rest if each.name in _HANDED_IN and each.kind is not _KINDS.POSITIONAL_ONLY
    ]
    required = [each.name for each in rest if each.default is _KINDS.empty]
    if unknown := [name for name in required if name not in {each.name for each in ours}]:
        raise BundleError(
            f"{path} wants {', '.join(unknown)}, which nobody gives: it gets an item, and where it "
            "has parameters of these names, client and model."
        )
    return frozenset(each.name for each in ours), frozenset(required)


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether a call is a coroutine at once; objects may be callable, too."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )
