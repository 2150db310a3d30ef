"""Going on from a checkpoint: which one, and with everything as it was there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..runs.files import UNFINISHED_FOLDER, read_json
from .checkpoints import STATE_FILE, checkpoints, whole_checkpoints


def choose_checkpoint(arguments: TrainingArguments) -> None:
    """Set `resume_from_checkpoint` to the checkpoint to go on from, or to `None`.

    Raises:
        ValueError: If there is no such checkpoint, or the output folder has some of a run that did not finish and that
            is not to be gone on with.
    """
    output, resume = str(arguments.output_dir), arguments.resume_from_checkpoint
    whole = whole_checkpoints(output)
    if str(resume).lower() == "false":
        resume = arguments.resume_from_checkpoint = None
    if str(resume).lower() == "true":
        if not whole:
            raise ValueError(f"There is no checkpoint to resume from in {output!r}.")
        arguments.resume_from_checkpoint = str(whole[-1])
    elif resume and not os.path.isdir(resume):
        raise ValueError(f"There is no checkpoint {resume!r}. Give its folder, or true for the last of output_dir.")
    elif whole and not (resume and Path(resume).resolve().parent == Path(output).resolve()):
        raise ValueError(
            f"{output!r} has checkpoints of a run that did not finish, the last is {whole[-1].name}. Go on with "
            "--resume_from_checkpoint true, or choose another output_dir."
        )
    others = [path.name for path in checkpoints(output) if path not in whole and any(path.iterdir())]
    if others and not whole and not (Path(output) / UNFINISHED_FOLDER).is_dir():  # then a start was cut off there
        raise ValueError(
            f"{output!r} has {', '.join(others)} without a whole {STATE_FILE}: no checkpoint to go on from, and this "
            "run may overwrite it. Move it away, or choose another output_dir."
        )


def is_resuming(arguments: TrainingArguments) -> bool:
    """Whether to go on from a checkpoint, and the output folder has one."""
    asked = str(arguments.resume_from_checkpoint).lower() not in ("none", "false")
    return asked and bool(whole_checkpoints(str(arguments.output_dir)))


def resume(trainer: Trainer, checkpoint: str) -> Any:
    """Train on from a checkpoint, with callbacks in the state that they had there, and settings as they are given now.

    Returns:
        What `Trainer.train` returns.
    """
    arguments = trainer.args
    state = read_json(Path(checkpoint) / STATE_FILE)
    stored = state.get("stateful_callbacks") or {}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ExportableState) and isinstance(stored.get(type(callback).__name__), dict):
            attributes = stored[type(callback).__name__].get("attributes", {})
            for name in callback.state()["attributes"].keys() & attributes.keys():
                setattr(callback, name, attributes[name])
    if not _was_over(trainer, state):
        return trainer.train(resume_from_checkpoint=checkpoint)
    given = arguments.max_steps, arguments.num_train_epochs
    # No epoch is left: the stock loop notices that training is over after one more step only
    arguments.max_steps, arguments.num_train_epochs = -1, int(state["epoch"])
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        arguments.max_steps, arguments.num_train_epochs = given
    trainer.state.max_steps, trainer.state.num_train_epochs = state["max_steps"], state["num_train_epochs"]
    return result


def _was_over(trainer: Trainer, state: dict[str, Any]) -> bool:
    """Whether training was over at a checkpoint, by early stopping or because all steps were done."""
    steps, epoch = state.get("global_step", 0), state.get("epoch") or 0.0
    if not steps:
        return False
    stopping = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    if any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in stopping):
        return True
    arguments = trainer.args
    return steps >= arguments.max_steps if arguments.max_steps > 0 else epoch >= arguments.num_train_epochs
