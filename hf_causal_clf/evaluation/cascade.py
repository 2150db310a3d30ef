"""A cascade of two classifiers: the first answers where it is sure enough, the second all other documents.

How sure the first has to be is fitted on documents that neither was trained on, never on test. The least threshold
that loses nothing on these would lose on others: of many, it is the luckiest. So a loss has to be excluded, from the
safe end on (fixed-sequence testing, arXiv 2110.01052). Two stages are enough: longer chains gain nothing (arXiv
2605.06350).

Knows arrays of gold labels, decisions and probabilities only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .significance import Interval, bootstrap_f1, f1_interval

LEVEL = 0.95  # at which a larger loss is excluded
_SHARES = (
    *np.arange(100, 10, -5) / 100,
    0.1,
    0.08,
    0.06,
    0.04,
    0.03,
    0.02,
    0.01,
    0.0,
)  # deferred, tested in this order
_RESAMPLES = 1000
_DIGITS = 9  # of a margin
_SAME = 1e-12  # two F1 no further apart are the same
_FOLDS = 5


def margins(
    probabilities: np.ndarray, *, multi_label: bool, thresholds: Sequence[float] | float | None = None
) -> np.ndarray:
    """Return how far the decisions of each document are from others, float64 `(n,)`, from 0 to 1.

    Single-label: the highest probability less the second highest. Multi-label: that of the label whose decision is
    nearest to the other one: the distance of its probability from its threshold, as a share of the way from there to
    the 0 or 1 that it is on the side of. So labels with a low threshold count like the others.

    Args:
        probabilities: Calibrated probabilities `(n, labels)`; in float64, those near 1 are told apart.
        multi_label: Whether each label has a probability of its own.
        thresholds: Decision threshold of each label, or one for all (multi-label); 0.5 by default.
    """
    exact = probabilities.astype(np.float64)
    if multi_label:
        limits = np.broadcast_to(np.asarray(0.5 if thresholds is None else thresholds, dtype=np.float64), exact.shape)
        way = np.where(exact >= limits, 1.0 - limits, limits)
        found = np.divide(np.abs(exact - limits), way, out=np.ones_like(exact), where=way > 0).min(axis=1, initial=1.0)
    else:
        second, first = np.partition(exact, -2, axis=1)[:, -2:].T
        found = first - second
    return found.clip(0.0, 1.0).round(_DIGITS)


def deferred_rows(found: np.ndarray, threshold: float) -> np.ndarray:
    """Which documents the second stage answers, bool `(n,)`: those with a margin below the threshold.

    With the threshold 0 that is none, with 1 all, also those with a margin of 1. A margin that is no number is not
    deferred, so that it is seen.
    """
    return (found < threshold) | (threshold >= 1.0)


@dataclass(frozen=True)
class DeferralCurve:
    """The F1 of a cascade at each threshold that makes a difference, from 1 (all documents deferred) down to 0 (none).

    Attributes:
        threshold: Float64 `(points,)`, falling.
        deferred: Share of the documents that the second stage answers, float64 `(points,)`.
        f1: Float64 `(points,)`.
    """

    threshold: np.ndarray
    deferred: np.ndarray
    f1: np.ndarray

    def cost(self, seconds: Sequence[float]) -> np.ndarray:
        """Seconds per document, float64 `(points,)`, of stages that take so many each; the first is left out at 1."""
        first, second = seconds
        return np.where(self.threshold >= 1.0, second, first + self.deferred * second)


def deferral_curve(
    gold: np.ndarray, found: np.ndarray, first: np.ndarray, second: np.ndarray, *, average: str = "macro"
) -> DeferralCurve:
    """Return the F1 of a cascade at each threshold.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task; at least one document.
        found: `margins` of the first stage.
        first: Decisions of the first stage, in the form of `gold`.
        second: Decisions of the second stage.
        average: `"macro"` or `"micro"`, as in `metrics.decision_metrics`.
    """
    order = np.argsort(-found, kind="stable")
    ranked = found[order]
    truth, *decided = _one_hot([gold[order], first[order], second[order]])
    hits = [_exchanged(*(truth & each for each in decided)), _exchanged(*decided)]
    if average == "micro":
        scores = 2.0 * hits[0].sum(axis=1) / np.maximum(truth.sum() + hits[1].sum(axis=1), 1)
    else:
        present = truth.any(axis=0)
        each = 2.0 * hits[0][:, present] / (truth.sum(axis=0) + hits[1])[:, present]
        scores = each.mean(axis=1) if present.any() else np.zeros(len(each))
    limits = np.concatenate([[1.0], (ranked[:-1] + ranked[1:]) / 2, [0.0]])
    apart = np.concatenate([[True], ranked[:-1] > ranked[1:], [True]])  # equal margins are answered by one stage
    deferred = 1.0 - np.arange(len(gold) + 1) / len(gold)
    return DeferralCurve(limits[apart], deferred[apart], scores[apart])


def _one_hot(decisions: Sequence[np.ndarray]) -> list[np.ndarray]:
    if decisions[0].ndim == 2:
        return [each.astype(bool) for each in decisions]
    labels = np.arange(max(map(np.max, decisions)) + 1)
    return [each[:, None] == labels for each in decisions]


def _exchanged(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums over documents, int64 `(n + 1, labels)`, where the first 0 to n of them are the first stage's."""
    change = first.astype(np.int64) - second
    return second.sum(axis=0) + np.concatenate([np.zeros_like(change[:1]), change.cumsum(axis=0)])


