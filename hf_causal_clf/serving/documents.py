"""What a finished run says of one document, and of a CSV file of them. Knows `TextClassifier`, no page."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cascade import Cascade
from ..classifier import TextClassifier
from ..cli.mistakes import report
from ..data.arguments import TEXT_NAMES
from ..data.columns import find_text_column
from ..data.files import first_look
from ..task.labels import LabelSpace
from .requests import Limits, wrong_with

PREDICTED, ABSTAINED, STAGE, PROBABILITIES = "predicted", "abstained", "stage", "probabilities."


@dataclass(frozen=True)
class LabelAnswer:
    """What a run says of one label of a document.

    Attributes:
        name: The label.
        probability: Calibrated.
        threshold: Multi-label: from which probability on it is given.
        given: Whether it is among the answer.
        sure: Whether the run is sure enough to keep its target error; single-label of the whole document.
    """

    name: str
    probability: float
    threshold: float | None
    given: bool
    sure: bool


@dataclass(frozen=True)
class DocumentAnswer:
    """What a run says of a document.

    Attributes:
        labels: The labels that are given: one, or any number in a multi-label run.
        rows: All labels, the most probable first.
        abstains: Whether it is not sure enough of its answer, or in a multi-label run of that on some label.
        stage: Which stage of a cascade has answered, 1 or 2.
    """

    labels: list[str]
    rows: list[LabelAnswer]
    abstains: bool
    stage: int | None


def classify_document(classifier: TextClassifier, text: str, limits: Limits) -> DocumentAnswer:
    """Classify one document.

    Args:
        classifier: A loaded run.
        text: The document.
        limits: How long it may be, in bytes of UTF-8.

    Raises:
        ValueError: If it is too long, empty, or no text.
    """
    report(_mistakes(text, limits))
    probabilities, stages = classifier.score([text])
    stage = None if stages is None else int(stages[0])
    labels = _decided(classifier, probabilities, stages)[0]
    sure = _sure(classifier, probabilities, stages)[0]
    multi_label = classifier.label_space.multi_label
    names, thresholds = classifier.label_space.names, _thresholds(classifier, stage)
    rows = [
        LabelAnswer(
            names[index],
            float(probabilities[0, index]),
            thresholds[index] if multi_label else None,
            names[index] in labels,
            bool(sure[index] if multi_label else sure),
        )
        for index in np.argsort(-probabilities[0], kind="stable")
    ]
    return DocumentAnswer(labels, rows, not bool(np.all(sure)), stage)


def classify_file(
    classifier: TextClassifier, source: Path, target: Path, limits: Limits, *, text_column: str | None = None
) -> str:
    """Classify the documents of a CSV file, and write it again with the answers.

    The new columns are `predicted` (a label; multi-label a JSON list), `abstained` of a run with a target error (true
    or false; multi-label the labels that it is not sure of), `stage` of a cascade, and for each label
    `probabilities.NAME`. They are empty for a document without text. All other cells are as they were; of columns with
    the same name, the last is kept.

    Args:
        classifier: A loaded run.
        source: The file.
        target: Where to.
        limits: How large it may be, and how many documents it may have.
        text_column: Column of the text; by default that of the run's own documents, or one with a well-known name.

    Returns:
        How many documents have which label, in words.

    Raises:
        ValueError: If it cannot be read, is too large, has no documents, or it is not clear which column is the text.
    """
    text_column, rows = _read_table(classifier, source, limits, text_column)
    texts = [row[text_column] for row in rows]
    probabilities, stages = classifier.score(texts, empty="keep")
    answers = classifier.decide(probabilities, stages)
    new = list(_columns(classifier, answers, probabilities, stages))
    taken = sorted({name for name, _ in new} & rows[0].keys())
    if taken:
        raise ValueError(f"The file has columns of the names that the answers have: {taken}. Rename them.")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], *(name for name, _ in new)])
        for row, *cells in zip(rows, *(column for _, column in new), strict=True):
            writer.writerow([*row.values(), *cells])
    return _summary(answers, classifier.label_space)


def _mistakes(text: Any, limits: Limits) -> Iterator[str]:
    if isinstance(text, str) and len(text.encode(errors="surrogatepass")) > limits.max_request_bytes:
        yield f"The document has more than {limits.max_request_bytes:,} bytes. Take a part of it."
    wrong = next(wrong_with(text, None), None)
    if wrong is not None:
        yield f"The document {wrong}"


def _read_table(
    classifier: TextClassifier, source: Path, limits: Limits, text_column: str | None
) -> tuple[str, Sequence[dict[str, Any]]]:
    """The text column and the rows of a file; errors as for `classify_file`, with the file's name alone in them."""
    if source.suffix != ".csv":
        raise ValueError(f"{source.name!r} is no CSV file: its name has to end in .csv.")
    if source.stat().st_size > limits.max_request_bytes:
        raise ValueError(f"The file has more than {limits.max_request_bytes:,} bytes. Take a part of it.")
    trained = None if classifier.run is None else classifier.run.training.get("text_column")
    wanted = [text_column] if text_column else [name for name in (trained, *TEXT_NAMES) if name]
    try:
        names, rows = first_look(source, wanted, limits.max_texts + 1)
    except ValueError as error:
        raise ValueError(str(error).replace(str(source), source.name)) from error
    if not rows:
        raise ValueError("The file has no documents: the first line of a CSV file names its columns, others are rows.")
    if len(rows) > limits.max_texts:
        raise ValueError(f"The file has more than {limits.max_texts:,} documents. Take a part of it.")
    found = text_column or find_text_column(names, trained)
    if found is None:
        raise ValueError(f"It is not clear which column is the text; there are {names}. Name it.")
    if found not in names:
        raise ValueError(f"There is no column {found!r}; there are {names}. Name one of these.")
    for number, row in enumerate(rows, start=1):
        wrong = None if row[found] is None or not row[found].strip() else next(wrong_with(row[found], None), None)
        if wrong is not None:
            raise ValueError(f"Document {number} {wrong}")
    return found, rows


