"""How time and memory grow with length, documents, labels and batch size; numbers and figures."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_causal_clf.evaluation.plot_style import COLOURS, MARKERS, new_figure, save_figure, styled, write_beside

from .memory import process_peak
from .scoring import FEW, SHORT, head_scorer, label_scorer, texts
from .setting import Setting, causal_lm
from .training import TrainingSide, our_head
from .utilisation import utilisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS, COUNTS = (64, 128, 256, 512, 1024, 2048), (4, 8, 16, 32)
LABELS, BATCHES = (2, 20, 100, 300, 1000), (1, 2, 4, 8, 16)
TITLES = {
    "document_length": "tokens of a document",
    "documents": "documents",
    "labels": "labels",
    "batch_size": "documents a forward pass",
}
KINDS = {"head": "prediction, head", "labels": "label scoring", "training": "training step, head"}
_RESET = Path("/proc/self/clear_refs")
_REPEATS = 2  # timed runs of a point, after a warm-up

Point = dict[str, float]


def measure_growth(setting: Setting, figures: Path) -> Iterator[tuple[str, Any]]:
    """Measure, draw, and yield each part of the numbers as it is done."""
    context = getattr(causal_lm(setting).config, "max_position_embeddings", LENGTHS[-1])
    lengths = [length for length in LENGTHS if length <= context]
    found = {}
    for name, measure in (
        ("document_length", lambda: _lengths(setting, lengths)),
        ("documents", lambda: _counts(setting)),
        ("labels", lambda: _labels(setting)),
        ("batch_size", lambda: _batches(setting)),
    ):
        found[name] = measure()
        yield name, found[name]
    save_figure(draw_growth(found), figures / "growth")
    shares = utilisation(setting)
    save_figure(draw_utilisation(shares["work"]), figures / "utilisation")
    yield "utilisation", shares


def _lengths(setting: Setting, lengths: list[int]) -> dict[str, list[Point]]:
    """One document of each length: a single row shows length alone."""
    text = [" ".join(texts(setting, 12))]
    found: dict[str, list[Point]] = {"head": [], "labels": [], "training": []}
    for length in lengths:
        found["head"].append(_point(length, _head(setting, length, text)))
        found["labels"].append(_point(length, _scorer(setting, FEW, length, text)))
        step = _training_step(setting, length, text[0])
        found["training"].append(_point(length, step))
    return found


def _counts(setting: Setting) -> dict[str, list[Point]]:
    documents = texts(setting, COUNTS[-1])
    return {
        "head": [_point(count, _head(setting, SHORT, documents[:count])) for count in COUNTS],
        "labels": [_point(count, _scorer(setting, FEW, SHORT, documents[:count])) for count in COUNTS],
    }


def _labels(setting: Setting) -> dict[str, list[Point]]:
    documents = texts(setting, 2)
    return {"labels": [_point(count, _scorer(setting, count, SHORT, documents)) for count in LABELS]}


def _batches(setting: Setting) -> dict[str, list[Point]]:
    documents = texts(setting, BATCHES[-1])
    found: dict[str, list[Point]] = {"head": [], "labels": []}
    for size in BATCHES:
        found["head"].append(_point(size, _head(setting, SHORT, documents, size)))
        found["labels"].append(_point(size, _scorer(setting, FEW, SHORT, documents, size)))
    return found


def _head(setting: Setting, length: int, documents: list[str], batch_size: int | None = None) -> Callable[[], Any]:
    scorer = head_scorer(setting, length)
    scorer.batch_size = batch_size or scorer.batch_size
    return lambda: scorer.probabilities(documents)


def _scorer(
    setting: Setting, labels: int, length: int, documents: list[str], batch_size: int | None = None
) -> Callable[[], Any]:
    scorer = label_scorer(setting, labels, length)
    scorer.batch_size = batch_size or scorer.batch_size
    return lambda: scorer.log_probs(documents)


def _training_step(setting: Setting, length: int, text: str) -> Callable[[], Any]:
    """Forward and backward of one document of so many tokens, without the optimizer."""
    side = TrainingSide(our_head, setting, 8, length)
    model, collate = side.trainer.model.train(), side.trainer.data_collator
    encode = side.trainer.processing_class
    ids = encode(text, verbose=False)["input_ids"][:length]
    batch = collate([{"input_ids": ids, "labels": 0}])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}

    def step() -> None:
        model(**batch).loss.backward()
        model.zero_grad()

    return step


def _point(size: int, run: Callable[[], Any]) -> Point:
    """Seconds (median), and the peak memory above that before the run, where it can be told."""
    run()
    before = _reset_peak()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"size": size, "seconds": median(seconds), "extra_bytes": max(0, process_peak() - before)}


def _reset_peak() -> int:
    """Set the high-water mark of this process back to what it uses now, and return that."""
    import torch

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: gives what is free back to the machine
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _RESET.exists():
        _RESET.write_text("5")
    return process_peak()


@styled
def draw_growth(found: dict[str, dict[str, list[Point]]]) -> Figure:
    """Draw seconds above and memory below, one column for each thing that grows."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    figure = new_figure(12, 5.6)
    axes = np.atleast_2d(figure.subplots(2, len(found)))
    for column, (name, kinds) in enumerate(found.items()):
        for line, (key, unit, label) in enumerate((("seconds", 1.0, "seconds"), ("extra_bytes", 2**20, "MiB"))):
            plot = axes[line, column]
            for index, (kind, title) in enumerate(KINDS.items()):
                points = kinds.get(kind, [])
                sizes, heights = [point["size"] for point in points], [point[key] / unit for point in points]
                if points:
                    plot.plot(sizes, heights, marker=MARKERS[index], color=COLOURS[index], label=title)
            plot.set_xscale("log", base=2)
            if any(point[key] for points in kinds.values() for point in points):
                plot.set_yscale("log")
                plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                plot.yaxis.set_major_formatter("{x:g}")  # the usual powers of ten are mathematics, which is off
                plot.yaxis.set_minor_formatter(NullFormatter())
            plot.xaxis.set_minor_locator(NullLocator())
            sizes = sorted({point["size"] for points in kinds.values() for point in points})
            plot.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
            plot.set_xlabel(TITLES[name])
            plot.set_ylabel(label if column == 0 else "")
    axes[0, 0].legend(fontsize=8)
    return figure


@styled
def draw_utilisation(work: dict[str, dict[str, Any]]) -> Figure:
    """Draw where the time of each kind of work goes, and the share of the peak that it reaches."""
    figure = new_figure(11, 2 + 0.6 * len(work))
    plot = figure.subplots()
    groups = list(dict.fromkeys(group for found in work.values() for group in found["shares"]))
    left = np.zeros(len(work))
    for index, group in enumerate(groups):
        widths = np.array([found["shares"].get(group, 0.0) for found in work.values()])
        plot.barh(list(work), widths, left=left, color=COLOURS[index % len(COLOURS)], label=group)
        left += widths
    for place, found in enumerate(work.values()):
        write_beside(plot, place, f"{found['share_of_peak']:.0%} of peak")
    plot.set_xlabel("share of the time")
    plot.set_xlim(0, 1)
    plot.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    return figure
