"""The texts that a classifier is given: one or many, in any container that has an order, blank ones allowed or not.

Knows strings and their containers. Knows no model, and imports none of the libraries whose containers it takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Empty = Literal["error", "keep"]
EMPTY: tuple[Empty, ...] = ("error", "keep")


@dataclass(frozen=True)
class Texts:
    """Texts to work on, and how their results become those of everything that was given.

    Attributes:
        texts: The texts that are not empty.
        positions: Where each of them was.
        count: How many were given, empty ones included.
        single: Whether one text was given instead of a container of them.
    """

    texts: list[str]
    positions: list[int]
    count: int
    single: bool

    def spread(self, results: np.ndarray) -> np.ndarray:
        """Return the results `(texts, …)` as those of all that was given: NaN for an empty one, `(…)` for a single."""
        if len(self.texts) < self.count:
            everything = np.full((self.count, *results.shape[1:]), np.nan, dtype=results.dtype)
            everything[self.positions] = results
            results = everything
        return results[0] if self.single else results

    def check_numbers(self, results: np.ndarray) -> None:
        """Check the results `(texts, …)` of a model.

        Raises:
            ValueError: If some are no numbers, with the positions of their texts.
        """
        bad = np.flatnonzero(~np.isfinite(results).all(axis=1))
        if len(bad):
            raise ValueError(
                f"The model gives no numbers (NaN) for {len(bad)} of {self.count} texts; the first are at "
                f"{[self.positions[row] for row in bad[:5]]}. Its weights are damaged or its training diverged; or, "
                "if dtype is float16, that is too narrow: try float32."
            )


def read_texts(given: Any, *, empty: Empty = "error") -> Texts:
    """Read what was given as texts.

    Args:
        given: A text, or texts: a list, tuple, iterator, NumPy or Arrow array, column of a pandas or polars table or of
            a data set.
        empty: Whether an empty text (`None`, NaN, nothing but white space) is an `"error"`, or keeps its place
            (`"keep"`).

    Raises:
        ValueError: If it is something else, or a text is not a string or not allowed to be empty.
    """
    if empty not in EMPTY:
        raise ValueError(f"empty must be one of {list(EMPTY)}, got {empty!r}.")
    single = isinstance(given, str)
    values = [given] if single else _values(given)
    blank = [index for index, value in enumerate(values) if is_empty(value)]
    wrong = [index for index in sorted(set(range(len(values))) - set(blank)) if not isinstance(values[index], str)]
    if wrong:
        first = values[wrong[0]]
        raise ValueError(
            f"{len(wrong)} of {len(values)} texts are not strings; the first are at {wrong[:5]}: "
            f"{_shortened(first)} is of type {type(first).__name__}. Give strings."
        )
    if blank and empty == "error":
        raise ValueError(
            f"{len(blank)} of {len(values)} texts are empty; the first are at {blank[:5]}. Leave them out, or set "
            "empty='keep' to keep their place."
        )
    positions = sorted(set(range(len(values))) - set(blank))
    return Texts([str(values[index]) for index in positions], positions, len(values), single)


def is_empty(value: Any) -> bool:
    """Whether it has nothing but white space, or is what a table has in the place of a missing text."""
    if isinstance(value, str):
        return not value.strip()
    missing = type(value).__name__ in ("NAType", "NaTType")  # pandas' own
    return value is None or missing or (isinstance(value, float) and math.isnan(value))


def _values(given: Any) -> list[Any]:
    """The items of a container that has one text a place and an order."""
    kind, advice = type(given).__name__, "Give a text, or a list of texts"
    columns = list(given) if isinstance(given, Mapping) else getattr(given, "column_names", None)
    if columns is None and hasattr(given, "columns"):
        columns = list(given.columns)
    if columns is not None:  # a table: its items are the names of its columns, or its rows
        name = "text" if "text" in columns else columns[0] if len(columns) else "text"
        advice = (
            f"It has {_shortened(list(columns))}: give the one that holds the texts, such as predict(given[{name!r}])"
        )
    elif isinstance(given, Set):
        advice = "It has no order. Give a list: predict(sorted(texts))"
    elif isinstance(given, bytes | bytearray | memoryview):
        advice = "Decode it: predict(given.decode())"
    elif getattr(given, "ndim", 1) != 1:
        kind, advice = f"{kind} of shape {tuple(given.shape)}", "Give one dimension: predict(given.ravel())"
    elif hasattr(given, "to_pylist"):  # Arrow's items are scalars of its own
        return list(given.to_pylist())
    elif isinstance(given, Iterable):
        return list(given)
    raise ValueError(f"These are no texts, but of type {kind}. {advice}.")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
