"""The metrics of a run or a baseline: calibrated on the validation documents, measured on both splits.

Knows the matrix of logits, whichever approach or baseline it comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..data.sampling import stratified_sample
from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, fit_calibration, to_logits, to_probabilities
from ..evaluation.metrics import classification_metrics, decision_metrics, document_nll, label_counts
from ..evaluation.significance import f1_interval, mean_interval
from ..task.labels import LabelSpace
from ..task.verbalizer import ParsedAnswer

Metrics = dict[str, dict[str, Any]]

_SAMPLE_SEED = 0  # of the documents that are generated for: no run's own, so that all runs have the same


def measure(data: ClassificationData, logits: dict[str, np.ndarray]) -> tuple[Calibration, Metrics]:
    """Calibrate on the validation documents and measure both splits.

    With folds, the validation documents are all labelled ones, and `validation` in the metrics is what is out of fold.

    Args:
        data: Documents with gold labels.
        logits: Those of the `validation` and `test` documents, float32 `(n, labels)` each: their softmax or, for
            multi-label, their sigmoid are the uncalibrated probabilities. With folds, the logits of `validation` are
            those that were given by trainings without the fold of each document.

    Returns:
        The calibration, and the metrics of calibrated predictions, with the uncalibrated ones beside them as
        `uncalibrated_*`. `nll_change` is the calibrated NLL minus the uncalibrated one, with its 95 % bootstrap
        interval. The part `calibration` says what was fitted, on how many documents, and with how many
        folds, if there are any.
    """
    documents = "labelled" if data.fold_count else "validation"
    calibration = fit_calibration(data.gold("validation"), logits["validation"], documents=documents)
    metrics = {split: _measure(data.gold(split), logits[split], calibration) for split in ("validation", "test")}
    metrics["calibration"] = {"documents": len(logits["validation"]), **calibration.to_dict()}
    if data.fold_count:
        metrics["calibration"]["folds"] = data.fold_count
    return calibration, metrics


def majority_logits(data: ClassificationData) -> dict[str, np.ndarray]:
    """Logits of the majority baseline, the label frequencies of the training documents, for both measured splits.

    With folds, a labelled document gets the frequencies outside its fold.
    """
    gold = data.gold("train")
    shares = label_counts(gold, len(data.label_space)) / len(gold)
    row = to_logits(shares, multi_label=gold.ndim == 2).astype(np.float32)
    logits = {split: np.tile(row, (len(data.splits[split]), 1)) for split in ("validation", "test")}
    for fold, held in enumerate(data.held_out()):
        logits["validation"][held] = majority_logits(data.holding_out(fold))["validation"]
    return logits


def majority_metrics(data: ClassificationData) -> dict[str, float]:
    """Metrics of the majority baseline on the test documents, calibrated like a run: its row in a report."""
    with calibrating_silently():  # what cannot be fitted has been said of the run
        return measure(data, majority_logits(data))[1]["test"]


@contextmanager
def calibrating_silently() -> Iterator[None]:
    """Keep from the log what cannot be fitted, where it has been said already or another process says it."""
    said = logging.getLogger(fit_calibration.__module__)
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        yield
    finally:
        said.setLevel(level)


def generation_rows(gold: np.ndarray, generate: str) -> np.ndarray:
    """Draw the test documents that are answered by greedy generation, the same for all runs on these documents.

    Args:
        gold: Gold labels of the test documents, label ids `(n,)`, or 0/1 `(n, labels)`.
        generate: `"all"`, `"none"` or a number of documents, of which labels keep their shares.

    Returns:
        Sorted row numbers, int64.
    """
    if generate == "none":
        return np.arange(0)
    if generate == "all" or int(generate) >= len(gold):
        return np.arange(len(gold))
    return stratified_sample(gold, int(generate), _SAMPLE_SEED)


def generation_metrics(
    answers: list[ParsedAnswer], gold: np.ndarray, labels: LabelSpace, scored: np.ndarray
) -> dict[str, float]:
    """Return the share of malformed answers and the metrics of greedy generation, where a malformed answer is wrong.

    Args:
        answers: The generated answers.
        gold: Gold labels of the same documents, label ids `(n,)`, or 0/1 `(n, labels)`.
        labels: The labels.
        scored: Decisions of label scoring on the same documents, in the form of `gold`.

    Returns:
        `malformed_rate`, `generation_documents` (their number), `generation_*`, the macro and micro F1 with the ends of
        their 95 % bootstrap intervals, and `generation_scoring_f1_*`, those of label scoring on the same documents.
    """
    malformed = np.array([answer.error is not None for answer in answers])
    if labels.multi_label:
        predicted = labels.encode_batch([answer.labels for answer in answers])
    else:
        predicted = np.array([labels.index(answer.labels[0]) if answer.labels else -1 for answer in answers])
    found = decision_metrics(gold, predicted)
    if labels.multi_label:  # an empty set is a hit for a document without labels, but not where it is malformed
        found["accuracy"] = float(((predicted == gold).all(axis=1) & ~malformed).mean())
    beside = decision_metrics(gold, scored)
    for average in ("macro", "micro"):
        interval = f1_interval(gold, predicted, average=average)
        found |= {f"f1_{average}_ci_low": interval.low, f"f1_{average}_ci_high": interval.high}
        found[f"scoring_f1_{average}"] = beside[f"f1_{average}"]
    generated = {"documents": len(answers), **found}
    return {
        "malformed_rate": float(malformed.mean()),
        **{f"generation_{key}": value for key, value in generated.items()},
    }


def _measure(gold: np.ndarray, logits: np.ndarray, calibration: Calibration) -> dict[str, float]:
    multi_label = gold.ndim == 2
    raw = to_probabilities(logits, multi_label=multi_label)
    probabilities = calibration.apply(logits, multi_label=multi_label)
    decisions = calibration.decide(probabilities, multi_label=multi_label)
    before = {f"uncalibrated_{name}": value for name, value in classification_metrics(gold, raw).items()}
    change = mean_interval(document_nll(gold, probabilities) - document_nll(gold, raw))
    moved = {"nll_change": change.value, "nll_change_ci_low": change.low, "nll_change_ci_high": change.high}
    return {**classification_metrics(gold, probabilities, decisions), **before, **moved}
