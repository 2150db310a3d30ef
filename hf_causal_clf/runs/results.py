"""The results of a run: metrics and predictions of its test documents, written, read back and printed.

Knows the matrix of logits, whichever approach or baseline it comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..data.splits import ClassificationData
from ..evaluation import plots
from ..evaluation.calibration import MIN_DOCUMENTS, Calibration, fit_calibration, to_logits, to_probabilities
from ..evaluation.metrics import classification_metrics, document_nll, label_counts
from ..evaluation.plot_style import save_figure
from ..evaluation.significance import mean_interval
from ..task.labels import LabelSpace
from .disk import write_json, written_aside
from .files import FIGURES_FOLDER, METRICS_FILE, PREDICTIONS_FILE, read_json
from .tables import answer_column, probability_column

Metrics = dict[str, dict[str, Any]]
_COLUMNS = ("f1_macro", "f1_micro", "accuracy", "nll", "brier", "ece")


@dataclass(frozen=True)
class Results:
    """What a finished run says of its test documents.

    Attributes:
        ids: Document ids.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        predicted: Decisions, in the form of `gold`.
        probabilities: Calibrated probabilities, `(n, labels)`.
        metrics: Content of `metrics.json`.
    """

    ids: list[Any]
    gold: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    metrics: Metrics


def measure(data: ClassificationData, logits: dict[str, np.ndarray]) -> tuple[Calibration, Metrics]:
    """Calibrate on the validation documents and measure both splits.

    Args:
        data: Documents with gold labels.
        logits: Those of the `validation` and `test` documents, float32 `(n, labels)` each: their softmax or, for
            multi-label, their sigmoid are the uncalibrated probabilities.

    Returns:
        The calibration, and the metrics of calibrated predictions, with the uncalibrated ones beside them as
        `uncalibrated_*`. `nll_change` is the calibrated NLL minus the uncalibrated one, with its 95 % bootstrap
        interval. The part `calibration` says what was fitted, and on how many documents.
    """
    calibration = fit_calibration(data.gold("validation"), logits["validation"])
    metrics = {split: _measure(data.gold(split), logits[split], calibration) for split in ("validation", "test")}
    metrics["calibration"] = {"documents": len(logits["validation"]), **calibration.to_dict()}
    return calibration, metrics


def write_results(
    output: Path,
    data: ClassificationData,
    logits: dict[str, np.ndarray],
    calibration: Calibration,
    metrics: Metrics,
    log_history: Sequence[dict[str, float]] = (),
) -> None:
    """Write the figures, `predictions.parquet` and, when they are whole, `metrics.json` of a run.

    Args:
        output: Folder of the run.
        data: Documents with gold labels.
        logits: Those of the measured splits.
        calibration: From `measure`.
        metrics: Content of `metrics.json`.
        log_history: Of the trainer, for the training curves; without it there are none.
    """
    output.mkdir(parents=True, exist_ok=True)
    _draw(output / FIGURES_FOLDER, data, logits["test"], calibration, log_history)
    probabilities = calibration.apply(logits["test"], multi_label=data.label_space.multi_label)
    _write_predictions(output / PREDICTIONS_FILE, data, calibration, probabilities)
    write_json(output / METRICS_FILE, metrics)


def read_results(output: Path, label_space: LabelSpace) -> Results:
    """Read the results of a finished run.

    Raises:
        FileNotFoundError: If the run has not been finished.
        ValueError: If a file is damaged or holds other labels.
    """
    from datasets import Dataset

    for name in (METRICS_FILE, PREDICTIONS_FILE):
        if not (output / name).is_file():
            raise FileNotFoundError(f"{output} has no {name}: it is not the folder of a finished run.")
    try:
        rows = Dataset.from_parquet(str(output / PREDICTIONS_FILE), keep_in_memory=True)
        columns = {name: list(rows[name]) for name in ("id", "gold", "predicted", "probabilities")}
    except Exception as error:
        raise ValueError(f"{output / PREDICTIONS_FILE} cannot be read ({error}). Run it again.") from error
    return Results(
        columns["id"],
        label_space.encode_batch(columns["gold"]),
        label_space.encode_batch(columns["predicted"]),
        np.asarray(columns["probabilities"], dtype=np.float32),
        read_json(output / METRICS_FILE),
    )


def print_metrics(metrics: Metrics, *, multi_label: bool, write: Callable[[str], Any] = print) -> None:
    """Print a short table of a finished run, the majority baseline's line beside it."""
    fitted, changed = what_was_fitted(metrics["calibration"])
    write(f"\n{'':12}" + "".join(f"{name:>10}" for name in _COLUMNS))
    for split in ("validation", "test"):
        write(_line(split, metrics[split]))
        if changed:
            write(_line("  before", metrics[split], "uncalibrated_"))
    write(_line("  majority", metrics["majority"]))
    note = "before: without what was" if changed else "probabilities are as the model gives them;"
    write(f"({note} fitted on validation: {fitted})")
    write("(majority: the label frequencies of training, for every test document)")
    verdict = nothing_learned(metrics, multi_label=multi_label)
    if verdict:
        write(verdict)
    if "malformed_rate" in metrics["test"]:
        test = metrics["test"]
        write(
            f"greedy generation on test: f1_macro {test['generation_f1_macro']:.4f}, "
            f"malformed answers {test['malformed_rate']:.1%}"
        )


