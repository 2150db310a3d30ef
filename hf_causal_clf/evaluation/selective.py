"""Selective prediction: when is a classifier sure enough to answer?

Knows arrays only. A confidence is that of a decision: single-label the highest probability; multi-label, for each
label, its probability where the label is given, and one minus it where not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95  # at which the bound on the error holds


@dataclass(frozen=True)
class RiskCoverage:
    """Error among the answered documents at each coverage, from the most confident documents to all of them.

    Documents with the same confidence are answered together: there is a point for each confidence.

    Attributes:
        coverage: Share of the documents that are answered, float64 `(points,)`, rising to 1.
        risk: Share of errors among these, float64 `(points,)`.
        threshold: The confidence from which on they are answered, float64 `(points,)`, falling.
        aurc: Area under the curve: the mean of the risks that documents are answered at (Geifman and El-Yaniv, 2017,
            arXiv 1705.08500; Geifman et al., 2019, arXiv 1805.08206).
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray
    aurc: float


@dataclass(frozen=True)
class Selection:
    """What was found for a target error.

    Attributes:
        threshold: Confidence from which on documents are answered; `None` where no threshold is sure to hold it.
        documents: Documents it was looked for on.
        answered: How many of them it answers; 0 without a threshold.
        errors: How many of these are wrong.
        bound: Upper bound on the error among the answered documents; without a threshold, the lowest looked at.
    """

    threshold: float | None
    documents: int
    answered: int
    errors: int
    bound: float


