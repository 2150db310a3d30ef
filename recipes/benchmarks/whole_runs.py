"""S12 and S15: whole trainings, one beside the stock stack's, one beside other work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from transformers import Trainer

from hf_causal_clf.backbone.batching import prediction_batches
from hf_causal_clf.cli.processes import launch_command
from hf_causal_clf.evaluation.significance import f1_interval
from hf_causal_clf.task.documents import DocumentEncoder

from .scoring import LONG
from .setting import Setting, articles, label_space, tokenizer
from .timing import Measurement, row, timed
from .training import LAST_LAYERS, our_head, stock_head

EPOCHS, LEARNING_RATE, HELD_OUT = 12, 5e-4, 200
PIECE = Path(__file__).parents[1] / "configs" / "quickstart" / "embed.yaml"
SPIN = "while True: pass"


def whole_run(setting: Setting) -> dict[str, Any]:
    """S12: from loading the model to the last of 12 epochs, and what each has learned, by the F1 on other articles."""
    size = 2 * setting.documents
    builders = (
        partial(our_head, setting, size, LONG, EPOCHS, LAST_LAYERS),
        partial(stock_head, setting, size, LONG, EPOCHS),
    )
    space = label_space(articles(setting, size))
    held_out = [item for item in articles(setting, size + HELD_OUT)[size:] if item["label"] in space.names]
    texts, gold = [item["text"] for item in held_out], space.encode_batch([item["label"] for item in held_out])
    sides: tuple[list[float], list[float]] = ([], [])
    decisions: list[np.ndarray] = []
    for _ in range(setting.pairs):
        trainers: list[Trainer] = []
        for seconds, build in zip(sides, builders, strict=True):
            seconds.append(timed(partial(_train, build, trainers), None))
        decisions = [_decisions(setting, trainer, texts) for trainer in trainers]
    return row(
        "S12",
        Measurement(*sides),
        documents=size,
        epochs=EPOCHS,
        tokens=LONG,
        held_out=len(held_out),
        f1_macro=dict(zip(("ours", "other"), (asdict(f1_interval(gold, each)) for each in decisions), strict=True)),
        difference=asdict(f1_interval(gold, *decisions)),
    )


def _train(build: Callable[[], Trainer], trainers: list[Trainer], pair: int | None) -> None:
    trainer = build()
    trainer.args.learning_rate = LEARNING_RATE
    trainer.train()
    trainers.append(trainer)


def _decisions(setting: Setting, trainer: Trainer, texts: list[str]) -> np.ndarray:
    """What a trained model says of documents: label ids."""
    encoder = DocumentEncoder(tokenizer(setting), LONG)
    rows = [encoder.encode(text) for text in texts]
    found = np.empty(len(rows), dtype=np.int64)
    model = trainer.accelerator.unwrap_model(trainer.model)
    pad = partial(tokenizer(setting).pad, padding_side="right", return_tensors="pt")
    for chosen in prediction_batches(model, [len(ids) for ids in rows], setting.batch_size, description="Predicting"):
        batch = pad({"input_ids": [rows[index] for index in chosen]})
        found[chosen] = model(**batch.to(model.device)).logits.argmax(-1).cpu().numpy()
    return found


def beside_other_work(setting: Setting) -> dict[str, Any]:
    """S15: a short run with the quickstart's settings beside a process that keeps a core busy, and alone."""
    sides: tuple[list[float], list[float]] = ([], [])
    for _ in range(setting.pairs):
        with subprocess.Popen([sys.executable, "-c", SPIN]) as other:
            try:
                sides[0].append(timed(partial(_piece_of_quickstart, setting), None))
            finally:
                other.kill()
        sides[1].append(timed(partial(_piece_of_quickstart, setting), None))
    return row("S15", Measurement(*sides), config=PIECE.name, documents=setting.documents, threads=setting.threads)


def _piece_of_quickstart(setting: Setting, pair: int | None) -> None:
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "model_name_or_path": setting.model,
            "dtype": setting.dtype,
            **{f"{split}_file": setting.news / f"{split}.jsonl" for split in ("train", "validation", "test")},
            **{f"max_{split}_samples": setting.documents for split in ("train", "validation", "test")},
            "output_dir": Path(folder) / "run",
        }
        command = launch_command(str(PIECE.parents[2] / "embed.py"), str(PIECE))
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as `make quickstart` does
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"S15: the run failed: {done.stderr[-2000:]}")
