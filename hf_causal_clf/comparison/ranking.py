"""Runs on the same test documents, compared: intervals, pairwise tests, several seeds, and a recommendation.

Knows results only. The order in which the runs are given changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from ..evaluation.metrics import decision_metrics
from ..evaluation.significance import (
    Interval,
    align,
    bootstrap_f1,
    holm,
    is_correct,
    mcnemar,
    percentile_interval,
    permutation_tests,
)
from ..runs.results import Results
from .arguments import APPROACHES, F1_AVERAGES

ALPHA = 0.05
RULE = (
    "Runs are compared by their {average} F1 on the test documents. Two differ significantly when the p-value of a "
    "paired permutation test of that F1 is below 0.05, corrected by Holm's method over the comparisons that are asked"
    " for: {asked}; apart from these, {apart} against the best run; and the best run of each approach against the "
    "other's, over all pairs of these. Recommended is, of the run with the highest {average} F1, baselines included, "
    "and those whose loss against it is at most {margin:g} by the upper end of its 95 % paired bootstrap interval, "
    "the one that predicts fastest. A difference that is not significant is no equality: where that interval holds "
    "{margin:g}, the data cannot tell. About n × (1.43 × half-width / |{margin:g} - loss|)² test documents would, in "
    "four cases of five if the loss is as measured on these n."
)
_POWER = 1 + 0.8416 / 1.96  # half-widths of a 95 % interval that an effect needs to be found in 80 % of cases
_OUT_OF_REACH = 100  # times the test documents


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


def compare_runs(
    entries: Sequence[Entry], *, average: str = "macro", margin: float = 0.01, named: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare runs and return the content of `report.json`.

    Args:
        entries: The runs and baselines.
        average: F1 that decides, `"macro"` or `"micro"`.
        margin: Loss of it up to which a faster run is preferred to the best one.
        named: Names of the candidates, to be tested against one another. By default the candidates are the runs of
            the two approaches, combination and cascades (all entries if there are no such runs), each tested against
            the best of them.

    Raises:
        ValueError: If the runs were tested on other documents or gold labels.
    """
    entries = sorted(entries, key=lambda entry: entry.name)
    gold, predicted = _aligned(entries)
    bootstrap = {name: bootstrap_f1(gold, predicted, average=name) for name in F1_AVERAGES}
    p_values = permutation_tests(gold, predicted, average=average)
    rows = [_row(entry, index, bootstrap) for index, entry in enumerate(entries)]
    order = sorted(range(len(rows)), key=lambda index: (-rows[index]["metrics"][f"f1_{average}"], rows[index]["name"]))
    pairwise = [
        {
            "a": entries[first].name,
            "b": entries[second].name,
            "p_value": float(p_values[first, second]),
            "mcnemar_p": mcnemar(is_correct(gold, predicted[first]), is_correct(gold, predicted[second])),
            **_differences(first, second, bootstrap),
        }
        for first, second in combinations(order, 2)
    ]
    report = {
        "test_documents": len(gold),
        "f1_average": average,
        "margin": margin,
        "candidates": _candidates([rows[index] for index in order], named),
        "runs": [rows[index] for index in order],
        "pairwise": pairwise,
    }
    for asked in _asked(report, bool(named)):
        _correct(pairwise, asked)
    return {**report, "recommendation": recommend(report, named=bool(named))}


def recommend(report: dict[str, Any], *, named: bool = False) -> dict[str, Any]:
    """Apply `RULE` to a report that has its rows, best first, and its pairs; `named` says that the user chose the runs.

    Returns:
        `run` (the recommended one), `within_margin` (the runs whose loss against the best is), `undecided` (the faster
        ones of which the data cannot tell it, each with its `loss`, `ci_low`, `ci_high` and the number of test
        `documents` that would, or `None` where that is out of reach), `text` and `rule`.
    """
    rows, average, margin = report["runs"], report["f1_average"], report["margin"]
    best, others = rows[0], rows[1:]
    losses = {pair["b"]: difference(pair, average) for pair in report["pairwise"] if pair["a"] == best["name"]}
    within = [row for row in others if losses[row["name"]].high <= margin]
    chosen = max([best, *within], key=lambda row: (_speed(row), row["metrics"][f"f1_{average}"], row["name"]))
    undecided = [
        {"run": name, "loss": loss.value, "ci_low": loss.low, "ci_high": loss.high}
        | {"documents": documents_needed(loss, margin, report["test_documents"])}
        for row in others
        if _speed(row) > _speed(chosen) and (loss := losses[name := row["name"]]).low <= margin < loss.high
    ]
    sentences = [_candidates_text(report), _rest_text(report, named), _approaches_text(report)]
    sentences += [_chosen_text(report, chosen, losses.get(chosen["name"])), _undecided_text(undecided, margin)]
    rule = RULE.format(
        average=average,
        margin=margin,
        asked="the named runs against one another" if named else "each run against the best run",
        apart="the others" if named else "the baselines",
    )
    return {
        "run": chosen["name"],
        "within_margin": [row["name"] for row in within],
        "undecided": undecided,
        "text": " ".join(filter(None, sentences)),
        "rule": rule,
    }


