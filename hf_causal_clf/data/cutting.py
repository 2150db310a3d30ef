"""Cutting a test and a validation split off the training documents, where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cli.telling import tell
from ..evaluation.metrics import label_counts
from ..task.labels import LabelSpace
from .arguments import CUT_FRACTIONS, DataArguments
from .rows import taken, values_of
from .sampling import stratified_split, text_keys

if TYPE_CHECKING:
    from datasets import Dataset


def cut_missing_splits(
    splits: dict[str, Dataset],
    label_space: LabelSpace,
    arguments: DataArguments,
    wanted: Sequence[str] = tuple(CUT_FRACTIONS),
) -> None:
    """Cut the splits that are missing off the training documents, the test split first, and say so.

    A share that is given is drawn as it is. By default, the documents of a label that would have no training document
    left stay there.

    Args:
        splits: By name, with the columns `text` and `label`. They get the missing ones.
        label_space: The labels.
        arguments: Shares and seed.
        wanted: Names of the splits to cut where they are missing.

    Raises:
        ValueError: If a split would have no document, or training none with a label.
    """
    total = len(splits["train"])
    source = Path(arguments.train_file).name if arguments.train_file else "the training split"
    shares = {split: share for split, share in _shares(arguments).items() if split in wanted and split not in splits}
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"{' and '.join(f'{split}_fraction={share}' for split, share in shares.items())} leave no training "
            "document. Lower one of them."
        )
    for split, share in shares.items():
        given = getattr(arguments, f"{split}_fraction") is not None
        chosen = _draw(splits["train"], max(1, round(total * share)), label_space, arguments.split_seed, split)
        lost = _lost_labels(splits["train"], chosen, label_space)
        if lost and not given:
            chosen = _without(splits["train"], chosen, lost)
        if (lost and given) or not len(chosen):
            names = f" with the labels {lost}" if lost else ""
            raise ValueError(
                f"{split}_fraction={share} leaves no {'training' if lost else split} document{names}. Add documents "
                f"{'with them' if lost and given else 'of each label'}, or give {split}_file."
            )
        rest = np.setdiff1d(np.arange(len(splits["train"])), chosen)
        splits[split], splits["train"] = taken(splits["train"], chosen), taken(splits["train"], rest)
        tell(
            f"The {split} split is {len(chosen):,} of the {total:,} documents of {source}, stratified by label "
            f"({split}_fraction={share}{'' if given else ', the default'}; split_seed={arguments.split_seed})."
        )


def _shares(arguments: DataArguments) -> dict[str, float]:
    return {split: getattr(arguments, f"{split}_fraction") or default for split, default in CUT_FRACTIONS.items()}


def _draw(train: Dataset, size: int, label_space: LabelSpace, seed: int, split: str) -> np.ndarray:
    """Draw so many rows, all documents that are alike on one side."""
    if len(train) < 2:
        raise ValueError(
            f"A {split} split cannot be cut off {len(train)} training documents. Add documents, or give {split}_file."
        )
    keys = text_keys(values_of(train, "text"))
    return stratified_split(_gold(train, label_space), keys, min(size, len(train) - 1), seed)


def _lost_labels(train: Dataset, chosen: np.ndarray, label_space: LabelSpace) -> list[str]:
    """Labels with documents of which all are drawn."""
    gold = _gold(train, label_space)
    counts, drawn = (label_counts(rows, len(label_space)) for rows in (gold, gold[chosen]))
    lost = (counts > 0) & (counts == drawn)
    return [name for name, all_drawn in zip(label_space.names, lost, strict=True) if all_drawn]


def _without(train: Dataset, chosen: np.ndarray, labels: list[str]) -> np.ndarray:
    """The rows without documents of labels, and without those that are like one of these."""
    keys = text_keys(values_of(train, "text"))
    found = [set(value) if isinstance(value, list) else {value} for value in values_of(train.select(chosen), "label")]
    left = keys[[row for row, names in zip(chosen, found, strict=True) if names & set(labels)]]
    return chosen[~np.isin(keys[chosen], left)]


def _gold(rows: Dataset, label_space: LabelSpace) -> np.ndarray:
    return label_space.encode_batch(values_of(rows, "label"))
