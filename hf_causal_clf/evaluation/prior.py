"""Correcting probabilities for other label frequencies than those of training. Knows arrays only."""

from __future__ import annotations

import numpy as np


def prior_ratio(training: np.ndarray, target: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return by how much labels are more frequent than in training: shares divided, or for multi-label their odds.

    Args:
        training: Share of each label in the training documents, `(labels,)`.
        target: Share of each label where the classifier is used, `(labels,)`.
        multi_label: Whether each label has a probability of its own.

    Returns:
        Float64 `(labels,)`.

    Raises:
        ValueError: If a share is 0 or, for multi-label, 1: no ratio is defined then.
    """
    shares = np.stack([target, training]).astype(np.float64)
    if not (shares > 0).all() or (multi_label and not (shares < 1).all()):
        raise ValueError(f"Shares must be above 0{' and below 1' if multi_label else ''}, got {shares.tolist()}.")
    weights = shares / (1 - shares) if multi_label else shares
    return weights[0] / weights[1]


def shift_prior(probabilities: np.ndarray, ratio: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Correct probabilities for other label frequencies, where documents of a label are as they were in training.

    Single-label: p'(y | x) is proportional to p(y | x) times the ratio of the shares of y. Multi-label: a label's odds
    are multiplied by the ratio of its odds. (Elkan, 2001, theorem 2; Saerens et al., 2002, equation 2.4.)

    Args:
        probabilities: Those of a classifier, `(n, labels)`; a row of NaN stays one.
        ratio: What `prior_ratio` returns, `(labels,)`.
        multi_label: Whether each label has a probability of its own.

    Returns:
        Probabilities `(n, labels)`, in the data type that they had.
    """
    exact = probabilities.astype(np.float64)
    weighted = exact * ratio
    shifted = weighted / (weighted + 1 - exact if multi_label else weighted.sum(axis=1, keepdims=True))
    return shifted.astype(probabilities.dtype)
