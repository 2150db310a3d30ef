"""Are the parts that an explanation names those that a classifier goes by? Measured by leaving several out at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .explanation import Explanation
from .leaving_out import AT_ONCE, Probabilities
from .units import without

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of a text's parts that are left out
_RESAMPLES = 10_000


@dataclass(frozen=True)
class DeletionCurves:
    """How far the explained label's probability falls as more and more parts of a text are left out.

    Attributes:
        by_drop: In the order of the explanation, the largest drop first, float64 `(texts, shares)`.
        at_random: In an order that is drawn by lot for each text, float64 `(texts, shares)`.
    """

    by_drop: np.ndarray
    at_random: np.ndarray

    @property
    def texts(self) -> int:
        """Number of texts that were measured: those of at least two parts that the classifier reads."""
        return len(self.by_drop)

    def summary(self) -> dict[str, Any]:
        """Return the area over the curves: the mean fall over all shares, with its difference and a 95 % interval.

        AOPC (Samek et al. 2017, arXiv 1509.06321, equation 12), at shares of the parts as in DeYoung et al. (2020,
        arXiv 1911.03429, section 4). The interval is a paired bootstrap over texts.
        """
        areas = self.by_drop.mean(axis=1), self.at_random.mean(axis=1)
        difference, interval = paired_difference(*areas)
        return {
            "texts": self.texts,
            "shares": list(SHARES),
            "by_drop": self.by_drop.mean(axis=0).round(4).tolist(),
            "at_random": self.at_random.mean(axis=0).round(4).tolist(),
            "aopc_by_drop": round(float(areas[0].mean()), 4),
            "aopc_at_random": round(float(areas[1].mean()), 4),
            "difference": difference,
            "interval": interval,
        }


def deletion_curves(
    explanations: Sequence[Explanation], probabilities: Probabilities, *, seed: int = 0
) -> DeletionCurves:
    """Leave the first parts of two orders out, and see how far the explained label's probability falls.

    Parts that the classifier does not read, as the text was cut before them, are never left out, not at random either.

    Args:
        explanations: Of the texts.
        probabilities: `TextClassifier.predict_variants` of the classifier that is explained.
        seed: Of the orders that are drawn.

    Raises:
        ValueError: If no text has two parts that are read.
    """
    generator = np.random.default_rng(seed)
    read = [parts_read(explanation) for explanation in explanations]
    measured = [(each, parts) for each, parts in zip(explanations, read, strict=True) if len(parts) > 1]
    if not measured:
        raise ValueError(
            "No text has two parts that the classifier reads, so there is no order to measure. Give longer texts, or "
            "take unit='word'."
        )
    orders = [(ranked(each.drops_of(), parts), generator.permutation(parts)) for each, parts in measured]
    return DeletionCurves(*falls([each for each, _ in measured], orders, probabilities).swapaxes(0, 1))


def parts_read(explanation: Explanation) -> np.ndarray:
    """Return the parts that the classifier reads, int64: those without which some probability changes."""
    return np.flatnonzero(np.nan_to_num(explanation.drops).any(axis=1))


def ranked(scores: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return parts in the order of their scores `(all parts,)`, the highest first."""
    return parts[np.argsort(-scores[parts], kind="stable")]


def falls(
    explanations: Sequence[Explanation], orders: Sequence[Sequence[np.ndarray]], probabilities: Probabilities
) -> np.ndarray:
    """Return how far the explained label's probability falls without the first parts of orders.

    Args:
        explanations: Of the texts.
        orders: Orders of the parts of each text, as many for each.
        probabilities: As for `deletion_curves`.

    Returns:
        Float64 `(texts, orders, shares)`.
    """
    documents = [
        [each.text, *(_left(each, order, share) for order in of_text for share in SHARES)]
        for each, of_text in zip(explanations, orders, strict=True)
    ]
    found = []
    for start in range(0, len(documents), AT_ONCE):
        for explanation, rows in zip(
            explanations[start:], probabilities(documents[start : start + AT_ONCE]), strict=False
        ):
            row = rows[:, explanation.labels.index(explanation.label)].astype(np.float64)
            found.append((row[0] - row[1:]).reshape(-1, len(SHARES)))
    return np.stack(found)


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, list[float]]:
    """Return the mean difference of two numbers of each text, `(texts,)`, and its 95 % interval (paired bootstrap)."""
    differences = first - second
    rows = np.random.default_rng(0).integers(0, len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    return round(float(differences.mean()), 4), [round(float(low), 4), round(float(high), 4)]


def _left(explanation: Explanation, order: np.ndarray, share: float) -> str:
    """The text without the first parts of an order, but for one at least."""
    count = min(int(np.ceil(share * len(order))), len(order) - 1)
    spans = [(int(start), int(end)) for start, end in explanation.spans[np.sort(order[:count])]]
    return without(explanation.text, spans)
