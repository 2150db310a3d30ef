"""`report.md`, `report.json` and the figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

from ..data.splits import ClassificationData
from ..evaluation import plots
from ..runs.disk import write_json, write_text
from ..runs.summary import what_was_fitted
from .arguments import ComparisonArguments
from .plan import RECIPES, run_folder
from .ranking import difference


def render_report(report: dict[str, Any], *, title: str, data: str, figures: Sequence[tuple[str, str]] = ()) -> str:
    """Render `report.md`.

    Args:
        report: Content of `report.json`.
        title: Heading.
        data: Sentence on the documents.
        figures: Title and relative path of each figure.
    """
    rows, recommendation = report["runs"], report["recommendation"]
    parts = [
        f"# {title}",
        data,
        "## Recommendation",
        recommendation["text"],
        f"The rule: {recommendation['rule']}",
        "## Runs",
        _table(_quality(rows)),
        "In brackets: 95 % bootstrap intervals over the test documents. All numbers are of the test split, "
        f"{_calibrated(rows)}. Malformed: greedy answers that are no label.",
    ]
    if any("mean" in row for row in rows):
        parts += ["## Several seeds, mean ± standard deviation", _table(_seeds(rows))]
    parts += ["## Calibration, before and after", *_calibration(rows)]
    if any("generation_f1_macro" in row["metrics"] for row in rows):
        parts += ["## Label scoring against greedy generation", _table(_generation(rows))]
    parts += ["## Cost", _table(_cost(rows)), "## Pairwise tests", _table(_pairs(report["pairwise"]))]
    parts += [
        f"p: paired permutation test of the {report['f1_average']} F1 (10,000 resamples, seed 0); corrected by Holm's "
        "method where the rule asks for the comparison, and significant below 0.05. ΔF1: a minus b, with the 95 % "
        "paired bootstrap interval (10,000 resamples). McNemar: exact p-value on documents classified wholly right; it "
        "decides nothing."
    ]
    for heading, path in figures:
        parts += [f"## {heading}", f"![{heading}]({path})"]
    return "\n\n".join(parts) + "\n"


def render_summary(report: dict[str, Any]) -> str:
    """Render what the terminal shows: a table of the runs against the best candidate, and the recommendation."""
    average, best = report["f1_average"], report["candidates"][0]
    pairs = {frozenset((pair["a"], pair["b"])): pair for pair in report["pairwise"]}
    table = [["run", f"{average} F1", f"Δ to {best}", "corrected p", "documents/s"]]
    for row in report["runs"]:
        score = _with_interval(row["metrics"][f"f1_{average}"], **row["confidence_intervals"][f"f1_{average}"])
        against = ["", ""]
        if row["name"] != best:
            pair = pairs[frozenset((row["name"], best))]
            delta = difference(pair, average)
            ends = (
                (delta.value, delta.low, delta.high) if pair["b"] == best else (-delta.value, -delta.high, -delta.low)
            )
            against = [_with_interval(*ends, sign="+"), f"{pair['p_corrected']:.3g}"]
        table.append([row["name"], score, *against, _rate(row["training"].get("predict_samples_per_second"))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, "", fill(report["recommendation"]["text"], 100)])


def _quality(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    table = [["run", "approach", "macro F1", "micro F1", "accuracy", "NLL", "Brier", "ECE", "malformed"]]
    for row in rows:
        metrics, intervals = row["metrics"], row["confidence_intervals"]
        scores = [_with_interval(metrics[name], **intervals[name]) for name in ("f1_macro", "f1_micro")]
        plain = [f"{metrics[name]:.3f}" for name in ("accuracy", "nll", "brier", "ece")]
        malformed = f"{metrics['malformed_rate']:.1%}" if "malformed_rate" in metrics else ""
        table.append([row["name"], row["approach"], *scores, *plain, malformed])
    return table


def _seeds(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    names = ("f1_macro", "f1_micro", "accuracy", "nll", "ece")
    table = [["run", "seeds", "macro F1", "micro F1", "accuracy", "NLL", "ECE"]]
    for row in rows:
        if "mean" in row:
            cells = [f"{row['mean'][name]:.3f} ± {row['sd'][name]:.3f}" for name in names]
            table.append([row["name"], ", ".join(map(str, row["seeds"])), *cells])
    return table


def _fitted(row: dict[str, Any]) -> tuple[str, bool]:
    return ("not recorded", True) if row["calibration"] is None else what_was_fitted(row["calibration"])


def _calibrated(rows: Sequence[dict[str, Any]]) -> str:
    changed = [_fitted(row)[1] for row in rows]
    if not any(changed):
        return "with the probabilities as the models give them"
    return "after what was fitted on the validation split" + (
        "" if all(changed) else ", where anything was (see below)"
    )


def _calibration(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of the runs that the calibration changed, and a sentence for each reason why it changed others not."""
    heading = ["run", "fitted", "NLL before", "after", "change", "ECE before", "after", "macro F1 before", "after"]
    table, unchanged = [heading], dict[str, list[str]]()
    for row in rows:
        metrics, (fitted, changed) = row["metrics"], _fitted(row)
        if not changed:
            unchanged.setdefault(fitted, []).append(row["name"])
            continue
        change = _with_interval(
            metrics["nll_change"], metrics["nll_change_ci_low"], metrics["nll_change_ci_high"], sign="+"
        )
        cells = {
            name: (f"{metrics[f'uncalibrated_{name}']:.3f}", f"{metrics[name]:.3f}")
            for name in ("nll", "ece", "f1_macro")
        }
        table.append([row["name"], fitted, *cells["nll"], change, *cells["ece"], *cells["f1_macro"]])
    parts = []
    if len(table) > 1:
        note = "The change of the NLL has its 95 % bootstrap interval in brackets; below zero, the calibration helped."
        parts = [_table(table), note]
    return parts + [f"Unchanged: {'; '.join(names)} (fitted: {fitted})." for fitted, names in unchanged.items()]


