"""Learning curves of a comparison: F1 against the number of training documents, and how many a level of it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..evaluation.comparison_plots import learning_curves
from ..evaluation.plot_style import save_figure
from ..runs.disk import write_json, write_text
from ..runs.files import PAGE_FILE
from ..sharing.cells import Name, Table
from ..sharing.markdown import table
from .page import render_curves


def write_learning_curves(output: Path, reports: dict[int, dict[str, Any]]) -> None:
    """Draw the F1 that decides against the number of training documents, and write the numbers beside.

    A combination that is not kept at each size has no curve.

    Args:
        output: Folder of the comparison, which gets `learning_curves.json` and `.md`, `report.html` and a figure.
        reports: Content of `report.json` for each number of training documents.
    """
    average = reports[max(reports)]["f1_average"]
    f1, there = f"f1_{average}", [{row["name"] for row in report["runs"]} for report in reports.values()]
    names = [row["name"] for row in reports[max(reports)]["runs"] if all(row["name"] in each for each in there)]
    series: dict[str, list[Any]] = {name: [] for name in names}
    for report in reports.values():
        rows = {row["name"]: row for row in report["runs"]}
        for name in names:
            row = rows[name]
            several = "mean" in row
            series[name].append((row["mean"][f1], row["sd"][f1]) if several else row["metrics"][f1])
    curves = learning_curves(list(reports), series, metric=f"{average} F1")
    parts = learning_curve_tables(list(reports), series, average)
    save_figure(curves, output / "figures" / "learning_curves", parts["curves"])
    write_json(output / "learning_curves.json", {"train_sizes": list(reports), f1: series})
    write_text(output / "learning_curves.md", render_learning_curves(list(reports), series, average))
    write_text(output / PAGE_FILE, render_curves(parts, output, {size: f"size-{size}" for size in reports}, average))
    print(f"The learning curves are in {output / PAGE_FILE}.")


def render_learning_curves(sizes: Sequence[int], series: dict[str, list[Any]], average: str) -> str:
    """Render `learning_curves.md`.

    Args:
        sizes: Numbers of training documents.
        series: For each run its F1 at each size, or mean and standard deviation over seeds.
        average: Which F1 that is.
    """
    tables = learning_curve_tables(sizes, series, average)
    parts = ["# Learning curves", table(tables["curves"])]
    if "until" in tables:
        parts += ["## How many documents until", table(tables["until"])]
        parts.append("Between two sizes, F1 is taken to grow with the logarithm of the number of documents.")
    return "\n\n".join(parts) + "\n"


def learning_curve_tables(sizes: Sequence[int], series: dict[str, list[Any]], average: str) -> dict[str, Table]:
    """Return the table `curves` and, where a tenth is reached, `until`; arguments as for `render_learning_curves`."""
    by_size = sorted(range(len(sizes)), key=lambda index: sizes[index])
    ordered = [sizes[index] for index in by_size]
    scores = {name: [_mean(values[index]) for index in by_size] for name, values in series.items()}
    curves = [[f"{average} F1 with training documents", *(f"{size:,}" for size in ordered)]]
    for name, values in series.items():
        curves.append([Name(name), *(_cell(values[index]) for index in by_size)])
    reached = [score for values in scores.values() for score in values]
    levels = [tenths / 10 for tenths in range(math.floor(min(reached) * 10) + 1, math.floor(max(reached) * 10) + 1)]
    tables: dict[str, Table] = {"curves": curves}
    if levels:
        until = [["training documents until an F1 of", *(f"{level:.1f}" for level in levels)]]
        for name, values in scores.items():
            until.append([Name(name), *(_until(level, ordered, values) for level in levels)])
        tables["until"] = until
    return tables


def documents_until(level: float, sizes: Sequence[int], scores: Sequence[float]) -> float | None:
    """Return the number of documents with which a curve first reaches a level; `None` if it does not.

    Args:
        level: The score that is to be reached.
        sizes: Numbers of documents, ascending.
        scores: The score with each; between two, it is taken to grow with the logarithm of their number.
    """
    if scores[0] >= level:
        return float(sizes[0])
    points = zip(sizes, scores, strict=True)
    for (fewer, low), (more, high) in pairwise(points):
        if low < level <= high:
            return float(fewer * (more / fewer) ** ((level - low) / (high - low)))
    return None


def _until(level: float, sizes: Sequence[int], scores: Sequence[float]) -> str:
    found = documents_until(level, sizes, scores)
    if found is None:
        return f"more than {sizes[-1]:,}"
    return f"at most {sizes[0]:,}" if scores[0] >= level else f"{math.ceil(found):,}"


def _mean(value: Any) -> float:
    return float(value[0] if isinstance(value, tuple | list) else value)


def _cell(value: Any) -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}" if isinstance(value, tuple | list) else f"{value:.3f}"