def _decided(classifier: TextClassifier, probabilities: np.ndarray, stages: np.ndarray | None) -> list[list[str]]:
    answers: list[Any] = classifier.decide(probabilities, stages)
    return answers if classifier.label_space.multi_label else [[answer] for answer in answers]


def _sure(classifier: TextClassifier, probabilities: np.ndarray, stages: np.ndarray | None) -> np.ndarray:
    """Whether a run is sure enough; always so where it has no target error."""
    if abstains(classifier):
        return classifier.sure(probabilities, stages)
    shape = probabilities.shape if classifier.label_space.multi_label else probabilities.shape[:1]
    return np.ones(shape, dtype=bool)


def abstains(classifier: TextClassifier) -> bool:
    """Whether a run was given a target error."""
    return classifier.abstention is not None


def _thresholds(classifier: TextClassifier, stage: int | None) -> Sequence[float]:
    """The thresholds of what has answered."""
    scorer, calibration = classifier.scorer, classifier.calibration
    if isinstance(scorer, Cascade) and stage:
        calibration = scorer.stages[stage - 1].calibration
    return calibration.thresholds or [0.5] * len(classifier.label_space)


def _columns(
    classifier: TextClassifier, answers: Sequence[Any], probabilities: np.ndarray, stages: np.ndarray | None
) -> Iterator[tuple[str, list[str]]]:
    """The new columns, with their names."""
    space, there = classifier.label_space, ~np.isnan(probabilities).any(axis=1)
    yield PREDICTED, ["" if answer is None else _cell(answer) for answer in answers]
    if abstains(classifier):
        unsure = ~classifier.sure(probabilities, stages)
        written = [_cell(space.decode(row) if space.multi_label else bool(row)) for row in unsure]
        yield ABSTAINED, _where(there, written)
    if stages is not None:
        yield STAGE, _where(there, stages.astype(str))
    for name, column in zip(space.names, probabilities.T, strict=True):
        yield f"{PROBABILITIES}{name}", _where(there, column.astype(str))  # the fewest digits of the same float32


def _where(there: np.ndarray, cells: Iterable[str]) -> list[str]:
    return [str(cell) if known else "" for cell, known in zip(cells, there, strict=True)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _summary(answers: Sequence[Any], space: LabelSpace) -> str:
    named = [answer if space.multi_label else [answer] for answer in answers if answer is not None]
    counts = Counter(name for names in named for name in names)
    parts = [f"{name} {count:,}" for name, count in counts.most_common()]
    parts += [f"without any label {count:,}" for count in [sum(not names for names in named)] if count]
    parts += [f"without text {count:,}" for count in [len(answers) - len(named)] if count]
    return f"{len(answers):,} documents: {', '.join(parts)}."
