"""The results of a run: metrics, predictions of its test documents and figures, written and read back.

Knows the matrix of logits, whichever approach or baseline it comes from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..data.rows import values_of
from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, to_probabilities
from ..evaluation.conformal import LEAST, METHODS, Conformal
from ..evaluation.selective import Abstention, decision_confidence
from ..task.labels import LabelSpace
from .disk import write_json, written_aside
from .files import FIGURES_FOLDER, METRICS_FILE, OUT_OF_FOLD_FILE, PREDICTIONS_FILE, read_json
from .measuring import Metrics
from .tables import answer_column, probability_column

SHOWN_COVERAGE = 0.9  # of the sets whose sizes are drawn: the default of `TextClassifier.predict_set`


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


@dataclass(frozen=True)
class OutOfFold:
    """What a run with folds says of its labelled documents, each by the training that did not see it.

    Attributes:
        ids: Document ids.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        fold: Fold of each document, int64 `(n,)`.
        predicted: Decisions, in the form of `gold`.
        probabilities: Calibrated probabilities, float32 `(n, labels)`.
        logits: Uncalibrated logits, float32 `(n, labels)`; minus infinity is the probability 0.
        text_sha256: Of each text; `None` in a run of an earlier version.
    """

    ids: list[Any]
    gold: np.ndarray
    fold: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray
    text_sha256: list[str] | None = None

    def changed(self, rows: Sequence[int], texts: Sequence[str]) -> int:
        """Return how many documents have another text now; 0 where the run does not know.

        Args:
            rows: Place of each document here.
            texts: Their texts now.
        """
        if self.text_sha256 is None:
            return 0
        now = zip(rows, map(_hashed, texts), strict=True)
        return sum(self.text_sha256[row] != hashed for row, hashed in now)


def write_results(
    output: Path,
    data: ClassificationData,
    logits: dict[str, np.ndarray],
    calibration: Calibration,
    metrics: Metrics,
    log_history: Sequence[dict[str, float]] = (),
    conformal: Conformal | None = None,
    decisions: dict[str, np.ndarray] | None = None,
) -> None:
    """Write the figures, `predictions.parquet` and, when they are whole, `metrics.json` of a run.

    With folds, `out_of_fold.parquet` as well: ids, gold labels, folds, decisions, calibrated probabilities,
    uncalibrated logits and hashed texts of the labelled documents.

    Args:
        output: Folder of the run.
        data: Documents with gold labels.
        logits: Those of the measured splits.
        calibration: From `measure`.
        metrics: Content of `metrics.json`.
        log_history: Of the trainer, for the training curves; without it there are none.
        conformal: Scores for conformal sets, for the figure of their sizes.
        decisions: Those of the same documents; by default what the calibration makes of the logits.
    """
    multi_label = data.label_space.multi_label
    decisions = decisions or {
        split: calibration.decide(calibration.apply(each, multi_label=multi_label), multi_label=multi_label)
        for split, each in logits.items()
    }
    output.mkdir(parents=True, exist_ok=True)
    drawn = (logits["test"], decisions["test"], calibration, log_history, metrics.get("abstention"), conformal)
    _draw(output / FIGURES_FOLDER, data, *drawn)
    tested = (calibration.apply(logits["test"], multi_label=multi_label), decisions["test"])
    _write_documents(output / PREDICTIONS_FILE, data, "test", *tested)
    if data.folds is None:
        (output / OUT_OF_FOLD_FILE).unlink(missing_ok=True)
    else:
        more = {"fold": data.folds, "logits": probability_column(logits["validation"])}
        more["text_sha256"] = list(map(_hashed, data.texts("validation")))
        held_out = (calibration.apply(logits["validation"], multi_label=multi_label), decisions["validation"])
        _write_documents(output / OUT_OF_FOLD_FILE, data, "validation", *held_out, more)
    write_json(output / METRICS_FILE, metrics)


def read_results(output: Path, label_space: LabelSpace) -> Results:
    """Read the results of a finished run.

    Raises:
        FileNotFoundError: If the run has not been finished.
        ValueError: If a file is damaged or holds other labels.
    """
    for name in (METRICS_FILE, PREDICTIONS_FILE):
        if not (output / name).is_file():
            raise FileNotFoundError(f"{output} has no {name}: it is not the folder of a finished run.")
    columns = _read_documents(output / PREDICTIONS_FILE)
    return Results(
        columns["id"],
        label_space.encode_batch(columns["gold"]),
        label_space.encode_batch(columns["predicted"]),
        np.asarray(columns["probabilities"], dtype=np.float32),
        read_json(output / METRICS_FILE),
    )


def read_out_of_fold(output: Path, label_space: LabelSpace) -> OutOfFold:
    """Read what a finished run with folds says of its labelled documents.

    Raises:
        FileNotFoundError: If the run has not been finished, or had no folds.
        ValueError: If the file is damaged, or holds other labels or numbers that no run gives.
    """
    path = output / OUT_OF_FOLD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{output} has no {path.name}: it is no finished run with folds. Train it with --folds."
        )
    columns = _read_documents(path, "fold", "logits", optional=("text_sha256",))
    matrices = {}
    for name in ("probabilities", "logits"):
        if {len(row) for row in columns[name]} != {len(label_space)}:
            raise ValueError(f"{path} does not have {len(label_space)} {name} a document. Run it again.")
        matrices[name] = np.asarray(columns[name], dtype=np.float32)
    fold = np.asarray(columns["fold"], dtype=np.int64)
    if not np.isfinite(matrices["probabilities"]).all() or np.isnan(matrices["logits"]).any() or fold.min() < 0:
        raise ValueError(f"{path} has probabilities, logits or folds that are none. Run it again.")
    if len(set(columns["id"])) < len(fold):
        raise ValueError(f"{path} has documents with the same id. Run it again.")
    gold, predicted = (label_space.encode_batch(columns[name]) for name in ("gold", "predicted"))
    return OutOfFold(columns["id"], gold, fold, predicted, **matrices, text_sha256=columns.get("text_sha256"))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _read_documents(path: Path, *more: str, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Read the columns of documents that `_write_documents` wrote; `optional` ones where they are there."""
    from datasets import Dataset

    try:
        rows = Dataset.from_parquet(str(path), keep_in_memory=True)
        there = [name for name in optional if name in rows.column_names]
        return {name: list(rows[name]) for name in ("id", "gold", "predicted", "probabilities", *more, *there)}
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}). Run it again.") from error


