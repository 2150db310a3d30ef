"""Which documents without labels teach most: the teacher is sure of them, and the student is not."""

from __future__ import annotations

import numpy as np

_SMALLEST = 1e-12


def confidence(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return how sure probabilities `(n, labels)` are of a decision, float64 `(n,)`; for multi-label the mean."""
    if multi_label:
        return np.maximum(probabilities, 1 - probabilities).mean(axis=1, dtype=np.float64)
    return probabilities.max(axis=1).astype(np.float64)


def uncertainty(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return the entropy of probabilities `(n, labels)`, float64 `(n,)`: 1 is the highest. For multi-label the mean."""
    found = np.clip(probabilities.astype(np.float64), _SMALLEST, 1)
    if not multi_label:
        return -(found * np.log(found)).sum(axis=1) / np.log(found.shape[1])
    rest = np.clip(1 - probabilities.astype(np.float64), _SMALLEST, 1)
    return -(found * np.log(found) + rest * np.log(rest)).mean(axis=1) / np.log(2)


def most_teaching(teacher: np.ndarray, student: np.ndarray, number: int, *, multi_label: bool) -> np.ndarray:
    """Return the rows with the highest product of the teacher's confidence and the student's uncertainty.

    The two criteria of arXiv 2411.08028, which draws by thresholds on both in each batch; here once, for all documents.

    Args:
        teacher: Probabilities `(n, labels)`.
        student: Probabilities `(n, labels)` of a student that was trained on the labelled documents.
        number: Number of rows.
        multi_label: Whether a document may have several labels.

    Returns:
        Sorted row numbers, int64; all where there are no more.
    """
    worth = confidence(teacher, multi_label=multi_label) * uncertainty(student, multi_label=multi_label)
    return np.sort(np.argsort(-worth, kind="stable")[:number])


def drawn(documents: int, number: int, seed: int) -> np.ndarray:
    """Return so many rows at random, sorted; all where there are no more."""
    return np.sort(np.random.default_rng(seed).permutation(documents)[:number])
