"""Which documents to label next. Knows arrays only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..evaluation.cascade import margins

SELECTIONS = ("uncertainty", "diversity", "mix", "random")
_BEFOREHAND = 5  # times as many uncertain documents as are wanted, among which the mix looks for different ones


def choose(
    features: np.ndarray,
    probabilities: np.ndarray,
    number: int,
    by: str,
    *,
    multi_label: bool,
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the rows of documents to label next.

    Args:
        features: `(n, features)`.
        probabilities: Of their labels, `(n, labels)`, by a head trained on the documents that are labelled.
        number: How many are wanted.
        by: `"uncertainty"`: those whose decision is nearest to another one (the smallest margin). `"diversity"`: those
            nearest to the centres of as many clusters of features (k-means). `"mix"`: the same among the most uncertain
            documents, uncertain ones weighing more (Zhdanov, 2019, arXiv 1901.05954). `"random"`: any.
        multi_label: Whether a document may have several labels.
        thresholds: Decision threshold of each label (multi-label); 0.5 by default.
        seed: Seed of the draw and of the clusters.

    Returns:
        Row numbers, int64, the most uncertain first (random: in no order); all where there are no more.

    Raises:
        ValueError: If `by` is not known.
    """
    if by not in SELECTIONS:
        raise ValueError(f"select_by must be one of {list(SELECTIONS)}, got {by!r}.")
    number = min(number, len(features))
    if by == "random":
        return np.random.default_rng(seed).permutation(len(features))[:number]
    uncertainty = 1.0 - margins(probabilities, multi_label=multi_label, thresholds=thresholds)
    ranked = np.argsort(-uncertainty, kind="stable")
    if by == "uncertainty":
        return ranked[:number]
    pool = ranked[: number * _BEFOREHAND] if by == "mix" else ranked
    weights = uncertainty[pool] + 1e-6 if by == "mix" else np.ones(len(pool))
    chosen = pool[_nearest_to_centres(features[pool], weights, number, seed)]
    return chosen[np.argsort(-uncertainty[chosen], kind="stable")]


def _nearest_to_centres(features: np.ndarray, weights: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Rows nearest to the centres of clusters of standardised features, each once."""
    from sklearn.cluster import KMeans

    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    if number == len(features):
        return np.arange(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different documents than clusters
        found = KMeans(number, n_init=1, random_state=seed).fit(scaled, sample_weight=weights)
    distances = found.transform(scaled)
    taken: list[int] = []
    for centre in range(number):  # two clusters of the same documents have one nearest document
        order = np.argsort(distances[:, centre], kind="stable")
        taken.append(int(next(row for row in order if row not in taken)))
    return np.array(taken)
