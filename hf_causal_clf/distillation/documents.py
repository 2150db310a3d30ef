"""Documents without labels, from wherever a distillation has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..data.files import open_dataset
from ..data.splits import ClassificationData
from ..data.unlabelled import column_texts, file_texts, new_texts
from .arguments import DistillationArguments


def unlabelled_texts(arguments: DistillationArguments, data: ClassificationData) -> list[str]:
    """Return the texts of the documents without labels, each once, and say how many were left out and why.

    Args:
        arguments: Where they are.
        data: The labelled documents, whose texts are left out.

    Raises:
        OSError: If a file or a data set cannot be found.
        ValueError: If they cannot be read, it is not clear which column is the text, a text is none, or none is left.
    """
    return new_texts(_texts(arguments, data), data) if arguments.has_unlabelled else []


def _texts(arguments: DistillationArguments, data: ClassificationData) -> Iterator[Any]:
    if arguments.unlabelled_rest and data.rest is not None:
        yield from data.rest["text"][:]
    if arguments.unlabelled_file:
        yield from file_texts(arguments.unlabelled_file, data.text_column)
    if arguments.unlabelled_dataset_name:
        name, config = arguments.unlabelled_dataset_name, arguments.unlabelled_dataset_config
        rows = open_dataset(name, config, split=arguments.unlabelled_dataset_split, streaming=True)
        yield from column_texts(rows, name, data.text_column)