@dataclass(frozen=True)
class Abstention:
    """Where a run does not answer.

    Attributes:
        target_error: Highest error among the answers.
        thresholds: Confidence from which on it answers: one (single-label), or one for each label (multi-label); `None`
            where no threshold is sure to hold the target error, so that it never answers.
    """

    target_error: float
    thresholds: tuple[float | None, ...]

    def answers(self, probabilities: np.ndarray, decisions: np.ndarray) -> np.ndarray:
        """Whether each decision is sure enough.

        Args:
            probabilities: Calibrated probabilities `(n, labels)`.
            decisions: Those of `metrics.decide`.

        Returns:
            Bool `(n,)`, or for a multi-label task `(n, labels)`. A row of NaN is not answered.
        """
        limits = np.array([np.inf if limit is None else limit for limit in self.thresholds])
        return decision_confidence(probabilities, decisions) >= (limits[0] if decisions.ndim == 1 else limits)

    def check(self, labels: int, *, multi_label: bool) -> None:
        """Check that it is one for a run with these labels.

        Raises:
            ValueError: If it is not.
        """
        check_target_error(self.target_error)
        expected = labels if multi_label else 1
        fits = [limit is None or (_is_number(limit) and 0 <= limit <= 2) for limit in self.thresholds]
        if len(fits) != expected or not all(fits):
            raise ValueError(f"abstention must have {expected} thresholds in [0, 1] or null, got {self.thresholds}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `classification.json`."""
        return {"target_error": self.target_error, "thresholds": list(self.thresholds)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Abstention:
        """Rebuild it from `to_dict`'s output."""
        return cls(data["target_error"], tuple(data["thresholds"]))


def check_target_error(target_error: float) -> None:
    """Check that it is an error between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not (_is_number(target_error) and 0 < target_error < 1):
        raise ValueError(f"target_error must be a share between 0 and 1, such as 0.02, got {target_error!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def decision_confidence(probabilities: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Return the confidence of each decision, float64 `(n,)`, or for a multi-label task `(n, labels)`.

    Args:
        probabilities: `(n, labels)`.
        decisions: Label ids `(n,)`, or 0/1 `(n, labels)`.
    """
    exact = probabilities.astype(np.float64)
    if decisions.ndim == 1:
        return exact[np.arange(len(exact)), decisions]
    return np.where(decisions == 1, exact, 1.0 - exact)


def risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> RiskCoverage:
    """Return the risk-coverage curve.

    Args:
        confidence: Of each decision, `(n,)`.
        wrong: Whether it is wrong, bool `(n,)`.

    Raises:
        ValueError: If there are none, or a confidence is no number.
    """
    _check_confidence(confidence, wrong)
    threshold, group, size = np.unique(-confidence.astype(np.float64), return_inverse=True, return_counts=True)
    answered, errors = size.cumsum(), np.bincount(group, weights=wrong).cumsum()
    risk = errors / answered
    return RiskCoverage(answered / len(wrong), risk, -threshold, float((size * risk).sum() / len(wrong)))


def error_bound(errors: int, documents: int, *, level: float = LEVEL) -> float:
    """Return the upper Clopper-Pearson bound on a share of errors; 1 for no documents or nothing but errors."""
    from scipy.stats import beta

    return 1.0 if errors >= documents else float(beta.ppf(level, errors + 1, documents - errors))


def fewest_documents(target_error: float, *, level: float = LEVEL) -> int:
    """Return how many documents without any error it takes to be sure of a target error."""
    return math.ceil(math.log(1.0 - level) / math.log1p(-target_error) - 1e-9)


def fit_threshold(confidence: np.ndarray, wrong: np.ndarray, target_error: float, *, level: float = LEVEL) -> Selection:
    """Find the lowest confidence from which on the error is at most the target error, at 95 % confidence.

    Many thresholds are looked at, by fixed-sequence testing with two starts (Learn then Test: Angelopoulos et al.,
    2021, arXiv 2110.01052): from a number of the most confident documents on, more and more are answered as long as the
    Clopper-Pearson bound on their error is within the target, and the first one that is not ends it. Both starts are
    numbers of documents that do not depend on any confidence or error: the fewest with which one error is allowed, and
    the geometric mean of these and all. Each has half of the chance of being wrong. With fewer documents there is one
    start; where one error is too much already, it is the fewest documents without any.

    Given the next confidence below them, the errors of the most confident k documents are binomial, so the bound holds
    at a start, and further on if the error of answers does not fall where less confident ones join. Documents with the
    same confidence are answered together.

    Args:
        confidence: Of each decision, `(n,)`, on documents that stand for those to come.
        wrong: Whether it is wrong, bool `(n,)`.
        target_error: Highest share of errors among the answered documents.
        level: Probability, over draws of the documents, that it holds.

    Raises:
        ValueError: If there are too few documents to be sure of the target error even without any error, with their
            least number.
    """
    from scipy.stats import binom

    check_target_error(target_error)
    _check_confidence(confidence, wrong)
    check_enough(len(wrong), target_error, level=level)
    starts, level = _starts(len(wrong), target_error, level)
    curve = risk_coverage(confidence, wrong)
    answered = (curve.coverage * len(wrong)).round().astype(np.int64)
    errors = (curve.risk * answered).round().astype(np.int64)
    holds = binom.cdf(errors, answered, target_error) <= 1.0 - level
    firsts = [int(np.searchsorted(answered, start)) for start in starts]
    ends = [first + int(np.argmin(np.append(holds[first:], False))) for first in firsts]
    reached = [end for first, end in zip(firsts, ends, strict=True) if end > first]
    if not reached:
        bounds = [error_bound(int(errors[first]), int(answered[first]), level=level) for first in firsts]
        return Selection(None, len(wrong), 0, 0, min(bounds))
    last = max(reached) - 1
    below = curve.threshold[last + 1] if last + 1 < len(holds) else -curve.threshold[last]
    threshold = float(curve.threshold[last] + below) / 2  # half-way to what is not answered
    counts = int(answered[last]), int(errors[last])
    return Selection(threshold, len(wrong), *counts, error_bound(counts[1], counts[0], level=level))


def _starts(documents: int, target_error: float, level: float) -> tuple[list[int], float]:
    """Numbers of documents from which thresholds are looked at, and the level of the bound at each."""
    shared = 1.0 - (1.0 - level) / 2
    if (first := _fewest_with_an_error(target_error, shared)) <= documents:
        return [first, round(math.sqrt(first * documents))], shared
    if (first := _fewest_with_an_error(target_error, level)) <= documents:
        return [first], level
    return [fewest_documents(target_error, level=level)], level


def _fewest_with_an_error(target_error: float, level: float) -> int:
    from scipy.stats import binom

    fewest = fewest_documents(target_error, level=level)
    sizes = np.arange(fewest, 3 * fewest + 10)
    return int(sizes[np.argmax(binom.cdf(1, sizes, target_error) <= 1.0 - level)])


def check_enough(documents: int, target_error: float, *, level: float = LEVEL) -> None:
    """Check that documents are enough to be sure of a target error.

    Raises:
        ValueError: If they are not, with their least number.
    """
    needed = fewest_documents(target_error, level=level)
    if documents < needed:
        possible = -math.expm1(math.log(1.0 - level) / max(documents, 1))
        raise ValueError(
            f"{documents} documents are too few to be sure of target_error {target_error:g}: at least {needed} are "
            f"needed, and more where some are wrong. Give more documents, or a target_error above {possible:.2g}."
        )


def fit_abstention(
    gold: np.ndarray, probabilities: np.ndarray, decisions: np.ndarray, target_error: float
) -> tuple[Abstention, list[Selection]]:
    """Fit the threshold of a single-label task, or that of each label of a multi-label task on its own.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        probabilities: Calibrated probabilities `(n, labels)`.
        decisions: In the form of `gold`.
        target_error: Highest error among the answers, of each label.

    Returns:
        Where to answer, and what was found: for the task or for each label.

    Raises:
        ValueError: As for `fit_threshold`.
    """
    confidence, wrong = decision_confidence(probabilities, decisions), decisions != gold
    columns = [(confidence, wrong)] if gold.ndim == 1 else list(zip(confidence.T, wrong.T, strict=True))
    found = [fit_threshold(sure, errors, target_error) for sure, errors in columns]
    return Abstention(target_error, tuple(selection.threshold for selection in found)), found


def answered_errors(answered: Sequence[bool] | np.ndarray, wrong: np.ndarray) -> dict[str, float | None]:
    """Return the share of decisions that is answered, and the error among these; `None` for no answer at all."""
    answered = np.asarray(answered)
    error = float(wrong[answered].mean()) if answered.any() else None
    return {"coverage": float(answered.mean()), "error": error}


def _check_confidence(confidence: np.ndarray, wrong: np.ndarray) -> None:
    if confidence.ndim != 1 or confidence.shape != wrong.shape or not len(wrong):
        raise ValueError(
            f"confidence and wrong must be two arrays (n,) of at least one document, got {confidence.shape} and "
            f"{wrong.shape}."
        )
    if not np.isfinite(confidence).all():
        raise ValueError(f"{int((~np.isfinite(confidence)).sum())} confidences are no numbers.")
