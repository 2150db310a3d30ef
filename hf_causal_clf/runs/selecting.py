"""Where a run should not answer, and the scores of its conformal sets: from validation documents, or out of fold.

Knows the matrix of logits, whichever approach it comes from.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, to_probabilities
from ..evaluation.conformal import Conformal, conformal_scores
from ..evaluation.selective import Abstention, answered_errors, decision_confidence, fit_abstention, risk_coverage


def fit_run_abstention(
    data: ClassificationData,
    logits: dict[str, np.ndarray],
    calibration: Calibration,
    target_error: float,
    decisions: dict[str, np.ndarray] | None = None,
) -> tuple[Abstention, dict[str, Any]]:
    """Fit from which confidence on a run answers, and measure it on the test documents.

    Args:
        data: Documents with gold labels.
        logits: Those of the `validation` and `test` documents, `(n, labels)` each.
        calibration: From `measure`.
        target_error: Highest error among the answers.
        decisions: Those of both splits, where the thresholds of `calibration` do not give them.

    Returns:
        Where it answers, and the part `abstention` of `metrics.json`: `target_error`, and for the task, or for each
        label of a multi-label task, what was `found` and on `test` the coverage, the error among the answers (`None`
        without any) and the area under the risk-coverage curve.

    Raises:
        ValueError: If there are too few validation documents, with their least number.
    """
    multi_label = data.label_space.multi_label
    probabilities = {split: calibration.apply(each, multi_label=multi_label) for split, each in logits.items()}
    if decisions is None:
        decisions = {split: calibration.decide(each, multi_label=multi_label) for split, each in probabilities.items()}
    fitted = data.gold("validation"), probabilities["validation"], decisions["validation"]
    abstention, found = fit_abstention(*fitted, target_error)
    tested = probabilities["test"], decisions["test"]
    answered, confidence = abstention.answers(*tested), decision_confidence(*tested)
    columns = zip(*map(_columns, (answered, confidence, decisions["test"] != data.gold("test"))), strict=True)
    test = [
        {**answered_errors(chosen, wrong), "aurc": risk_coverage(sure, wrong).aurc} for chosen, sure, wrong in columns
    ]
    return abstention, {"target_error": target_error, "found": list(map(asdict, found)), "test": test}


def run_conformal(data: ClassificationData, logits: dict[str, np.ndarray]) -> Conformal | None:
    """Return the scores of the validation documents, or out of fold; `None` for a multi-label task.

    They are of the probabilities without the temperature, which is fitted on the same documents.
    """
    if data.label_space.multi_label:
        return None
    probabilities = to_probabilities(logits["validation"], multi_label=False)
    return conformal_scores(data.gold("validation"), probabilities, data.texts("validation"))


def _columns(values: np.ndarray) -> list[np.ndarray]:
    return [values] if values.ndim == 1 else list(values.T)
