"""Calibration on validation documents: temperatures for the probabilities, thresholds for multi-label decisions.

Knows arrays of gold labels and logits only. Logits are whatever gives the probabilities by a softmax (single-label: a
head's logits, or the labels' log-probabilities) or by a sigmoid (multi-label: log-odds), so both approaches have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import logging

from .metrics import decide, negative_log_likelihood

logger = logging.get_logger(__name__)

MIN_DOCUMENTS = 50  # with fewer validation documents, nothing is fitted
MIN_EXAMPLES = 20  # a label with fewer positives or negatives takes the temperature and threshold fitted on all labels
_BOUNDS = (0.05, 20.0)  # of a temperature
_SMALLEST = 1e-12  # temperature of a run that is loaded
_ADVICE = " Set the entry to null in classification.json, or train or download the run again."


@dataclass(frozen=True)
class Calibration:
    """What was fitted on the validation split; `None` leaves probabilities or the default threshold 0.5 as they are.

    Attributes:
        temperature: One temperature (single-label), or one for each label (multi-label). Above 1 it makes the
            probabilities less certain.
        thresholds: Decision threshold of each label (multi-label only), for calibrated probabilities.
    """

    temperature: float | tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None

    def apply(self, logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
        """Return calibrated probabilities `(n, labels)`, in the data type of the logits."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return to_probabilities(logits, multi_label=multi_label, temperature=temperature)

    def decide(self, probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
        """Turn calibrated probabilities into decisions, as `metrics.decide`."""
        return decide(probabilities, multi_label=multi_label, thresholds=self.thresholds)

    def check(self, labels: int) -> None:
        """Check that temperatures and thresholds make sense, and are as many as labels where they are several.

        Raises:
            ValueError: If they are not.
        """
        for name, value in (("temperatures", self.temperature), ("thresholds", self.thresholds)):
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            least = _SMALLEST if name == "temperatures" else 0.0
            if any(not isinstance(number, int | float) or not least <= number < np.inf for number in numbers):
                raise ValueError(f"The run's {name} must be positive numbers, got {value!r}.{_ADVICE}")
            if isinstance(value, tuple) and len(value) != labels:
                raise ValueError(f"The run has {len(value)} {name} for {labels} labels.{_ADVICE}")

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of `classification.json`."""
        temperature = list(self.temperature) if isinstance(self.temperature, tuple) else self.temperature
        return {"temperature": temperature, "thresholds": None if self.thresholds is None else list(self.thresholds)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Rebuild a calibration from `to_dict`'s output."""
        temperature, thresholds = data["temperature"], data["thresholds"]
        if isinstance(temperature, list):
            temperature = tuple(temperature)
        elif isinstance(temperature, int):
            temperature = float(temperature)
        return cls(temperature, None if thresholds is None else tuple(thresholds))


def fit_calibration(gold: np.ndarray, logits: np.ndarray, *, documents: str = "validation") -> Calibration:
    """Fit temperatures that minimise the negative log-likelihood, and for multi-label thresholds that maximise F1.

    With fewer than `MIN_DOCUMENTS` documents nothing is fitted. A label with fewer than `MIN_EXAMPLES` positive or
    negative documents takes the temperature and the threshold that are best over all labels together. Both say so in
    the log.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        logits: Logits of the validation documents, `(n, labels)`.
        documents: What the documents are called in the log.

    Returns:
        The calibration (temperature scaling: Guo et al., 2017, arXiv 1706.04599, section 4.2).
    """
    if len(gold) < MIN_DOCUMENTS:
        logger.warning(
            f"{len(gold)} {documents} documents are too few to calibrate on ({MIN_DOCUMENTS} are needed): "
            "probabilities and thresholds stay as they are."
        )
        return Calibration()
    common = fit_temperature(gold, logits)
    if gold.ndim == 1:
        return Calibration(common)
    positives = gold.sum(axis=0)
    scarce = (positives < MIN_EXAMPLES) | (len(gold) - positives < MIN_EXAMPLES)
    if scarce.any():
        logger.warning(
            f"{int(scarce.sum())} of {len(scarce)} labels have fewer than {MIN_EXAMPLES} positive or negative "
            f"{documents} documents and take the temperature and threshold fitted on all labels together."
        )
    temperatures = tuple(
        common if scarce[label] else fit_temperature(gold[:, [label]], logits[:, [label]])
        for label in range(len(scarce))
    )
    calibrated = Calibration(temperatures).apply(logits, multi_label=True)
    threshold = best_threshold(gold.ravel(), calibrated.ravel())
    thresholds = tuple(
        threshold if scarce[label] else best_threshold(gold[:, label], calibrated[:, label])
        for label in range(len(scarce))
    )
    return Calibration(temperatures, thresholds)


def to_probabilities(
    logits: np.ndarray, *, multi_label: bool, temperature: float | Sequence[float] = 1.0
) -> np.ndarray:
    """Return the softmax of logits `(n, labels)` divided by a temperature, or for multi-label the sigmoid.

    Computed in float64 and returned in the data type of the logits. A logit of minus infinity is the probability 0 at
    every temperature.

    Args:
        logits: Single-label: logits or log-probabilities. Multi-label: log-odds.
        multi_label: Whether each label has a probability of its own.
        temperature: One temperature, or one for each label.
    """
    from scipy.special import expit, softmax

    scaled = logits.astype(np.float64) / np.asarray(temperature)
    with np.errstate(invalid="ignore"):  # of an infinite logit, softmax makes NaN: the caller says so
        probabilities = expit(scaled) if multi_label else softmax(scaled, axis=1)
    return probabilities.astype(logits.dtype)


def to_logits(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return logits `(n, labels)` that `to_probabilities` makes these probabilities of; infinite ones of 0 and 1."""
    from scipy.special import logit

    with np.errstate(divide="ignore"):
        return logit(probabilities) if multi_label else np.log(probabilities)


def best_threshold(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold, half-way between two of the probabilities, with the highest F1 of `gold` 0/1 `(n,)`.

    Among equals the one nearest to 0.5 is taken; 0.5 if there is nothing to find.
    """
    if not gold.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order].astype(np.float64), gold[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(gold) + 1) + gold.sum())
    limits = (ranked + np.append(ranked[1:], 0.0)) / 2
    splits = np.append(ranked[1:] < ranked[:-1], True)  # equal probabilities are decided alike
    best = np.flatnonzero(splits & (f1 >= f1[splits].max() - 1e-12))
    return float(limits[best[np.abs(limits[best] - 0.5).argmin()]])


def fit_temperature(gold: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature with the lowest negative log-likelihood, from 0.05 to 20; 1.0 where nothing is better.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        logits: Logits of the same documents, `(n, labels)`.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.astype(np.float64)

    def loss(temperature: float) -> float:
        probabilities = to_probabilities(logits, multi_label=gold.ndim == 2, temperature=temperature)
        return negative_log_likelihood(gold, probabilities)

    found = minimize_scalar(lambda value: loss(float(np.exp(value))), bounds=np.log(_BOUNDS), method="bounded")
    temperature = float(np.exp(found.x))
    return temperature if loss(temperature) < loss(1.0) else 1.0
