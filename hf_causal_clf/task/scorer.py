"""What both approaches come to: logits of labels. Knows texts and labels, neither models nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


class Scorer(Protocol):
    """What gives the matrix of logits, which calibration makes probabilities of: a head, a label scorer, a baseline.

    Attributes:
        approach: `"embedding"`, `"instruction"`, or the name of a baseline.
        batch_size: Documents per forward pass.
    """

    approach: str
    batch_size: int

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 `(n, labels)`, whose softmax or, for multi-label, sigmoid are the probabilities."""
        ...


@runtime_checkable
class VariantScorer(Scorer, Protocol):
    """A scorer that runs once what variants of a text have in common."""

    def logits_of_variants(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the `logits` of the variants of each document, float32 `(variants, labels)` each.

        Args:
            documents: Texts that are variants of one another, at least one for each document.
        """
        ...


def check_list(texts: Sequence[str]) -> None:
    """Raise a `ValueError` for a single text in the place of a list, which would be read letter by letter."""
    if isinstance(texts, str):
        shown = texts if len(texts) <= 40 else f"{texts[:40]}…"
        raise ValueError(
            f"A scorer takes a list of texts, got the single text {shown!r}. Put it into a list: [text]; or give it to "
            "TextClassifier.predict_proba, which takes both."
        )
