"""The three splits and their label space: loaded, cut, sampled, checked and told before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from ..cli.mistakes import Mistakes, report
from ..cli.telling import beginning, tell
from ..evaluation.metrics import label_counts
from ..task.labels import LabelSpace
from .arguments import CUT_FRACTIONS, SPLITS, DataArguments
from .cutting import cut_missing_splits
from .folds import assign_folds, labels_in_one_fold
from .reading import load_splits, read_rows
from .rows import taken, values_of
from .sampling import normalized, stratified_sample, text_keys
from .table import tell_data

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

WEIGHT = "weight"  # column of documents that count differently in a loss
_USES = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class ClassificationData:
    """Documents ready for training.

    Attributes:
        label_space: Label names and kind of task.
        splits: `train`, `validation` and `test`, with the columns `id`, `text` and `label` (a name, or a list of them).
        overlap: Number of documents of the second split of a pair whose text is in the first as well.
        text_column: Column that the texts were read from; `None` where they were not read from one.
        folds: Fold of each labelled document, int64 `(n,)`. The splits `train` and `validation` are then the same
            documents: all labelled ones. What is said of `validation` has to come from trainings without the fold of
            each document (`holding_out`). `None` where there is a validation split.
        repeated: Number of documents of each split whose text an earlier one of it has.
        of_fold: Whether it is what `holding_out` returned.
        rest: Training documents that `max_train_samples` leaves out; `None` where it leaves none out.
    """

    label_space: LabelSpace
    splits: dict[str, Dataset]
    overlap: dict[str, int]
    text_column: str | None = None
    folds: np.ndarray | None = None
    rest: Dataset | None = None
    repeated: dict[str, int] = field(default_factory=dict)
    of_fold: bool = False

    @property
    def fold_count(self) -> int:
        """Number of folds; 0 where there is a validation split."""
        return 0 if self.folds is None else int(self.folds.max()) + 1

    def held_out(self) -> list[np.ndarray]:
        """Return for each fold which of the labelled documents it has, bool `(n,)`; nothing without folds."""
        return [] if self.folds is None else [self.folds == fold for fold in range(self.fold_count)]

    def holding_out(self, fold: int) -> ClassificationData:
        """Return the labelled documents with one fold as the validation split, and the others for training."""
        assert self.folds is not None
        labelled, held = self.splits["train"], self.folds == fold
        parts = {"train": taken(labelled, np.flatnonzero(~held)), "validation": taken(labelled, np.flatnonzero(held))}
        return replace(self, splits={**self.splits, **parts}, folds=None, of_fold=True)

    def texts(self, split: str) -> list[str]:
        """Return the documents of a split."""
        return self.splits[split]["text"][:]

    def gold(self, split: str) -> np.ndarray:
        """Return the gold labels of a split: ids `(n,)`, or 0/1 `(n, labels)`."""
        return self.label_space.encode_batch(values_of(self.splits[split], "label"))

    def balanced_weights(self) -> dict[str, list[float]]:
        """Inverse-frequency weights of the training documents for the loss, as scikit-learn's "balanced".

        Labels that all documents have, or none, cannot be balanced: their weight is 1.
        """
        gold = self.gold("train")
        found = label_counts(gold, len(self.label_space))
        if self.label_space.multi_label:
            positive, negative = found, len(gold) - found
            weights = np.where(positive * negative > 0, negative / positive.clip(min=1), 1.0)
            return {"pos_weight": weights.tolist()}
        weights = np.where(found > 0, len(gold) / ((found > 0).sum() * found.clip(min=1)), 1.0)
        return {"class_weights": weights.tolist()}

    def weighted(self, split: str) -> Dataset:
        """Return a split with a column `weight`, which balances a loss that has no term for each label.

        A document's weight is the mean over its labels of the inverse of their numbers of training documents, scaled so
        that the mean of the training documents is 1; having no label counts as one more label. In a single-label task
        that is the weight of its label in `balanced_weights`.
        """
        train, these = self._memberships("train"), self._memberships(split)
        sizes = train.sum(axis=0)
        inverse = 1 / sizes.clip(min=1)  # of a label that no training document has, as of one that a single one has
        weights, usual = (rows @ inverse / rows.sum(axis=1) for rows in (these, train))
        return self.splits[split].add_column(WEIGHT, weights / usual.mean())

    def _memberships(self, split: str) -> np.ndarray:
        """0/1 `(n, labels + 1)`: which labels a document has; the last column stands for none."""
        gold = self.gold(split)
        found = gold if gold.ndim == 2 else np.eye(len(self.label_space), dtype=np.int64)[gold]
        return np.column_stack([found, ~found.any(axis=1)])


def load_data(
    arguments: DataArguments, folds: int = 0, *, cut_test: bool = True, tabled: bool = True
) -> ClassificationData:
    """Load the three splits, find the label space and check everything that can be checked without a model.

    Columns that are not named are found, and splits that are missing cut off the training documents. What was decided
    is printed.

    Args:
        arguments: Where the documents are, and which of them are used.
        folds: Number of folds; 0 for none. With folds, no validation split is cut; the documents of one that is given
            are training documents like the others, which `max_train_samples` limits together. The test split is the
            same as without folds.
        cut_test: Whether a test split that is missing is cut off. Otherwise it has no documents; with folds only.
        tabled: Whether to print the table of the documents.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a split or column is missing, a text is empty, labels contradict each other, or there are too
            few documents for the folds.
    """
    given, (loaded, arguments) = arguments, load_splits(arguments)
    splits, mistakes = {}, Mistakes()
    for split, raw in loaded.items():
        with mistakes.noted():
            splits[split] = read_rows(raw, split, arguments, given)
    mistakes.report()
    own_names = loaded["train"].class_names.get(str(arguments.label_column))
    label_space = _label_space(splits, arguments.label_list or own_names, arguments)
    if folds:
        _check_no_validation_share(splits, arguments)
    wanted = ("test",) if folds else tuple(CUT_FRACTIONS)
    cut_missing_splits(splits, label_space, arguments, wanted if cut_test or arguments.test_fraction else ())
    others = {split: _limited(splits[split], split, label_space, arguments) for split in splits if split != "train"}
    splits = _joined({**splits, **others}) if folds else {**splits, **others}
    labelled, rest = splits["train"], None
    splits["train"] = _limited(labelled, "train", label_space, arguments)
    if len(splits["train"]) < len(labelled):
        drawn = set(splits["train"]["id"][:])
        rest = labelled.select([row for row, each in enumerate(labelled["id"][:]) if each not in drawn])
    _check_labels_in_use(splits, label_space)
    tell(f"The text is the column {arguments.text_column!r}, the label {arguments.label_column!r}.")
    _warn_of_like_labels(splits["train"], label_space)
    overlap, repeated = _overlap(splits)
    for pair, count in overlap.items():
        if count:
            logger.warning(f"{pair}: {count} documents of the second split are in the first, so metrics are too good.")
    assigned = _folds(splits["train"], label_space, folds, arguments.split_seed) if folds else None
    if "test" not in splits:
        splits["test"] = splits["train"].select([])
    ordered = {split: splits.get(split, splits["train"]) for split in SPLITS}
    data = ClassificationData(label_space, ordered, overlap, arguments.text_column, assigned, rest, repeated)
    if tabled:
        tell_data(data)
    return data


def note_document_mistakes(parsed: Sequence[Any], mistakes: Mistakes) -> None:
    """Note what is wrong with the documents that arguments name.

    Args:
        parsed: Arguments, the `DataArguments` among them.
        mistakes: Where it is noted.
    """
    folds = max((getattr(each, "folds", 0) for each in parsed), default=0)
    for arguments in (each for each in parsed if isinstance(each, DataArguments)):
        with mistakes.noted():
            load_data(arguments, folds, tabled=False)


def _limited(rows: Dataset, split: str, label_space: LabelSpace, arguments: DataArguments) -> Dataset:
    """Draw as many documents of a split as arguments say, each label in proportion."""
    limit = getattr(arguments, f"max_{split}_samples")
    if limit is None or limit >= len(rows):
        return rows
    gold = label_space.encode_batch(values_of(rows, "label"))
    return taken(rows, stratified_sample(gold, limit, arguments.split_seed))


def _check_no_validation_share(splits: dict[str, Dataset], arguments: DataArguments) -> None:
    """Raise a `ValueError` for settings of a validation split that is not there."""
    given = [name for name in ("validation_fraction", "max_validation_samples") if getattr(arguments, name) is not None]
    if given and "validation" not in splits:
        raise ValueError(f"With folds, no validation split is cut: leave {' and '.join(given)} out, or folds.")


def _joined(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Make validation documents training documents; where both have an id, each gets the name of its split."""
    from datasets import Dataset

    if "validation" not in splits:
        return splits
    parts = {split: splits[split] for split in ("train", "validation")}
    columns = {name: [value for rows in parts.values() for value in rows[name][:]] for name in ("id", "text", "label")}
    ids = columns["id"]
    if len(set(ids)) < len(ids) or len({type(each) for each in ids}) > 1:
        columns["id"] = [f"{split}/{each}" for split, rows in parts.items() for each in rows["id"][:]]
    tell(
        f"The {len(splits['validation']):,} validation documents join the {len(splits['train']):,} training documents."
    )
    others = {split: rows for split, rows in splits.items() if split == "test"}
    return {"train": Dataset.from_dict(columns), **others}


