"""Evaluations of a head in training: in the batches of the finished run, so that they give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import EvalPrediction

from ..backbone.batching import length_batches
from ..data.rows import values_of
from ..evaluation.calibration import to_probabilities
from ..training.callbacks import evaluation_metrics
from ..training.evaluated import EvaluatedLogits


class HeadEvaluation:
    """The documents of a trainer's evaluations and, called, its `compute_metrics`.

    Args:
        rows: Tokenised validation documents.
        multi_label: Whether a document may have several labels.
        evaluated: What takes the logits; `None` where other documents are run together than in `HeadScorer`.

    Attributes:
        rows: The same documents in the order in which `HeadScorer` runs them: the longest first, so little is padded.
        order: Number of each of them among the documents as they were given.
    """

    def __init__(self, rows: Any, *, multi_label: bool, evaluated: EvaluatedLogits | None) -> None:
        self.order = length_batches([len(ids) for ids in values_of(rows, "input_ids")], max(len(rows), 1))[0]
        self.rows = rows.select(self.order)
        self._multi_label = multi_label
        self._evaluated = evaluated

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of an evaluation, and note its logits."""
        logits = np.asarray(prediction.predictions, dtype=np.float32)
        if self._evaluated is not None and len(logits) == len(self.order):  # fewer with dataloader_drop_last
            self._evaluated.note(logits[np.argsort(self.order)])
        return head_metrics(prediction, self._multi_label)


def head_metrics(prediction: EvalPrediction, multi_label: bool) -> dict[str, float]:
    """Metrics of a head's logits, for a trainer's `compute_metrics`."""
    probabilities = to_probabilities(np.asarray(prediction.predictions, dtype=np.float32), multi_label=multi_label)
    return evaluation_metrics(np.asarray(prediction.label_ids).astype(np.int64), probabilities)
