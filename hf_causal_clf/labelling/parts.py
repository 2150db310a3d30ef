"""Parts of documents to compare: by length, and by the values of columns of their file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import load_file

_DISTINCT = 20  # numbers with more values than that are compared by quarters

Parts = dict[tuple[str, str], np.ndarray]


def length_parts(texts: Sequence[str]) -> Parts:
    """Return quarters of the documents by their number of characters, bool `(n,)` each."""
    return _quarters("length", np.array([len(text) for text in texts], dtype=np.float64), "{:,.0f}", " characters")


def read_columns(path: Path, columns: Sequence[str], id_column: str | None) -> dict[str, dict[str, Any]]:
    """Read columns of a file of documents.

    Args:
        path: The file.
        columns: Names of columns.
        id_column: Column of the ids; row numbers where it is `None`.

    Returns:
        For each column its values by id, as text.

    Raises:
        ValueError: If a column is missing.
    """
    table = load_file(path, [*columns, *([id_column] if id_column else [])])
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"{str(path)!r} has no columns {missing}; it has {list(table.names)}. Check slice_columns.")
    ids = table.columns.get(id_column, range(table.rows)) if id_column else range(table.rows)
    return {name: dict(zip(map(str, ids), table.columns[name], strict=True)) for name in columns}


def column_parts(columns: Mapping[str, Mapping[str, Any]], ids: Sequence[Any]) -> Parts:
    """Return the documents with each value of columns, bool `(n,)` each; of many numbers, quarters.

    Args:
        columns: For each column its values by id, as text.
        ids: Ids of the documents; that of a training document that validation documents joined is its own after
            `train/`. One that a column does not have is of no part.
    """
    parts: Parts = {}
    for name, of_file in columns.items():
        values = [of_file.get(str(id_), of_file.get(str(id_).removeprefix("train/"))) for id_ in ids]
        numbers = _numbers(values)
        if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > _DISTINCT:
            parts |= _quarters(name, numbers, "{:g}")
        else:
            texts = np.array(["" if value is None else str(value) for value in values], dtype=object)
            parts |= {(name, value): texts == value for value in sorted(set(texts)) if value}
    return parts


def _quarters(name: str, values: np.ndarray, form: str, unit: str = "") -> Parts:
    limits = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1])) if (~np.isnan(values)).any() else np.empty(0)
    parts: Parts = {}
    for number, (low, high) in enumerate(pairwise(limits)):
        inside = (values > low) & (values <= high) if number else (values >= low) & (values <= high)
        parts[name, f"{'over ' if number else ''}{form.format(low)} to {form.format(high)}{unit}"] = inside
    return parts


def _numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Values as float64, NaN for none; `None` where one is no number."""
    try:
        found = np.array([math.nan if value in (None, "") else float(value) for value in values])
    except (TypeError, ValueError):
        return None
    return None if np.isinf(found).any() else found
