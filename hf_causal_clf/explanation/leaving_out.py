"""Leaves each part of a text out and sees what becomes of the probabilities. Knows texts and probabilities only.

A text's parts are its sentences; or, in words, parts that get smaller where it matters: each half of a sentence is left
out, then each half of those that matter, down to words. Each part is left out alone, so of two that say the same,
neither may matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .units import Unit, cut, without

MOST_PARTS = 64  # that are left out in the first round; of a longer text, neighbouring sentences are left out together
AT_ONCE = 64  # texts; the variants of no more are held
MATTERS = 0.1  # of the largest change: parts that change as much are left out in halves

Probabilities = Callable[[list[list[str]]], list[np.ndarray]]
"""Takes the variants of each document, the whole text first, and returns their `(variants, labels)`."""


class Parts:
    """The parts of one text, which get smaller from round to round.

    Args:
        text: The text.
        unit: What the smallest parts are; a text of one sentence is explained by its words.

    Attributes:
        text: The text.
        whole: Probabilities of the whole text, `(labels,)`, once they are known.
    """

    def __init__(self, text: str, unit: Unit) -> None:
        self.text = text
        self.whole: np.ndarray | None = None
        sentences = cut(text, "sentence")
        if unit == "sentence" and len(sentences) > 1:
            pieces = [[span] for span in sentences]
        else:
            pieces = [
                [(start + first, start + last) for first, last in cut(text[start:end], "word")]
                for start, end in sentences
            ]
        self._atoms = [atom for piece in pieces for atom in piece]
        edges = np.cumsum([0, *map(len, pieces)])
        if len(pieces) > 1:
            groups = np.array_split(np.arange(len(pieces)), min(MOST_PARTS, len(pieces)))
            ranges = [(int(edges[group[0]]), int(edges[group[-1] + 1])) for group in groups]
        else:
            ranges = _halves((0, len(self._atoms)))
        self._drops: dict[tuple[int, int], np.ndarray | None] = dict.fromkeys(ranges)

    def variants(self) -> list[str]:
        """Return the whole text, and the text without each part of which it is not known what that does."""
        return [self.text, *(without(self.text, [self._span(part)]) for part in self._unknown())]

    def note(self, probabilities: np.ndarray, label: int | None) -> None:
        """Note the probabilities of `variants`, `(variants, labels)`, and halve the parts that matter.

        Args:
            probabilities: Of each variant.
            label: The label for which they matter; `None` for the most probable one.
        """
        self.whole = probabilities[0]
        for part, row in zip(self._unknown(), probabilities[1:], strict=True):
            self._drops[part] = probabilities[0] - row
        label = int(self.whole.argmax()) if label is None else label
        changes = {part: abs(float(drops[label])) for part, drops in self._drops.items() if drops is not None}
        limit = max(changes.values(), default=0.0)
        for part, change in changes.items():
            if limit > 0 and change >= MATTERS * limit and part[1] - part[0] > 1:
                del self._drops[part]
                self._drops |= dict.fromkeys(_halves(part))

    def done(self) -> bool:
        """Whether all is known."""
        return self.whole is not None and not self._unknown()

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the spans in characters, int64 `(parts, 2)`, and the drops, float32 `(parts, labels)`."""
        assert self.whole is not None
        nothing = np.full_like(self.whole, np.nan)
        order = sorted(self._drops)
        rows = [self._drops[part] for part in order]
        spans = np.array([self._span(part) for part in order], dtype=np.int64)
        return spans, np.stack([nothing if row is None else row for row in rows]).astype(np.float32)

    def _unknown(self) -> list[tuple[int, int]]:
        """Parts that are to be left out; not one that is the whole text, without which nothing is left."""
        return [part for part, drops in self._drops.items() if drops is None and part != (0, len(self._atoms))]

    def _span(self, part: tuple[int, int]) -> tuple[int, int]:
        return self._atoms[part[0]][0], self._atoms[part[1] - 1][1]


def leave_out(
    texts: Sequence[str], probabilities: Probabilities, *, unit: Unit, label: int | None = None
) -> list[Parts]:
    """Leave the parts of texts out, in as many rounds as their parts are halved.

    Args:
        texts: The texts.
        probabilities: Gives the probabilities of variants of documents.
        unit: What the smallest parts are.
        label: The label for which parts matter; `None` for each text's most probable one.
    """
    documents = [Parts(text, unit) for text in texts]
    for start in range(0, len(documents), AT_ONCE):
        while active := [parts for parts in documents[start : start + AT_ONCE] if not parts.done()]:
            for parts, found in zip(active, probabilities([parts.variants() for parts in active]), strict=True):
                parts.note(found, label)
    return documents


def _halves(part: tuple[int, int]) -> list[tuple[int, int]]:
    start, end = part
    middle = (start + end + 1) // 2
    return [half for half in ((start, middle), (middle, end)) if half[0] < half[1]]
