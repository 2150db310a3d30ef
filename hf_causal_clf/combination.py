"""Several scorers as one, by a weighted sum of their log-probabilities. Knows neither runs nor models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .evaluation.calibration import Calibration
from .evaluation.combination import combine, member_scores
from .task.scorer import Scorer


@dataclass(frozen=True)
class Member:
    """A part of a combination.

    Attributes:
        scorer: What gives its logits.
        calibration: That of its run: its temperatures are applied before it is weighted.
        weight: Its weight, above 0.
    """

    scorer: Scorer
    calibration: Calibration
    weight: float


class CombinationScorer:
    """Gives the weighted sum of the members' calibrated log-probabilities, for multi-label of their log-odds.

    Args:
        members: All for the same labels, in the same order.
        multi_label: Whether each label has a probability of its own.
        batch_size: Documents per forward pass; the members have their own.
    """

    approach = "combination"

    def __init__(self, members: Sequence[Member], *, multi_label: bool, batch_size: int) -> None:
        self.members = tuple(members)
        self.multi_label = multi_label
        self.batch_size = batch_size

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 `(n, labels)`, whose softmax or, for multi-label, sigmoid are the probabilities."""
        scores = [calibrated_scores(each.scorer, each.calibration, texts, self.multi_label) for each in self.members]
        return combine(scores, [each.weight for each in self.members]).astype(np.float32)


def calibrated_scores(scorer: Scorer, calibration: Calibration, texts: Sequence[str], multi_label: bool) -> np.ndarray:
    """Return the `member_scores` of texts, float64 `(n, labels)`."""
    temperature = 1.0 if calibration.temperature is None else calibration.temperature
    return member_scores(scorer.logits(texts), multi_label=multi_label, temperature=temperature)
