"""`report.md`, `report.html`, `report.json` and the figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

from ..data.splits import ClassificationData
from ..evaluation.comparison_plots import f1_against_speed, f1_comparison, on_front
from ..evaluation.plot_style import save_figure
from ..evaluation.significance import f1_interval
from ..runs.disk import write_json, write_text
from ..runs.files import CLASSIFICATION_FILE, PAGE_FILE
from ..runs.summary import answered_and_wrong, rate_in_words, what_was_fitted
from ..sharing.cells import Name, Table, names_in
from ..sharing.markdown import marked
from ..sharing.templates import template_environment
from .arguments import F1_AVERAGES, ComparisonArguments
from .page import render_comparison
from .plan import RECIPES, entry_folder, run_folder
from .ranking import Entry, difference


def render_report(
    report: dict[str, Any],
    *,
    title: str,
    data: str,
    figures: Sequence[tuple[str, str]] = (),
    recommended: Path | None = None,
) -> str:
    """Render `report.md`.

    Args:
        report: Content of `report.json`.
        title: Heading.
        data: Sentence on the documents.
        figures: Title and relative path of each figure.
        recommended: Folder of the recommended run, if it can be loaded.
    """
    names = [row["name"] for row in report["runs"]]
    environment = template_environment()
    environment.filters["with_names"] = lambda text: marked(names_in(text, names))
    values = report_values(report, recommended)
    return environment.get_template("comparison.md").render(title=title, data=data, figures=figures, **values)


def report_values(report: dict[str, Any], recommended: Path | None = None) -> dict[str, Any]:
    """Return what both forms of the report say: texts, and tables of cells.

    Args:
        report: Content of `report.json`.
        recommended: Folder of the recommended run, if it can be loaded.
    """
    rows, found = report["runs"], report.get("combination")
    calibration, unchanged = _calibration(rows)
    return {
        "recommendation": report["recommendation"],
        "combination": None if found is None else combination_text(found),
        "combination_loading": None if not found or not found["kept"] else loading(Path(found["folder"])),
        "loading": None if recommended is None else loading(recommended),
        "f1_average": report["f1_average"],
        "quality": _quality(rows),
        "calibrated": _calibrated(rows),
        "seeds": _seeds(rows) if any("mean" in row for row in rows) else None,
        "calibration": calibration if len(calibration) > 1 else None,
        "unchanged": unchanged,
        "abstention": _abstention(rows) if any("abstention" in row for row in rows) else None,
        "generation": _generation(rows) if any("generation_f1_macro" in row["metrics"] for row in rows) else None,
        "cost": _cost(rows, report["f1_average"]),
        "pairs": _pairs(report["pairwise"]),
        "tuning": _tuning(report["tuning"]) if "tuning" in report else None,
        "not_tuned": [row["name"] for row in rows if row["name"] not in report.get("tuning", {}).get("searches", {})],
    }


def loading(folder: Path) -> str:
    """Return the call that loads a run."""
    return f"TextClassifier.from_pretrained({str(folder)!r})"


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
    return "\n".join([_in_columns(table), "", fill(report["recommendation"]["text"], 100)])


def render_entries(entries: Sequence[Entry], average: str) -> str:
    """Render what the terminal shows while a comparison goes on: a line for each entry, the best first.

    Args:
        entries: Finished runs and baselines; of several seeds, the first counts.
        average: F1 that decides.
    """
    rows = []
    for name, results in ((entry.name, entry.results[0]) for entry in entries):
        score = f1_interval(results.gold, results.predicted, average=average)
        nll, seconds = results.metrics["test"]["nll"], _rate(results.metrics["training"].get("seconds"))
        rows.append((score.value, [name, _with_interval(score.value, score.low, score.high), f"{nll:.3f}", seconds]))
    rows.sort(key=lambda row: (-row[0], row[1]))
    return _in_columns([["", f"{average} F1 [95 % interval]", "NLL", "seconds"], *(cells for _, cells in rows)])


def _in_columns(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def combination_text(found: dict[str, Any]) -> str:
    """Say in one paragraph whether a combination is kept, and what decided that; `found` is its decision as JSON."""
    if "nll_change" not in found:
        return found["reason"]
    change = _with_interval(**found["nll_change"], sign="+")
    where = f"on the {found['documents']:,} {found['split']} documents, each with weights that were fitted without it"
    numbers = (
        f"{where}, its negative log-likelihood is {change} against that of the best member, and its "
        f"{found['f1_average']} F1 {found['f1']:.3f} against {found['best_f1']:.3f}"
    )
    if not found["kept"]:
        return (
            f"No combination of {len(found['candidates'])} runs is kept: {numbers}. It would have to be significantly "
            "lower, with an F1 that is no lower."
        )
    total = sum(found["weights"].values())
    shares = ", ".join(f"{name} {weight / total:.0%}" for name, weight in found["weights"].items())
    return f"The combination adds up the log-probabilities of {shares}. It is kept, as {numbers}."


def _quality(rows: Sequence[dict[str, Any]]) -> Table:
    table = [["run", "approach", "macro F1", "micro F1", "accuracy", "NLL", "Brier", "ECE", "malformed"]]
    for row in rows:
        metrics, intervals = row["metrics"], row["confidence_intervals"]
        scores = [_with_interval(metrics[name], **intervals[name]) for name in ("f1_macro", "f1_micro")]
        plain = [f"{metrics[name]:.3f}" for name in ("accuracy", "nll", "brier", "ece")]
        malformed = f"{metrics['malformed_rate']:.1%}" if "malformed_rate" in metrics else ""
        table.append([Name(row["name"]), row["approach"], *scores, *plain, malformed])
    return table


def _seeds(rows: Sequence[dict[str, Any]]) -> Table:
    names = ("f1_macro", "f1_micro", "accuracy", "nll", "ece")
    table = [["run", "seeds", "macro F1", "micro F1", "accuracy", "NLL", "ECE"]]
    for row in rows:
        if "mean" in row:
            cells = [f"{row['mean'][name]:.3f} ± {row['sd'][name]:.3f}" for name in names]
            table.append([Name(row["name"]), ", ".join(map(str, row["seeds"])), *cells])
    return table


def _fitted(row: dict[str, Any]) -> tuple[str, bool]:
    return ("not recorded", True) if row["calibration"] is None else what_was_fitted(row["calibration"])


def _calibrated(rows: Sequence[dict[str, Any]]) -> str:
    changed = [_fitted(row)[1] for row in rows]
    if not any(changed):
        return "with the probabilities as the models give them"
    folds = any((row["calibration"] or {}).get("folds") for row in rows)
    return f"after what was fitted {'out of fold' if folds else 'on the validation split'}" + (
        "" if all(changed) else ", where anything was (see below)"
    )


def _calibration(rows: Sequence[dict[str, Any]]) -> tuple[Table, dict[str, list[str]]]:
    """A table of the runs that the calibration changed, and the names of the others for each reason."""
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
        table.append([Name(row["name"]), fitted, *cells["nll"], change, *cells["ece"], *cells["f1_macro"]])
    return table, unchanged


def _abstention(rows: Sequence[dict[str, Any]]) -> Table:
    """What runs with a target error answer on test; of several labels, the mean over them."""
    table = [["run", "target error", "answered", "wrong of these", "AURC", "answered from a confidence of"]]
    for row in (row for row in rows if "abstention" in row):
        found, test = row["abstention"]["found"], row["abstention"]["test"]
        limits = [each["threshold"] for each in found if each["threshold"] is not None]
        shown = "none is sure" if not limits else f"{limits[0]:.3f}"
        if len(found) > 1:
            shown = f"{len(limits)} of {len(found)} labels"
        answered, wrong = answered_and_wrong(row["abstention"])
        aurc = sum(each["aurc"] for each in test) / len(test)
        errors = "" if wrong is None else f"{wrong:.2%}"
        cells = [f"{row['abstention']['target_error']:g}", f"{answered:.1%}", errors, f"{aurc:.4f}", shown]
        table.append([Name(row["name"]), *cells])
    return table


def _tuning(tuning: dict[str, Any]) -> Table:
    table = [["run", "trials", "F1 as given", "F1 chosen", "chosen settings", "best so far"]]
    for name, found in tuning["searches"].items():
        scores = [trial["validation"] and trial["validation"][tuning["metric"]] for trial in found["trials"]]
        failed = scores.count(None)
        trials = f"{len(scores)}" + (f", {failed} failed" if failed else "")
        curve = [f"{scores[number - 1]:.3f} in trial {number}" for number in found["improvements"]]
        first, last = (
            "failed" if scores[index] is None else f"{scores[index]:.3f}"
            for index in (0, found["improvements"][-1] - 1)
        )
        table.append([Name(name), trials, first, last, found["chosen"], ", ".join(curve)])
    return table


def _generation(rows: Sequence[dict[str, Any]]) -> Table:
    table = [["run", "documents", *(f"{each} F1, {way}" for each in F1_AVERAGES for way in ("scoring", "generation"))]]
    for row in rows:
        metrics = row["metrics"]
        if "generation_f1_macro" not in metrics:
            continue
        cells = []
        for name in (f"f1_{average}" for average in F1_AVERAGES):
            ends = [metrics.get(f"generation_{name}_ci_{end}") for end in ("low", "high")]  # not of earlier versions
            score = metrics[f"generation_{name}"]
            cells.append(f"{metrics.get(f'generation_scoring_{name}', metrics[name]):.3f}")
            cells.append(f"{score:.3f}" if None in ends else _with_interval(score, *ends))
        documents = metrics.get("generation_documents")
        table.append([Name(row["name"]), "all" if documents is None else f"{documents:,}", *cells])
    return table


def _speeds(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    return [row["training"].get("predict_samples_per_second") for row in rows]


def _cost(rows: Sequence[dict[str, Any]], average: str) -> Table:
    heading = ["trained parameters", "training docs/s", "prediction docs/s", "peak memory (GiB)"]
    table = [["run", *heading, f"Pareto front ({average} F1, speed)"]]
    front = on_front([row["metrics"][f"f1_{average}"] for row in rows], _speeds(rows))
    for row, best in zip(rows, front, strict=True):
        cost = row["training"]
        rates = [_rate(cost.get(f"{stage}_samples_per_second")) for stage in ("train", "predict")]
        memory = f"{cost['peak_memory_bytes'] / 2**30:.2f}"
        table.append([Name(row["name"]), f"{cost['trainable_parameters']:,}", *rates, memory, "yes" if best else ""])
    return table


def _pairs(pairs: Sequence[dict[str, Any]]) -> Table:
    table = [["a", "b", "Δ macro F1", "Δ micro F1", "p", "corrected", "significant", "McNemar p"]]
    for pair in pairs:
        macro = _with_interval(pair["delta_f1_macro"], pair["ci_low"], pair["ci_high"], sign="+")
        micro = _with_interval(pair["delta_f1_micro"], pair["micro_ci_low"], pair["micro_ci_high"], sign="+")
        verdict = ["", ""]  # not asked for
        if "significant" in pair:
            verdict = [f"{pair['p_corrected']:.3g}", "yes" if pair["significant"] else "no"]
        p_values = [f"{pair['p_value']:.3g}", *verdict, f"{pair['mcnemar_p']:.3g}"]
        table.append([Name(pair["a"]), Name(pair["b"]), macro, micro, *p_values])
    return table


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _rate(value: float | None) -> str:
    if not value:  # nothing to train, or trained before this was started again
        return ""
    return rate_in_words(value)


def write_report(
    output: Path, report: dict[str, Any], arguments: ComparisonArguments, data: ClassificationData
) -> None:
    """Write the report, with a figure of all runs and the trained ones' reliability diagrams, and print its result."""
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    kind = "multi-label" if data.label_space.multi_label else "single-label"
    labelled = f"{sizes['train']:,} training, {sizes['validation']:,} validation"
    if data.fold_count:
        labelled = f"{sizes['train']:,} training documents in {data.fold_count} folds"
    sentence = (
        f"{labelled} and {sizes['test']:,} test documents, "
        f"{len(data.label_space)} labels, {kind}. Model: {Path(arguments.model_name_or_path).name}. "
        f"Seeds: {', '.join(map(str, arguments.seeds))}."
    )
    figures = _draw(output, report, arguments)
    recommended = _recommended_folder(output, report, arguments)
    page = render_report(report, title="Comparison", data=sentence, figures=figures, recommended=recommended)
    write_json(output / "report.json", report)
    write_text(output / "report.md", page)
    folders = {row["name"]: entry_folder(output, row["name"], row["seeds"], arguments) for row in report["runs"]}
    values = report_values(report, recommended)
    write_text(output / PAGE_FILE, render_comparison(report, values, sentence, output, figures, folders))
    use = "" if recommended is None else f"\nUse it: {loading(recommended)}"
    said = report.get("combination")
    tried = "" if said is None else f"\n{fill(combination_text(said), 100)}"
    print(f"\n{render_summary(report)}{tried}{use}\n\nThe report, with every pair, is in {output / PAGE_FILE}")


