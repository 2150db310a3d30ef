"""The numbers that the figures of a run show, as rows below a heading.

Knows arrays and numbers only. A value that there is none of is `None`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .metrics import bin_index, f1_per_label, label_counts
from .selective import risk_coverage

Rows = list[list[Any]]

_STEPS = np.linspace(0, 1, 21)


def reliability_numbers(
    gold: np.ndarray, probabilities: np.ndarray, uncalibrated: np.ndarray | None = None, *, bins: int = 15
) -> Rows:
    """Return accuracy and mean confidence in each bin of `reliability_diagram` that has documents.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task: document-label pairs are counted.
        probabilities: Class probabilities, float `(n, labels)`.
        uncalibrated: Those before calibration, float `(n, labels)`.
        bins: Number of bins of equal width.
    """
    what = ["documents", "accuracy"] if gold.ndim == 1 else ["pairs", "frequency"]
    rows: Rows = [["probabilities", "from", "to", what[0], "mean confidence", what[1]]]
    shown = {"before calibration": uncalibrated, "after calibration" if uncalibrated is not None else "": probabilities}
    for name, values in ((name, values) for name, values in shown.items() if values is not None):
        for place, count, mean, accuracy in reliability_bins(gold, values, bins):
            rows.append([name, place / bins, (place + 1) / bins, count, mean, accuracy])
    return rows if uncalibrated is not None else [row[1:] for row in rows]


def reliability_bins(gold: np.ndarray, probabilities: np.ndarray, bins: int) -> list[tuple[int, int, float, float]]:
    """Return place, count, mean confidence and accuracy of each bin that is used; arguments as above."""
    confidence = probabilities.max(axis=1) if gold.ndim == 1 else probabilities.ravel()
    correct = probabilities.argmax(axis=1) == gold if gold.ndim == 1 else gold.ravel()
    index = bin_index(confidence, bins, "width")
    counts = np.bincount(index, minlength=bins)
    used = np.flatnonzero(counts)
    mean, accuracy = (
        np.bincount(index, weights=each, minlength=bins)[used] / counts[used] for each in (confidence, correct)
    )
    return list(zip(used.tolist(), counts[used].tolist(), mean.tolist(), accuracy.tolist(), strict=True))


def confusion_numbers(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Rows:
    """Return how many documents of a label got another one, the most frequent mistakes first.

    Args:
        gold: Label ids, int `(n,)`.
        predicted: Label ids, int `(n,)`; -1 stands for no usable answer.
        labels: Names of the labels.
    """
    wrong = gold != predicted
    pairs, counts = np.unique(np.stack([gold[wrong], predicted[wrong]]), axis=1, return_counts=True)
    names, support = [*labels, "malformed"], label_counts(gold, len(labels))
    rows: Rows = [["true label", "predicted label", "documents", "share of the true label's"]]
    for place in np.argsort(-counts, kind="stable"):
        true, answer = pairs[:, place]
        rows.append([names[true], names[answer], int(counts[place]), float(counts[place] / support[true])])
    return rows


def label_f1_numbers(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Rows:
    """Return the F1 of each label; arguments as for `label_f1_bars`."""
    support = label_counts(gold, len(labels)).tolist()
    scores = f1_per_label(gold, predicted, len(labels)).tolist()
    return [["label", "documents", "F1"], *map(list, zip(labels, support, scores, strict=True))]


def threshold_numbers(gold: np.ndarray, probabilities: np.ndarray) -> Rows:
    """Return precision, recall and F1 (micro) at thresholds from 0 to 1; arguments as for `threshold_curves`."""
    single = gold.ndim == 1
    rows: Rows = [["threshold", "precision", "recall", "F1", *(["coverage"] if single else [])]]
    chosen, true, total = threshold_counts(gold, probabilities, _STEPS)
    for step, kept, right in zip(_STEPS.tolist(), chosen.tolist(), true.tolist(), strict=True):
        scores = [_share(right, kept), _share(right, total), _share(2 * right, kept + total)]
        rows.append([step, *scores, *([_share(kept, total)] if single else [])])
    return rows


def threshold_counts(
    gold: np.ndarray, probabilities: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Decisions made and decisions right at each threshold, and the number there is to find."""
    single = gold.ndim == 1
    shown = (probabilities.max(axis=1) if single else probabilities.ravel()).astype(np.float64)
    hits = probabilities.argmax(axis=1) == gold if single else gold.ravel() == 1
    chosen = len(shown) - np.searchsorted(np.sort(shown), grid)
    true = hits.sum() - np.searchsorted(np.sort(shown[hits]), grid)
    return chosen, true, len(gold) if single else int(hits.sum())


def risk_coverage_numbers(confidence: np.ndarray, wrong: np.ndarray) -> Rows:
    """Return the error among the most confident answers, for shares of decisions from 5 % to all of them.

    Args:
        confidence: Of each decision, `(n,)` or `(n, labels)`.
        wrong: Whether it is wrong, bool, in the form of `confidence`.
    """
    curve = risk_coverage(confidence.ravel(), wrong.ravel())
    places = np.searchsorted(curve.coverage, _STEPS[1:] - 1e-9).clip(max=len(curve.coverage) - 1)
    shown = ([float(curve.coverage[place]), float(curve.risk[place])] for place in np.unique(places))
    return [["share answered", "error among the answers"], *shown]


def set_size_numbers(sets: Mapping[str, np.ndarray]) -> Rows:
    """Return the share of documents whose conformal set has each number of labels; `sets` as in `set_sizes_figure`."""
    sizes = {name: members.sum(axis=1) for name, members in sets.items()}
    largest = max(each.max() for each in sizes.values())
    shares = [np.bincount(each, minlength=largest + 1) / len(each) for each in sizes.values()]
    rows = ([size, *(float(each[size]) for each in shares)] for size in range(largest + 1))
    return [["labels in a set", *sizes], *rows]


def training_numbers(log_history: Sequence[Mapping[str, Any]]) -> Rows:
    """Return loss and F1 at each step that `training_curves` draws."""
    keys = ("loss", "eval_loss", "eval_f1_macro", "eval_f1_micro")
    steps: dict[int, dict[str, float | None]] = {}
    for entry in log_history:
        for key in entry.keys() & set(keys):
            found = steps.setdefault(entry["step"], {"epoch": entry.get("epoch")})
            found.setdefault(key, float(entry[key]) if math.isfinite(entry[key]) else None)
    rows: Rows = [["step", "epoch", "training loss", "validation loss", "macro F1", "micro F1"]]
    return [*rows, *([step, *(found.get(key) for key in ("epoch", *keys))] for step, found in steps.items())]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
