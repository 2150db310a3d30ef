"""`report.html` of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..evaluation.plot_style import shorten
from ..pages.figures import read_figure
from ..pages.page import render_page
from ..runs.files import PAGE_FILE
from ..sharing.cells import Link, Name, Table, names_in

_SHOWN = {
    "figures/f1": "The best run is at the top. Intervals that overlap say little: the tests below are paired.",
    "figures/speed": "Runs on the line are beaten by none that is as good and as fast.",
}
_SECTIONS = {
    "runs": "Runs",
    "combination": "Combination",
    "tuning": "Tuning",
    "seeds": "Several seeds",
    "before": "Calibration",
    "abstention": "Answers at a target error",
    "generation": "Label scoring against greedy generation",
    "cost": "Cost",
    "pairs": "Pairwise tests",
}
_RELIABILITY = "How often it is right, against how sure it says it is, on the test documents."


def render_comparison(
    report: Mapping[str, Any],
    values: Mapping[str, Any],
    data: str,
    output: Path,
    figures: Sequence[tuple[str, str]],
    folders: Mapping[str, Path],
) -> str:
    """Render the page of a comparison.

    Args:
        report: Content of `report.json`.
        values: What both forms of the report say (`report_values`).
        data: Sentence on the documents.
        output: Folder of the comparison.
        figures: Title and relative path, as in an address, of each figure.
        folders: Of each run by its name: those that have a page are linked to it.

    Returns:
        The whole HTML document.
    """
    shown = []
    for title, address in figures:
        path = unquote(address).removesuffix(".png")
        words = next((text for start, text in _SHOWN.items() if path.startswith(start)), _RELIABILITY)
        shown.append(read_figure(output, path, title, words))
    pages = {name: found for name, folder in folders.items() if (found := _address(folder, output))}
    tables = {name: _linked(values[name], pages) for name in ("quality", "cost")}
    names, average = [row["name"] for row in report["runs"]], report["f1_average"]
    chosen = next(row for row in report["runs"] if row["name"] == report["recommendation"]["run"])
    return render_page(
        "comparison.html",
        **{**values, **tables},
        data=data,
        names=names,
        chosen=shorten([chosen["name"]], 40)[0],
        score=chosen["metrics"][f"f1_{average}"],
        interval=chosen["confidence_intervals"][f"f1_{average}"],
        speed=chosen["training"].get("predict_samples_per_second"),
        said=names_in(report["recommendation"]["text"], names),
        said_of_combination=names_in(values["combination"] or "", names),
        figures=[figure for figure in shown if figure is not None],
        sections={name: title for name, title in _SECTIONS.items() if values.get(name, True)},
    )


def render_curves(tables: Mapping[str, Table], output: Path, folders: Mapping[int, str], average: str) -> str:
    """Render the page of learning curves.

    Args:
        tables: Those of the curves (`learning_curve_tables`).
        output: Folder of the comparison.
        folders: For each number of training documents, the folder of its comparison below that.
        average: Which F1 the curves show.

    Returns:
        The whole HTML document.
    """
    words = f"{average.capitalize()} F1 on test, against the number of training documents on a logarithmic axis."
    return render_page(
        "curves.html",
        tables=tables,
        figure=read_figure(output, "figures/learning_curves", "Learning curves", words),
        pages={size: f"{folder}/{PAGE_FILE}" for size, folder in sorted(folders.items())},
        average=average,
        sections={},
    )


def _address(folder: Path, output: Path) -> str | None:
    """The relative address of a run's page; `None` where it has none, or is not below the comparison's folder."""
    page = folder / PAGE_FILE
    if not page.is_file() or not page.is_relative_to(output):
        return None
    return quote(page.relative_to(output).as_posix())


def _linked(table: Table, pages: Mapping[str, str]) -> Table:
    """A table whose rows begin with the names of runs, these linked to their pages."""
    return [table[0], *([_link(row[0], pages), *row[1:]] for row in table[1:])]


def _link(name: Any, pages: Mapping[str, str]) -> Any:
    return Link(name, pages[name]) if name in pages else Name(name)
