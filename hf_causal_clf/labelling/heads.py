"""Heads on the frozen features of documents, fitted in seconds. Knows arrays only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..baselines.fitting import STRENGTHS, fit_head, standardised
from ..baselines.linear import LinearHead
from ..evaluation.calibration import to_probabilities
from ..evaluation.metrics import negative_log_likelihood


def fitted(features: np.ndarray, gold: np.ndarray, labels: int, strength: float) -> LinearHead:
    """Fit a logistic regression on standardised features, and return it for features as they are.

    Args:
        features: `(n, features)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        labels: Number of labels of the task.
        strength: C, the inverse regularisation strength.
    """
    scaled, mean, spread = standardised({"train": features})
    with _quiet():
        return fit_head(strength, scaled["train"], gold, labels).of_unscaled(mean, spread)


def out_of_fold(
    features: np.ndarray, gold: np.ndarray, folds: np.ndarray, labels: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[np.ndarray, float]:
    """Return the logits of documents, each by a head that did not see its fold, and the C that they are best with.

    Args:
        features: `(n, features)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        folds: Fold of each document, int64 `(n,)`.
        labels: Number of labels of the task.
        strengths: Values of C to choose from, ascending: the last one before the negative log-likelihood rises.

    Returns:
        Float32 `(n, labels)`, minus infinity for a label that the other folds do not have; and C.
    """
    best: tuple[float, np.ndarray, float] | None = None
    for strength in strengths:
        logits = np.empty((len(gold), labels), dtype=np.float32)
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            logits[held] = fitted(features[~held], gold[~held], labels, strength).logits(features[held])
        nll = negative_log_likelihood(gold, to_probabilities(logits, multi_label=gold.ndim == 2))
        if best is not None and nll >= best[0]:
            break
        best = nll, logits, strength
    assert best is not None
    return best[1], best[2]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what scikit-learn says of labels that all documents have, or none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