def majority_logits(data: ClassificationData) -> dict[str, np.ndarray]:
    """Logits of the majority baseline, the label frequencies of the training documents, for both measured splits."""
    gold = data.gold("train")
    shares = label_counts(gold, len(data.label_space)) / len(gold)
    row = to_logits(shares, multi_label=gold.ndim == 2).astype(np.float32)
    return {split: np.tile(row, (len(data.splits[split]), 1)) for split in ("validation", "test")}


def majority_metrics(data: ClassificationData) -> dict[str, float]:
    """Metrics of the majority baseline on the test documents, calibrated like a run: its row in a report."""
    said = logging.getLogger(fit_calibration.__module__)
    level = said.level
    said.setLevel(logging.ERROR)  # what cannot be fitted has been said of the run
    try:
        return measure(data, majority_logits(data))[1]["test"]
    finally:
        said.setLevel(level)


def nothing_learned(metrics: Metrics, *, multi_label: bool) -> str | None:
    """Say so where a run is not above the majority baseline on the test documents.

    Args:
        metrics: Content of `metrics.json`.
        multi_label: Whether micro F1 is compared, and not accuracy.

    Returns:
        What the numbers are and what to try; `None` for a run that is above, or whose baseline is not known.
    """
    if "majority" not in metrics:
        return None
    name, word = ("f1_micro", "micro F1") if multi_label else ("accuracy", "accuracy")
    reached, baseline = metrics["test"][name], metrics["majority"][name]
    if reached > baseline:
        return None
    return (
        f"The run has learned nothing that its {word} shows: on test it is {reached:.3f}, not above the {baseline:.3f} "
        "of the majority baseline. Try another learning_rate (a higher one if the training loss hardly falls, a lower "
        "one if it jumps), more epochs or more training documents, and look at a few documents and their labels."
    )


def what_was_fitted(calibration: dict[str, Any]) -> tuple[str, bool]:
    """Return what was fitted on the validation documents, in words, and whether it changes anything.

    Args:
        calibration: The part `calibration` of `metrics.json`.
    """
    temperature, thresholds = calibration["temperature"], calibration["thresholds"]
    if temperature is None:
        documents = calibration["documents"]
        return f"nothing, as {documents} validation documents are too few, {MIN_DOCUMENTS} are needed", False
    if isinstance(temperature, float):
        shown = f"{temperature:.3g}"
        return f"temperature {shown}", shown != "1"
    ranges = (
        f"{name} {min(found):.3g} to {max(found):.3g}"
        for name, found in (("temperatures", temperature), ("thresholds", thresholds))
    )
    return ", ".join(ranges), True


def _line(name: str, metrics: dict[str, float], prefix: str = "") -> str:
    return f"{name:12}" + "".join(f"{metrics[prefix + column]:10.4f}" for column in _COLUMNS)


def _measure(gold: np.ndarray, logits: np.ndarray, calibration: Calibration) -> dict[str, float]:
    multi_label = gold.ndim == 2
    raw = to_probabilities(logits, multi_label=multi_label)
    probabilities = calibration.apply(logits, multi_label=multi_label)
    decisions = calibration.decide(probabilities, multi_label=multi_label)
    before = {f"uncalibrated_{name}": value for name, value in classification_metrics(gold, raw).items()}
    change = mean_interval(document_nll(gold, probabilities) - document_nll(gold, raw))
    moved = {"nll_change": change.value, "nll_change_ci_low": change.low, "nll_change_ci_high": change.high}
    return {**classification_metrics(gold, probabilities, decisions), **before, **moved}


def _draw(
    folder: Path,
    data: ClassificationData,
    logits: np.ndarray,
    calibration: Calibration,
    log_history: Sequence[dict[str, float]],
) -> None:
    gold, names, multi_label = data.gold("test"), data.label_space.names, data.label_space.multi_label
    probabilities = calibration.apply(logits, multi_label=multi_label)
    predicted = calibration.decide(probabilities, multi_label=multi_label)
    before = None if calibration.temperature is None else to_probabilities(logits, multi_label=multi_label)
    figures = {
        "reliability_diagram": plots.reliability_diagram(gold, probabilities, before),
        "label_f1": plots.label_f1_bars(gold, predicted, names),
        "thresholds": plots.threshold_curves(gold, probabilities, calibration.thresholds),
    }
    if not multi_label:
        figures["confusion_matrix"] = plots.confusion_matrix(gold, predicted, names)
    if any({"loss", "eval_loss"} & set(entry) for entry in log_history):
        figures["training_curves"] = plots.training_curves(log_history)
    for name, figure in figures.items():
        save_figure(figure, folder / name)


def _write_predictions(
    path: Path, data: ClassificationData, calibration: Calibration, probabilities: np.ndarray
) -> None:
    label_space, test = data.label_space, data.splits["test"]
    predicted = calibration.decide(probabilities, multi_label=label_space.multi_label)
    rows = {
        "id": list(test["id"]),
        "gold": answer_column([label_space.decode(label_space.encode(value)) for value in test["label"]], label_space),
        "predicted": answer_column([label_space.decode(decision) for decision in predicted], label_space),
        "probabilities": probability_column(probabilities),
    }
    with written_aside(path) as aside:
        parquet.write_table(pa.table(rows), aside)
