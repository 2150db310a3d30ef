"""What a classifier leaves unanswered, and the sets of labels that it gives where it is not sure of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .cascade import Cascade
from .evaluation.calibration import Calibration, to_probabilities
from .evaluation.conformal import Conformal
from .evaluation.selective import Abstention
from .runs.run import Run
from .task.labels import LabelSpace
from .task.scorer import Scorer
from .task.texts import Empty, read_texts


class SelectivePrediction:
    """The part of `TextClassifier` that knows when it is not sure."""

    scorer: Scorer
    label_space: LabelSpace
    calibration: Calibration
    run: Run | None
    _prior_ratio: np.ndarray | None

    def decisions(self, probabilities: np.ndarray, stages: np.ndarray | None = None) -> np.ndarray:
        """Turn probabilities into decisions as `metrics.decide`, by the thresholds of the run.

        Args:
            probabilities: `(n, labels)`, of `predict_proba`.
            stages: Which stage of a cascade answered, of `score`.

        Raises:
            ValueError: If a multi-label cascade, whose stages have thresholds of their own, is not told the stages.
        """
        if isinstance(self.scorer, Cascade):
            return self.scorer.decide(probabilities, None if stages is None else np.atleast_1d(stages))
        return self.calibration.decide(probabilities, multi_label=self.label_space.multi_label)

    def sure(self, probabilities: np.ndarray, stages: np.ndarray | None = None) -> np.ndarray:
        """Whether the run is sure enough of its answers to keep its target error.

        Args:
            probabilities: `(n, labels)`, of `predict_proba`.
            stages: As for `decisions`.

        Returns:
            Bool `(n,)`, or for each label of a multi-label run, `(n, labels)`; false for a row of NaN.

        Raises:
            ValueError: As for `decisions`, and for `predict` with `abstain`.
        """
        return self._abstention().answers(probabilities, self.decisions(probabilities, stages))

    @property
    def abstention(self) -> Abstention | None:
        """Where it does not answer; `None` if no target error was fitted on probabilities as it gives them."""
        return self.run.abstention if self.run is not None and self._is_as_fitted() else None

    def _is_as_fitted(self) -> bool:
        return self.run is not None and self.calibration == self.run.calibration and self._prior_ratio is None

    def _abstention(self) -> Abstention:
        return abstention_of(self.run, as_fitted=self._is_as_fitted())

    def _sure_part(self, answer: Any, sure: np.ndarray) -> Any:
        if not self.label_space.multi_label:
            return answer if sure else None
        return {
            name: name in answer if known else None for name, known in zip(self.label_space.names, sure, strict=True)
        }

    def predict_set(
        self,
        texts: str | Iterable[str],
        coverage: float = 0.9,
        *,
        method: str = "lac",
        class_conditional: bool = False,
        empty: Empty = "error",
    ) -> Any:
        """Return for each text the labels among which its right one is with a probability of at least `coverage`.

        Split conformal prediction, calibrated on validation documents that nothing else was fitted on, or with folds on
        all labelled ones, each scored by the training that did not see it. It holds on average over such documents,
        whatever the model's probabilities are worth; for documents of another kind it does not. Single-label only.

        Args:
            texts: As for `predict_proba`.
            coverage: A share between 0 and 1.
            method: `"lac"` for the smallest sets on average, which may be empty where no label is likely enough, or
                `"aps"` for sets that are larger where the model is less sure. A part of `"aps"` is drawn by lot, the
                same for the same text.
            class_conditional: Whether the coverage is that of each label's documents, not of all together.
            empty: As for `predict_proba`.

        Returns:
            Lists of label names, the most probable first; a single list for a single text, `None` for an empty one.

        Raises:
            ValueError: If the run is multi-label or has no scores for it, or of too few documents, with their least
                number; or if an argument is not allowed.
        """
        conformal = conformal_of(self.run, target_prior=self._prior_ratio is not None)
        options: dict[str, Any] = {"method": method, "class_conditional": class_conditional}
        conformal.limits(coverage, **options)  # its mistakes are told before anything is predicted
        given = read_texts(texts, empty=empty)
        probabilities = to_probabilities(self.scorer.logits(given.texts), multi_label=False)
        given.check_numbers(probabilities)
        sets: list[Any] = [None] * given.count
        rows = zip(
            given.positions, probabilities, conformal.sets(probabilities, given.texts, coverage, **options), strict=True
        )
        for position, row, member in rows:
            sets[position] = [
                self.label_space.names[label] for label in np.argsort(-row, kind="stable") if member[label]
            ]
        return sets[0] if given.single else sets


def abstention_of(run: Run | None, *, as_fitted: bool) -> Abstention:
    """Return where a run does not answer.

    Args:
        run: The run; `None` for a model in memory.
        as_fitted: Whether its probabilities are those that this was fitted on.

    Raises:
        ValueError: If it has no fitted target error, or its probabilities are others.
    """
    if run is None or run.abstention is None:
        raise ValueError(
            "abstain needs a run with a fitted target error, and this one has none. Train it with --target_error 0.02."
        )
    if not as_fitted:
        raise ValueError(
            "abstain needs the probabilities that the target error was fitted on: leave target_prior and calibrated "
            "out, or do without abstain."
        )
    return run.abstention


def conformal_of(run: Run | None, *, target_prior: bool) -> Conformal:
    """Return the scores that a run's sets are made from.

    Args:
        run: The run; `None` for a model in memory.
        target_prior: Whether probabilities are asked for as of other label frequencies.

    Raises:
        ValueError: If it has none, or they are for other label frequencies.
    """
    if run is not None and run.label_space.multi_label:
        raise ValueError(
            "Conformal sets are for single-label runs, and this one is multi-label: its answers are sets already. Take "
            "predict."
        )
    if run is None or run.conformal is None:
        raise ValueError(
            "predict_set needs scores of documents that nothing was fitted on, and this run has none: its validation "
            "documents told which checkpoint is kept; or it has members, is a baseline, an export with "
            "fold_temperature, a model of one's own or of an earlier version. Train it with --load_best_model_at_end "
            "false, or with --folds."
        )
    if target_prior:
        raise ValueError(
            "Conformal sets hold for the label frequencies of the run's documents: leave target_prior out."
        )
    return run.conformal
