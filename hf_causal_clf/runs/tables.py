"""The columns of predicted documents, as Arrow arrays of types that do not depend on what was predicted.

Knows labels and probabilities. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..task.labels import LabelSpace


def answer_column(answers: Sequence[Any], label_space: LabelSpace) -> pa.Array:
    """Label names of each document: strings, or lists of strings in a multi-label space, be they all empty."""
    return pa.array(answers, pa.list_(pa.string()) if label_space.multi_label else pa.string())


def abstained_column(sure: np.ndarray, missing: np.ndarray, label_space: LabelSpace) -> pa.Array:
    """Where a run should not answer: true or false for each document, or in a multi-label space the labels.

    Args:
        sure: Whether it is sure enough, bool `(n,)` or `(n, labels)`.
        missing: Whether a document has no text, bool `(n,)`: null.
        label_space: The labels.
    """
    if not label_space.multi_label:
        return pa.array(~sure, pa.bool_(), mask=missing)
    rows = [None if gone else label_space.decode(~row) for row, gone in zip(sure, missing, strict=True)]
    return pa.array(rows, pa.list_(pa.string()))


def explanation_column(explanations: Sequence[Any]) -> pa.Array:
    """What leaving out each part of a document does: `start`, `end` and `drop`, null where nothing would be left.

    Args:
        explanations: The `Explanation` of each document, or `None`.
    """
    kind = pa.list_(pa.struct({"start": pa.int64(), "end": pa.int64(), "drop": pa.float32()}))
    return pa.array([each and each.to_dict()["units"] for each in explanations], kind)


def probability_column(probabilities: np.ndarray) -> pa.Array:
    """Probabilities `(n, labels)` as a list of float32 for each document, in the order of the labels."""
    return pa.array(list(probabilities.astype(np.float32)), pa.list_(pa.float32()))


def named_probability_column(probabilities: np.ndarray, label_space: LabelSpace) -> pa.Array:
    """Probabilities `(n, labels)` as a structure with a float32 field for each label; null for a row of NaN."""
    missing = np.isnan(probabilities).any(axis=1)
    fields = [pa.array(column, pa.float32(), mask=missing) for column in probabilities.astype(np.float32).T]
    return pa.StructArray.from_arrays(fields, names=list(label_space.names), mask=pa.array(missing))
