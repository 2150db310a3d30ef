"""Figures of a run: its probabilities, its decisions and its training.

Knows arrays and numbers only. Each function returns a `matplotlib.figure.Figure` that belongs to nobody: no pyplot, no
backend. matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figure_numbers import reliability_bins, threshold_counts
from .metrics import decide, decision_metrics, expected_calibration_error, f1_per_label, label_counts
from .plot_style import BLUE, COLOURS, GREEN, GREY, RED, new_figure, shorten, styled, write_beside
from .selective import risk_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def reliability_diagram(
    gold: np.ndarray, probabilities: np.ndarray, uncalibrated: np.ndarray | None = None, *, bins: int = 15
) -> Figure:
    """Draw accuracy against confidence, in the bins of `expected_calibration_error`, above the number in each bin.

    For a multi-label task it is the frequency of the label against its probability, over all document-label pairs. The
    distance of each bin from the diagonal is drawn at the bin's mean confidence; ECE is the mean of these distances,
    weighted by the numbers below.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task.
        probabilities: Class probabilities, float `(n, labels)`.
        uncalibrated: Those before calibration, float `(n, labels)`, drawn beside for comparison.
        bins: Number of bins of equal width.
    """
    shown = {"": probabilities}
    if uncalibrated is not None:
        shown = {"Before calibration": uncalibrated, "After calibration": probabilities}
    figure = new_figure(7 if len(shown) == 2 else 4.5, 5, gap=0.06)
    axes = figure.subplots(
        2, len(shown), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 1]}
    )
    for column, (title, values) in enumerate(shown.items()):
        _same_documents(gold, values)
        _reliability(axes[0, column], axes[1, column], gold, values, bins)
        axes[0, column].legend(
            title=title,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            alignment="left",
            handlelength=1.5,
            columnspacing=1,
        )
    axes[0, 0].set_ylabel("accuracy" if gold.ndim == 1 else "frequency of the label")
    axes[1, 0].set_ylabel("documents\n(log scale)" if gold.ndim == 1 else "pairs\n(log scale)")
    figure.supxlabel("confidence" if gold.ndim == 1 else "probability (document-label pairs)", fontsize=10)
    return figure


def _reliability(above: Axes, below: Axes, gold: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    used, counts, mean, accuracy = map(np.array, zip(*reliability_bins(gold, probabilities, bins), strict=True))
    centres = (used + 0.5) / bins
    ece = expected_calibration_error(gold, probabilities, bins=bins)
    above.bar(centres, accuracy, 0.94 / bins, color=BLUE, alpha=0.75)
    above.vlines(mean, accuracy, mean, color=RED, linewidth=2.5, label=f"gap (ECE {ece:.3f})")
    above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfect")
    above.set(xlim=(0, 1), ylim=(0, 1.02))
    below.bar(centres, counts, 0.94 / bins, color=GREY)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)  # a single document is seen
    below.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    below.minorticks_off()


@styled
def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Figure:
    """Draw how often each label was taken for each other one: true labels down, predicted ones across.

    Colours are shares of the row, on a square-root scale for more than 20 labels so that rare confusions are seen.
    Numbers are documents and appear where they fit. The figure grows with the labels.

    Args:
        gold: Label ids, int `(n,)`.
        predicted: Label ids, int `(n,)`; -1 stands for no usable answer and gets a column of its own if there is one.
        labels: Names of the labels.

    Raises:
        ValueError: If the arrays are not those of a single-label task.
    """
    if gold.ndim != 1:
        raise ValueError(f"A confusion matrix needs one label per document, got {gold.shape}; use `label_f1_bars`.")
    from matplotlib.colors import PowerNorm

    _same_decisions(gold, predicted, labels)
    malformed = bool((predicted == -1).any())
    rows, columns = len(labels), len(labels) + malformed
    counts = np.zeros((rows, columns), dtype=np.int64)
    np.add.at(counts, (gold, predicted), 1)  # -1 is the last column
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = 10.0 if rows <= 20 else 8.0
    names = shorten(labels, 24)
    longest = max(map(len, names)) * small * 0.6 / 72  # inches
    cell = float(np.clip(5.0 / columns, 0.32 if rows <= 20 else small * 1.25 / 72, 0.9))
    figure = new_figure(max(columns * cell + longest + 1.3, 4), max(rows * cell + longest + 0.6, 3))
    axes = figure.subplots()
    image = axes.imshow(
        shares, cmap="Blues", norm=PowerNorm(1.0 if rows <= 20 else 0.5, 0, 1), aspect="auto", interpolation="none"
    )
    turned = 90 if rows > 20 else 45 if longest > cell else 0
    _name_axes(axes, names, columns, small, turned)
    large = max(10.0, figure.get_figwidth() * 0.9)  # a large figure is shown smaller
    axes.set_xlabel("predicted label", fontsize=large)
    axes.set_ylabel("true label", fontsize=large)
    bar = figure.colorbar(image, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("share of the true label's documents", fontsize=large)
    bar.ax.tick_params(labelsize=large)
    size = min(10.0, cell * 72 * 0.85 / (0.64 * len(str(counts.max()))))
    if rows <= 20 and size >= 6:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size)
    return figure


def _name_axes(axes: Axes, names: list[str], columns: int, size: float, turned: int) -> None:
    across: dict[str, Any] = {"rotation": turned, "ha": "right" if turned else "center", "rotation_mode": "anchor"}
    if turned == 90:
        across["va"] = "center"
    axes.set_xticks(range(columns), [*names, "malformed"][:columns], fontsize=size, **across)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.grid(False)
    if turned == 90:  # lines to follow from a cell to its names
        axes.set_xticks(np.arange(4.5, columns - 1, 5), minor=True)
        axes.set_yticks(np.arange(4.5, len(names) - 1, 5), minor=True)
        axes.grid(which="minor", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


@styled
def label_f1_bars(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Figure:
    """Draw the F1 of each label as a bar, the first label at the top, with its number of gold documents.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task.
        predicted: Decisions in the form of `gold`; -1 stands for no usable answer.
        labels: Names of the labels.
    """
    _same_decisions(gold, predicted, labels)
    f1 = f1_per_label(gold, predicted, len(labels))
    support = label_counts(gold, len(labels))
    macro = decision_metrics(gold, predicted)["f1_macro"]
    figure = new_figure(7, 0.9 + 0.24 * len(labels))
    axes = figure.subplots()
    places = np.arange(len(labels))
    axes.barh(places, f1, 0.75, color=BLUE)
    line = axes.axvline(macro, color=RED, linestyle="--", linewidth=1.5)
    axes.set_yticks(places, shorten(labels, 32))
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6), xlabel="F1 (n: gold documents with the label)")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    for place, value, count in zip(places, f1, support, strict=True):
        write_beside(axes, float(place), f"{f'{value:.2f}' if count else '–'}  (n = {count:,})")
    figure.legend([line], [f"macro F1 {macro:.3f}"], loc="outside upper center")
    return figure


@styled
def threshold_curves(
    gold: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] | float | None = None
) -> Figure:
    """Draw precision, recall and F1 (micro) against one threshold for all.

    Multi-label: a label is predicted where its probability reaches the threshold.

    Single-label: the most probable label is predicted where its probability reaches the threshold, and the document is
    rejected (no answer) elsewhere. Precision is the accuracy among the documents kept, recall is the share of all
    documents that are kept and correct, F1 is their harmonic mean, coverage is the share of documents kept.

    Precision is not drawn where nothing is predicted.

    Args:
        gold: Label ids, int `(n,)`; or 0/1, int `(n, labels)` for a multi-label task.
        probabilities: Class probabilities, float `(n, labels)`.
        thresholds: The thresholds in use (multi-label only), one for each label or one for all; marked below the
            curves, with the micro F1 that they reach together.

    Raises:
        ValueError: If there are thresholds for a single-label task, or another number of them than labels.
    """
    _same_documents(gold, probabilities)
    single = gold.ndim == 1
    marks = np.atleast_1d([] if thresholds is None else thresholds)
    if len(marks) not in ((0,) if single else (0, 1, gold.shape[1])):
        raise ValueError(f"Got {len(marks)} thresholds; give none (single-label), or one or one for each label.")
    grid = np.linspace(0, 1, 501)
    chosen, true, total = threshold_counts(gold, probabilities, grid)
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    with np.errstate(invalid="ignore"):
        precision = "precision (accuracy of those kept)" if single else "precision"
        axes.plot(grid, true / np.where(chosen, chosen, np.nan), color=BLUE, label=precision)
        recall = "recall (kept and correct)" if single else "recall"
        axes.plot(grid, true / (total or np.nan), "--", color=RED, label=recall)
        axes.plot(grid, 2 * true / (chosen + total), color=GREEN, linewidth=2.5, label="F1")
    if single:
        axes.plot(grid, chosen / total, ":", color=GREY, label="coverage (kept)")
    else:
        axes.axvline(0.5, color=GREY, linestyle=":", label="default threshold 0.5")
    if len(marks):
        f1 = decision_metrics(gold, decide(probabilities, multi_label=True, thresholds=thresholds))["f1_micro"]
        style: dict[str, Any] = {"marker": "|", "markersize": 14, "markeredgewidth": 1.5, "linestyle": "none"}
        axes.plot(marks, np.full(len(marks), 0.035), color="black", label=f"thresholds in use (F1 {f1:.3f})", **style)
    axis = "rejection threshold on the top probability" if single else "threshold for all labels"
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=axis, ylabel="share of documents" if single else "micro average")
    figure.legend(loc="outside upper center", ncols=2 if single else 3)
    return figure


@styled
def risk_coverage_figure(confidence: np.ndarray, wrong: np.ndarray, sure: np.ndarray, target_error: float) -> Figure:
    """Draw the error among the answers against the share of decisions answered, the most confident first.

    Args:
        confidence: Of each decision, `(n,)`, or of all labels together for a multi-label task, `(n, labels)`.
        wrong: Whether it is wrong, bool, in the form of `confidence`.
        sure: Whether it is answered, bool, in the form of `confidence`: their point is marked.
        target_error: Highest error among the answers, drawn as a line.
    """
    curve = risk_coverage(confidence.ravel(), wrong.ravel())
    figure = new_figure(5.5, 3.8)
    axes = figure.subplots()
    axes.step(curve.coverage, curve.risk, where="post", color=BLUE, label=f"error (area {curve.aurc:.3f})")
    axes.axhline(target_error, color=GREY, linestyle="--", label=f"target error {target_error:g}")
    if sure.any():
        share, error = sure.mean(), wrong[sure].mean()
        label = f"answered: {share:.1%}, {error:.2%} of them wrong"
        axes.plot([share], [error], "o", color=RED, markersize=8, label=label, clip_on=False, zorder=3)
    what = "documents" if confidence.ndim == 1 else "decisions (document-label pairs)"
    axes.set(xlim=(0, 1), xlabel=f"share of {what} answered", ylabel="error among the answers")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def set_sizes_figure(gold: np.ndarray, sets: Mapping[str, np.ndarray], coverage: float) -> Figure:
    """Draw how many labels conformal sets have, and say how often the right one is among them.

    Args:
        gold: Label ids, int `(n,)`.
        sets: For each way of making them, which labels are in the set of each document, bool `(n, labels)`.
        coverage: The coverage that they were made for.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.5, 3.8)
    axes = figure.subplots()
    sizes = {name: members.sum(axis=1) for name, members in sets.items()}
    largest = max(each.max() for each in sizes.values())
    width = 0.8 / len(sets)
    for place, (name, members) in enumerate(sets.items()):
        shares = np.bincount(sizes[name], minlength=largest + 1) / len(gold)
        held = members[np.arange(len(gold)), gold].mean()
        label = f"{name}: {sizes[name].mean():.2f} labels, the right one in {held:.1%}"
        axes.bar(
            np.arange(largest + 1) + width * (place - (len(sets) - 1) / 2),
            shares,
            width,
            label=label,
            color=COLOURS[place],
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=f"labels in a set (coverage {coverage:g})", ylabel="share of documents")
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=1)
    return figure


