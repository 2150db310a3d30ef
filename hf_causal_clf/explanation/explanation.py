"""What is found of a text: how much each label's probability falls without each of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DIGITS = 6  # of probabilities in files


@dataclass(frozen=True)
class Explanation:
    """How much the probability of each label falls where a part of a text is left out.

    Attributes:
        text: The text.
        labels: Label names, in the order of the columns.
        label: The label that is explained: the most probable one, or the one that was asked for.
        predicted: What `TextClassifier.predict` answers: a label name, or in a multi-label space a list of them.
        probabilities: Calibrated probabilities of the whole text, float32 `(labels,)`.
        spans: Start and end of each part in characters, int64 `(parts, 2)`. Together the parts are the whole text.
        drops: Probability of the whole text less that of the text without the part, float32 `(parts, labels)`: above 0
            where the part speaks for the label, below 0 where it speaks against it. NaN where nothing would be left.
    """

    text: str
    labels: tuple[str, ...]
    label: str
    predicted: str | list[str]
    probabilities: np.ndarray
    spans: np.ndarray
    drops: np.ndarray

    @property
    def probability(self) -> float:
        """Probability of the explained label."""
        return float(self.probabilities[self.labels.index(self.label)])

    def drops_of(self, label: str | None = None) -> np.ndarray:
        """Return the drops of one label, by default the explained one, float32 `(parts,)`.

        Raises:
            ValueError: If there is no such label.
        """
        if label is not None and label not in self.labels:
            raise ValueError(f"Unknown label {label!r}. Known labels: {', '.join(self.labels)}.")
        return self.drops[:, self.labels.index(self.label if label is None else label)]

    def parts(self) -> list[str]:
        """Return the text of each part."""
        return [self.text[start:end] for start, end in self.spans]

    def ranking(self) -> np.ndarray:
        """Return the parts in the order of their drops of the explained label, the largest first, int64 `(parts,)`."""
        return np.argsort(-self.drops_of(), kind="stable")

    def to_dict(self) -> dict[str, Any]:
        """Return what a file has of it, without the text: JSON-serialisable, `null` in the place of NaN."""
        drops = [None if np.isnan(drop) else round(float(drop), DIGITS) for drop in self.drops_of()]
        return {
            "predicted": self.predicted,
            "label": self.label,
            "probability": round(self.probability, DIGITS),
            "units": [
                {"start": int(start), "end": int(end), "drop": drop}
                for (start, end), drop in zip(self.spans, drops, strict=True)
            ],
        }
