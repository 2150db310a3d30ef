"""Documents without labels: read, and without those that are labelled or tested on already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..cli.telling import tell
from ..task.texts import is_empty
from .arguments import TEXT_NAMES
from .columns import find_text_column
from .files import stream_file
from .sampling import normalized
from .splits import ClassificationData

_REASONS = {  # for which a document is left out
    "test": "that are in the test documents",
    "validation": "that are in the validation documents",
    "train": "that are in the training documents",
    "twice": "that are there twice",
    "empty": "without text",
}


def new_texts(texts: Iterable[Any], data: ClassificationData) -> list[str]:
    """Return texts, each once, and say how many were left out and why.

    Left out are texts that are in the test, validation or training documents, up to case and spacing, and empty ones:
    what has learned of a test document is measured too well.

    Args:
        texts: Texts, some of them empty.
        data: The labelled documents.

    Raises:
        ValueError: If none is left.
    """
    known = {normalized(text): split for split in ("train", "validation", "test") for text in data.texts(split)}
    kept: list[str] = []
    left_out: Counter[str] = Counter()
    for text in texts:
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


def file_texts(file: str, text_column: str | None) -> Iterator[Any]:
    """Yield the texts of a file, as `column_texts`.

    Raises:
        ValueError: As `column_texts`; or if the file cannot be read.
    """
    names = dict.fromkeys(name for name in (text_column, *TEXT_NAMES) if name)
    yield from column_texts(stream_file(Path(file), list(names)), file, text_column)


def column_texts(rows: Iterable[Any], source: str, text_column: str | None) -> Iterator[Any]:
    """Yield the texts of rows, from the column that labelled documents have them in, or one with a known name.

    Args:
        rows: Mappings of column names to values.
        source: Where they are from, for errors.
        text_column: Text column of the labelled documents.

    Raises:
        ValueError: If it is not clear which column is the text, or a text is none.
    """
    column: str | None = None
    for number, row in enumerate(rows):
        if column is None:
            column = find_text_column(list(row), text_column)
        if column is None or column not in row:
            raise ValueError(
                f"It is not clear which column of {source!r} is the text; row {number}, counted from 0, has "
                f"{list(row)}. Call it {text_column!r}, as in the labelled documents."
            )
        text = row[column]
        if not is_empty(text) and not isinstance(text, str):
            raise ValueError(
                f"Row {number} of {source!r}, counted from 0, has {text!r} of type {type(text).__name__} in {column!r} "
                "instead of a text. Write it as a text."
            )
        yield text