def difference(pair: dict[str, Any], average: str) -> Interval:
    """Return how much higher the F1 of a pair's first run is, with its paired bootstrap interval."""
    prefix = "" if average == "macro" else "micro_"
    return Interval(pair[f"delta_f1_{average}"], pair[f"{prefix}ci_low"], pair[f"{prefix}ci_high"])


def documents_needed(loss: Interval, margin: float, documents: int) -> int | None:
    """How many test documents would tell whether a loss stays within the margin, in four cases of five.

    Returns:
        Their number if the loss is as measured, rounded up to two digits; `None` for more than 100 times the tested.
    """
    apart = margin - loss.value
    half_width = loss.high - loss.value if apart > 0 else loss.value - loss.low
    if abs(apart) * math.sqrt(_OUT_OF_REACH) <= _POWER * half_width:
        return None
    needed = documents * (_POWER * half_width / apart) ** 2
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / digits) * digits


def _candidates(rows: Sequence[dict[str, Any]], named: Sequence[str]) -> list[str]:
    """Names of the runs that the comparison is about, best first."""
    if named:
        return [row["name"] for row in rows if row["name"] in named]
    runs = [row["name"] for row in rows if row["approach"] in (*APPROACHES, "combination", "cascade")]
    return runs if any(row["approach"] in APPROACHES for row in rows) else [row["name"] for row in rows]


def _asked(report: dict[str, Any], named: bool) -> list[list[set[str]]]:
    """Pairs that are asked for, in two groups corrected apart, so that no baseline changes what is said of runs."""
    best, *others = candidates = report["candidates"]
    pairs = combinations(candidates, 2) if named else product([best], others)
    apart = product([best], (row["name"] for row in report["runs"] if row["name"] not in candidates))
    return [[set(pair) for pair in group] for group in (pairs, apart)]


def _correct(pairwise: Sequence[dict[str, Any]], asked: Sequence[set[str]]) -> None:
    """Add the corrected p-value and the verdict to the pairs that are asked for together."""
    pairs = [pair for pair in pairwise if {pair["a"], pair["b"]} in asked]
    for pair, corrected in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair |= {"p_corrected": corrected, "significant": corrected < ALPHA}


def _speed(row: dict[str, Any]) -> float:
    return row["training"].get("predict_samples_per_second", math.inf)


def _candidates_text(report: dict[str, Any]) -> str:
    """One sentence on the best candidate against the others."""
    best, *others = report["candidates"]
    if not others:
        return ""
    beaten = {pair["b"] for pair in report["pairwise"] if pair["a"] == best and pair.get("significant")}
    level = [name for name in others if name not in beaten]
    if not level:
        return f"{best} is significantly better than every other run in {report['f1_average']} F1."
    return (
        f"{best} has the highest {report['f1_average']} F1 of the runs, with no significant difference to: "
        f"{'; '.join(level)}."
    )


def _rest_text(report: dict[str, Any], named: bool) -> str:
    """What the best candidate has over the baselines, or over the runs that were not named."""
    best = report["candidates"][0]
    kind = "the others" if named else "the baselines"
    groups: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    for pair in report["pairwise"]:
        other = {pair["a"], pair["b"]} - {best}
        if len(other) > 1 or other & set(report["candidates"]):
            continue
        sign = 1 if pair["b"] == best else -1
        place = "level" if not pair["significant"] else "above" if sign > 0 else "below"
        delta = sign * difference(pair, report["f1_average"]).value
        groups[place].append(f"{other.pop()} ({delta:+.3f})")
    if groups["below"] and not groups["above"] + groups["level"]:
        return f"{best} is significantly better than all of {kind}."
    parts = [
        f"{text} {'; '.join(groups[place])}"
        for place, text in (
            ("above", "significantly better than it:"),
            ("level", "no significant difference to it:"),
            ("below", "significantly worse:"),
        )
        if groups[place]
    ]
    return f"Of {kind}, against {best}: {', '.join(parts)}." if parts else ""


