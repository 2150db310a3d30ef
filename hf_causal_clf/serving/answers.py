"""What goes over the wire for a document: written from probabilities, and read back. Knows arrays and labels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.selective import Abstention
from ..task.labels import LabelSpace

Answer = dict[str, Any]


def write_answers(
    probabilities: np.ndarray, decisions: np.ndarray, label_space: LabelSpace, abstention: Abstention | None
) -> list[Answer]:
    """Write what a run says of documents.

    Args:
        probabilities: Calibrated, float32 `(n, labels)`.
        decisions: What the run decides by them: label ids `(n,)`, or 0/1 `(n, labels)`.
        label_space: The labels.
        abstention: Where the run does not answer; `None` for a run without a target error.

    Returns:
        For each document `label` and `probabilities`; multi-label `labels` in the place of `label`. With a target error
        also `abstained`: whether it was not sure enough, with `label` null; multi-label the labels that it is not sure
        of, given or not.
    """
    multi_label = label_space.multi_label
    sure = None if abstention is None else abstention.answers(probabilities, decisions)
    answers = []
    for row, (values, decision) in enumerate(zip(probabilities, decisions, strict=True)):
        answer: Answer = {"labels" if multi_label else "label": label_space.decode(decision)}
        if sure is not None and multi_label:
            answer["abstained"] = label_space.decode(~sure[row])
        elif sure is not None:
            answer |= {"abstained": not sure[row]} | ({} if sure[row] else {"label": None})
        shortest = map(float, values.astype(str))  # the fewest digits that are the same float32
        answers.append({**answer, "probabilities": dict(zip(label_space.names, shortest, strict=True))})
    return answers


def read_probabilities(answers: Sequence[Answer], labels: Sequence[str]) -> np.ndarray:
    """Return the probabilities of answers, float32 `(n, labels)`."""
    rows = [[answer["probabilities"][label] for label in labels] for answer in answers]
    return np.array(rows, dtype=np.float32).reshape(-1, len(labels))


def read_label(answer: Answer, *, abstain: bool) -> Any:
    """Return what `TextClassifier.predict` says of a document, with or without its `abstain`."""
    if "labels" in answer:
        given, unsure = answer["labels"], answer.get("abstained", ())
        if not abstain:
            return given
        return {name: None if name in unsure else name in given for name in answer["probabilities"]}
    if abstain or answer["label"] is not None:
        return answer["label"]
    return max(answer["probabilities"], key=answer["probabilities"].get)
