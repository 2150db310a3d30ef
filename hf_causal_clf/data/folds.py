"""Folds of labelled documents: each document is held out once, and no label is spent on a validation split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

FOLDS = (2, 20)  # fewest and most


def check_folds(folds: int) -> None:
    """Raise a `ValueError` for a number of folds that is neither 0 (off) nor within `FOLDS`."""
    if isinstance(folds, bool) or not isinstance(folds, int) or (folds != 0 and not FOLDS[0] <= folds <= FOLDS[1]):
        raise ValueError(f"folds must be 0 (off) or from {FOLDS[0]} to {FOLDS[1]}, got {folds!r}. 5 is usual.")


def assign_folds(gold: np.ndarray, groups: Sequence[Hashable], folds: int, seed: int) -> np.ndarray:
    """Share documents out to folds, each label in proportion, and keep the documents of a group together.

    Groups are dealt out one by one, those with the rarest label first (iterative stratification: Sechidis et al., 2011,
    doi 10.1007/978-3-642-23808-6_10): to a fold that does not get all documents of a label, if there is one; of these,
    to the one with the fewest documents of the group's rarest label, and then with the fewest documents. Without groups
    of several documents, the documents of a single-label task, and those of each label, are as many in each fold as in
    any other, or one more.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        groups: Group of each document, such as its normalized text.
        folds: Number of folds.
        seed: Seed of the order in which groups that are alike are dealt out.

    Returns:
        Fold of each document, int64 `(n,)`; each fold has a document.

    Raises:
        ValueError: If there are fewer groups than folds, or the documents outside a fold have fewer than two labels.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    if len(rows) < folds:
        raise ValueError(
            f"folds={folds} needs as many labelled documents with different texts, and there are {len(rows)}. Lower "
            "folds, or add documents."
        )
    has = gold if gold.ndim == 2 else np.eye(gold.max() + 1, dtype=np.int64)[gold]
    members = list(rows.values())
    counts = np.array([has[group].sum(axis=0) for group in members])  # groups x labels
    total, divisible = counts.sum(axis=0), (counts > 0).sum(axis=0) > 1
    rarest = np.where(counts > 0, total, len(gold) + 1).argmin(axis=1)
    rarity = np.where(counts.any(axis=1), total[rarest], len(gold) + 1)
    shuffled = np.random.default_rng(seed).permutation(len(members))
    sizes = np.array([len(group) for group in members])
    # By label, so that all groups of one are dealt out before those of the next
    order = shuffled[np.lexsort((-sizes[shuffled], rarest[shuffled], rarity[shuffled]))]
    assigned = np.zeros(len(gold), dtype=np.int64)
    there, documents = np.zeros((folds, len(total)), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for group in order:
        takes_all = ((there + counts[group] == total) & (counts[group] > 0) & divisible).sum(axis=1)
        of_label = there[:, rarest[group]] if counts[group].any() else documents
        fold = np.lexsort((documents, of_label, takes_all))[0]
        assigned[members[group]] = fold
        there[fold] += counts[group]
        documents[fold] += sizes[group]
    _check_parts(there, documents)
    return assigned


def labels_in_one_fold(gold: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the ids of the labels whose documents are all in one fold: the training without it has none of them."""
    has = gold if gold.ndim == 2 else np.eye(gold.max() + 1, dtype=np.int64)[gold]
    in_folds = np.array([has[folds == fold].any(axis=0) for fold in range(folds.max() + 1)])
    return np.flatnonzero(in_folds.sum(axis=0) == 1)


def _check_parts(there: np.ndarray, documents: np.ndarray) -> None:
    """Check that no fold is empty, and that no training would have nothing to tell apart."""
    left = (there.sum(axis=0) - there > 0).sum(axis=1)
    if (documents == 0).any() or (left < 2).any():
        raise ValueError(
            f"{len(documents)} folds leave a training with a single label, or a fold without documents: there are too "
            "few labelled documents with different texts. Add documents, or leave folds out."
        )