def _folds(labelled: Dataset, label_space: LabelSpace, folds: int, seed: int) -> np.ndarray:
    """Share the labelled documents out to folds, those that are alike to one, and say so."""
    gold = label_space.encode_batch(values_of(labelled, "label"))
    assigned = assign_folds(gold, text_keys(values_of(labelled, "text")).tolist(), folds, seed)
    sizes = sorted({int(size) for size in np.bincount(assigned)})
    tell(
        f"No validation split is cut: the {len(gold):,} training documents are in {folds} folds of "
        f"{' to '.join(f'{size:,}' for size in (sizes[0], *sizes[1:][-1:]))}, stratified by label (split_seed={seed}). "
        "Each fold is predicted by a training on the others."
    )
    alone = [label_space.names[label] for label in labels_in_one_fold(gold, assigned)]
    if alone:
        logger.warning(
            f"All documents of these labels are in one fold, so that the training without it knows none of them: "
            f"{alone}. Their out-of-fold probabilities are too low. Add documents with other texts."
        )
    return assigned


def _label_space(splits: dict[str, Dataset], given: Sequence[str] | None, arguments: DataArguments) -> LabelSpace:
    """Labels in the order given, else those of the training split, checked against all splits."""
    found = {split: _names(values_of(data, "label")) for split, data in splits.items()}
    names: Sequence[str] = given or sorted(found["train"], key=_numbers_first)
    told = []
    for split, labels in found.items():
        unknown = sorted(labels - set(names))
        if unknown:
            source = "label_list does not list" if arguments.label_list else "the training split does not have"
            hint = " A number as text, as in every CSV file, is a name and no id." if _are_digits(unknown) else ""
            told.append(
                f"The {split} split has labels that {source}: {unknown}. Add training documents for them, remove these "
                f"documents, or correct the labels.{hint if arguments.label_list else ''}"
            )
        untrained = sorted(labels - found["train"])
        if untrained and not unknown:
            told.append(f"The {split} split has labels that no training document has: {untrained}.")
    report(told)
    if not names:
        raise ValueError("No training document has a label: there is nothing to learn. Check label_column.")
    if len(names) < 2:
        raise ValueError(f"The training split has the single label {list(names)}: there is nothing to tell apart.")
    return LabelSpace(names, multi_label=arguments.multi_label)


