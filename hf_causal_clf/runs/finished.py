"""A finished run as its card reads it: description, results, adapter and figures. Knows its files only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.metrics import document_nll
from ..evaluation.significance import Interval, f1_interval, is_correct, mean_interval
from ..task.labels import LabelSpace
from .files import ADAPTER_CONFIG_FILE, CLASSIFICATION_FILE, FIGURES, FIGURES_FOLDER, read_json
from .results import Results, read_results
from .run import Run


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder.

    Attributes:
        folder: Its folder.
        description: What it is.
        results: What it says of its test documents.
        adapter: Content of `adapter_config.json`; `None` for a whole model.
    """

    folder: Path
    description: Run
    results: Results
    adapter: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run folder.

        Raises:
            FileNotFoundError: If the run has not been finished.
            ValueError: If a file is damaged.
        """
        if not (folder / CLASSIFICATION_FILE).is_file():
            raise FileNotFoundError(f"{folder} has no {CLASSIFICATION_FILE}: it is not the folder of a finished run.")
        description = Run.read(folder)
        adapter = folder / ADAPTER_CONFIG_FILE
        return cls(
            folder,
            description,
            read_results(folder, description.label_space),
            read_json(adapter) if adapter.is_file() else None,
        )

    @property
    def label_space(self) -> LabelSpace:
        """Labels of the run."""
        return self.description.label_space

    @property
    def facts(self) -> Mapping[str, Any]:
        """What only the training knew; empty for a run that does not have it."""
        return self.description.training

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