def _approaches_text(report: dict[str, Any]) -> str:
    """One sentence on the best embedding-based run against the best instruction-based one, where there are both."""
    runs = [[row["name"] for row in report["runs"] if row["approach"] == approach] for approach in APPROACHES]
    if not all(runs):
        return ""
    crossing = [set(pair) for pair in product(*runs)]
    pairs = [dict(pair) for pair in report["pairwise"] if {pair["a"], pair["b"]} in crossing]
    _correct(pairs, crossing)
    best = next(pair for pair in pairs if {pair["a"], pair["b"]} == crossing[0])
    verdict = "significantly better" if best["significant"] else "no significant difference"
    size = _shown(difference(best, report["f1_average"]), sign="+")
    return (
        f"Of the two approaches, {best['a']} against {best['b']}: {report['f1_average']} F1 {size}, "
        f"corrected p {best['p_corrected']:.3g}: {verdict}."
    )


def _chosen_text(report: dict[str, Any], chosen: dict[str, Any], loss: Interval | None) -> str:
    best = report["runs"][0]
    if loss is None:
        fastest = all(_speed(row) <= _speed(best) for row in report["runs"])
        return (
            f"Recommended: {chosen['name']}, which has the highest {report['f1_average']} F1 of all"
            f"{' and predicts fastest' if fastest else ''}."
        )
    return (
        f"Recommended: {chosen['name']}, which predicts faster than {best['name']} and whose loss against it, "
        f"{_shown(loss)}, stays within the margin of {report['margin']:g}."
    )


def _undecided_text(undecided: Sequence[dict[str, Any]], margin: float) -> str:
    if not undecided:
        return ""
    parts = []
    for each in undecided:
        documents = each["documents"]
        would = f"about {documents:,} test documents would tell" if documents else "no test split in reach would tell"
        loss = Interval(each["loss"], each["ci_low"], each["ci_high"])
        parts.append(f"{each['run']} (loss {_shown(loss)}; {would})")
    which = "this faster run" if len(parts) == 1 else "these faster runs"
    return f"The data cannot tell whether {which} would lose at most {margin:g}: {'; '.join(parts)}."


def _shown(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


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
    tested = [_tested(results) for results in entry.results]
    intervals = {}
    for average, (values, samples) in bootstrap.items():
        interval = percentile_interval(values[index], samples[index])
        intervals[f"f1_{average}"] = {"low": interval.low, "high": interval.high}
    row = {
        "name": entry.name,
        "approach": entry.approach,
        "seeds": list(entry.seeds),
        "metrics": tested[0],
        "confidence_intervals": intervals,
        "calibration": entry.results[0].metrics.get("calibration"),
        "training": entry.results[0].metrics["training"],
    }
    if "abstention" in entry.results[0].metrics:
        row["abstention"] = entry.results[0].metrics["abstention"]
    if len(entry.results) > 1:
        names = [name for name in tested[0] if all(name in metrics for metrics in tested)]  # versions may differ
        table = np.array([[metrics[name] for name in names] for metrics in tested])
        row["mean"] = dict(zip(names, table.mean(axis=0).tolist(), strict=True))
        row["sd"] = dict(zip(names, table.std(axis=0, ddof=1).tolist(), strict=True))
    return row


def _tested(results: Results) -> dict[str, float]:
    """Test metrics of a run, those of its decisions counted anew: an earlier version may have counted other labels."""
    return {**results.metrics["test"], **decision_metrics(results.gold, results.predicted)}


def _differences(first: int, second: int, bootstrap: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    macro, micro = (
        percentile_interval(values[first] - values[second], samples[first] - samples[second])
        for values, samples in (bootstrap[average] for average in F1_AVERAGES)
    )
    return {
        "delta_f1_macro": macro.value,
        "ci_low": macro.low,
        "ci_high": macro.high,
        "delta_f1_micro": micro.value,
        "micro_ci_low": micro.low,
        "micro_ci_high": micro.high,
    }
