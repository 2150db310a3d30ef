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


def probability_column(probabilities: np.ndarray) -> pa.Array:
    """Probabilities `(n, labels)` as a list of float32 for each document, in the order of the labels."""
    return pa.array(list(probabilities.astype(np.float32)), pa.list_(pa.float32()))


def named_probability_column(probabilities: np.ndarray, label_space: LabelSpace) -> pa.Array:
    """Probabilities `(n, labels)` as a structure with a float32 field for each label; null for a row of NaN."""
    missing = np.isnan(probabilities).any(axis=1)
    fields = [pa.array(column, pa.float32(), mask=missing) for column in probabilities.astype(np.float32).T]
    return pa.StructArray.from_arrays(fields, names=list(label_space.names), mask=pa.array(missing))
