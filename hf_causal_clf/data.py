"""Labelled documents: loading, label detection and splits; mistakes are named before a model is loaded."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from .arguments import SPLITS, DataArguments
from .data_files import FORMATS, Table, load_file, open_dataset
from .labels import LabelSpace
from .mistakes import Mistakes, report
from .sampling import stratified_sample, stratified_split
from .wipo import read_wipo

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ClassificationData:
    """Documents ready for training.

    Attributes:
        label_space: Label names and kind of task.
        splits: `train`, `validation` and `test`, with the columns `id`, `text` and `label` (a name, or a list of them).
        overlap: Number of documents of the second split of a pair whose text is in the first as well.
    """

    label_space: LabelSpace
    splits: dict[str, Dataset]
    overlap: dict[str, int]

    def texts(self, split: str) -> list[str]:
        """Return the documents of a split."""
        return list(self.splits[split]["text"])

    def gold(self, split: str) -> np.ndarray:
        """Return the gold labels of a split: ids `(n,)`, or 0/1 `(n, labels)`."""
        return self.label_space.encode_batch(self.splits[split]["label"])

    def balanced_weights(self) -> dict[str, list[float]]:
        """Inverse-frequency weights of the training documents for the loss, as scikit-learn's "balanced".

        Labels that all documents have, or none, cannot be balanced: their weight is 1.
        """
        gold, count = self.gold("train"), len(self.label_space)
        if self.label_space.multi_label:
            positive = gold.sum(axis=0)
            negative = len(gold) - positive
            weights = np.where(positive * negative > 0, negative / positive.clip(min=1), 1.0)
            return {"pos_weight": weights.tolist()}
        found = np.bincount(gold, minlength=count)
        weights = np.where(found > 0, len(gold) / ((found > 0).sum() * found.clip(min=1)), 1.0)
        return {"class_weights": weights.tolist()}


def load_data(arguments: DataArguments) -> ClassificationData:
    """Load the three splits, find the label space and check everything that can be checked without a model.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a split or column is missing, a text is empty, or labels contradict each other.
    """
    loaded = _load_splits(arguments)
    splits, mistakes = {}, Mistakes()
    for split, raw in loaded.items():
        with mistakes.noted():
            splits[split] = _rows(raw, split, arguments)
    mistakes.report()
    own_names = loaded["train"].class_names.get(arguments.label_column)
    label_space = _label_space(splits, arguments.label_list or own_names, arguments)
    if "validation" not in splits:
        gold = label_space.encode_batch(splits["train"]["label"])
        size = min(max(1, round(len(gold) * arguments.validation_fraction)), len(gold) - 1)  # type: ignore[operator]
        texts = [normalized(text) for text in splits["train"]["text"]]
        chosen = stratified_split(gold, texts, size, arguments.split_seed)
        rest = np.setdiff1d(np.arange(len(gold)), chosen)
        splits["validation"], splits["train"] = splits["train"].select(chosen), splits["train"].select(rest)
        _say(
            f"The validation split is {len(chosen):,} of the {len(gold):,} training documents, stratified by label "
            f"(validation_fraction={arguments.validation_fraction}, split_seed={arguments.split_seed})."
        )
        lost = sorted(set(_count_labels(splits["validation"]["label"])) - set(_count_labels(splits["train"]["label"])))
        if lost:
            raise ValueError(
                f"validation_fraction={arguments.validation_fraction} leaves no training document with the labels "
                f"{lost}. Add documents with them, or give validation_file."
            )
    for split in SPLITS:
        limit = getattr(arguments, f"max_{split}_samples")
        if limit is not None and limit < len(splits[split]):
            gold = label_space.encode_batch(splits[split]["label"])
            splits[split] = splits[split].select(stratified_sample(gold, limit, arguments.split_seed))
    _check_labels_in_use(splits, label_space)
    _say_labels(splits["train"], label_space)
    overlap = _overlap(splits)
    for pair, count in overlap.items():
        if count:
            logger.warning(f"{pair}: {count} documents of the second split are in the first, so metrics are too good.")
    return ClassificationData(label_space, {split: splits[split] for split in SPLITS}, overlap)


def check_documents(parsed: Sequence[Any], mistakes: Mistakes) -> None:
    """Note what is wrong with the documents that arguments name.

    Args:
        parsed: Arguments, the `DataArguments` among them.
        mistakes: Where it is noted.
    """
    for arguments in (each for each in parsed if isinstance(each, DataArguments)):
        with mistakes.noted():
            load_data(arguments)


def _load_splits(arguments: DataArguments) -> dict[str, Table]:
    cut = arguments.validation_fraction is not None
    if arguments.dataset_name:
        available = open_dataset(arguments.dataset_name, arguments.dataset_config)
        columns = _columns(arguments)
        found = {split: Table.from_dataset(available[split], columns) for split in SPLITS if split in available}
        origin, names = f"The data set {arguments.dataset_name!r}", f" It has {sorted(available)}."
    else:
        files = {split: getattr(arguments, f"{split}_file") for split in SPLITS}
        found, mistakes = {}, Mistakes()
        for split, path in files.items():
            if path:
                with mistakes.noted():
                    found[split] = _load_file(Path(path), arguments)
        mistakes.report()
        origin, names = "The data", ""
    if cut and "validation" in found:
        raise ValueError(
            f"{origin} has a validation split, so validation_fraction={arguments.validation_fraction} has nothing to "
            "do. Leave one of them out."
        )
    for split in SPLITS:
        if split not in found and not (split == "validation" and cut):
            advice = f"Give {split}_file"
            if split == "validation":
                advice += ", or cut it from the training split with validation_fraction, such as 0.1"
            raise ValueError(f"{origin} has no {split} split, and no other is used in its place.{names} {advice}.")
    return found


def _columns(arguments: DataArguments) -> list[str]:
    named = (arguments.text_column, arguments.label_column, arguments.id_column)
    return list(dict.fromkeys(name for name in named if name is not None))


def _load_file(path: Path, arguments: DataArguments) -> Table:
    columns = _columns(arguments)
    if path.is_dir():
        return Table.from_rows(read_wipo(path, level=arguments.ipc_level, fields=arguments.ipc_fields), columns)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Check train_file, validation_file and test_file.")
    if path.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} has the ending {path.suffix!r}; known are {', '.join(FORMATS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty.")
    table = load_file(path, columns)
    if not table.rows:
        raise ValueError(f"{str(path)!r} has no documents.")
    return table


def _rows(raw: Table, split: str, arguments: DataArguments) -> Dataset:
    """Bring a split into the columns `id`, `text` and `label`, with labels as names."""
    from datasets import Dataset

    if not raw.rows:
        raise ValueError(f"The {split} split has no documents.")
    columns = {option: getattr(arguments, option) for option in ("text_column", "label_column", "id_column")}
    report(
        f"The {split} split has no column {column!r}; it has {list(raw.names)}. Set {option} to one of these."
        for option, column in columns.items()
        if column is not None and column not in raw.columns
    )
    texts = raw.columns[arguments.text_column]
    bad = [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if bad:
        raise ValueError(
            f"{len(bad)} documents of the {split} split have no text in {arguments.text_column!r} (empty, null or not "
            f"a string); the first are rows {bad[:5]}, counted from 0. Fill them in or remove them."
        )
    convert = _label_converter(raw.class_names.get(arguments.label_column), arguments)
    labels = []
    for row, value in enumerate(raw.columns[arguments.label_column]):
        try:
            labels.append(convert(value))
        except ValueError as error:
            raise ValueError(f"Row {row} of the {split} split, counted from 0: {error}") from error
    ids = raw.columns[arguments.id_column] if arguments.id_column else range(raw.rows)
    if len(set(ids)) < len(ids):
        raise ValueError(f"The ids in column {arguments.id_column!r} of the {split} split are not unique.")
    kinds = sorted({type(value).__name__ for value in ids})
    if len(kinds) > 1 or kinds == ["NoneType"]:
        raise ValueError(
            f"The ids in column {arguments.id_column!r} of the {split} split are of several kinds: {kinds}. Write all "
            "of them as texts; none may be empty."
        )
    return Dataset.from_dict({"id": list(ids), "text": texts, "label": labels})


def _label_converter(own_names: Sequence[str] | None, arguments: DataArguments) -> Callable[[Any], Any]:
    """Return the function from a raw label value to a name, or to a list of names.

    A text is a name; an integer is an id where there are names for it.
    """
    if own_names and arguments.label_list and list(own_names) != list(arguments.label_list):
        raise ValueError(
            f"label_list={arguments.label_list} contradicts the data set's own names {list(own_names)}. Leave it out."
        )
    names = own_names or arguments.label_list

    def one(value: Any) -> str:
        """Turn a name or an id into a name."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise ValueError("the label is missing (null).")
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("the label is empty.")
            return value.strip()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
            raise ValueError(f"the label {value!r} is neither a name nor an id.")
        if names is None:
            return str(int(value))
        if not 0 <= value < len(names):
            raise ValueError(f"the label id {value!r} is not one of the {len(names)} labels {list(names)}.")
        name, digits = names[int(value)], str(int(value))
        if not own_names and digits in names and digits != name:
            raise ValueError(
                f"the number {digits} may be the id of {name!r} or the name {digits!r} of label_list. Write the labels "
                "as texts if they are names; leave label_list out if numbers are all the names there are."
            )
        return name

    def many(value: Any) -> list[str]:
        """Turn the labels of a multi-label document into names."""
        if arguments.label_delimiter is not None and (value is None or isinstance(value, str)):
            value = [part for part in (value or "").split(arguments.label_delimiter) if part.strip()]
        if not isinstance(value, list):
            raise ValueError(f"the labels {value!r} are not a list. For one string, set label_delimiter.")
        labels = [one(item) for item in value]
        if len(set(labels)) < len(labels):
            raise ValueError(f"the labels {value!r} repeat one. Give names or ids; 0/1 vectors are not read.")
        return labels

    def single(value: Any) -> str:
        """Turn the label of a single-label document into a name."""
        if isinstance(value, list):
            raise ValueError(
                f"the label is the list {value!r}. For several labels a document, set multi_label to true."
            )
        return one(value)

    return many if arguments.multi_label else single


