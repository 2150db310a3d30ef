"""What a model card says: numbers, settings and limits of a run, from its folder alone.

Knows the files of a run. How it is worded and laid out is the business of the templates in `model_cards/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import ADAPTER_CONFIG_FILE
from .calibration import MIN_DOCUMENTS, MIN_EXAMPLES, Calibration
from .labels import LabelSpace
from .metrics import document_nll, f1_per_label
from .results import Results, read_results
from .run_files import CLASSIFICATION_FILE, FIGURES_FOLDER, read_json
from .significance import Interval, f1_interval, is_correct, mean_interval
from .training_facts import is_hub_id

FIGURES = ("reliability_diagram", "confusion_matrix", "label_f1", "thresholds", "training_curves")
_BESIDE = ("uncalibrated_", "nll_change", "generation_")  # what a test metric would be otherwise
_NAMES = {
    "accuracy": "Accuracy",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "malformed_rate": "Malformed greedy answers",
}
_HEADLINES = ("f1_macro", "f1_micro", "f1_weighted", "accuracy", "nll", "brier", "ece")


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    description: dict[str, Any]
    results: Results
    adapter: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises:
            FileNotFoundError: If the run has not been finished.
            ValueError: If a file is damaged.
        """
        if not (folder / CLASSIFICATION_FILE).is_file():
            raise FileNotFoundError(f"{folder} has no {CLASSIFICATION_FILE}: it is not the folder of a finished run.")
        description = read_json(folder / CLASSIFICATION_FILE)
        results = read_results(folder, LabelSpace.from_dict(description["label_space"]))
        adapter = folder / ADAPTER_CONFIG_FILE
        return cls(folder, description, results, read_json(adapter) if adapter.is_file() else None)

    @property
    def label_space(self) -> LabelSpace:
        """Labels of the run."""
        return LabelSpace.from_dict(self.description["label_space"])

    @property
    def calibration(self) -> Calibration:
        """Calibration of the run."""
        return Calibration.from_dict(self.description)

    @property
    def facts(self) -> dict[str, Any]:
        """What only the training knew (`training_facts`); empty for a run that does not have it."""
        return self.description.get("training", {})

    @property
    def base_id(self) -> str | None:
        """Hub id of the base model; `None` for a local checkpoint, whose path is nobody's business."""
        base = self.description["base_model"]
        return base["name_or_path"] if base.get("revision") and is_hub_id(base["name_or_path"]) else None

    @property
    def figures(self) -> dict[str, str]:
        """Relative path of each figure that the run has."""
        paths = {name: f"{FIGURES_FOLDER}/{name}.png" for name in FIGURES}
        return {name: path for name, path in paths.items() if (self.folder / path).is_file()}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals over the test documents."""
        found = self.results
        return {
            "f1_macro": f1_interval(found.gold, found.predicted, average="macro"),
            "f1_micro": f1_interval(found.gold, found.predicted, average="micro"),
            "accuracy": mean_interval(is_correct(found.gold, found.predicted).astype(np.float64)),
            "nll": mean_interval(document_nll(found.gold, found.probabilities)),
        }


def headline_metrics(run: Run) -> dict[str, float]:
    """Return the metrics of the test documents, each once: as `TextClassifier` predicts."""
    return {key: value for key, value in run.results.metrics["test"].items() if not key.startswith(_BESIDE)}


def metric_name(key: str, multi_label: bool) -> str:
    """Return the name of a metric for readers, such as `Macro F1`."""
    if key in _NAMES:
        return _NAMES[key] + (" (all labels of a document right)" if key == "accuracy" and multi_label else "")
    found = re.fullmatch(r"(f1|precision|recall)_(micro|macro|weighted)", key)
    return f"{found[2].capitalize()} {found[1].replace('f1', 'F1')}" if found else key


def metric_rows(run: Run) -> list[dict[str, str]]:
    """Return the table of the test metrics that matter most: intervals, majority baseline, validation split beside."""
    metrics, rows = run.results.metrics, []
    for key in _HEADLINES:
        interval = run.intervals.get(key)
        row = {"name": metric_name(key, run.label_space.multi_label)}
        row |= {part: f"{metrics[part][key]:.3f}" for part in ("test", "majority", "validation") if part in metrics}
        row["interval"] = "" if interval is None else f"{interval.low:.3f} – {interval.high:.3f}"
        rows.append(row)
    return rows


def label_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row for each label: documents in each split, F1 and, where there are any, threshold and answer."""
    gold, space = run.results.gold, run.label_space
    scores = f1_per_label(gold, run.results.predicted, len(space))
    counts = {split: run.facts.get("label_counts", {}).get(split) for split in ("train", "validation")}
    thresholds = run.calibration.thresholds
    answers = run.description.get("verbalizer", {}).get("answers")
    rows = []
    for index, (name, tested) in enumerate(zip(space.names, test_counts(run), strict=True)):
        row: dict[str, Any] = {"name": name, "test": f"{tested:,}", "f1": f"{scores[index]:.3f}" if tested else "–"}
        row |= {split: f"{each[index]:,}" for split, each in counts.items() if each}
        if space.multi_label:
            row["threshold"] = f"{thresholds[index] if thresholds else 0.5:.3f}"
        if answers:
            row["answer"] = answers[name]
        rows.append(row)
    return rows


def test_counts(run: Run) -> list[int]:
    """Return the number of test documents of each label."""
    gold = run.results.gold
    counts = gold.sum(axis=0) if gold.ndim == 2 else np.bincount(gold, minlength=len(run.label_space))
    return [int(count) for count in counts]


def trust(run: Run) -> dict[str, Any]:
    """Return what calibration did to the probabilities of the test documents."""
    test = run.results.metrics["test"]
    low, high = test.get("nll_change_ci_low"), test.get("nll_change_ci_high")
    verdict = None
    if low is not None and high is not None:
        verdict = "better" if high < 0 else "worse" if low > 0 else "unclear"
    return {
        "temperature": run.calibration.temperature,
        "extreme": _extreme(run.calibration.temperature),
        "verdict": verdict,
        "needed": MIN_DOCUMENTS,
        **test,
    }


def _extreme(temperature: float | tuple[float, ...] | None) -> dict[str, int]:
    """How many labels' probabilities a calibration makes more or less extreme, or leaves as they are."""
    values = temperature if isinstance(temperature, tuple) else () if temperature is None else (temperature,)
    shown = [float(f"{value:.3g}") for value in values]
    counts = {"more": sum(value < 1 for value in shown), "less": sum(value > 1 for value in shown)}
    return counts | {"same": sum(value == 1 for value in shown)}


def scarce_labels(run: Run) -> dict[str, list[str]]:
    """Return the labels without training documents, with few test documents, and with a threshold shared by all."""
    names, facts = run.label_space.names, run.facts
    counts = facts.get("label_counts", {})
    trained, validation = counts.get("train", []), counts.get("validation", [])
    size = facts.get("documents", {}).get("validation", 0)
    shared = [min(count, size - count) < MIN_EXAMPLES for count in validation]
    if run.calibration.thresholds is None:
        shared = []
    return {
        "untrained": [name for name, count in zip(names, trained, strict=False) if count == 0],
        "untested": [name for name, count in zip(names, test_counts(run), strict=True) if count < MIN_EXAMPLES],
        "shared": [name for name, together in zip(names, shared, strict=False) if together],
    }
