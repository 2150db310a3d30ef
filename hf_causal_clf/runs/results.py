"""The results of a run: metrics, predictions of its test documents and figures, written and read back.

Knows the matrix of logits, whichever approach or baseline it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, to_probabilities
from ..task.labels import LabelSpace
from .disk import write_json, written_aside
from .files import FIGURES_FOLDER, METRICS_FILE, PREDICTIONS_FILE, read_json
from .measuring import Metrics
from .tables import answer_column, probability_column


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


def _draw(
    folder: Path,
    data: ClassificationData,
    logits: np.ndarray,
    calibration: Calibration,
    log_history: Sequence[dict[str, float]],
) -> None:
    from ..evaluation import plots
    from ..evaluation.plot_style import save_figure

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
