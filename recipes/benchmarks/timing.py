"""Interleaved timing of two sides that do the same work. Knows callables and numbers only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

Side = Callable[[int | None], Any]
"""Does the work of one pair, given its number; `None` asks for the warm-up."""

# What each row has to reach. Speed-ups are "at least", costs "at most".
TARGETS = {
    "S1": (20.0, "at least", "label scoring, 20 labels, against one forward a label"),
    "S2": (1.9, "at least", "label scoring, 20 labels, against greedy generation of 8 tokens"),
    "S3": (1.25, "at most", "label scoring, 20 labels, 256 tokens: cost against one forward with a head"),
    "S4": (2.0, "at most", "label scoring, 256 tokens: cost of 200 labels against 20"),
    "S5": (1.4, "at least", "embedding-based training, against the stock stack"),
    "S5b": (1.6, "at least", "the same with documents of 64 tokens"),
    "S6": (3.0, "at least", "instruction-based training, 20 labels, against TRL"),
    "S7": (1.0, "at most", "peak memory in S5 and S6, against the stock stack"),
    "S8": (1.5, "at least", "prediction, mixed lengths, against the pipeline at its best batch size"),
    "S9": (1.1, "at most", "import, against two classes of transformers"),
    "S10": (20.0, "at least", "frozen backbone and head, against LoRA training for 10 epochs"),
    "S11": (3.0, "at least", "an epoch with a third of the layers adapted and the rest cached, against all layers"),
    "S12": (4.0, "at least", "a whole run of 12 epochs, to the same F1, against the stock stack's"),
    "S13": (0.5, "at least", "share of the matrix-product peak in training"),
    "S14": (1.0, "at least", "prediction in float32, 64 and 256 tokens, against ONNX Runtime"),
    "S15": (2.2, "at most", "a run with the quickstart's settings beside one busy core, against alone"),
    "S16": (1.5, "at least", "explanations, ten sentences left out, against predicting each text that is left"),
}


@dataclass(frozen=True)
class Measurement:
    """What two sides took in each pair, in the same unit: `ours[i]` and `other[i]` were measured side by side."""

    ours: list[float]
    other: list[float]

    def ratios(self, direction: str) -> list[float]:
        """How often ours fits into the other's time ("at least"), or its share of it ("at most"), in each pair."""
        pairs = zip(self.ours, self.other, strict=True)
        return [other / ours if direction == "at least" else ours / other for ours, other in pairs]


def interleave(ours: Side, other: Side, pairs: int) -> Measurement:
    """Warm both sides up, then time them in turn, A B A B."""
    ours(None)
    other(None)
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side, seconds in zip((ours, other), times, strict=True):
            seconds.append(timed(side, pair))
    return Measurement(*times)


def timed(side: Side, pair: int | None) -> float:
    """Seconds of one call, the GPU's work included."""
    _finish()
    start = time.perf_counter()
    side(pair)
    _finish()
    return time.perf_counter() - start


def row(name: str, measurement: Measurement, *, unit: str = "seconds", **work: Any) -> dict[str, Any]:
    """Return the JSON of a row: median of the ratios of the pairs, and everything that it came from."""
    target, direction, _ = TARGETS[name]
    ratios = measurement.ratios(direction)
    ratio = median(ratios)
    return {
        "ratio": ratio,
        "target": target,
        "direction": direction,
        "met": reached(ratio, target, direction),
        "pairs": len(ratios),
        "spread": [min(ratios), max(ratios)],
        unit: {"ours": measurement.ours, "other": measurement.other},
        "work": work,
    }


def reached(ratio: float, target: float, direction: str) -> bool:
    """Whether a ratio is on the right side of its target."""
    return ratio >= target if direction == "at least" else ratio <= target


def table_head() -> str:
    """First lines of the markdown table."""
    return "| | work | target | measured | spread | ours | other | met |\n|---|---|---|---|---|---|---|---|"


def table_line(name: str, result: dict[str, Any]) -> str:
    """A row of the markdown table."""
    unit = "seconds" if "seconds" in result else "bytes"
    sides = [_amount(result[unit][side], unit) for side in ("ours", "other")]
    low, high = result["spread"]
    cells = (
        *(name, TARGETS[name][2], f"{result['direction']} {result['target']:g} ×", f"{result['ratio']:.2f} ×"),
        *(f"{low:.2f} – {high:.2f}", *sides, "yes" if result["met"] else "no"),
    )
    return f"| {' | '.join(cells)} |"


def _amount(values: Sequence[float], unit: str) -> str:
    return f"{median(values):.3g} s" if unit == "seconds" else f"{median(values) / 2**20:,.0f} MiB"


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
