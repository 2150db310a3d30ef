"""Metrics on gold labels and a matrix of class probabilities.

Knows arrays only; where the probabilities come from makes no difference here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_AVERAGES = ("micro", "macro", "weighted")
_SMALLEST = 1e-12  # probabilities are clipped to this before a logarithm


METRICS = (*(f"{name}_{average}" for name in ("f1", "precision", "recall") for average in _AVERAGES), "accuracy")
METRICS += ("nll", "brier", "ece")  # of `classification_metrics`


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

    Macro averages are over the labels that some document has, micro and weighted ones over all labels. So a label that
    a split has no document of is in no macro average; predicted nevertheless, it costs the labels that are missed.

    A predicted id of -1 stands for no usable answer: it is wrong for every document and a hit for no label.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    if gold.ndim == 2:
        every, present = np.arange(gold.shape[1]), np.flatnonzero(gold.any(axis=0))
    else:
        every, present = np.setdiff1d(np.union1d(gold, predicted), [-1]), np.unique(gold)
    metrics = {"accuracy": float(accuracy_score(gold, predicted))}
    for average in _AVERAGES:
        labels = present if average == "macro" and len(present) else every
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, predicted, labels=labels, average=average, zero_division=0
        )
        metrics |= {
            f"f1_{average}": float(f1),
            f"precision_{average}": float(precision),
            f"recall_{average}": float(recall),
        }
    return metrics


def label_counts(gold: np.ndarray, labels: int) -> np.ndarray:
    """Count the documents that have each label.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task.
        labels: Number of labels.

    Returns:
        Int64 `(labels,)`; 0 for a label that no document has.
    """
    if gold.ndim == 2:
        return gold.sum(axis=0, dtype=np.int64)
    return np.bincount(gold, minlength=labels).astype(np.int64, copy=False)


def f1_per_label(gold: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """F1 of each label, float64 `(labels,)`; 0 for a label that is neither gold nor predicted anywhere."""
    from sklearn.metrics import f1_score

    ids = None if gold.ndim == 2 else np.arange(labels)
    return np.asarray(f1_score(gold, predicted, labels=ids, average=None, zero_division=0))


def negative_log_likelihood(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats: over documents, or for multi-label over document-label pairs."""
    return float(document_nll(gold, probabilities).mean())


def document_nll(gold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each document in nats, float64 `(n,)`; for multi-label the mean over its labels."""
    clipped = np.maximum(probabilities.astype(np.float64), _SMALLEST)
    if gold.ndim == 1:
        return -np.log(clipped[np.arange(len(gold)), gold])
    rest = np.maximum(1.0 - probabilities.astype(np.float64), _SMALLEST)
    return -np.where(gold == 1, np.log(clipped), np.log(rest)).mean(axis=1)


def brier_score(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Brier score: squared error summed over the classes (0 to 2), or for multi-label averaged over labels (0 to 1)."""
    if gold.ndim == 2:
        return float(np.square(probabilities - gold).mean())
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[gold]).sum(axis=1).mean())


def expected_calibration_error(
    gold: np.ndarray, probabilities: np.ndarray, *, bins: int = 15, strategy: str = "width", classwise: bool = False
) -> float:
    """Expected calibration error (Guo et al., 2017, arXiv 1706.04599, equation 3).

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        probabilities: Class probabilities, `(n, labels)`.
        bins: Number of bins.
        strategy: `"width"` for bins of equal width, `"mass"` for bins of about as many examples.
        classwise: Average the error of each class's probability against its presence (Kull et al., 2019, arXiv
            1910.12656) instead of taking the top label's confidence (single-label) or all document-label pairs at once
            (multi-label).

    Returns:
        The mean gap between confidence and frequency, weighted by the bins' sizes, in `[0, 1]`.

    Raises:
        ValueError: If `strategy` is not known.
    """
    if classwise:
        present = gold if gold.ndim == 2 else np.eye(probabilities.shape[1])[gold]
        columns = zip(present.T, probabilities.T, strict=True)
        return float(np.mean([_binned_gap(shown, hits, bins, strategy) for hits, shown in columns]))
    if gold.ndim == 2:
        return _binned_gap(probabilities.ravel(), gold.ravel(), bins, strategy)
    return _binned_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold, bins, strategy)


def bin_index(confidence: np.ndarray, bins: int, strategy: str) -> np.ndarray:
    """Bin of each confidence, int64 `(n,)`; a confidence on a boundary belongs to the bin below."""
    if strategy == "width":
        return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    if strategy == "mass":
        ranks = np.empty(len(confidence), dtype=np.int64)
        ranks[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
        return ranks * bins // max(len(confidence), 1)
    raise ValueError(f"`strategy` must be 'width' or 'mass', got {strategy!r}.")


def _binned_gap(confidence: np.ndarray, correct: np.ndarray, bins: int, strategy: str) -> float:
    gaps = np.bincount(bin_index(confidence, bins, strategy), weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
