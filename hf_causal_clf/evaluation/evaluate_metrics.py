"""The metrics as `evaluate.Metric` classes, which work offline, in `evaluate.combine` and in an evaluator.

Predictions are class probabilities or, for the metrics that need decisions only, label ids or 0/1 vectors; references
are label ids, or 0/1 vectors for a multi-label task. Macro averages are over the labels among the references. With
evaluate 0.4.6 and transformers 5, an evaluator takes the model as a path or Hub id only: given an object, it asks
transformers for a TensorFlow class that is gone.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from . import metrics

_IDS = datasets.Value("int64")
_VECTOR = datasets.Sequence(datasets.Value("float64"))
_BITS = datasets.Sequence(datasets.Value("int64"))
_FROM_DECISIONS = [{"predictions": _IDS, "references": _IDS}]  # 0/1 vectors go in as probabilities
_FROM_PROBABILITIES = [{"predictions": _VECTOR, "references": _IDS}, {"predictions": _VECTOR, "references": _BITS}]


class _ArrayMetric(evaluate.Metric):
    """Shared declaration; a subclass says which inputs it takes and computes."""

    _inputs = [*_FROM_DECISIONS, *_FROM_PROBABILITIES]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=__doc__ or "",
            features=[datasets.Features(inputs) for inputs in self._inputs],
        )


def _decisions(predictions: Any, references: np.ndarray) -> np.ndarray:
    """Take decisions as they are and turn probabilities into them."""
    predictions = np.asarray(predictions)
    if np.issubdtype(predictions.dtype, np.integer):
        return predictions
    return metrics.decide(predictions, multi_label=references.ndim == 2)


class F1(_ArrayMetric):
    """F1: micro, macro and weighted."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return _chosen("f1_", predictions, references)


class Precision(_ArrayMetric):
    """Precision: micro, macro and weighted."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return _chosen("precision_", predictions, references)


class Recall(_ArrayMetric):
    """Recall: micro, macro and weighted."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return _chosen("recall_", predictions, references)


class Accuracy(_ArrayMetric):
    """Accuracy; subset accuracy for a multi-label task."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return _chosen("accuracy", predictions, references)


class NegativeLogLikelihood(_ArrayMetric):
    """Mean negative log-likelihood in nats."""

    _inputs = _FROM_PROBABILITIES

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"nll": metrics.negative_log_likelihood(np.asarray(references), np.asarray(predictions))}


class BrierScore(_ArrayMetric):
    """Brier score."""

    _inputs = _FROM_PROBABILITIES

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"brier": metrics.brier_score(np.asarray(references), np.asarray(predictions))}


class ExpectedCalibrationError(_ArrayMetric):
    """Expected calibration error; `bins`, `strategy` and `classwise` as for `metrics.expected_calibration_error`."""

    _inputs = _FROM_PROBABILITIES

    def _compute(
        self, predictions: Any, references: Any, bins: int = 15, strategy: str = "width", classwise: bool = False
    ) -> dict[str, float]:
        gold, shown = np.asarray(references), np.asarray(predictions)
        error = metrics.expected_calibration_error(gold, shown, bins=bins, strategy=strategy, classwise=classwise)
        return {"ece": error}


def _chosen(prefix: str, predictions: Any, references: Any) -> dict[str, float]:
    gold = np.asarray(references)
    found = metrics.decision_metrics(gold, _decisions(predictions, gold))
    return {name: value for name, value in found.items() if name.startswith(prefix)}