def _same_documents(gold: np.ndarray, probabilities: np.ndarray) -> None:
    same = gold.shape == (probabilities.shape if gold.ndim == 2 else probabilities.shape[:1])
    if probabilities.ndim != 2 or not same or len(gold) == 0:
        raise ValueError(
            f"Got gold {gold.shape} and probabilities {probabilities.shape}. Give ids (n,) or 0/1 (n, labels) as gold, "
            "and probabilities (n, labels) of the same documents, at least one."
        )


def _same_decisions(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> None:
    if gold.shape != predicted.shape or len(gold) == 0:
        raise ValueError(
            f"Got gold {gold.shape} and predictions {predicted.shape}. Give both in one form, ids (n,) or 0/1 "
            "(n, labels), of the same documents, at least one."
        )
    if gold.ndim == 2 and gold.shape[1] != len(labels):
        raise ValueError(f"Got {len(labels)} label names for {gold.shape[1]} labels. Give one for each column.")
    if gold.ndim == 1 and not (
        gold.min() >= 0 and predicted.min() >= -1 and max(gold.max(), predicted.max()) < len(labels)
    ):
        raise ValueError(
            f"Got gold ids {gold.min()} to {gold.max()} and predicted ids {predicted.min()} to {predicted.max()} for "
            f"{len(labels)} label names. Give a name for each id; only predictions may be -1, for no usable answer."
        )


@styled
def training_curves(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw training and validation loss, and below them the validation F1 if there is one.

    Args:
        log_history: `trainer.state.log_history`. Where several entries of a step have the same value, the first
            counts: it was measured during training.

    Raises:
        ValueError: If no entry has a loss or an F1.
    """
    lines = {
        "loss": {"label": "training", "color": BLUE, "marker": "."},
        "eval_loss": {"label": "validation", "color": RED, "marker": "o"},
        "eval_f1_macro": {"label": "macro F1", "color": BLUE, "marker": "o"},
        "eval_f1_micro": {"label": "micro F1", "color": RED, "marker": "s"},
    }
    unit = "epoch" if all(entry.get("epoch") is not None for entry in log_history) else "step"
    found: dict[str, dict[int, tuple[float, float]]] = {key: {} for key in lines}
    for entry in log_history:
        for key in found.keys() & entry.keys():
            found[key].setdefault(entry["step"], (float(entry[unit]), float(entry[key])))
    panels = [
        (name, keys)
        for name, keys in (("loss", ("loss", "eval_loss")), ("validation F1", ("eval_f1_macro", "eval_f1_micro")))
        if any(found[key] for key in keys)
    ]
    if not panels:
        raise ValueError("No entry of `log_history` has a loss or an F1 to draw; log or evaluate more often.")
    figure = new_figure(7, 0.6 + 2.2 * len(panels))
    for axes, (name, keys) in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for key in keys:
            if found[key]:
                axes.plot(*zip(*found[key].values(), strict=True), **lines[key])
        axes.set_ylabel(name)
        axes.legend()
    axes.set_xlabel(unit)
    return figure
