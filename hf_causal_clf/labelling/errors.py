"""Labels that are probably wrong, by confident learning (Northcutt et al., 2021, arXiv 1911.00068). Knows arrays only.

The judgement is cleanlab's, which is an extra: `pip install 'hf_causal_clf[audit]'`.
"""

from __future__ import annotations

import numpy as np


def label_doubts(gold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return how sure probabilities are that the label of a document is wrong, float64 `(n,)`.

    It is 1 less the probability of the label; where a document may have several, the highest probability that a label
    is wrong, be it there or missing.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        probabilities: `(n, labels)`, given by models that did not see the document's label.
    """
    if gold.ndim == 1:
        return 1.0 - probabilities[np.arange(len(gold)), gold].astype(np.float64)
    return np.abs(gold - probabilities.astype(np.float64)).max(axis=1)


def label_errors(gold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return which documents have a wrong label by cleanlab's judgement, bool `(n,)`.

    From the labels and the probabilities, it estimates how often each label stands for each other, and takes as many
    documents, those with the lowest probability of their label and with the largest margin to the other label: those
    that are among both. Where a document may have several labels, each is judged by itself.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        probabilities: `(n, labels)`, given by models that did not see the document's label.
    """
    if gold.ndim == 2:
        one_by_one = [
            label_errors(gold[:, label], np.column_stack([1 - column, column]))
            for label, column in enumerate(probabilities.T)
        ]
        return np.any(one_by_one, axis=0)
    from cleanlab.filter import find_label_issues

    there = np.unique(gold)
    if len(there) < 2:
        return np.zeros(len(gold), dtype=bool)
    among = probabilities[:, there].astype(np.float64) + 1e-9  # of a label that no model knew, all are 0
    among /= among.sum(axis=1, keepdims=True)
    return np.asarray(find_label_issues(np.searchsorted(there, gold), among, filter_by="both", n_jobs=1), dtype=bool)
