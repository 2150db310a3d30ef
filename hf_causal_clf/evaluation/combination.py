"""Several classifiers as one: a weighted sum of their log-probabilities, and whether it beats the best of them.

The sum is a logarithmic opinion pool (Genest and Zidek, 1986, doi 10.1214/ss/1177013825). Its weights are fitted on
documents that no member was trained on, never on test. Knows arrays of gold labels and logits only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibration import best_threshold, to_probabilities
from .metrics import decision_metrics, document_nll
from .significance import Interval, mean_interval

MOST = 4  # members: each costs its own forward pass
LEAST_SHARE = 0.02  # of the weights: a member with less is left out
_PULL = 1.0  # to equal weights: what a squared deviation of 1 costs, in nats over all documents
_GAIN = 0.5  # nats over all documents that a member has to save; with a whole one, 60 documents miss good members
_LOWEST = -np.log(1e6)  # of a log-probability or log-odds: no member rules out a label that the others see
_FOLDS = 5


def member_scores(logits: np.ndarray, *, multi_label: bool, temperature: float | Sequence[float] = 1.0) -> np.ndarray:
    """Return what is weighted of a member: its calibrated log-probabilities, for multi-label its log-odds.

    Args:
        logits: Logits of the member, `(n, labels)`.
        multi_label: Whether each label has a probability of its own.
        temperature: That of the member's calibration: one, or one for each label.

    Returns:
        Float64 `(n, labels)`, no probability below 1e-6 (nor odds above 1e6); NaN where there is no number.
    """
    from scipy.special import log_softmax

    scaled = logits.astype(np.float64) / np.asarray(temperature)
    with np.errstate(invalid="ignore"):  # of an infinite logit, which the caller sees as NaN
        return scaled.clip(_LOWEST, -_LOWEST) if multi_label else log_softmax(scaled, axis=1).clip(_LOWEST)


def combine(scores: Sequence[np.ndarray] | np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the logits of the combination, float64 `(n, labels)`: the weighted sum of `member_scores`."""
    return np.tensordot(np.asarray(weights, dtype=np.float64), np.asarray(scores), axes=1)


def fit_weights(scores: Sequence[np.ndarray], gold: np.ndarray) -> np.ndarray:
    """Fit non-negative weights of a few members that minimise the negative log-likelihood, pulled to equal ones.

    Members are taken one by one, each time the one that lowers the loss most, as long as it saves half a nat
    over all documents; one with less than 2 % of the weights is left out again.

    Args:
        scores: `member_scores` of each member.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.

    Returns:
        Float64 `(members,)`, 0 for one that is left out. They need not sum to one. The order of the members makes no
        difference.
    """
    stacked, chosen, loss = np.stack(scores), list[int](), np.inf
    while len(chosen) < min(MOST, len(scores)):
        tried = [[*chosen, member] for member in range(len(scores)) if member not in chosen]
        lowest, members = min((_fit(stacked[members], gold)[1], members) for members in tried)
        if lowest > loss - _GAIN / gold.size:
            break
        chosen, loss = members, lowest
    fitted = _fit(stacked[chosen], gold)[0]
    while (fitted < LEAST_SHARE * fitted.sum()).any():
        chosen = [member for member, weight in zip(chosen, fitted, strict=True) if weight >= LEAST_SHARE * fitted.sum()]
        fitted = _fit(stacked[chosen], gold)[0]
    weights = np.zeros(len(scores))
    weights[chosen] = fitted
    return weights


@dataclass(frozen=True)
class Verdict:
    """Whether a combination is better than its members, on documents that its weights were not fitted on.

    Attributes:
        nll_change: Its negative log-likelihood less that of the member with the lowest, be it with a weight of its own,
            with the paired 95 % interval.
        f1: Its F1.
        best_f1: The highest F1 of a member.
    """

    nll_change: Interval
    f1: float
    best_f1: float

    @property
    def better(self) -> bool:
        """Whether its negative log-likelihood is significantly lower, and its F1 no lower than any member's."""
        return self.nll_change.high < 0 and self.f1 >= self.best_f1


def judge(scores: Sequence[np.ndarray], gold: np.ndarray, *, average: str = "macro") -> Verdict:
    """Compare a combination with its members by cross-fitting: each fold's weights are chosen on the others.

    Args:
        scores: `member_scores` of each member.
        gold: As for `fit_weights`.
        average: F1 that decides, `"macro"` or `"micro"`.
    """
    folds = np.random.default_rng(0).permutation(len(gold)) % _FOLDS
    pooled = _cross_fitted(scores, gold, folds)
    alone = [_cross_fitted([each], gold, folds) for each in scores]  # or a better scale could pass for a better answer
    found = [to_probabilities(logits, multi_label=gold.ndim == 2) for logits in (pooled, *scores, *alone)]
    nll, *others = (document_nll(gold, probabilities) for probabilities in found)
    f1, *f1_others = (_f1(gold, probabilities, folds, average) for probabilities in found)
    return Verdict(mean_interval(nll - min(others, key=np.mean)), f1, max(f1_others))


def _cross_fitted(scores: Sequence[np.ndarray], gold: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Logits of the documents of each fold, by weights that were fitted on the other folds."""
    pooled = np.empty_like(scores[0])
    for held_out in (folds == fold for fold in range(_FOLDS)):
        weights = fit_weights([each[~held_out] for each in scores], gold[~held_out])
        pooled[held_out] = combine([each[held_out] for each in scores], weights)
    return pooled


def _fit(scores: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of all of some members, the best of a strictly convex loss, and their negative log-likelihood."""
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax

    members, rows = len(scores), np.arange(len(gold))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = combine(scores, weights)
        if gold.ndim == 2:
            total = (np.logaddexp(0.0, logits) - gold * logits).sum()
            wrong = expit(logits) - gold
        else:
            log_probabilities = log_softmax(logits, axis=1)
            total = -log_probabilities[rows, gold].sum()
            wrong = np.exp(log_probabilities)
            wrong[rows, gold] -= 1.0
        apart = weights - 1.0 / members
        gradient = np.tensordot(scores, wrong, axes=2) + 2.0 * _PULL * apart
        return float(total + _PULL * apart @ apart) / gold.size, gradient / gold.size

    start, bounds = np.full(members, 1.0 / members), [(0.0, None)] * members
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-9})
    apart = found.x - 1.0 / members
    return found.x, float(found.fun - _PULL * apart @ apart / gold.size)


def _f1(gold: np.ndarray, probabilities: np.ndarray, folds: np.ndarray, average: str) -> float:
    """F1 of the decisions; for multi-label at the threshold, one for all labels, that is best on the other folds."""
    decided = probabilities.argmax(axis=1)
    if gold.ndim == 2:
        limits = [best_threshold(gold[folds != f].ravel(), probabilities[folds != f].ravel()) for f in range(_FOLDS)]
        decided = (probabilities >= np.array(limits)[folds, None]).astype(np.int64)
    return decision_metrics(gold, decided)[f"f1_{average}"]
