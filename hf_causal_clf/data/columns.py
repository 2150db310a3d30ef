"""Which column is the text and which the label, where that is not given. Knows names and values, no files."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cli.telling import beginning, listed
from .arguments import LABEL_NAMES, TEXT_NAMES, DataArguments

LOOKED_AT = 1000  # training documents by whose values columns are told apart
_ID_NAMES = ("", "id", "ids", "idx", "index", "key", "uuid", "guid", "row", "number", "nr", "no")
_ID_ENDINGS = ("_id", "-id", " id", ".id")
_SHORT = 40  # characters; a longer text is no id

TEXT_COLUMN_HELP = (
    "Column of the document text. Default: the one that the run was trained with, else a column with a known name "
    f"({', '.join(TEXT_NAMES[:6])} and the like)."
)
ID_COLUMN_HELP = "Column that identifies a document: texts or whole numbers. Default: its row number."


def find_columns(arguments: DataArguments, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> DataArguments:
    """Fill in `text_column` and `label_column` where they are not given.

    Well-known names come first, compared without case; `text` and `label` themselves before all others. Where no name
    is known and only two columns could be meant, the one whose values repeat is the label, and the one with longer,
    distinct texts the text. A column of numbers is a label by its name alone: it may as well be a year or a length.

    Args:
        arguments: Where the documents are.
        names: Names of all columns of the training documents.
        rows: Some of these documents, at least one.

    Returns:
        The arguments, with both names.

    Raises:
        ValueError: If it is not clear which column is meant. It lists the columns.
    """
    if arguments.text_column and arguments.label_column:
        return arguments
    text, label = arguments.text_column, arguments.label_column
    texts = [text] if text else well_known(names, TEXT_NAMES, label)
    labels = [label] if label else well_known(names, LABEL_NAMES, text)
    if len(texts) <= 1 and len(labels) <= 1:
        taken = {*texts, *labels}
        values = {name: [row[name] for row in rows if not _is_empty(row.get(name))] for name in names}
        free = [
            name
            for name in names
            if name not in taken and name != arguments.id_column and values[name] and not _is_id(name, values[name])
        ]
        if texts and not labels and len(free) == 1 and _repeats(values[free[0]]):
            labels = free
        elif labels and not texts and len(free) == 1 and _are_texts(values[free[0]]):
            texts = free
        elif not texts and not labels and len(free) == 2:
            one, other = sorted(free, key=lambda name: _repeats(values[name]))
            if _is_text_beside(values[one], values[other]):
                texts, labels = [one], [other]
    if len(texts) == len(labels) == 1:
        return replace(arguments, text_column=texts[0], label_column=labels[0])
    raise ValueError(_question(names, rows, texts, labels))


def well_known(names: Sequence[str], known: Sequence[str], other: str | None = None) -> list[str]:
    """Return the columns whose names are well known; those with the first of the known names alone, if there are any.

    Args:
        names: Names of all columns.
        known: Names to look for, in lower case.
        other: Column that is something else.
    """
    found = [name for name in names if plain_name(name) in known and name != other]
    first = [name for name in found if plain_name(name) == known[0]]
    return [known[0]] if known[0] in first else first or found


def find_text_column(names: Sequence[str], trained: str | None) -> str | None:
    """Return the text column of documents without labels, or `None` where it is not clear which one it is.

    Args:
        names: Names of all columns.
        trained: Text column of the documents that the classifier was trained with, if that is known.
    """
    known = [trained] if trained in names else well_known(names, TEXT_NAMES)
    return known[0] if len(known) == 1 else None


def settled_text_column(
    names: Sequence[str], source: str, trained: str | None, *, text_column: str | None, id_column: str | None
) -> str:
    """Return the text column of documents for a finished run.

    Args:
        names: Their columns.
        source: Where they are from, for errors.
        trained: Text column of the documents that the run was trained with, if that is known.
        text_column: The column that is given.
        id_column: The column of the ids that is given.

    Raises:
        ValueError: If a column that is given is missing, or it is not clear which is the text.
    """
    for option, column in (("text_column", text_column), ("id_column", id_column)):
        if column is not None and column not in names:
            raise ValueError(f"{source!r} has no column {column!r}; it has {names}. Set {option} to one of these.")
    found = text_column or find_text_column(names, trained)
    if found is None:
        raise ValueError(
            f"It is not clear which column of {source!r} is the text; it has {names}. Set text_column to one of these."
        )
    return found


def plain_name(name: str) -> str:
    """Return a column's name as it is compared: without case and spaces around it."""
    return name.strip().casefold()


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_id(name: str, values: Sequence[Any]) -> bool:
    """Whether a column numbers the documents, by its name or because each has another short code."""
    plain = plain_name(name)
    if plain in _ID_NAMES or plain.endswith(_ID_ENDINGS) or plain.startswith("unnamed:"):
        return True
    codes = [str(value) for value in values if isinstance(value, str | int)]
    short = all(code.isascii() and len(code) <= _SHORT and len(code.split()) == 1 for code in codes)
    return len(values) > 1 and len(codes) == len(values) == len(set(codes)) and short


def _repeats(values: Sequence[Any]) -> bool:
    """Whether values are those of a label: several names or lists, on average each at least twice."""
    if not all(isinstance(value, str | list) for value in values) or all(_is_number(value) for value in values):
        return False
    return 2 <= len(set(map(_hashable, values))) <= len(values) / 2


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_text_beside(texts: Sequence[Any], labels: Sequence[Any]) -> bool:
    """Whether one column is the text and the other the label."""
    if not _are_texts(texts) or _repeats(texts) or not _repeats(labels):
        return False
    return _mean_length(texts) > _mean_length(labels)


def _mean_length(values: Iterable[Any]) -> float:
    lengths = [len(str(value)) for value in values]
    return sum(lengths) / len(lengths)


def _hashable(value: Any) -> Hashable:
    return repr(value) if isinstance(value, list) else value


def _question(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], texts: Sequence[str], labels: Sequence[str]
) -> str:
    """Say which columns there are, which of them could be meant and what to type."""
    reasons = []
    for kind, found in (("text", texts), ("label", labels)):
        if not found:
            reasons.append(f"no column is for sure the {kind}")
        elif len(found) > 1:
            reasons.append(f"several columns could be the {kind}: {found}")
    shown = []
    for name in names:
        example = next((row[name] for row in rows if row.get(name) is not None), None)
        shown.append(f"{name!r} ({beginning(example)})")
    options = [f"--{kind}_column NAME" for kind, found in (("text", texts), ("label", labels)) if len(found) != 1]
    return (
        f"Of the training documents, {' and '.join(reasons)}. Their columns, each with a value: {listed(shown, 20)}. "
        f"Name them with {' '.join(options)}."
    )
