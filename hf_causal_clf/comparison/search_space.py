"""What `--tune` searches: which settings of a run or baseline, and between which values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ..cli.mistakes import raised_here
from ..embedding.arguments import HeadArguments
from ..runs.schema import HEAD_INITS, POOLINGS
from ..task.documents import SUFFIXES
from ..training.arguments import PromptArguments
from ..training.length import EVALUATIONS, chosen_steps
from .arguments import ComparisonArguments
from .plan import TYPES
from .registry import Baseline, encoder_epochs


@dataclass(frozen=True)
class Choice:
    """A setting that has one of a few values; `given` is the one that was asked for."""

    given: Any
    values: tuple[Any, ...]


@dataclass(frozen=True)
class LogRange:
    """A number between two others, uniform in its logarithm; `given` is the one that was asked for."""

    given: float
    low: float
    high: float


Space = dict[str, Choice | LogRange]

LEARNING_RATES = (1e-4, 2e-3)  # LoRA: below, few documents teach nothing in time; above, training diverges
ENCODER_LEARNING_RATES = (1e-5, 2e-4)  # all weights of a BERT: a tenth of LoRA's
LENGTHS = (0.5, 1, 2)  # times the length as given: enough to tell a training that is too short or too long
_STRENGTH = Choice(None, (None, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0))  # C; none: by NLL
_BASELINES: dict[str, Space] = {
    "tfidf": {
        "longest_ngram": Choice(2, (1, 2, 3)),  # pairs tell more than words; triples are rare in short documents
        "min_df": Choice(1, (1, 2, 3)),  # words of one document are noise where documents are many
        "sublinear_tf": Choice(True, (True, False)),  # counts matter where documents are long
        "strength": _STRENGTH,
    },
    "frozen": {
        "pooling": Choice("auto", ("auto", *POOLINGS)),  # auto: by NLL, as the text after each document
        "document_suffix": Choice("auto", ("auto", None, *SUFFIXES)),
        "strength": _STRENGTH,
    },
}


def run_space(settings: dict[str, Any], documents: int) -> Space:
    """Return what is searched of a run: learning rate, length of training and, of a head, what it starts from.

    Args:
        settings: The run's, as in `runs`.
        documents: Number of training documents, which a length that is not given depends on.
    """
    defaults = {item.name: item.default for kind in TYPES[settings["approach"]] for item in fields(kind)}
    space: Space = {"learning_rate": _around(LEARNING_RATES, settings.get("learning_rate", defaults["learning_rate"]))}
    if (length := _given_length(settings)) is not None:
        space[length] = _lengths(settings[length], unit=1 if length == "max_steps" else None)
    else:
        sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
        steps = chosen_steps(documents, math.prod(int(settings.get(name, defaults[name])) for name in sizes))
        space["max_steps"] = _lengths(steps, unit=EVALUATIONS)
    # A max_length of the run's own is with or without a prompt, as its head start is: neither is changed then
    if settings["approach"] == "embedding" and "max_length" not in settings:
        start = settings.get("head_init", defaults["head_init"])
        others = [other for other in HEAD_INITS if (start, other) != ("auto", "probe")]  # that is what auto is
        starts = dict.fromkeys([start, *(other for other in others if _can_start(settings, other))])
        space["head_init"] = Choice(start, tuple(starts))
    return {name: found for name, found in space.items() if not (isinstance(found, Choice) and len(found.values) == 1)}


def with_parameters(settings: dict[str, Any], space: Space, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings with those of a trial; what was asked for stays as it was written."""
    changed = changes(space, parameters)
    if "max_steps" in changed and _given_length(settings) is None:
        changed = {**_as_of_chosen_length(settings), **changed}
    prompted = changed.get("head_init", "verbalizer") == "verbalizer"  # or the head starts as was asked for
    unused = set() if prompted else {item.name for item in fields(PromptArguments)}
    return {name: value for name, value in {**settings, **changed}.items() if name not in unused}


def _given_length(settings: dict[str, Any]) -> str | None:
    """The setting that says how long a run is trained, if any; `max_steps` overrides the other one."""
    names = ("max_steps", "num_train_epochs")
    return next((name for name in names if float(settings.get(name) or 0) > 0), None)


def _as_of_chosen_length(settings: dict[str, Any]) -> dict[str, Any]:
    """What `training.length` does with a length that it chooses, for one that is given: trials differ in it alone."""
    same: dict[str, Any] = {"load_best_model_at_end": False}
    for kind in ("eval", "save"):
        if settings.get(f"{kind}_strategy", "epoch") == "epoch":
            same |= {f"{kind}_strategy": "steps", f"{kind}_steps": 1 / EVALUATIONS}
    return {name: value for name, value in same.items() if name not in settings or name.endswith("_strategy")}


def changes(space: Space, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what of a trial's settings is other than was asked for."""
    return {name: value for name, value in parameters.items() if value != space[name].given}


def baseline_space(baseline: Baseline, arguments: ComparisonArguments, documents: int) -> Space:
    """Return what is searched of a baseline, by the parameters of its function; nothing of most.

    Args:
        baseline: The baseline.
        arguments: What was asked for.
        documents: Number of training documents, which a length that is not given depends on.
    """
    if baseline.name == "encoder":
        return {
            "learning_rate": _around(ENCODER_LEARNING_RATES, arguments.encoder_learning_rate),
            "num_train_epochs": _lengths(encoder_epochs(arguments, documents)),
        }
    return _BASELINES.get(baseline.name, {})


def _around(ends: tuple[float, float], given: Any) -> LogRange:
    """A range as wide as the usual one that has the given value: the usual one, if that does."""
    low, high, given = *ends, float(given)  # YAML reads 5e-4 as a text
    if not low <= given <= high:
        reach = math.sqrt(high / low)
        low, high = given / reach, given * reach
    return LogRange(given, low, high)


def _lengths(given: Any, unit: int | None = None) -> Choice:
    """Factors of a length: a multiple of `unit`, if there is one, but for the length as given."""
    kept = float(given) if unit is None else int(given)
    others = [kept * factor for factor in LENGTHS if factor != 1]
    if unit is not None:
        others = [max(1, round(value / unit)) * unit for value in others]
    return Choice(kept, tuple(sorted({kept, *others})))


def _can_start(settings: dict[str, Any], start: str) -> bool:
    """Whether a head with these settings can start so."""
    names = {item.name for item in fields(HeadArguments)} & set(settings)
    try:
        HeadArguments(**{**{name: settings[name] for name in names}, "head_init": start})
    except ValueError as error:
        if not raised_here(error):
            raise
        return False
    return True
