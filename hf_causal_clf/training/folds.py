"""A training for each fold of the labelled documents: without a validation split, and resumable fold by fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..backbone.identity import fingerprint
from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..runs.disk import written_aside
from ..runs.files import UNFINISHED_FOLDER
from .processes import sharding


def settle_folds(arguments: TrainingArguments) -> None:
    """Have a run with folds train without evaluations: it has no validation split.

    All trainings of such a run go to their last step, so that those of the folds are like the final one.

    Raises:
        ValueError: For settings that need evaluations, or that allow one training a process only.
    """
    needs = {"save_strategy": "best", "lr_scheduler_type": "reduce_lr_on_plateau"}
    for name, value in needs.items():
        if getattr(getattr(arguments, name), "value", getattr(arguments, name)) == value:
            raise ValueError(
                f"{name} {value} needs a validation split, and folds do without. Leave one of the two out."
            )
    if sharding(arguments) == "DeepSpeed":
        raise ValueError("DeepSpeed has one training a process, and folds need several. Leave one of the two out.")
    arguments.eval_strategy, arguments.eval_on_start = IntervalStrategy.NO, False
    arguments.load_best_model_at_end = False
    tell(
        "With folds there is no evaluation during training: no early stopping, and the last step is kept, not the best "
        "checkpoint."
    )


def out_of_fold(
    data: ClassificationData, output: Path, content: Any, score: Callable[[ClassificationData, Path], np.ndarray]
) -> np.ndarray:
    """Return logits of all labelled documents, each by a training without its fold. All processes have to call it.

    What a fold gave is kept in the unfinished part of the output folder until the run is finished, and another start
    with the same content takes it from there.

    Args:
        data: Documents with folds.
        output: Output folder of the run.
        content: JSON of all that the logits depend on.
        score: Trains on the training documents of what it is given, one fold held out, in a folder of its own, and
            returns the logits of the validation documents, float32 `(n, labels)`.

    Returns:
        Float32 `(n, labels)`, in the order of the labelled documents.
    """
    logits = np.empty((len(data.splits["train"]), len(data.label_space)), dtype=np.float32)
    unfinished, mark = output / UNFINISHED_FOLDER, fingerprint(content)[:32]
    for fold, rows in enumerate(data.held_out()):
        kept = unfinished / f"fold-{fold}-{mark}.safetensors"
        name = f"Fold {fold + 1} of {data.fold_count}"
        found = _read(kept)
        if found is None:
            tell(f"{name}: training on {np.sum(~rows):,} documents, to predict the other {np.sum(rows):,}.")
            folder = unfinished / f"fold-{fold}"
            _remove(folder)  # what a start that was cut off has left
            found = score(data.holding_out(fold), folder)
            _keep(kept, found)
            _remove(folder)
        else:
            tell(f"{name}: trained by an earlier start.")
        logits[rows] = found
    tell(f"All folds are predicted. The finished run: training on all {len(logits):,} documents.")
    return logits


def _read(path: Path) -> np.ndarray | None:
    """Read the logits of a fold in the main process, for all processes; `None` where they are not there yet."""
    from safetensors.numpy import load_file

    found = [load_file(path)["logits"] if PartialState().is_main_process and path.is_file() else None]
    return broadcast_object_list(found)[0]


def _keep(path: Path, logits: np.ndarray) -> None:
    from safetensors.numpy import save_file

    if PartialState().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            save_file({"logits": np.ascontiguousarray(logits, dtype=np.float32)}, aside)


def _remove(folder: Path) -> None:
    if PartialState().is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    PartialState().wait_for_everyone()
