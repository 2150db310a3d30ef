"""Where a classifier is worse than elsewhere: parts of the documents, labels, and labels taken for one another.

Knows arrays of gold labels and decisions only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .significance import holm, resampling

LEAST = 20  # documents of a slice; of fewer, a bootstrap sample says too little

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Slice:
    """A part of the documents, or a label, beside all others.

    Attributes:
        documents: Number of its documents; of a label, those that have it.
        f1: Micro F1 there; of a label, its F1.
        rest_f1: Micro F1 of all other documents; of a label, of all other labels.
        p_value: Of the test that `f1` is not below `rest_f1`, corrected by Holm for the number of slices.
    """

    documents: int
    f1: float
    rest_f1: float
    p_value: float


@dataclass(frozen=True)
class OneWay:
    """A label that is taken for another more often than the other way.

    Attributes:
        label: Id of the gold label.
        predicted: Id of the label that is predicted in its place.
        documents: Number of documents where that is so.
        reverse: Number of documents where it is the other way.
        p_value: Two-sided, exact binomial, corrected by Holm for the number of pairs that are confused at all.
    """

    label: int
    predicted: int
    documents: int
    reverse: int
    p_value: float


def slice_scores(
    gold: np.ndarray,
    predicted: np.ndarray,
    parts: Mapping[Name, np.ndarray],
    labels: int,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[Name | int, Slice]:
    """Compare the F1 of each part of the documents, and of each label, with that of the rest.

    The p-value is one-sided: the share of bootstrap samples of the documents in which the F1 is not below the rest's.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        predicted: Decisions in the form of `gold`.
        parts: Which documents are of a part, bool `(n,)`, by its name.
        labels: Number of labels.
        resamples: Number of bootstrap samples.
        seed: Seed of the draw.

    Returns:
        Parts by name and labels by id, the lowest p-value first. Those with fewer than 20 documents, or without any
        other document, are left out.
    """
    has, said = _one_hot(gold, labels), _one_hot(predicted, labels)
    top, bottom = 2.0 * (has & said), has.astype(np.float64) + said
    tops, bottoms = top.sum(axis=1), bottom.sum(axis=1)
    found: dict[Name | int, tuple[int, np.ndarray, np.ndarray]] = {
        name: (int(inside.sum()), tops * inside, bottoms * inside)
        for name, inside in parts.items()
        if LEAST <= inside.sum() < len(gold)
    }
    counts = has.sum(axis=0)
    found |= {id_: (int(counts[id_]), top[:, id_], bottom[:, id_]) for id_ in np.flatnonzero(counts >= LEAST).tolist()}
    if not found:
        return {}
    sums = np.stack([[tops, *(each[1] for each in found.values())], [bottoms, *(each[2] for each in found.values())]])
    scores, rests = _scores(sums.sum(axis=2))
    reached = np.zeros(len(found))
    columns = sums.reshape(-1, len(gold)).T.astype(np.float32)
    for drawn in resampling(len(gold), resamples, seed):
        inside, outside = _scores((drawn @ columns).T.reshape(2, -1, len(drawn)))
        reached += (inside >= outside).sum(axis=1)
    p_values = holm(((1 + reached) / (1 + resamples)).tolist())
    rows = zip(found.items(), scores.tolist(), rests.tolist(), p_values, strict=True)
    slices = {name: Slice(each[0], f1, rest, p_value) for (name, each), f1, rest, p_value in rows}
    return dict(sorted(slices.items(), key=lambda item: (item[1].p_value, item[1].f1 - item[1].rest_f1)))


def one_way_confusions(gold: np.ndarray, predicted: np.ndarray, labels: int) -> list[OneWay]:
    """Return pairs of labels, each in the direction in which the first is taken for the second more often.

    A document counts where it has the first label and not the second, and the decision is the other way.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        predicted: Decisions in the form of `gold`.
        labels: Number of labels.

    Returns:
        The lowest p-value first.
    """
    from scipy.stats import binomtest

    has, said = _one_hot(gold, labels), _one_hot(predicted, labels)
    taken = (has & ~said).T.astype(np.int64) @ (said & ~has)
    pairs = [(one, other) for one in range(labels) for other in range(one) if taken[one, other] + taken[other, one]]
    turned = [(a, b) if taken[a, b] >= taken[b, a] else (b, a) for a, b in pairs]
    counts = [(int(taken[a, b]), int(taken[b, a])) for a, b in turned]
    p_values = holm([float(binomtest(more, more + less).pvalue) for more, less in counts]) if counts else []
    rows = [OneWay(*pair, *count, p) for pair, count, p in zip(turned, counts, p_values, strict=True)]
    return sorted(rows, key=lambda row: (row.p_value, -row.documents))


def _one_hot(given: np.ndarray, labels: int) -> np.ndarray:
    return given.astype(bool) if given.ndim == 2 else given[:, None] == np.arange(labels)


def _scores(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each slice and of the rest, from sums `(2, 1 + slices, …)` whose first column is that of all."""
    inside, outside = sums[:, 1:], sums[:, :1] - sums[:, 1:]
    f1, rest = (each[0] / np.maximum(each[1], 1e-12) for each in (inside, outside))
    return f1, rest
