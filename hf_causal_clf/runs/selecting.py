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
    data: ClassificationData, logits: dict[str, np.ndarray], calibration: Calibration, target_error: float
) -> tuple[Abstention, dict[str, Any]]:
    """Fit from which confidence on a run answers, and measure it on the test documents.

    Args:
        data: Documents with gold labels.
        logits: Those of the `validation` and `test` documents, `(n, labels)` each.
        calibration: From `measure`.
        target_error: Highest error among the answers.

    Returns:
        Where it answers, and the part `abstention` of `metrics.json`: `target_error`, and for the task, or for each
        label of a multi-label task, what was `found` and on `test` the coverage, the error among the answers (`None`
        without any) and the area under the risk-coverage curve.

    Raises:
        ValueError: If there are too few validation documents, with their least number.
    """
    gold, probabilities, decisions = _decided(data, logits, calibration, "validation")
    abstention, found = fit_abstention(gold, probabilities, decisions, target_error)
    gold, probabilities, decisions = _decided(data, logits, calibration, "test")
    answered, confidence = abstention.answers(probabilities, decisions), decision_confidence(probabilities, decisions)
    columns = zip(*map(_columns, (answered, confidence, decisions != gold)), strict=True)
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


def _decided(
    data: ClassificationData, logits: dict[str, np.ndarray], calibration: Calibration, split: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    multi_label = data.label_space.multi_label
    probabilities = calibration.apply(logits[split], multi_label=multi_label)
    return data.gold(split), probabilities, calibration.decide(probabilities, multi_label=multi_label)


def _columns(values: np.ndarray) -> list[np.ndarray]:
    return [values] if values.ndim == 1 else list(values.T)
