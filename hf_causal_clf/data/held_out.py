"""Validation and test documents alone, for runs that are trained already."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..cli.mistakes import Mistakes
from ..cli.telling import tell
from ..task.labels import LabelSpace
from .arguments import DataArguments
from .reading import load_splits, read_rows
from .sampling import normalized, stratified_sample
from .splits import ClassificationData, load_data

if TYPE_CHECKING:
    from datasets import Dataset


def load_held_out(arguments: DataArguments, label_space: LabelSpace, folds: int = 0) -> ClassificationData:
    """Load the documents that finished runs are measured on.

    Without training documents, the split `train` is empty, and it is not known whether they are among the others.

    Args:
        arguments: Where they are: as for training, or a validation and a test file alone.
        label_space: Labels of the runs.
        folds: As for `load_data`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: As for `load_data`; or if one of the two files is not given, or a document has another label.
    """
    if arguments.multi_label and not label_space.multi_label:
        raise ValueError("multi_label is for multi-label runs, and these are single-label: leave it out.")
    labels = arguments.label_list or list(label_space.names)
    arguments = replace(arguments, label_list=labels, multi_label=label_space.multi_label)
    if arguments.train_file or arguments.dataset_name:
        return load_data(arguments, folds)
    if not (arguments.validation_file and arguments.test_file) or folds:
        raise ValueError(
            "Give validation_file and test_file, or train_file as the runs were trained with: "
            + ("with folds, its documents are needed." if folds else "what is missing is cut off its documents again.")
        )
    as_training = replace(arguments, train_file=arguments.validation_file, validation_file=None)  # its columns count
    loaded, found = load_splits(as_training)
    splits: dict[str, Dataset] = {}
    mistakes = Mistakes()
    for split, raw in (("validation", loaded["train"]), ("test", loaded["test"])):
        with mistakes.noted():
            splits[split] = _limited(read_rows(raw, split, found, as_training), split, label_space, arguments)
    mistakes.report()
    sizes = " and ".join(f"{len(rows):,} for {split}" for split, rows in splits.items())
    tell(f"Documents: {sizes}. The text is the column {found.text_column!r}, the label {found.label_column!r}.")
    known = set(map(normalized, splits["validation"]["text"][:]))
    overlap = {"validation/test": sum(normalized(text) in known for text in splits["test"]["text"][:])}
    splits["train"] = splits["validation"].select([])
    return ClassificationData(label_space, splits, overlap, found.text_column)


def _limited(rows: Dataset, split: str, label_space: LabelSpace, arguments: DataArguments) -> Dataset:
    """Check the labels of a split, and draw as many documents as arguments say, each label in proportion."""
    values = rows["label"][:]
    names = {name for value in values for name in (value if isinstance(value, list) else [value])}
    if unknown := sorted(names - set(label_space.names)):
        raise ValueError(
            f"The {split} documents have labels that the runs do not know: {unknown}. They know "
            f"{list(label_space.names)}. Give the documents that they were trained for."
        )
    limit = getattr(arguments, f"max_{split}_samples")
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(stratified_sample(label_space.encode_batch(values), limit, arguments.split_seed))
