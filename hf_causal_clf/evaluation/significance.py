"""Is one run better than another on the same documents? Permutation and McNemar's test, paired bootstrap, Holm.

Knows arrays of gold labels and decisions only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_CHUNK = 250  # resamples counted at once
_ROUNDING = 1e-12  # of a mean: two differences no further apart are the same


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def align(ids: Sequence[Hashable], other_ids: Sequence[Hashable]) -> np.ndarray:
    """Return the rows of the second run in the order of the first, joined by document id.

    Where one has numbers and the other texts, as of a CSV file and a JSON file, the number 7 is the text "7".

    Raises:
        ValueError: If the two do not hold the same documents, each once.
    """
    if {type(identifier) for identifier in ids} != {type(identifier) for identifier in other_ids}:
        ids, other_ids = [str(identifier) for identifier in ids], [str(identifier) for identifier in other_ids]
    place = {identifier: row for row, identifier in enumerate(other_ids)}
    missing = sorted(map(str, set(ids) ^ set(place)))
    if missing or len(ids) != len(place) or len(other_ids) != len(place):
        raise ValueError(
            f"The runs were not tested on the same documents: {len(ids)} against {len(other_ids)}; {len(missing)} ids "
            f"are in one only, such as {missing[:3]}. Predict the same test split with both."
        )
    return np.array([place[identifier] for identifier in ids], dtype=np.int64)


def is_correct(gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Which documents are right, bool `(n,)`; a multi-label one only if all its labels are."""
    return (gold == predicted).all(axis=1) if gold.ndim == 2 else gold == predicted


