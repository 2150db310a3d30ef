"""A linear head that scikit-learn has fitted, as two arrays: its logits, and a safe file of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone.loading import check_weights
from ..evaluation.calibration import to_logits
from ..runs.files import HEAD_FILE, find_file


@dataclass(frozen=True)
class LinearHead:
    """Logits as a linear function of features.

    A label that no training document has, and in a multi-label task one that all or none have, is a constant: its
    weights are 0 and its bias is infinite.

    Attributes:
        weight: float64 `(labels, features)`.
        bias: float64 `(labels,)`.
    """

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, fitted: Any, labels: int) -> LinearHead:
        """Take over a fitted `LogisticRegression`, or a `OneVsRestClassifier` of them.

        Args:
            fitted: The classifier, whose classes are label ids.
            labels: Number of labels of the task, of which the classifier may not know all.
        """
        if hasattr(fitted, "estimators_"):  # one for each label, or a constant
            weights, biases = zip(*map(_one_label, fitted.estimators_), strict=True)
            return cls(np.array(weights, dtype=np.float64), np.array(biases, dtype=np.float64))
        weight, bias = np.zeros((labels, fitted.coef_.shape[1])), np.full(labels, -np.inf)
        known = fitted.classes_
        if len(known) == 2:  # one row stands for the odds of the second against the first
            bias[known[0]], known = 0.0, known[1:]
        weight[known], bias[known] = fitted.coef_, fitted.intercept_
        return cls(weight, bias)

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return int(self.weight.any(axis=1).sum()) * (self.weight.shape[1] + 1)

    def logits(self, features: Any) -> np.ndarray:
        """Return float32 `(n, labels)` of features `(n, features)`, dense or sparse, of any data type."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias, dtype=np.float32)

    def of_unscaled(self, mean: np.ndarray, spread: np.ndarray) -> LinearHead:
        """Return the head that gives `features` the logits that this one gives `(features - mean) / spread`."""
        weight = self.weight / spread.astype(np.float64)
        return LinearHead(weight, self.bias - weight @ mean.astype(np.float64))

    def save(self, folder: Path, **others: np.ndarray) -> None:
        """Write the head into a folder, and other arrays into the same file."""
        from safetensors.numpy import save_file

        save_file({"weight": self.weight, "bias": self.bias, **others}, folder / HEAD_FILE)

    @classmethod
    def load(cls, source: str, labels: int, **hub_kwargs: Any) -> tuple[LinearHead, dict[str, np.ndarray]]:
        """Read a head from a run's folder or Hub repository, and the other arrays of its file.

        Raises:
            ValueError: If the file is missing or damaged, or the head is of another number of labels.
        """
        from safetensors.numpy import load_file

        path = find_file(source, HEAD_FILE, **hub_kwargs)
        if path is None:
            raise ValueError(f"{source!r} has no {HEAD_FILE}. Train or download it again.")
        check_weights(path)
        arrays = load_file(path)
        shapes = [arrays[name].shape if name in arrays else () for name in ("weight", "bias")]
        if [len(shape) for shape in shapes] != [2, 1] or {shape[0] for shape in shapes} != {labels}:
            raise ValueError(f"{path} does not fit the {labels} labels of its run. Train or download it again.")
        return cls(arrays.pop("weight"), arrays.pop("bias")), arrays


def _one_label(part: Any) -> tuple[np.ndarray, float]:
    """Weights and bias of a label's own classifier."""
    if hasattr(part, "coef_"):
        return part.coef_[0], float(part.intercept_[0])
    weight = np.zeros(part.n_features_in_)
    constant = part.predict(weight[None])
    return weight, float(to_logits(constant, multi_label=True)[0])
