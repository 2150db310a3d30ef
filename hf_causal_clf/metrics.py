"""Metrics on gold labels and a matrix of class probabilities.

Knows arrays only; where the probabilities come from makes no difference here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_AVERAGES = ("micro", "macro", "weighted")
_SMALLEST = 1e-12  # probabilities are clipped to this before a logarithm


def decide(
    probabilities: np.ndarray, *, multi_label: bool, thresholds: Sequence[float] | float | None = None
) -> np.ndarray:
    """Turn probabilities `(n, labels)` into decisions.

    Returns:
        The most probable label's id, int64 `(n,)`; or for multi-label 0/1, int64 `(n, labels)`, 1 where a probability
        reaches its threshold (0.5 by default).
    """
    if not multi_label:
        return probabilities.argmax(axis=1)
    limits = np.asarray(0.5 if thresholds is None else thresholds, dtype=np.float64)
    return (probabilities >= limits).astype(np.int64)


def classification_metrics(
    gold: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray | None = None
) -> dict[str, float]:
    """Compute the F1 family, accuracy, negative log-likelihood, Brier score and expected calibration error.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task.
        probabilities: Class probabilities, `(n, labels)`.
        predicted: Decisions in the form of `gold`; by default those of `decide` at its default thresholds.

    Returns:
        `f1_*`, `precision_*`, `recall_*` (micro, macro, weighted), `accuracy` (subset accuracy for multi-label), `nll`,
        `brier` and `ece`.

    Raises:
        ValueError: If the shapes do not belong together or there are no documents.
    """
    multi_label = gold.ndim == 2
    if len(gold) == 0 or len(gold) != len(probabilities):
        raise ValueError(f"Got {len(gold)} gold labels and probabilities of {len(probabilities)} documents.")
    if predicted is None:
        predicted = decide(probabilities, multi_label=multi_label)
    return {
        **decision_metrics(gold, predicted),
        "nll": negative_log_likelihood(gold, probabilities),
        "brier": brier_score(gold, probabilities),
        "ece": expected_calibration_error(gold, probabilities),
    }


def decision_metrics(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Compute the metrics that need decisions only.

    A predicted id of -1 stands for no usable answer: it is wrong for every document and a hit for no label.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    labels = None if gold.ndim == 2 else sorted({*gold.tolist(), *predicted.tolist()} - {-1})
    metrics = {"accuracy": float(accuracy_score(gold, predicted))}
    for average in _AVERAGES:
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, predicted, labels=labels, average=average, zero_division=0
        )
        metrics |= {
            f"f1_{average}": float(f1),
            f"precision_{average}": float(precision),
            f"recall_{average}": float(recall),
        }
    return metrics


def negative_log_likelihood(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats: over documents, or for multi-label over document-label pairs."""
    clipped = np.clip(probabilities.astype(np.float64), _SMALLEST, 1.0)
    if gold.ndim == 1:
        return float(-np.log(clipped[np.arange(len(gold)), gold]).mean())
    rest = np.clip(1.0 - probabilities.astype(np.float64), _SMALLEST, 1.0)
    return float(-np.where(gold == 1, np.log(clipped), np.log(rest)).mean())


def brier_score(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Brier score: squared error summed over the classes (0 to 2), or for multi-label averaged over labels (0 to 1)."""
    if gold.ndim == 2:
        return float(np.square(probabilities - gold).mean())
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[gold]).sum(axis=1).mean())


def expected_calibration_error(gold: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error with equal-width bins (Guo et al., 2017, arXiv 1706.04599, equation 3).

    Single-label: confidence and correctness of the most probable label. Multi-label: probability and presence over all
    document-label pairs.
    """
    if gold.ndim == 1:
        confidence = probabilities.max(axis=1)
        correct = (probabilities.argmax(axis=1) == gold).astype(np.float64)
    else:
        confidence, correct = probabilities.ravel(), gold.ravel().astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
