"""A head that starts from a logistic regression on frozen features: linear probe, then fine-tune (arXiv 2202.10054).

Knows arrays only.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..evaluation.calibration import fit_temperature, to_probabilities
from ..evaluation.metrics import negative_log_likelihood

DOCUMENTS = 4000  # looked at, at most: more tell a start little, and take long
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation strengths C
SHARES = (0.0, 0.5, 1.0)  # of the language model's own rows, towards which a regression may be drawn
_FOLDS = 5
_NARROWEST = 0.01  # of the usual spread; features that hardly vary are not blown up


def probe_head(
    features: np.ndarray, gold: np.ndarray, labels: int, *, answers: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Return the weight of a head without bias that classifies as a logistic regression on its features.

    The features are divided by their spread, and not centred: the regression has no intercept, as the head has none,
    and the features' mean, which is far from zero, does its work. So the head is the regression, not one near to it.

    With `answers`, the penalty may be on the distance from a share of them instead of from zero: what the language
    model knows of the labels' names is worth some documents. The share and the strength of regularisation are chosen
    out of fold, and the weight divided by the temperature with which its logits have the lowest negative log-likelihood
    there. Without that, the regression is as certain of the documents that it was fitted on as it likes, and
    fine-tuning has little left to learn from.

    Args:
        features: Pooled last hidden states of training documents, `(n, hidden)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        labels: Number of labels.
        answers: A head that reads the features as the language model does, as `verbalizer_head`, `(labels, hidden)`.
        seed: Seed of the folds.

    Returns:
        float32 `(labels, hidden)`.
    """
    spread = features.std(axis=0, dtype=np.float64)
    spread = np.maximum(spread, _NARROWEST * np.median(spread))
    spread[spread == 0] = 1.0
    scaled, found = features / spread, []
    folds = _folds(gold, seed)
    shares = (0.0,) if answers is None else SHARES
    known = np.zeros((labels, features.shape[1])) if answers is None else answers * spread
    for share, strength in itertools.product(shares, STRENGTHS):
        logits = np.zeros((len(gold), labels))
        for fold in range(folds.max() + 1):
            held_out = folds == fold
            logits[held_out] = scaled[held_out] @ _fit(scaled[~held_out], gold[~held_out], strength, share * known).T
        temperature = fit_temperature(gold, logits)
        probabilities = to_probabilities(logits, multi_label=gold.ndim == 2, temperature=temperature)
        found.append((negative_log_likelihood(gold, probabilities), share, strength, temperature))
    _, share, strength, temperature = min(found)
    return (_fit(scaled, gold, strength, share * known) / spread / temperature).astype(np.float32)


def _folds(gold: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each document, int64 `(n,)`: those with the same labels are dealt out one by one."""
    shuffled = np.random.default_rng(seed).permutation(len(gold))
    order = np.lexsort((shuffled, *gold.reshape(len(gold), -1).T))
    folds = np.empty(len(gold), dtype=np.int64)
    folds[order] = np.arange(len(gold)) % _FOLDS
    return folds


def _fit(features: np.ndarray, gold: np.ndarray, strength: float, towards: np.ndarray) -> np.ndarray:
    """Weight `(labels, features)` of a multinomial regression, or for multi-label of one for each label.

    The penalty is the squared distance from `towards`, which scikit-learn has not.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit, log_softmax

    multi_label = gold.ndim == 2
    target = gold if multi_label else np.eye(len(towards))[gold]

    def penalised(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(towards.shape)
        logits, off = features @ weight.T, weight - towards
        if multi_label:
            likelihood, probabilities = target * log_expit(logits) + (1 - target) * log_expit(-logits), expit(logits)
        else:
            logs = log_softmax(logits, axis=1)
            likelihood, probabilities = target * logs, np.exp(logs)
        value = -likelihood.sum() + (off**2).sum() / (2 * strength)
        gradient = (probabilities - target).T @ features + off / strength
        return value, gradient.ravel()

    found = minimize(penalised, towards.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x.reshape(towards.shape)
