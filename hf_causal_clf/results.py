"""The results of a run: metrics and predictions of its test documents, written, read back and printed.

Knows the matrix of logits, whichever approach or baseline it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import plots
from .calibration import Calibration, fit_calibration, to_probabilities
from .data import ClassificationData
from .labels import LabelSpace
from .metrics import classification_metrics, document_nll
from .run_files import FIGURES_FOLDER, METRICS_FILE, PREDICTIONS_FILE, read_json, write_json, written_aside
from .significance import mean_interval

Metrics = dict[str, dict[str, float]]


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
        interval.
    """
    calibration = fit_calibration(data.gold("validation"), logits["validation"])
    splits = ("validation", "test")
    return calibration, {split: _measure(data.gold(split), logits[split], calibration) for split in splits}


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


def print_metrics(metrics: Metrics, write: Callable[[str], Any] = print) -> None:
    """Print a short table of a finished run."""
    columns = ("f1_macro", "f1_micro", "accuracy", "nll", "brier", "ece")
    write(f"\n{'':12}" + "".join(f"{name:>10}" for name in columns))
    for split in ("validation", "test"):
        write(f"{split:12}" + "".join(f"{metrics[split][name]:10.4f}" for name in columns))
        write("  before    " + "".join(f"{metrics[split][f'uncalibrated_{name}']:10.4f}" for name in columns))
    write("(before: without the temperature and thresholds fitted on validation)")
    if "malformed_rate" in metrics["test"]:
        test = metrics["test"]
        write(
            f"greedy generation on test: f1_macro {test['generation_f1_macro']:.4f}, "
            f"malformed answers {test['malformed_rate']:.1%}"
        )


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
        plots.save_figure(figure, folder / name)


def _write_predictions(
    path: Path, data: ClassificationData, calibration: Calibration, probabilities: np.ndarray
) -> None:
    from datasets import Dataset

    label_space, test = data.label_space, data.splits["test"]
    predicted = calibration.decide(probabilities, multi_label=label_space.multi_label)
    rows = {
        "id": list(test["id"]),
        "gold": [label_space.decode(label_space.encode(value)) for value in test["label"]],
        "predicted": [label_space.decode(decision) for decision in predicted],
        "probabilities": probabilities.tolist(),
    }
    with written_aside(path) as aside:
        Dataset.from_dict(rows).to_parquet(aside)