def _generation(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    table = [["run", "macro F1, scoring", "macro F1, generation", "micro F1, scoring", "micro F1, generation"]]
    for row in rows:
        metrics = row["metrics"]
        if "generation_f1_macro" in metrics:
            names = ("f1_macro", "generation_f1_macro", "f1_micro", "generation_f1_micro")
            table.append([row["name"], *(f"{metrics[name]:.3f}" for name in names)])
    return table


def _cost(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    table = [["run", "trained parameters", "training docs/s", "prediction docs/s", "peak memory (GiB)"]]
    for row in rows:
        cost = row["training"]
        rates = [_rate(cost.get(f"{stage}_samples_per_second")) for stage in ("train", "predict")]
        memory = f"{cost['peak_memory_bytes'] / 2**30:.2f}"
        table.append([row["name"], f"{cost['trainable_parameters']:,}", *rates, memory])
    return table


def _pairs(pairs: Sequence[dict[str, Any]]) -> list[list[str]]:
    table = [["a", "b", "Δ macro F1", "Δ micro F1", "p", "corrected", "significant", "McNemar p"]]
    for pair in pairs:
        macro = _with_interval(pair["delta_f1_macro"], pair["ci_low"], pair["ci_high"], sign="+")
        micro = _with_interval(pair["delta_f1_micro"], pair["micro_ci_low"], pair["micro_ci_high"], sign="+")
        verdict = ["", ""]  # not asked for
        if "significant" in pair:
            verdict = [f"{pair['p_corrected']:.3g}", "yes" if pair["significant"] else "no"]
        p_values = [f"{pair['p_value']:.3g}", *verdict, f"{pair['mcnemar_p']:.3g}"]
        table.append([pair["a"], pair["b"], macro, micro, *p_values])
    return table


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _rate(value: float | None) -> str:
    if not value:  # nothing to train, or trained before this was started again
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_report(
    output: Path, report: dict[str, Any], arguments: ComparisonArguments, data: ClassificationData
) -> None:
    """Write the report, with a figure of all runs and the trained ones' reliability diagrams, and print its result."""
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    kind = "multi-label" if data.label_space.multi_label else "single-label"
    sentence = (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test documents, "
        f"{len(data.label_space)} labels, {kind}. Model: {Path(arguments.model_name_or_path).name}. "
        f"Seeds: {', '.join(map(str, arguments.seeds))}."
    )
    rows, f1, average = report["runs"], f"f1_{arguments.f1_average}", arguments.f1_average
    intervals = [row["confidence_intervals"][f1] for row in rows]
    forest = plots.f1_comparison(
        [row["name"] for row in rows],
        [row["metrics"][f1] for row in rows],
        [interval["low"] for interval in intervals],
        [interval["high"] for interval in intervals],
        metric=f"{average} F1",
    )
    plots.save_figure(forest, output / "figures" / f1)
    figures = [(f"{average.capitalize()} F1 with 95 % intervals", f"figures/{f1}.png")]
    for row in rows:
        diagram = run_folder(output, row["name"], arguments.seeds[0]) / "figures" / "reliability_diagram.png"
        if row["seeds"] and row["approach"] in RECIPES and diagram.is_file():
            figures.append((f"Reliability: {row['name']}", quote(str(diagram.relative_to(output)))))
    write_json(output / "report.json", report)
    write_text(output / "report.md", render_report(report, title="Comparison", data=sentence, figures=figures))
    print(f"\n{render_summary(report)}\n\nThe report, with every pair, is in {output / 'report.md'}")


def write_learning_curves(output: Path, reports: dict[int, dict[str, Any]]) -> None:
    """Draw the F1 that decides against the number of training documents, and write the numbers beside."""
    average = reports[max(reports)]["f1_average"]
    f1, names = f"f1_{average}", [row["name"] for row in reports[max(reports)]["runs"]]
    series: dict[str, list[Any]] = {name: [] for name in names}
    for report in reports.values():
        rows = {row["name"]: row for row in report["runs"]}
        for name in names:
            row = rows[name]
            several = "mean" in row
            series[name].append((row["mean"][f1], row["sd"][f1]) if several else row["metrics"][f1])
    curves = plots.learning_curves(list(reports), series, metric=f"{average} F1")
    plots.save_figure(curves, output / "figures" / "learning_curves")
    write_json(output / "learning_curves.json", {"train_sizes": list(reports), f1: series})
    print(f"The learning curves are in {output / 'figures' / 'learning_curves.png'}")