def _label_space(splits: dict[str, Dataset], given: Sequence[str] | None, arguments: DataArguments) -> LabelSpace:
    """Labels in the order given, else those of the training split, checked against all splits."""
    found = {split: _count_labels(data["label"]) for split, data in splits.items()}
    names: Sequence[str] = given or sorted(found["train"], key=_numbers_first)
    told = []
    for split, counts in found.items():
        unknown = sorted(set(counts) - set(names))
        if unknown:
            source = "label_list does not list" if arguments.label_list else "the training split does not have"
            hint = " A number as text, as in every CSV file, is a name and no id." if _are_digits(unknown) else ""
            told.append(
                f"The {split} split has labels that {source}: {unknown}. Add training documents for them, remove these "
                f"documents, or correct the labels.{hint if arguments.label_list else ''}"
            )
        untrained = sorted(set(counts) - set(found["train"]))
        if untrained and not unknown:
            told.append(f"The {split} split has labels that no training document has: {untrained}.")
    report(told)
    if not names:
        raise ValueError("No training document has a label: there is nothing to learn. Check label_column.")
    if len(names) < 2:
        raise ValueError(f"The training split has the single label {list(names)}: there is nothing to tell apart.")
    return LabelSpace(names, multi_label=arguments.multi_label)


def _count_labels(values: Any) -> Counter[str]:
    return Counter(label for value in values for label in (value if isinstance(value, list) else [value]))