def _draw(output: Path, report: dict[str, Any], arguments: ComparisonArguments) -> list[tuple[str, str]]:
    """Draw all runs together; return title and relative path of these and of the trained runs' reliability diagrams."""
    rows, average = report["runs"], arguments.f1_average
    f1, names = f"f1_{average}", [row["name"] for row in rows]
    lows, highs = ([row["confidence_intervals"][f1][end] for row in rows] for end in ("low", "high"))
    measured, heading = (
        (names, [row["metrics"][f1] for row in rows], lows, highs),
        ["run", f"{average} F1", "low", "high"],
    )
    numbers = list(map(list, zip(*measured, strict=True)))
    save_figure(f1_comparison(*measured, metric=f"{average} F1"), output / "figures" / f1, [heading, *numbers])
    figures = [(f"{average.capitalize()} F1 with 95 % intervals", f"figures/{f1}.png")]
    if any(speeds := _speeds(rows)):
        numbers = [[*row, speed] for row, speed in zip(numbers, speeds, strict=True)]
        figure = f1_against_speed(*measured, speeds, metric=f"{average} F1")
        save_figure(figure, output / "figures" / "speed", [[*heading, "documents a second"], *numbers])
        figures.append((f"{average.capitalize()} F1 against speed", "figures/speed.png"))
    for row in rows:
        diagram = run_folder(output, row["name"], arguments.seeds[0]) / "figures" / "reliability_diagram.png"
        if row["seeds"] and row["approach"] in RECIPES and diagram.is_file():
            figures.append((f"Reliability: {row['name']}", quote(str(diagram.relative_to(output)))))
    return figures


def _recommended_folder(output: Path, report: dict[str, Any], arguments: ComparisonArguments) -> Path | None:
    """The folder of the recommended run, of the seed that the tests compare; `None` if there is nothing to load."""
    name = report["recommendation"]["run"]
    row = next(row for row in report["runs"] if row["name"] == name)
    folder = entry_folder(output, name, row["seeds"], arguments)
    return folder if (folder / CLASSIFICATION_FILE).is_file() else None
