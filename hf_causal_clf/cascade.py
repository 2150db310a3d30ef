"""Two classifiers as one: the second reads only what the first is not sure of. Knows neither runs nor models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from .evaluation.calibration import Calibration
from .evaluation.cascade import deferred_rows, margins
from .evaluation.metrics import decide
from .task.labels import LabelSpace
from .task.scorer import Scorer, check_list

STAGES = ("first", "second")  # folders of a saved cascade's members


class Stage(Protocol):
    """A part of a cascade, which every `TextClassifier` is."""

    scorer: Scorer
    label_space: LabelSpace
    calibration: Calibration


class Answers(NamedTuple):
    """What a cascade says of texts.

    Attributes:
        logits: Calibrated ones of the stage that answered, float64 `(n, labels)`.
        stages: Which that was, int64 `(n,)`: 1 or 2.
    """

    logits: np.ndarray
    stages: np.ndarray


class Cascade:
    """Lets the first classifier answer where its margin is large enough, and the second all other texts.

    The margin is that of calibrated probabilities (`evaluation.cascade.margins`). A row of probabilities is that of the
    stage that answered, and so are, in a multi-label space, the thresholds of its decisions. All texts of a call that
    are deferred are given to the second stage together, so that its batches are full.

    `TextClassifier(Cascade([student, teacher], 0.4), student.label_space)` predicts with it; recipes/cascade.py fits
    the threshold and saves both as one run.

    Args:
        stages: Two classifiers, the cheap one first, with the same label space.
        threshold: Margin from which on the first answers, from 0 (it answers all texts) to 1 (it answers none).

    Raises:
        ValueError: If there are not two stages, their labels differ, one is a cascade or has a target prior, or the
            threshold is not from 0 to 1.
    """

    approach = "cascade"

    def __init__(self, stages: Sequence[Stage], threshold: float) -> None:
        if len(stages) != 2:
            raise ValueError(f"A cascade has two stages, the cheap one first; got {len(stages)}.")
        check_spaces([stage.label_space for stage in stages])
        if any(stage.scorer.approach == self.approach for stage in stages):
            raise ValueError("A stage is a cascade itself. Give two classifiers that are none.")
        if any(getattr(stage, "_prior_ratio", None) is not None for stage in stages):
            raise ValueError("A stage has a target_prior. Load it without, and give target_prior to the cascade.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be from 0 (the first stage answers all) to 1 (none), got {threshold}.")
        self.stages = tuple(stages)
        self.threshold = float(threshold)
        self.label_space = stages[0].label_space
        self.batch_size = stages[1].scorer.batch_size

    def answer(self, texts: Sequence[str]) -> Answers:
        """Return the logits of texts, and which stage answered each.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        check_list(texts)
        passed_on = np.ones(len(texts), dtype=bool)
        logits = np.empty((len(texts), len(self.label_space)))
        if self.threshold < 1.0:
            logits = calibrated_logits(self.stages[0], texts)
            passed_on = deferred_rows(stage_margins(self.stages[0], logits), self.threshold)
        if passed_on.any():
            rest = [text for text, deferred in zip(texts, passed_on, strict=True) if deferred]
            logits[passed_on] = calibrated_logits(self.stages[1], rest)
        return Answers(logits, np.where(passed_on, 2, 1))

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return calibrated logits, float64 `(n, labels)`: their softmax or sigmoid are a stage's probabilities."""
        return self.answer(texts).logits

    def decide(self, probabilities: np.ndarray, stages: np.ndarray | None) -> np.ndarray:
        """Turn probabilities into decisions as `metrics.decide`, each row as the stage that answered does.

        Args:
            probabilities: `(n, labels)`.
            stages: Which stage answered, `(n,)`; needed where the stages have different thresholds (multi-label).

        Raises:
            ValueError: If it is needed and missing.
        """
        if not self.label_space.multi_label:
            return decide(probabilities, multi_label=False)
        limits = np.array([_thresholds(stage) for stage in self.stages])
        if stages is None:
            if (limits[0] != limits[1]).any():
                raise ValueError(
                    "The stages of this cascade have different thresholds: give decide the stages, too, which "
                    "score(texts) returns beside the probabilities."
                )
            stages = np.ones(len(probabilities), dtype=np.int64)
        return (probabilities >= limits[np.maximum(stages, 1) - 1]).astype(np.int64)


def check_spaces(spaces: Sequence[LabelSpace]) -> None:
    """Check that two stages have the same labels.

    Raises:
        ValueError: If they have not, or one is multi-label and the other is not.
    """
    first, second = spaces
    if first.multi_label != second.multi_label:
        kinds = ["multi-label" if space.multi_label else "single-label" for space in spaces]
        raise ValueError(f"The first stage is {kinds[0]}, the second {kinds[1]}. Give two runs of the same task.")
    if first != second:
        raise ValueError(
            f"The stages have different labels, or in another order: {list(first.names)} and {list(second.names)}. "
            "Give two runs that were trained on the same labels."
        )


def calibrated_logits(stage: Stage, texts: Sequence[str]) -> np.ndarray:
    """Return the logits of texts divided by the stage's temperatures, float64 `(n, labels)`."""
    temperature = 1.0 if stage.calibration.temperature is None else stage.calibration.temperature
    return stage.scorer.logits(texts).astype(np.float64) / np.asarray(temperature)


def stage_margins(stage: Stage, logits: np.ndarray) -> np.ndarray:
    """Return the margins of a stage's calibrated logits, float64 `(n,)`."""
    multi_label = stage.label_space.multi_label
    probabilities = Calibration().apply(logits, multi_label=multi_label)
    return margins(probabilities, multi_label=multi_label, thresholds=stage.calibration.thresholds)


def _thresholds(stage: Stage) -> np.ndarray:
    limits = stage.calibration.thresholds
    return np.full(len(stage.label_space), 0.5) if limits is None else np.array(limits, dtype=np.float64)
