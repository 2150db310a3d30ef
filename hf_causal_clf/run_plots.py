"""Figures of runs: while they train, and beside one another.

Knows numbers only. matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import BLUE, COLOURS, MARKERS, RED, beside, new_figure, shorten, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


@styled
def f1_comparison(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    metric: str = "macro F1",
) -> Figure:
    """Draw a value and its 95 % confidence interval for each run, the first run at the top.

    Args:
        names: Names of the runs.
        values: The metric of each run.
        lows: Lower end of each interval.
        highs: Upper end of each interval.
        metric: What the values are.

    Raises:
        ValueError: If the four have different lengths.
    """
    if not len(names) == len(values) == len(lows) == len(highs):
        raise ValueError(
            f"Got {len(names)} names, {len(values)} values, {len(lows)} lows and {len(highs)} highs. "
            "Give one of each for a run."
        )
    places = np.arange(len(names))
    figure = new_figure(7, 0.9 + 0.32 * len(names))
    axes = figure.subplots()
    axes.hlines(places, lows, highs, color=BLUE, linewidth=2)
    axes.plot(values, places, "o", color=BLUE, markersize=7)
    axes.set_yticks(places, shorten(names, 36))
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"{metric} with 95 % confidence interval")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    for place, value, low, high in zip(places, values, lows, highs, strict=True):
        text = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        beside(axes, float(place), text)
    return figure


@styled
def learning_curves(
    sizes: Sequence[int],
    series: Mapping[str, Sequence[float | tuple[float, float] | None]],
    *,
    metric: str = "macro F1",
) -> Figure:
    """Draw a metric against the number of training documents, on a logarithmic axis.

    Args:
        sizes: Numbers of training documents, all positive.
        series: For each name one entry a size: a value, a pair of mean and standard deviation, or `None` if missing.
        metric: What the values are.

    Raises:
        ValueError: If a size is not positive or a series has another length than `sizes`.
    """
    if min(sizes) < 1:
        raise ValueError(f"A logarithmic axis needs sizes of at least 1, got {min(sizes)}.")
    for name, entries in series.items():
        if len(entries) != len(sizes):
            raise ValueError(
                f"{name!r} has {len(entries)} entries for {len(sizes)} sizes. Give None where one is missing."
            )
    figure = new_figure(7, 4)
    axes = figure.subplots()
    handles: list[Any] = []  # the stubs do not know that a legend takes containers
    for place, entries in enumerate(series.values()):
        present = [(size, entry) for size, entry in zip(sizes, entries, strict=True) if entry is not None]
        pairs = [entry if isinstance(entry, tuple | list) else (entry, 0.0) for _, entry in present]
        style: dict[str, Any] = {
            "color": COLOURS[place % 7],
            "marker": MARKERS[place % 7],
            "linestyle": ("-", "--")[place // 7 % 2],
        }
        means, deviations = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        handles.append(axes.errorbar([size for size, _ in present], means, deviations, capsize=3, **style))
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(list(sizes), [f"{size:,}" for size in sizes])
    axes.set(xlabel="training documents (log scale)", ylabel=metric)
    figure.legend(handles, shorten(list(series), 36), loc="outside upper center", ncols=2)
    return figure
