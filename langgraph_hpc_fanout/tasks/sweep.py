"""Sweeps: every item asked in every combination of prompts, models and parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph_hpc_fanout.tasks.prompt import Prompt

_SAID_ELSEWHERE = {"model": "models", "prompt": "prompts", "samples": "samples"}
_OF_A_PROMPT = ("template", "system", "schema", "reasks", "allow_truncated", "extra_body")


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the ways in which each item is asked.

    Attributes:
        task: What is asked.
        coordinates: Where it lies in the sweep; empty without one.
    """

    task: Any
    coordinates: Mapping[str, Any] = field(default_factory=dict)


class Sweep:
    """Items times prompts times models times parameters: a product that is never written out.

    Give it to a `FanOutNode` in the place of its items. Each combination is an outcome of its
    own, in this order: all variants of the first item, then of the second. `Outcome.index` tells
    the item, `Outcome.meta["sweep"]` the coordinates, such as `{"prompt": "short", "model":
    "gpt-oss-120b", "temperature": 0.7}`.

    Args:
        items: What a fan-out takes: a state key, a list, a function of the state, a source, the
            path of a file. Or several of these by name, whose product is asked: `{"condition":
            "conditions", "hypothesis": "hypotheses"}` makes items of both fields; the last varies
            fastest, and the first is read in slices, so put the largest there.
        prompts: Prompts, or texts of prompts; with names as a mapping, else known by their number.
            Without them the fan-out's own task is asked.
        models: Logical model names.
        params: Values of request parameters by name, such as `{"temperature": [0, 0.7]}`; None
            leaves one as the prompt has it.
        samples: How often each combination is asked; by default as often as its prompt says.

    Raises:
        ValueError: If one of them is empty or names the same twice, or a parameter cannot be sent.
        TypeError: If one is no list, or no prompt.

    Example:
        ```python
        questions = {"solubility": "Is {smiles} soluble?", "toxicity": "Is {smiles} toxic?"}
        sweep = Sweep("molecules", prompts=questions, params={"temperature": [0, 0.7]}, samples=3)
        screen = FanOutNode(sweep, pool=pool)
        ```
    """

    def __init__(
        self,
        items: Any,
        *,
        prompts: Sequence[Prompt | str] | Mapping[str, Prompt | str] | None = None,
        models: Sequence[str] | None = None,
        params: Mapping[str, Sequence[Any]] | None = None,
        samples: int | None = None,
    ) -> None:
        self.items = items
        self._prompts = None if prompts is None else _named(prompts)
        self._models = None if models is None else _model_names(models)
        self._params = {} if params is None else _parameters(params)
        self._samples = samples
        if self._prompts is not None:
            self.variants(None)  # refuses what cannot be sent

    @property
    def has_prompts(self) -> bool:
        """Whether it says itself what is asked."""
        return self._prompts is not None

    @property
    def axes(self) -> tuple[str, ...]:
        """What it varies besides the items: prompt, model, parameters; `samples` if it says so."""
        given = {"prompt": self._prompts, "model": self._models, "samples": self._samples}
        return (*(name for name, values in given.items() if values is not None), *self._params)

    def variants(self, task: Any) -> tuple[Variant, ...]:
        """All ways in which an item is asked, in order.

        Args:
            task: The fan-out's own task, for a sweep without prompts.

        Raises:
            ValueError: If the prompts want different numbers of samples, or a parameter cannot be
                sent.
            TypeError: If it varies prompts of a task that is none.
        """
        if not self.axes:
            return (Variant(task),)
        variants = tuple(self._combine(task))
        if len({variant.task.samples for variant in variants}) > 1:
            raise ValueError("The prompts of a sweep want different samples; say Sweep(samples=).")
        return variants

    def _combine(self, task: Any) -> Iterator[Variant]:
        prompts: list[tuple[Any, Any]] = self._prompts or [(None, task)]
        models: Sequence[str | None] = self._models or [None]
        for (name, prompt), model, values in itertools.product(
            prompts,
            models,
            itertools.product(*self._params.values()),
        ):
            if not isinstance(prompt, Prompt):
                raise TypeError(
                    f"A sweep over {', '.join(self.axes)} is for a Prompt; what a Runnable or a "
                    "function varies it varies itself."
                )
            parameters = dict(zip(self._params, values, strict=True))
            coordinates = {} if name is None else {"prompt": name}
            if model is not None:
                coordinates["model"] = model
            adapted = prompt.adapted(model=model, samples=self._samples, **parameters)
            yield Variant(adapted, {**coordinates, **parameters})


def _named(prompts: Sequence[Prompt | str] | Mapping[str, Prompt | str]) -> list[tuple[Any, Any]]:
    """Prompts and what they are called."""
    if isinstance(prompts, Mapping):
        _listed("prompts=...", list(prompts))
        named: list[tuple[Any, Any]] = list(prompts.items())
    else:
        named = list(enumerate(_listed("prompts=...", prompts)))
    for name, prompt in named:
        if not isinstance(name, str | int) or not isinstance(prompt, Prompt | str):
            raise TypeError(
                f"Sweep(prompts=...) has {prompt!r} under {name!r}; it takes prompts or their "
                "texts, and texts as names."
            )
    return [(name, Prompt(each) if isinstance(each, str) else each) for name, each in named]


def _model_names(models: Sequence[str]) -> list[str]:
    names = _listed("models=...", models)
    if wrong := [name for name in names if not isinstance(name, str) or not name]:
        raise TypeError(f"Sweep(models=...) has {wrong[0]!r}; it takes names of models.")
    return names


def _parameters(params: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    if not isinstance(params, Mapping):
        raise TypeError(f"Sweep(params={params!r}) takes lists of values by name.")
    for name in params:
        if (argument := _SAID_ELSEWHERE.get(name)) is not None:
            raise ValueError(f'Sweep(params={{"{name}": ...}}) is written Sweep({argument}=...).')
        if name in _OF_A_PROMPT:
            raise ValueError(
                f'Sweep(params={{"{name}": ...}}): that is no parameter of a request; give '
                "prompts= that differ in it."
            )
    return {name: _listed(f'params={{"{name}": ...}}', each) for name, each in params.items()}


def _listed(said: str, values: Any) -> list[Any]:
    """The values of an axis."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"Sweep({said}) takes a list, of one if there is only one; not {values!r}.")
    listed = list(values)
    if not listed:
        raise ValueError(f"Sweep({said}) is empty, so nothing would be asked.")
    if twice := [each for number, each in enumerate(listed) if each in listed[:number]]:
        raise ValueError(f"Sweep({said}) has {twice[0]!r} twice, which would be asked once.")
    return listed
