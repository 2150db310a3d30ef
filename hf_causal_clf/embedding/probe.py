"""A head that starts from a logistic regression on frozen features: linear probe, then fine-tune (arXiv 2202.10054).

Knows arrays only.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..evaluation.calibration import fit_temperature, to_probabilities
from ..evaluation.metrics import negative_log_likelihood

DOCUMENTS = 4000  # looked at, at most: more tell a start little, and take long
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation strengths C
_FOLDS = 5
_NARROWEST = 0.01  # of the usual spread; features that hardly vary are not blown up


def probe_head(features: np.ndarray, gold: np.ndarray, labels: int, *, seed: int = 0) -> np.ndarray:
    """Return the weight of a head without bias that classifies as a logistic regression on its features.

    The features are divided by their spread, and not centred: the regression has no intercept, as the head has none,
    and the features' mean, which is far from zero, does its work. So the head is the regression, not one near to it.

    The strength of regularisation is chosen out of fold, and the weight divided by the temperature with which its
    logits have the lowest negative log-likelihood there. Without that, the regression is as certain of the documents
    that it was fitted on as it likes, and fine-tuning has little left to learn from.

    Args:
        features: Pooled last hidden states of training documents, `(n, hidden)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        labels: Number of labels.
        seed: Seed of the folds.

    Returns:
        float32 `(labels, hidden)`; the row is zero of a label that no document has or, for multi-label, that all have.
    """
    spread = features.std(axis=0, dtype=np.float64)
    spread = np.maximum(spread, _NARROWEST * np.median(spread))
    spread[spread == 0] = 1.0
    scaled, found = (features / spread).astype(np.float32), []
    folds = _folds(gold, seed)
    for strength in STRENGTHS:
        logits = np.zeros((len(gold), labels))
        for fold in range(folds.max() + 1):
            held_out = folds == fold
            logits[held_out] = scaled[held_out] @ _fit(scaled[~held_out], gold[~held_out], labels, strength).T
        temperature = fit_temperature(gold, logits)
        probabilities = to_probabilities(logits, multi_label=gold.ndim == 2, temperature=temperature)
        found.append((negative_log_likelihood(gold, probabilities), strength, temperature))
    _, strength, temperature = min(found)
    return (_fit(scaled, gold, labels, strength) / spread / temperature).astype(np.float32)


def _folds(gold: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each document, int64 `(n,)`: those with the same labels are dealt out one by one."""
    shuffled = np.random.default_rng(seed).permutation(len(gold))
    order = np.lexsort((shuffled, *gold.reshape(len(gold), -1).T))
    folds = np.empty(len(gold), dtype=np.int64)
    folds[order] = np.arange(len(gold)) % _FOLDS
    return folds


def _fit(features: np.ndarray, gold: np.ndarray, labels: int, strength: float) -> np.ndarray:
    """Weight `(labels, features)` of a multinomial regression, or for multi-label of one for each label."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight = np.zeros((labels, features.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not be the optimum
        if gold.ndim == 2:
            for label in np.flatnonzero(gold.any(axis=0) & ~gold.all(axis=0)):
                head = LogisticRegression(C=strength, fit_intercept=False, max_iter=500)
                weight[label] = head.fit(features, gold[:, label]).coef_[0]
        elif len(np.unique(gold)) > 1:
            head = LogisticRegression(C=strength, fit_intercept=False, max_iter=500).fit(features, gold)
            rows = head.coef_
            # Of two classes, scikit-learn has the odds of the second against the first
            weight[head.classes_] = rows if len(rows) > 1 else np.concatenate([-rows, rows]) / 2
    return weight
