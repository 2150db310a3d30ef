"""A finished run as its card reads it. Knows its files only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.calibration import Calibration
from ..evaluation.metrics import document_nll
from ..evaluation.significance import Interval, f1_interval, is_correct, mean_interval
from ..task.labels import LabelSpace
from .files import ADAPTER_CONFIG_FILE, CLASSIFICATION_FILE, FIGURES_FOLDER, is_hub_id, read_json
from .results import Results, read_results

FIGURES = ("reliability_diagram", "confusion_matrix", "label_f1", "thresholds", "training_curves")


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