def _draw(
    folder: Path,
    data: ClassificationData,
    logits: np.ndarray,
    predicted: np.ndarray,
    calibration: Calibration,
    log_history: Sequence[dict[str, float]],
    abstention: dict[str, Any] | None,
    conformal: Conformal | None,
) -> None:
    from ..evaluation import figure_numbers, plots
    from ..evaluation.plot_style import save_figure

    gold, names, multi_label = data.gold("test"), data.label_space.names, data.label_space.multi_label
    probabilities = calibration.apply(logits, multi_label=multi_label)
    before = None if calibration.temperature is None else to_probabilities(logits, multi_label=multi_label)
    drawn = (gold, probabilities, before), (gold, predicted, names)
    figures = {
        "reliability_diagram": (plots.reliability_diagram(*drawn[0]), figure_numbers.reliability_numbers(*drawn[0])),
        "label_f1": (plots.label_f1_bars(*drawn[1]), figure_numbers.label_f1_numbers(*drawn[1])),
        "thresholds": (
            plots.threshold_curves(gold, probabilities, calibration.thresholds),
            figure_numbers.threshold_numbers(gold, probabilities),
        ),
    }
    if not multi_label:
        figures["confusion_matrix"] = (plots.confusion_matrix(*drawn[1]), figure_numbers.confusion_numbers(*drawn[1]))
    if abstention is not None:
        found = Abstention(abstention["target_error"], tuple(each["threshold"] for each in abstention["found"]))
        confidence, sure = decision_confidence(probabilities, predicted), found.answers(probabilities, predicted)
        figures["risk_coverage"] = (
            plots.risk_coverage_figure(confidence, predicted != gold, sure, found.target_error),
            figure_numbers.risk_coverage_numbers(confidence, predicted != gold),
        )
    if conformal is not None and conformal.documents >= LEAST:
        raw, texts = to_probabilities(logits, multi_label=False), data.texts("test")
        sets = {name: conformal.sets(raw, texts, SHOWN_COVERAGE, method=name) for name in METHODS}
        figure = plots.set_sizes_figure(gold, sets, SHOWN_COVERAGE)
        figures["set_sizes"] = figure, figure_numbers.set_size_numbers(sets)
    if any({"loss", "eval_loss"} & set(entry) for entry in log_history):
        figures["training_curves"] = plots.training_curves(log_history), figure_numbers.training_numbers(log_history)
    for name, (figure, numbers) in figures.items():
        save_figure(figure, folder / name, numbers)


def _write_documents(
    path: Path, data: ClassificationData, split: str, probabilities: np.ndarray, predicted: np.ndarray, more: Any = ()
) -> None:
    """Write what is said of the documents of a split, without any text; `more` are columns of one's own."""
    label_space, documents = data.label_space, data.splits[split]
    gold = [label_space.decode(label_space.encode(value)) for value in values_of(documents, "label")]
    rows = {
        "id": documents["id"][:],
        "gold": answer_column(gold, label_space),
        "predicted": answer_column([label_space.decode(decision) for decision in predicted], label_space),
        "probabilities": probability_column(probabilities),
        **dict(more),
    }
    with written_aside(path) as aside:
        parquet.write_table(pa.table(rows), aside)
