"""Documents that are nearly the same, by what they are written with. Knows texts and arrays, and no model.

Hidden states of a language model were tried in the place of characters: they find paraphrases, but take a document in
other letters, or with a word replaced, for another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROWS = 1000  # compared at once
_CHARACTERS = 5000  # of a document that are looked at


@dataclass(frozen=True)
class Pair:
    """Two documents that are nearly the same.

    Attributes:
        first: Row of one, of the first vectors.
        second: Row of the other, of the second vectors.
        similarity: Cosine of their vectors; 1 for the same.
    """

    first: int
    second: int
    similarity: float


def text_vectors(texts: Sequence[str]) -> Any:
    """Return the TF-IDF of sequences of 3 to 5 characters, sparse float32 `(n, sequences)`, of length 1 each."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    return vectorizer.fit_transform([text[:_CHARACTERS] for text in texts])


def nearest(vectors: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other documents of each document.

    Args:
        vectors: `(n, features)` of length 1 each, dense or sparse.
        number: How many; fewer where there are no more others.

    Returns:
        Their rows, int64 `(n, number)`, the nearest first; and their similarities, float32 `(n, number)`.
    """
    number = min(number, vectors.shape[0] - 1)
    rows, similarities = [], []
    for start in range(0, vectors.shape[0], _ROWS):
        likeness = _dense(vectors[start : start + _ROWS] @ vectors.T)
        own = np.arange(len(likeness))
        likeness[own, start + own] = -np.inf
        best = np.argpartition(-likeness, number - 1, axis=1)[:, :number] if number else np.empty((len(own), 0), int)
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(likeness, best, 1), axis=1, kind="stable"), 1)
        rows.append(best)
        similarities.append(np.take_along_axis(likeness, best, axis=1))
    return np.concatenate(rows), np.concatenate(similarities)


def near_duplicates(vectors: Any, others: Any = None, *, similarity: float) -> list[Pair]:
    """Return the pairs of documents that are at least so similar, the most similar first.

    Args:
        vectors: `(n, features)` of length 1 each, dense or sparse.
        others: Those of other documents, `(m, features)`; by default, pairs are among the documents themselves.
        similarity: Lowest similarity of a pair.
    """
    pairs = []
    for start in range(0, vectors.shape[0], _ROWS):
        likeness = _dense(vectors[start : start + _ROWS] @ (vectors if others is None else others).T)
        firsts, seconds = np.nonzero(likeness >= similarity)
        for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
            if others is not None or first + start < second:
                pairs.append(Pair(first + start, second, min(1.0, float(likeness[first, second]))))
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
