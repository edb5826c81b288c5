"""Arguments of commands: laws of latency, and faults."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from langgraph_hpc_fanout.testing.fleet.spec import Constant, Latency, Lognormal, Uniform

_Fault = TypeVar("_Fault")

_LAWS: dict[str, Callable[..., Latency]] = {
    "constant": Constant,
    "uniform": Uniform,
    "lognormal": Lognormal,
}


def parse_latency(text: str) -> Latency:
    """The law `0.05`, `uniform:0.01:0.1` or `lognormal:0.05:0.5`.

    Raises:
        argparse.ArgumentTypeError: If the text is no such law.
    """
    name, *numbers = text.split(":") if ":" in text else ["constant", text]
    try:
        return _LAWS[name](*map(float, numbers))
    except (KeyError, TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of 0.05, uniform:0.01:0.1, lognormal:0.05:0.5"
        ) from None


def read_fault(
    text: str, make: Callable[..., _Fault], settings: Mapping[str, Callable[[str], object]]
) -> _Fault:
    """The fault `kind`, `kind=rate`, or `kind=rate,setting=value`.

    Args:
        text: What was written.
        make: What makes a fault of `kind=`, `rate=` and its settings.
        settings: What reads the value of each setting.

    Raises:
        argparse.ArgumentTypeError: If the text is no such fault.
    """
    head, *rest = text.split(",")
    kind, _, rate = head.partition("=")
    given: dict[str, Any] = {"kind": kind}
    try:
        given["rate"] = float(rate) if rate else 1.0
        for setting in rest:
            name, _, value = setting.partition("=")
            given[name] = settings[name](value)
        return make(**given)
    except KeyError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {error.args[0]!r} is none of {', '.join(settings)}"
        ) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
