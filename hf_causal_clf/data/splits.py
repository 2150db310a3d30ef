"""The three splits and their label space: loaded, cut, sampled and checked before a model is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from ..cli.mistakes import Mistakes, report
from ..evaluation.metrics import label_counts
from ..task.labels import LabelSpace
from .arguments import SPLITS, DataArguments
from .reading import load_splits, read_rows

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
        gold = self.gold("train")
        found = label_counts(gold, len(self.label_space))
        if self.label_space.multi_label:
            positive, negative = found, len(gold) - found
            weights = np.where(positive * negative > 0, negative / positive.clip(min=1), 1.0)
            return {"pos_weight": weights.tolist()}
        weights = np.where(found > 0, len(gold) / ((found > 0).sum() * found.clip(min=1)), 1.0)
        return {"class_weights": weights.tolist()}


def load_data(arguments: DataArguments) -> ClassificationData:
    """Load the three splits, find the label space and check everything that can be checked without a model.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a split or column is missing, a text is empty, or labels contradict each other.
    """
    loaded = load_splits(arguments)
    splits, mistakes = {}, Mistakes()
    for split, raw in loaded.items():
        with mistakes.noted():
            splits[split] = read_rows(raw, split, arguments)
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


def stratified_sample(gold: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw row numbers so that labels (or sets of labels) keep their shares, as far as their numbers allow.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        size: Number of rows to draw, below `n`.
        seed: Seed of the draw.

    Returns:
        Sorted row numbers, int64 `(size,)`.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < size < len(gold):
        raise ValueError(f"Cannot set {size} of {len(gold)} documents apart; at least one must be on either side.")
    strata = [tuple(row) if isinstance(row, list) else row for row in gold.tolist()]
    counts = Counter(strata)
    room = min(size, len(gold) - size)
    common = [stratum for stratum, count in counts.most_common(room) if count > 1]
    kept = set(common[: room - 1] if len(common) < len(counts) else common)
    pooled = [stratum if stratum in kept else "rare" for stratum in strata]
    if pooled.count("rare") == 1:
        pooled[pooled.index("rare")] = common[0] if common else "rare"
    codes = {stratum: code for code, stratum in enumerate(dict.fromkeys(pooled))}
    groups = [codes[stratum] for stratum in pooled] if len(codes) > 1 and room >= len(codes) else None
    chosen, _ = train_test_split(np.arange(len(gold)), train_size=size, random_state=seed, stratify=groups)
    return np.sort(chosen)


def stratified_split(gold: np.ndarray, groups: Sequence[Hashable], size: int, seed: int) -> np.ndarray:
    """Draw row numbers as `stratified_sample` does, and keep the rows of a group together.

    Groups that the draw divides go to one side or the other, large ones first, so that the number of rows, and then
    those of each label, stay as near to the draw's as can be. Without groups of several rows it is that draw.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        groups: Group of each row.
        size: Number of rows to draw, below `n`. The result differs by half the largest group at most, but for groups
            with all rows of a label, which are left, and a side that has the smallest group alone.
        seed: Seed of the draw.

    Returns:
        Sorted row numbers, int64. Some are drawn and some are left.

    Raises:
        ValueError: If all rows are one group.
    """
    drawn = np.zeros(len(gold), dtype=bool)
    drawn[stratified_sample(gold, size, seed)] = True
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    if len(members) == 1:
        raise ValueError(f"Cannot set {size} of {len(gold)} documents apart: all of them have the same text.")
    labels = gold.shape[1] if gold.ndim == 2 else int(gold.max()) + 1
    left = label_counts(gold[~drawn], labels)
    more, more_labels = 0, np.zeros_like(left)  # rows drawn beyond those of the draw
    for rows in sorted((np.array(rows) for rows in members.values() if len(rows) > 1), key=len, reverse=True):
        sides = []
        for sign, moved in ((-1, rows[drawn[rows]]), (1, rows[~drawn[rows]])):  # all out, or all in
            change = sign * label_counts(gold[moved], labels)
            takes_all = bool((left == change)[change > 0].any())  # of a label
            cost = (takes_all, abs(more + sign * len(moved)), int(abs(more_labels + change).sum()))
            sides.append((cost, sign * len(moved), change, moved))
        if all(len(moved) for *_, moved in sides):
            _, number, change, moved = min(sides, key=lambda side: side[0])
            drawn[moved] = number > 0
            more, more_labels, left = more + number, more_labels + change, left - change
    if drawn.all() or not drawn.any():
        smallest = min(members.values(), key=len)
        drawn[smallest] = ~drawn[smallest]
    return np.flatnonzero(drawn)
