"""S7: peak memory of the sides of S5 and S6, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from hf_causal_clf.training.memory import peak_memory_bytes

from .setting import Setting
from .timing import Measurement, row

_STATUS = Path("/proc/self/status")


def process_peak() -> int:
    """Peak memory of this process in bytes: on the GPU where there is one, else resident.

    Linux hands a child the `ru_maxrss` of the process that started it, so its own high-water mark is read there.
    """
    import torch

    if not torch.cuda.is_available() and _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return peak_memory_bytes()


def in_child(function: Callable[..., Any], setting: Setting, *args: Any) -> Any:
    """Run a function of a module in a new process, whose memory the machine has back afterwards."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"), initializer=setting.prepare) as pool:
        return pool.submit(function, setting, *args).result()


def training_peak(setting: Setting, builder: str, documents: int, max_length: int) -> int:
    """Train one side for an epoch and return the peak memory of this process."""
    from . import training

    training.TrainingSide(getattr(training, builder), setting, documents, max_length)()
    return process_peak()


def peak_memory(setting: Setting) -> dict[str, Any]:
    """S7: the larger of the two ratios."""
    from .training import BATCH, SHORT, WHOLE

    size = max(BATCH, setting.documents)
    found = {}
    for name, builders, length in (
        ("S5", ("our_head", "stock_head"), WHOLE),
        ("S6", ("our_answers", "stock_answers"), SHORT),
    ):
        sides: tuple[list[float], list[float]] = ([], [])
        for _ in range(setting.pairs):
            for side, builder in zip(sides, builders, strict=True):
                side.append(in_child(training_peak, setting, builder, size, length))
        found[name] = Measurement(*sides)
    ratios = {name: median(measured.ratios("at most")) for name, measured in found.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    details = {
        name: {"ratio": ratios[name], "ours": measured.ours, "other": measured.other}
        for name, measured in found.items()
    }
    return row("S7", found[worst], unit="bytes", worst=worst, documents=size, **details)


def import_time(setting: Setting) -> dict[str, Any]:
    """S9."""
    import hf_causal_clf

    from .timing import interleave

    names = ", ".join(hf_causal_clf.__all__)
    ours = f"import hf_causal_clf; from hf_causal_clf import {names}"
    other = "from transformers import PreTrainedModel, AutoModelForSequenceClassification"

    def run(code: str) -> None:
        folder = Path(hf_causal_clf.__file__).parents[1]
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})

    measurement = interleave(lambda pair: run(ours), lambda pair: run(other), setting.pairs)
    return row("S9", measurement, ours_code=ours, other_code=other)
