"""How good a classifier gets with more labelled documents, from those that there are. Knows arrays only.

Heads are trained on nested parts of the documents, and an inverse power law is fitted to their F1, larger parts
weighing more (Figueroa et al., 2012, BMC Med. Inform. Decis. Mak. 12:8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.calibration import to_probabilities
from ..evaluation.metrics import decide
from ..evaluation.significance import Interval, bootstrap_f1, percentile_interval
from .heads import fitted

FEWEST = 40  # documents that a forecast needs
_SMALLEST_PART = 20
_STEP = 2**0.5  # from one part to the next
_DRAWS = 10
_EXPONENTS = np.arange(0.05, 2.01, 0.05)


@dataclass(frozen=True)
class Curve:
    """What heads say of test documents that were trained on parts of the labelled ones.

    Attributes:
        sizes: Numbers of documents, ascending; the last is all of them.
        decisions: Label ids `(draws, sizes, n)`, or 0/1 `(draws, sizes, n, labels)`. Of all documents, there is one
            draw, which is repeated.
        gold: Gold labels of the test documents, label ids `(n,)`, or 0/1 `(n, labels)`.
    """

    sizes: list[int]
    decisions: np.ndarray
    gold: np.ndarray


@dataclass(frozen=True)
class PowerLaw:
    """The F1 expected with `n` documents: `limit - scale * n ** -exponent`; numbers, or arrays for several laws."""

    limit: Any
    scale: Any
    exponent: Any

    def at(self, documents: np.ndarray) -> np.ndarray:
        """Return the F1 expected with numbers of documents, float64, not below 0."""
        return np.maximum(self.limit - self.scale * np.asarray(documents, dtype=np.float64) ** -self.exponent, 0.0)


@dataclass(frozen=True)
class Forecast:
    """F1 with numbers of documents.

    Attributes:
        measured: With each size of the curve, the mean over draws, with the 95 % interval of test documents and draws.
        expected: With each number of documents that was asked for, with the 95 % interval.
        law: What was fitted.
    """

    measured: list[Interval]
    expected: list[Interval]
    law: PowerLaw


def check_number(documents: int) -> None:
    """Raise a `ValueError` for fewer labelled documents than a forecast needs."""
    if documents < FEWEST:
        raise ValueError(
            f"A forecast needs at least {FEWEST} labelled documents beside those of the test, and there are "
            f"{documents}. Label more of them, any will do."
        )


def learning_curve(
    features: np.ndarray,
    gold: np.ndarray,
    test_features: np.ndarray,
    test_gold: np.ndarray,
    *,
    labels: int,
    strength: float,
    seed: int = 0,
) -> Curve:
    """Train heads on nested parts of documents, drawn ten times.

    Args:
        features: Of the labelled documents, `(n, features)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        test_features: Of the test documents.
        test_gold: Their labels, in the form of `gold`.
        labels: Number of labels.
        strength: C of the heads.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are fewer than 40 documents.
    """
    check_number(len(gold))
    most = len(gold) / max(_SMALLEST_PART, 2 * labels)  # times as many as in the smallest part
    steps = int(np.log(max(most, 1.0)) / np.log(_STEP) + 1e-9)
    sizes = [round(len(gold) / _STEP**step) for step in range(max(steps, 3), -1, -1)]
    draw = np.random.default_rng(seed)

    def decisions(rows: np.ndarray) -> np.ndarray:
        logits = fitted(features[rows], gold[rows], labels, strength).logits(test_features)
        probabilities = to_probabilities(logits, multi_label=gold.ndim == 2)
        return decide(probabilities, multi_label=gold.ndim == 2)

    of_all = decisions(np.arange(len(gold)))
    found = []
    for _ in range(_DRAWS):
        order = _mixed(gold, draw)
        found.append([*(decisions(order[:size]) for size in sizes[:-1]), of_all])
    return Curve(sizes, np.array(found), test_gold)


def forecast(curve: Curve, targets: Sequence[int], *, average: str, resamples: int = 500, seed: int = 0) -> Forecast:
    """Forecast the F1 with numbers of documents.

    The interval is that of bootstrap samples of the test documents and of the draws, a law fitted to each.

    Args:
        curve: What was measured.
        targets: Numbers of documents.
        average: `"macro"` or `"micro"`.
        resamples: Number of bootstrap samples.
        seed: Seed of the samples.
    """
    draws, sizes = curve.decisions.shape[:2]
    runs = list(curve.decisions.reshape(draws * sizes, *curve.gold.shape))
    scores, samples = bootstrap_f1(curve.gold, runs, average=average, resamples=resamples, seed=seed)
    means = scores.reshape(draws, sizes).mean(axis=0)
    picked = np.random.default_rng(seed).integers(0, draws, (resamples, draws))
    by_sample = samples.reshape(draws, sizes, resamples)
    resampled = np.array([by_sample[rows, :, sample].mean(axis=0) for sample, rows in enumerate(picked)])
    law = fit_power_law(curve.sizes, means)
    limits, scales, exponents = (each[:, None] for each in _fit(curve.sizes, resampled))
    spread = PowerLaw(limits, scales, exponents).at(np.array(targets))
    measured = [percentile_interval(*pair) for pair in zip(means, resampled.T, strict=True)]
    expected = [percentile_interval(*pair) for pair in zip(law.at(np.array(targets)), spread.T, strict=True)]
    return Forecast(measured, expected, law)


def fit_power_law(sizes: Sequence[int], scores: np.ndarray) -> PowerLaw:
    """Fit the law that has the least squared error, each size weighing by its number of documents.

    Args:
        sizes: Numbers of documents.
        scores: F1 with each, float64 `(sizes,)`.

    Returns:
        A law that does not fall, and has a limit of at most 1.
    """
    limit, scale, exponent = _fit(sizes, scores[None])
    return PowerLaw(float(limit[0]), float(scale[0]), float(exponent[0]))


def _fit(sizes: Sequence[int], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limit, scale and exponent of the law that fits each row of scores `(rows, sizes)` best."""
    documents = np.asarray(sizes, dtype=np.float64)
    weights = documents / documents.sum()
    found = []
    for exponent in _EXPONENTS:
        x = documents**-exponent
        middle, height = weights @ x, scores @ weights
        falling = (scores - height[:, None]) @ (weights * (x - middle))
        scale = np.maximum(0.0, -falling / (weights @ (x - middle) ** 2))
        limit = height + scale * middle
        at_most = ((1.0 - scores) @ (weights * x)) / (weights @ x**2)
        limit, scale = np.minimum(limit, 1.0), np.where(limit > 1.0, at_most, scale)
        errors = (scores - limit[:, None] + scale[:, None] * x) ** 2 @ weights
        found.append((errors, limit, scale, np.full(len(scores), exponent)))
    errors, limits, scales, exponents = (np.array(each) for each in zip(*found, strict=True))
    best = errors.argmin(axis=0), np.arange(len(scores))
    return limits[best], scales[best], exponents[best]


def _mixed(gold: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Rows in random order; in a single-label task so that every beginning has the labels about in proportion."""
    order = draw.permutation(len(gold))
    if gold.ndim == 2:
        return order
    places = np.empty(len(gold))
    for label in np.unique(gold):
        rows = order[gold[order] == label]
        places[rows] = (np.arange(len(rows)) + draw.random(len(rows))) / len(rows)
    return np.argsort(places, kind="stable")