@dataclass(frozen=True)
class Rule:
    """What a threshold is chosen by: one of the two.

    Attributes:
        max_f1_loss: The least cost at which a larger loss of F1 against the second stage is excluded: the upper end of
            its paired bootstrap interval, one-sided at 95 %, is no higher. Shares of deferred documents are tested from
            all down to none, until the first that fails.
        max_deferred: The best F1 where at most this share of the documents is deferred.

    Raises:
        ValueError: If both or none are given, or one is not possible.
    """

    max_f1_loss: float | None = None
    max_deferred: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(f"Give either max_f1_loss or max_deferred, got {given or 'none'}.")
        ((name, value),) = given.items()
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}.")


@dataclass(frozen=True)
class Judged:
    """What both stages say of documents that neither was trained on.

    Attributes:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task; at least one document.
        margins: Those of the first stage, float64 `(n,)`.
        first: Decisions of the first stage, in the form of `gold`.
        second: Decisions of the second stage.
    """

    gold: np.ndarray
    margins: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def at(self, threshold: float) -> np.ndarray:
        """Return the decisions of the cascade, in the form of `gold`."""
        return self.mixed(deferred_rows(self.margins, threshold))

    def mixed(self, passed_on: np.ndarray) -> np.ndarray:
        """Return the decisions where the second stage answers some documents, bool `(n,)`."""
        return np.where(passed_on if self.gold.ndim == 1 else passed_on[:, None], self.second, self.first)

    def part(self, rows: np.ndarray) -> Judged:
        """Return some of the documents."""
        return Judged(*(each[rows] for each in (self.gold, self.margins, self.first, self.second)))

    def curve(self, average: str) -> DeferralCurve:
        """Return the F1 at each threshold."""
        return deferral_curve(self.gold, self.margins, self.first, self.second, average=average)


@dataclass(frozen=True)
class Fitted:
    """A threshold, and what it does on the documents that it was fitted on.

    Attributes:
        threshold: Margin from which on the first stage answers.
        deferred: Share of the documents that the second answers.
        f1: F1 of the cascade.
        first_f1: F1 of the first stage alone.
        second_f1: F1 of the second stage alone.
        expected_deferred: Share that is deferred where each fifth of the documents has a threshold that was fitted on
            the others.
        expected_loss: F1 of the second stage less that of the cascade, with such thresholds, and its paired 95 %
            interval: what is to be expected of other documents.
    """

    threshold: float
    deferred: float
    f1: float
    first_f1: float
    second_f1: float
    expected_deferred: float
    expected_loss: Interval


def fit_cascade(documents: Judged, seconds: Sequence[float], rule: Rule, *, average: str = "macro") -> Fitted:
    """Fit from which margin on the first stage answers.

    Args:
        documents: What both stages say of documents that neither was trained on.
        seconds: That each stage takes per document.
        rule: What the threshold is chosen by.
        average: `"macro"` or `"micro"`, as in `metrics.decision_metrics`.
    """
    curve = documents.curve(average)
    point = _choose(documents, curve, seconds, rule, average)
    folds = np.random.default_rng(0).permutation(len(documents.gold)) % _FOLDS
    passed_on = np.empty(len(folds), dtype=bool)
    for held_out in (folds == fold for fold in range(_FOLDS)):
        others = documents.part(~held_out)
        beside = others.curve(average)
        threshold = float(beside.threshold[_choose(others, beside, seconds, rule, average)])
        passed_on[held_out] = deferred_rows(documents.margins[held_out], threshold)
    return Fitted(
        threshold=float(curve.threshold[point]),
        deferred=float(curve.deferred[point]),
        f1=float(curve.f1[point]),
        first_f1=float(curve.f1[-1]),
        second_f1=float(curve.f1[0]),
        expected_deferred=float(passed_on.mean()),
        expected_loss=f1_interval(documents.gold, documents.second, documents.mixed(passed_on), average=average),
    )


def _choose(documents: Judged, curve: DeferralCurve, seconds: Sequence[float], rule: Rule, average: str) -> int:
    """The point of a curve that a rule chooses; among equals the one that costs least, then that with more F1."""
    if rule.max_f1_loss is not None:
        points = _kept(documents, curve, rule.max_f1_loss, average)
    else:
        within = curve.deferred <= (rule.max_deferred or 0.0) + _SAME
        points = np.flatnonzero(within & (curve.f1 >= curve.f1[within].max() - _SAME))
    cost = curve.cost(seconds)
    return int(min(points, key=lambda point: (cost[point], -curve.f1[point])))


def _kept(documents: Judged, curve: DeferralCurve, max_loss: float, average: str) -> np.ndarray:
    """Points at which a larger loss is excluded, from the second stage alone on until the first that fails."""
    nearest = np.abs(curve.deferred[:, None] - np.array(_SHARES)).argmin(axis=0)
    points = np.array(list(dict.fromkeys(nearest.tolist())))
    decided = [documents.at(float(threshold)) for threshold in curve.threshold[points]]
    runs = [documents.second, *decided]
    _, samples = bootstrap_f1(documents.gold, runs, average=average, resamples=_RESAMPLES)
    failed = np.quantile(samples[0] - samples[1:], LEVEL, axis=1) > max_loss + _SAME
    return points[: int(failed.argmax()) if failed.any() else len(points)]
