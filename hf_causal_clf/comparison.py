"""Runs on the same test documents, compared: intervals, pairwise tests, several seeds, and a recommendation.

Knows results only. The order in which the runs are given changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .results import Results
from .significance import align, bootstrap_f1, holm, is_correct, mcnemar, percentile_interval

ALPHA = 0.05
RULE = (
    "Two runs differ significantly when McNemar's exact p-value, corrected by Holm's method over all pairs, is below "
    f"{ALPHA} and the 95 % paired bootstrap interval of their macro F1 difference excludes zero. Recommended is, of "
    "the run with the highest macro F1 and those that do not differ significantly from it, the one that predicts "
    "fastest."
)
_AVERAGES = ("macro", "micro")


@dataclass(frozen=True)
class Entry:
    """A run of the comparison.

    Attributes:
        name: Its name in the report.
        approach: `embedding`, `instruction`, or the name of a baseline.
        results: Results for each seed, in the order of `seeds`. The tests compare those of the first.
        seeds: Training seeds, ascending; empty for a run without one.
    """

    name: str
    approach: str
    results: Sequence[Results]
    seeds: Sequence[int] = ()


def compare_runs(entries: Sequence[Entry]) -> dict[str, Any]:
    """Compare runs and return the content of `report.json`.

    Raises:
        ValueError: If the runs were tested on other documents or gold labels.
    """
    entries = sorted(entries, key=lambda entry: entry.name)
    gold, predicted = _aligned(entries)
    bootstrap = {average: bootstrap_f1(gold, predicted, average=average) for average in _AVERAGES}
    rows = [_row(entry, index, bootstrap) for index, entry in enumerate(entries)]
    order = sorted(range(len(rows)), key=lambda index: (-rows[index]["metrics"]["f1_macro"], rows[index]["name"]))
    pairs = list(combinations(order, 2))
    correct = [is_correct(gold, decisions) for decisions in predicted]
    p_values = [mcnemar(correct[first], correct[second]) for first, second in pairs]
    pairwise = [
        _pair(entries, first, second, p_value, corrected, bootstrap)
        for (first, second), p_value, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    ]
    ranked = [rows[index] for index in order]
    return {
        "test_documents": len(gold),
        "runs": ranked,
        "pairwise": pairwise,
        "recommendation": recommend(ranked, pairwise),
    }


def recommend(rows: Sequence[dict[str, Any]], pairwise: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Apply `RULE` to the report's rows (best first) and pairs.

    Returns:
        `run` (the recommended one), `equivalent` (the runs that do not differ significantly from the best), `text`,
        and `rule`.
    """
    best = rows[0]["name"]
    beaten = {pair["b"] for pair in pairwise if pair["a"] == best and pair["significant"]}
    equivalent = [row for row in rows if row["name"] not in beaten]
    chosen = max(equivalent, key=lambda row: (row["training"].get("predict_samples_per_second", np.inf), row["name"]))
    if len(equivalent) == 1:
        text = f"{best} is significantly better than every other run."
    else:
        others = "; ".join(row["name"] for row in equivalent[1:])
        text = f"{best} has the highest macro F1, with no significant difference to: {others}."
        text += f" Of these, {chosen['name']} predicts fastest."
    sentences = [text, _approaches(rows, pairwise)]
    return {
        "run": chosen["name"],
        "equivalent": [row["name"] for row in equivalent],
        "text": " ".join(filter(None, sentences)),
        "rule": RULE,
    }


def _approaches(rows: Sequence[dict[str, Any]], pairwise: Sequence[dict[str, Any]]) -> str:
    """One sentence on the best embedding-based run against the best instruction-based one, where there are both."""
    best = {}
    for row in reversed(rows):
        best[row["approach"]] = row["name"]
    if not {"embedding", "instruction"} <= set(best):
        return ""
    names = {best["embedding"], best["instruction"]}
    pair = next(pair for pair in pairwise if {pair["a"], pair["b"]} == names)
    size = (
        f"macro F1 {pair['delta_f1_macro']:+.3f} [{pair['ci_low']:+.3f}, {pair['ci_high']:+.3f}], corrected McNemar p "
        f"{pair['mcnemar_p_holm']:.3g}"
    )
    verdict = "significantly better" if pair["significant"] else "no significant difference"
    return f"Of the two approaches, {pair['a']} against {pair['b']}: {size}: {verdict}."


def _aligned(entries: Sequence[Entry]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Gold labels, and each run's decisions for its first seed, in the order of the document ids."""
    reference = entries[0].results[0]
    ids = sorted(reference.ids)
    gold = reference.gold[align(ids, reference.ids)]
    predicted = []
    for entry in entries:
        for index, results in enumerate(entry.results):
            try:
                rows = align(ids, results.ids)
            except ValueError as error:
                raise ValueError(f"{entry.name!r} and {entries[0].name!r}: {error}") from error
            if not np.array_equal(results.gold[rows], gold):
                raise ValueError(f"{entry.name!r} and {entries[0].name!r} have other gold labels for the same ids.")
            if index == 0:
                predicted.append(results.predicted[rows])
    return gold, predicted


def _row(entry: Entry, index: int, bootstrap: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    first = entry.results[0].metrics
    intervals = {}
    for average, (values, samples) in bootstrap.items():
        interval = percentile_interval(values[index], samples[index])
        intervals[f"f1_{average}"] = {"low": interval.low, "high": interval.high}
    row = {
        "name": entry.name,
        "approach": entry.approach,
        "seeds": list(entry.seeds),
        "metrics": first["test"],
        "confidence_intervals": intervals,
        "calibration": first.get("calibration"),
        "training": first["training"],
    }
    if len(entry.results) > 1:
        names = first["test"]
        table = np.array([[results.metrics["test"][name] for name in names] for results in entry.results])
        row["mean"] = dict(zip(names, table.mean(axis=0).tolist(), strict=True))
        row["sd"] = dict(zip(names, table.std(axis=0, ddof=1).tolist(), strict=True))
    return row


def _pair(
    entries: Sequence[Entry],
    first: int,
    second: int,
    p_value: float,
    corrected: float,
    bootstrap: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    macro, micro = (
        percentile_interval(values[first] - values[second], samples[first] - samples[second])
        for values, samples in (bootstrap[average] for average in _AVERAGES)
    )
    return {
        "a": entries[first].name,
        "b": entries[second].name,
        "mcnemar_p": p_value,
        "mcnemar_p_holm": corrected,
        "delta_f1_macro": macro.value,
        "ci_low": macro.low,
        "ci_high": macro.high,
        "delta_f1_micro": micro.value,
        "micro_ci_low": micro.low,
        "micro_ci_high": micro.high,
        "significant": bool(corrected < ALPHA and not macro.low <= 0 <= macro.high),
    }