def mcnemar(correct: np.ndarray, other_correct: np.ndarray) -> float:
    """Exact two-sided p-value of McNemar's test: a binomial test on the documents that one run alone gets right."""
    from scipy.stats import binomtest

    only_first = int((correct & ~other_correct).sum())
    only_second = int((~correct & other_correct).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def permutation_tests(
    gold: np.ndarray, runs: Sequence[np.ndarray], *, average: str = "macro", resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Two-sided p-values of paired permutation (approximate randomisation) tests of the F1 of each run against each.

    Each resample exchanges the two runs' decisions of every document with probability 1/2. The p-value is the share of
    resamples whose difference is at least as large, either way, as the one observed, which is counted with them.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        runs: Decisions of each run, in the form of `gold`; -1 for no usable answer.
        average: `"macro"` or `"micro"`, as in `bootstrap_f1`.
        resamples: Number of random exchanges.
        seed: Seed of the draw. Neither the order of two runs nor any third one changes their p-value.

    Returns:
        Float64 `(runs, runs)`, symmetric; 1 on the diagonal.
    """
    truth, hits = _hits(gold, runs, average)
    truth, totals = truth.sum(axis=0), [each.sum(axis=0) for each in hits]
    pairs = list(combinations(range(len(runs)), 2))

    def differences(exchanged: Sequence[np.ndarray | float]) -> np.ndarray:
        """F1 of each pair's first run less that of the second, from the hits that each run gives to the other."""
        moved = [exchanged[second] - exchanged[first] for first, second in pairs]
        scores = [
            _mean(_f1(truth, totals[first] + change)) - _mean(_f1(truth, totals[second] - change))
            for (first, second), change in zip(pairs, moved, strict=True)
        ]
        return np.array(scores)

    observed = abs(differences([0.0] * len(runs)))
    draw, reached = np.random.default_rng(seed), np.zeros(len(pairs))
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        chosen = draw.integers(0, 2, size=(rows, len(gold)), dtype=np.int8).astype(np.float32)
        exchanged = [(chosen @ each.reshape(len(gold), -1)).reshape(rows, 2, -1) for each in hits]
        reached += (abs(differences(exchanged)) >= observed[:, None] - _ROUNDING).sum(axis=1)
    p_values = np.ones((len(runs), len(runs)))
    for (first, second), count in zip(pairs, reached, strict=True):
        p_values[first, second] = p_values[second, first] = (1 + count) / (1 + resamples)
    return p_values


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted.tolist()


def mean_interval(values: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap confidence interval (percentile) of the mean of one value per document, `(n,)`."""
    samples = [counts @ values / len(values) for counts in resampling(len(values), resamples, seed)]
    return percentile_interval(float(values.mean()), np.concatenate(samples), level)


def f1_interval(
    gold: np.ndarray,
    predicted: np.ndarray,
    other_predicted: np.ndarray | None = None,
    *,
    average: str = "macro",
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap confidence interval (percentile) of a run's F1, or of how much higher it is than another run's.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        predicted: Decisions of the run, in the form of `gold`; -1 for no usable answer.
        other_predicted: Decisions of the other run on the same documents, for the paired interval of the first run's
            F1 minus that of the other.
        average: `"macro"` or `"micro"`, as in scikit-learn.
        resamples: Number of bootstrap samples of the documents.
        level: Confidence level.
        seed: Seed of the draw.

    Raises:
        ValueError: If `average` is not known.
    """
    runs = [predicted] if other_predicted is None else [predicted, other_predicted]
    values, samples = bootstrap_f1(gold, runs, average=average, resamples=resamples, seed=seed)
    if other_predicted is None:
        return percentile_interval(values[0], samples[0], level)
    return percentile_interval(values[0] - values[1], samples[0] - samples[1], level)


def bootstrap_f1(
    gold: np.ndarray, runs: Sequence[np.ndarray], *, average: str = "macro", resamples: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each run, and of each run on each of the same bootstrap samples of the documents.

    Every sample averages over the same labels. Of one that no document of a sample has, the sample says nothing: it
    keeps its F1 on all documents there.

    Returns:
        Float64 `(runs,)`, the F1 of `metrics.decision_metrics`; and float64 `(runs, resamples)`, of which differences
        of rows are paired.
    """
    truth, hits = _hits(gold, runs, average)
    scores = [_f1(truth.sum(axis=0), each.sum(axis=0)) for each in hits]
    samples = []
    for counts in resampling(len(gold), resamples, seed):
        drawn = counts @ truth
        sums = [(counts @ each.reshape(len(gold), -1)).reshape(len(counts), 2, -1) for each in hits]
        found = [np.where(drawn > 0, _f1(drawn, each), on_all) for each, on_all in zip(sums, scores, strict=True)]
        samples.append([_mean(each) for each in found])
    return np.array([_mean(each) for each in scores]), np.concatenate(samples, axis=1)


def _hits(gold: np.ndarray, runs: Sequence[np.ndarray], average: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """What the F1 of documents is counted from.

    Columns are the labels that some document has (macro), or one for all labels together (micro).

    Returns:
        How many labels of a column a document has, float32 `(n, columns)`; and of each run, twice the true positives
        and the predicted ones, float32 `(n, 2, columns)`.
    """
    if average not in ("macro", "micro"):
        raise ValueError(f"`average` must be 'macro' or 'micro', got {average!r}.")
    if gold.ndim == 1:
        labels = np.arange(max(gold.max(), *(run.max() for run in runs)) + 1)
        gold, runs = gold[:, None] == labels, [run[:, None] == labels for run in runs]

    def columns(present: np.ndarray) -> np.ndarray:
        found = present[:, gold.any(axis=0)] if average == "macro" else present.sum(axis=1, keepdims=True)
        return found.astype(np.float32)

    return columns(gold), [np.stack([2 * columns(gold * run), columns(run)], axis=1) for run in runs]


def _f1(truth: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """F1 of each column, float64 `(…, columns)`, from sums of `_hits`; 0 where nothing is true or predicted."""
    top, bottom = hits[..., 0, :].astype(np.float64), truth + hits[..., 1, :]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the columns; 0 if there are none, as no document has a label."""
    return scores.sum(axis=-1) / max(scores.shape[-1], 1)


def resampling(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each document is drawn, float32 `(chunk, size)`, for all the resamples in chunks."""
    draw = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = draw.integers(0, size, size=(rows, size)) + np.arange(rows)[:, None] * size
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float32)


def percentile_interval(value: float, samples: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval of an estimate from its values on bootstrap samples, `(resamples,)`."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