def _names(values: Iterable[Any]) -> set[str]:
    return {label for value in values for label in (value if isinstance(value, list) else [value])}


def _are_digits(names: Iterable[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _numbers_first(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _check_labels_in_use(splits: dict[str, Dataset], label_space: LabelSpace) -> None:
    for split in (split for split in SPLITS if split in splits):
        counts = label_counts(label_space.encode_batch(values_of(splits[split], "label")), len(label_space))
        used = [name for name, count in zip(label_space.names, counts, strict=True) if count]
        if split == "train" and len(used) < 2:
            raise ValueError(f"The training documents in use have the single label {used}. Use more of them.")
        missing = [name for name in label_space.names if name not in used]
        if missing:
            logger.warning(f"No {_USES[split]} document in use has these labels: {missing}.")


def _warn_of_like_labels(train: Dataset, label_space: LabelSpace) -> None:
    """Warn of names that may be one label."""
    found = label_counts(label_space.encode_batch(values_of(train, "label")), len(label_space))
    counts = dict(zip(label_space.names, found.tolist(), strict=True))
    alike: dict[str, list[str]] = {}
    for name in label_space.names:
        alike.setdefault(normalized(name), []).append(f"{beginning(name)} ({counts[name]:,})")
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if pairs:
        logger.warning(
            f"Labels that differ by case or spaces alone: {'; '.join(pairs[:10])}. Each is a label of its own. If they "
            "are one, write it in one way in all files."
        )


def _overlap(splits: dict[str, Dataset]) -> tuple[dict[str, int], dict[str, int]]:
    """Count the documents whose text, up to case and spacing, is also in another split, or earlier in the same."""
    keys = {split: text_keys(values_of(rows, "text")) for split, rows in splits.items()}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    none = np.empty(0, dtype=np.uint64)
    shared = {f"{a}/{b}": int(np.isin(keys.get(b, none), keys.get(a, none)).sum()) for a, b in pairs}
    return shared, {split: len(each) - len(np.unique(each)) for split, each in keys.items()}
