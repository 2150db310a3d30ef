"""A head that starts from a logistic regression on frozen features: linear probe, then fine-tune (arXiv 2202.10054).

Knows arrays only.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..evaluation.calibration import fit_temperature, to_probabilities
from ..evaluation.metrics import negative_log_likelihood

DOCUMENTS = 1000  # looked at, at most: more tell a start little, and take long
STRENGTHS = (0.01, 0.1, 1.0)  # inverse regularisation strengths C
SHARES = (0.0, 0.5, 1.0)  # of the language model's own rows, towards which a regression may be drawn
SPREAD = 0.3  # standard deviation of the logits over documents and labels that a start has
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
    out of fold, by the negative log-likelihood after a temperature.

    The weight is as long as makes the logits vary by `SPREAD`. A regression is certain of the documents that it was
    fitted on: with its own length, fine-tuning has little left to learn from them.

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
    known = scaled @ (answers * spread).T if answers is not None else np.zeros((len(gold), labels))
    # A penalised weight differs from where it is drawn to by a combination of documents: for few, of few directions
    directions = np.linalg.qr(scaled.T)[0] if len(gold) < scaled.shape[1] else np.eye(scaled.shape[1])
    reduced, folds = scaled @ directions, _folds(gold, seed)
    for share, strength in itertools.product((0.0,) if answers is None else SHARES, STRENGTHS):
        logits = share * known
        for fold in range(folds.max() + 1):
            held_out, rest = folds == fold, folds != fold
            logits[held_out] += reduced[held_out] @ _fit(reduced[rest], gold[rest], strength, share * known[rest]).T
        temperature = fit_temperature(gold, logits)
        probabilities = to_probabilities(logits, multi_label=gold.ndim == 2, temperature=temperature)
        found.append((negative_log_likelihood(gold, probabilities), share, strength))
    _, share, strength = min(found)
    weight = _fit(reduced, gold, strength, share * known) @ directions.T / spread
    weight += 0.0 if answers is None else share * answers
    logits = features @ weight.T
    varying = (logits if gold.ndim == 2 else logits - logits.mean(axis=1, keepdims=True)).std()
    return (weight * (SPREAD / varying if varying > 0 else 1.0)).astype(np.float32)


def _folds(gold: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each document, int64 `(n,)`: those with the same labels are dealt out one by one."""
    shuffled = np.random.default_rng(seed).permutation(len(gold))
    order = np.lexsort((shuffled, *gold.reshape(len(gold), -1).T))
    folds = np.empty(len(gold), dtype=np.int64)
    folds[order] = np.arange(len(gold)) % _FOLDS
    return folds


def _fit(features: np.ndarray, gold: np.ndarray, strength: float, known: np.ndarray) -> np.ndarray:
    """Weight `(labels, features)` of a multinomial regression, or for multi-label of one for each label.

    It is added to the logits `known`, `(n, labels)`, with which scikit-learn's would not begin.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit, log_softmax

    multi_label = gold.ndim == 2
    shape = (known.shape[1], features.shape[1])
    target = gold if multi_label else np.eye(shape[0])[gold]

    def penalised(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(shape)
        logits = known + features @ weight.T
        if multi_label:
            likelihood, probabilities = target * log_expit(logits) + (1 - target) * log_expit(-logits), expit(logits)
        else:
            logs = log_softmax(logits, axis=1)
            likelihood, probabilities = target * logs, np.exp(logs)
        value = -likelihood.sum() + (weight**2).sum() / (2 * strength)
        gradient = (probabilities - target).T @ features + weight / strength
        return value, gradient.ravel()

    start = np.zeros(math.prod(shape))
    return minimize(penalised, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(shape)
