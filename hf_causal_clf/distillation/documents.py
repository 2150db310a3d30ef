"""Documents without labels: read, and without those that a student is measured on or has already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..cli.telling import tell
from ..data.arguments import TEXT_NAMES
from ..data.columns import find_text_column
from ..data.files import open_dataset, stream_file
from ..data.sampling import normalized
from ..data.splits import ClassificationData
from ..task.texts import is_empty
from .arguments import DistillationArguments

_REASONS = {  # for which a document is left out
    "test": "that are in the test documents",
    "validation": "that are in the validation documents",
    "train": "that are in the training documents",
    "twice": "that are there twice",
    "empty": "without text",
}


def unlabelled_texts(arguments: DistillationArguments, data: ClassificationData) -> list[str]:
    """Return the texts of the documents without labels, each once, and say how many were left out and why.

    Left out are texts that are in the test, validation or training documents, up to case and spacing, and empty ones: a
    student that has learned what the teacher says of a test document is measured too well.

    Args:
        arguments: Where they are.
        data: The labelled documents.

    Raises:
        OSError: If a file or a data set cannot be found.
        ValueError: If they cannot be read, it is not clear which column is the text, a text is none, or none is left.
    """
    if not arguments.has_unlabelled:
        return []
    known = {normalized(text): split for split in ("train", "validation", "test") for text in data.texts(split)}
    kept: list[str] = []
    left_out: Counter[str] = Counter()
    for text in _texts(arguments, data):
        plain = "" if is_empty(text) else normalized(text)
        reason = known.get(plain) if plain else "empty"
        if reason is None:
            known[plain] = "twice"
            kept.append(text)
        else:
            left_out[reason] += 1
    said = [f"{left_out[name]:,} {why}" for name, why in _REASONS.items() if left_out[name]]
    tell(
        f"Documents without labels: {len(kept):,}."
        + (f" Left out are {', '.join(said)}, case and spacing aside." if said else "")
    )
    if not kept:
        raise ValueError("No document without a label is left: all of them are among the labelled ones, or empty.")
    return kept


def _texts(arguments: DistillationArguments, data: ClassificationData) -> Iterator[Any]:
    if arguments.unlabelled_rest and data.rest is not None:
        yield from data.rest["text"][:]
    if arguments.unlabelled_file:
        path = Path(arguments.unlabelled_file)
        names = dict.fromkeys(name for name in (data.text_column, *TEXT_NAMES) if name)
        yield from _column(stream_file(path, list(names)), str(path), data)
    if arguments.unlabelled_dataset_name:
        name, config = arguments.unlabelled_dataset_name, arguments.unlabelled_dataset_config
        rows = open_dataset(name, config, split=arguments.unlabelled_dataset_split, streaming=True)
        yield from _column(rows, name, data)


def _column(rows: Any, source: str, data: ClassificationData) -> Iterator[Any]:
    """The texts of rows, from the column that the labelled documents have them in, or one with a known name."""
    column: str | None = None
    for number, row in enumerate(rows):
        if column is None:
            column = find_text_column(list(row), data.text_column)
        if column is None or column not in row:
            raise ValueError(
                f"It is not clear which column of {source!r} is the text; row {number}, counted from 0, has "
                f"{list(row)}. Call it {data.text_column!r}, as in the labelled documents."
            )
        text = row[column]
        if not is_empty(text) and not isinstance(text, str):
            raise ValueError(
                f"Row {number} of {source!r}, counted from 0, has {text!r} of type {type(text).__name__} in {column!r} "
                "instead of a text. Write it as a text."
            )
        yield text
