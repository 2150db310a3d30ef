"""Figures of a comparison: many runs, in order or by the number of training documents.

Knows names and numbers only. Each function returns a `matplotlib.figure.Figure` that belongs to nobody: no pyplot, no
backend. matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .plot_style import BLUE, COLOURS, GREY, MARKERS, RED, new_figure, shorten, styled, write_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        write_beside(axes, float(place), text)
    return figure


def on_front(values: Sequence[float], speeds: Sequence[float | None]) -> list[bool]:
    """Say of each run whether it is on the Pareto front: no other is at least as good and as fast, and better in one.

    Args:
        values: The metric of each run, higher is better.
        speeds: Documents a second; `None` where that is not known: such a run is not on the front.
    """
    runs = [(value, speed) for value, speed in zip(values, speeds, strict=True) if speed]

    def beaten(value: float, speed: float) -> bool:
        return any(a >= value and b >= speed and (a, b) != (value, speed) for a, b in runs)

    return [bool(speed) and not beaten(value, speed or 0.0) for value, speed in zip(values, speeds, strict=True)]


@styled
def f1_against_speed(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    speeds: Sequence[float | None],
    *,
    metric: str = "macro F1",
) -> Figure:
    """Draw a metric against documents a second, on a logarithmic axis, with the Pareto front as a line.

    Args:
        names: Names of the runs.
        values: The metric of each run.
        lows: Lower end of its interval.
        highs: Upper end of its interval.
        speeds: Documents a second; a run of which that is not known is left out.
        metric: What the values are.

    Raises:
        ValueError: If the speed of none is known.
    """
    shown = {place: speed for place, speed in enumerate(speeds) if speed}
    if not shown:
        raise ValueError("The speed of no run is known: there is nothing to draw.")
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    handles: list[Any] = []
    for place, speed in shown.items():
        ends = [[values[place] - lows[place]], [highs[place] - values[place]]]
        style: dict[str, Any] = {"color": COLOURS[place % 7], "marker": MARKERS[(place + place // 7) % 7]}
        handles.append(axes.errorbar([speed], [values[place]], ends, linestyle="", capsize=3, **style))
    front = on_front(values, speeds)
    corners = sorted((speed, values[place]) for place, speed in shown.items() if front[place])
    handles += axes.plot(*zip(*corners, strict=True), color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set(xlabel="documents a second (log scale)", ylabel=f"{metric} with 95 % confidence interval")
    labels = [*shorten([names[place] for place in shown], 36), "no other run is as good and as fast"]
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
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
        series: For each name one entry per size: a value, a pair of mean and standard deviation, or `None` if missing.
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


@styled
def forecast_curve(
    measured: Sequence[Sequence[float]],
    expected: Sequence[Sequence[float]],
    law: Callable[[np.ndarray], np.ndarray],
    *,
    metric: str = "macro F1",
) -> Figure:
    """Draw a metric that was measured, and the one that is expected with more documents, with their 95 % intervals.

    Args:
        measured: Number of documents, value, low and high end of each that was measured, all numbers positive.
        expected: The same of each that is expected.
        law: Gives the expected value of numbers of documents.
        metric: What the values are.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    handles: list[Any] = []
    for rows, colour, marker in ((measured, BLUE, "o"), (expected, RED, "s")):
        sizes, values, lows, highs = np.array(rows, dtype=np.float64).T
        ends = np.maximum([values - lows, highs - values], 0.0)
        handles.append(axes.errorbar(sizes, values, ends, linestyle="", color=colour, marker=marker, capsize=3))
    everything = [row[0] for row in (*measured, *expected)]
    sizes = np.geomspace(min(everything), max(everything), 100)
    handles += axes.plot(sizes, law(sizes), color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.set_xscale("log")
    ticks = [each * 10**power for power in range(10) for each in (1, 2, 5)]
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(min(everything) / 1.15, max(everything) * 1.15)
    axes.set(xlabel="labelled documents (log scale)", ylabel=f"{metric} on test")
    figure.legend(handles, ["measured", "expected", "inverse power law"], loc="outside upper center", ncols=3)
    return figure