def _are_digits(names: Iterable[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _numbers_first(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _check_labels_in_use(splits: dict[str, Dataset], label_space: LabelSpace) -> None:
    counts = _count_labels(splits["train"]["label"])
    if len(counts) < 2:
        raise ValueError(f"The training documents in use have the single label {sorted(counts)}. Use more of them.")
    for split in SPLITS:
        found = _count_labels(splits[split]["label"])
        missing = [name for name in label_space.names if name not in found]
        if missing:
            kind = {"train": "training"}.get(split, split)
            logger.warning(f"No {kind} document in use has these labels: {missing}.")


def _say_labels(train: Dataset, label_space: LabelSpace, limit: int = 20) -> None:
    """Say which id stands for which name."""
    counts = _count_labels(train["label"])
    shown = [f"{index} {name!r} ({counts[name]:,})" for index, name in enumerate(label_space.names)]
    shown = shown if len(shown) <= limit else [*shown[: limit // 2], "…", *shown[-limit // 2 :]]
    _say(f"{len(label_space)} labels, each with its id and its training documents: {', '.join(shown)}")


def _say(text: str) -> None:
    """Print a line once for all processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(text)


def normalized(text: str) -> str:
    """A text up to case and spacing, by which documents count as the same."""
    return " ".join(text.casefold().split())


def _overlap(splits: dict[str, Dataset]) -> dict[str, int]:
    """Count the documents whose text, up to case and spacing, is also in another split."""
    texts = {split: [normalized(text) for text in splits[split]["text"]] for split in SPLITS}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    return {f"{a}/{b}": sum(text in known for text in texts[b]) for a, b in pairs for known in [set(texts[a])]}
