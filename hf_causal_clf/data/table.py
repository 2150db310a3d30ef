"""One table of the documents for the terminal: how many, of which label, repeated, and in two splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..cli.telling import beginning, tell_lines
from ..evaluation.metrics import label_counts
from .arguments import SPLITS

if TYPE_CHECKING:
    from .splits import ClassificationData

_LABELS = 10  # that are listed
_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def tell_data(data: ClassificationData, more: Sequence[tuple[str, str]] = ()) -> None:
    """Print the table, in the main process.

    Args:
        data: The documents.
        more: Name and value of further rows, of training documents.
    """
    splits = [split for split in SPLITS if split in data.splits and len(data.splits[split])]
    splits = [split for split in splits if split != "validation" or data.folds is None]
    rows = [["", *(_NAMES[split] for split in splits)]]
    rows.append(["documents", *(f"{len(data.splits[split]):,}" for split in splits)])
    rows.append(["  repeated", *(f"{data.repeated.get(split, 0):,}" for split in splits)])
    for place, first in enumerate(splits[:-1]):
        counts = [f"{data.overlap.get(f'{first}/{split}', 0):,}" for split in splits[place + 1 :]]
        rows.append([f"  also in {_NAMES[first]}", *[""] * (place + 1), *counts])
    rows += _labels(data, splits)
    rows += [[name, value, *[""] * (len(splits) - 1)] for name, value in more]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    tell_lines(
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    )


def _labels(data: ClassificationData, splits: Sequence[str]) -> list[list[str]]:
    """A row for each of the first labels: its id, its name and its documents."""
    names = data.label_space.names
    counts = [label_counts(data.gold(split), len(names)) for split in splits]
    rows = [
        [f"label {index} {beginning(name)}", *(f"{each[index]:,}" for each in counts)]
        for index, name in enumerate(names[:_LABELS])
    ]
    left = len(names) - _LABELS
    return rows if left <= 0 else [*rows, [f"{left:,} other labels", *(f"{each[_LABELS:].sum():,}" for each in counts)]]
