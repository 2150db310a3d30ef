"""Checking what a training needs before weights are loaded, training, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ..backbone.loading import check_vocabulary, load_tokenizer, read_decoder_config
from ..runs.disk import lock_folder, naming_full_disk
from ..runs.files import UNFINISHED_FOLDER, read_json
from .arguments import RunArguments
from .callbacks import RunCheckpoints, TrainingClock
from .checkpoints import STATE_FILE, checkpoints, whole_checkpoints
from .memory import peak_memory_bytes
from .processes import check_launch

if TYPE_CHECKING:
    from trl import ModelConfig

logger = logging.get_logger(__name__)


def prepare(model_arguments: ModelConfig, training_arguments: TrainingArguments) -> PreTrainedTokenizerBase:
    """Check the model's configuration and the output folder, and load the tokenizer, before any weights are loaded.

    Raises:
        OSError: If there is no such model, or nothing can be written into the output folder.
        ValueError: If the model is not decoder-only or its files are damaged, `max_length` is beyond its context, one
            process sees several GPUs, or the output folder has checkpoints of an unfinished run or is in use.
    """
    path = model_arguments.model_name_or_path
    if os.path.isdir(path):
        model_arguments.model_name_or_path = path = os.path.abspath(path)
    config = read_decoder_config(path, model_arguments.model_revision).get_text_config()
    if training_arguments.n_gpu > 1:
        raise ValueError(
            f"One process sees {training_arguments.n_gpu} GPUs. Start one process for each with accelerate launch "
            "--multi_gpu, or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    check_launch(training_arguments)
    try:
        get_reporting_integration_callbacks(training_arguments.report_to)
    except ValueError as error:  # names those that it does not know
        raise ValueError(f"report_to: {error}") from error
    dtype = str(config.dtype if model_arguments.dtype == "auto" else model_arguments.dtype).removeprefix("torch.")
    if not model_arguments.use_peft and dtype in ("bfloat16", "float16"):
        logger.warning(
            f"All weights are trained in {dtype} (use_peft false): updates that are small beside a weight are rounded "
            "away. Set dtype to float32; on a GPU, bf16 to true keeps it fast."
        )
    context = getattr(config, "max_position_embeddings", None)
    max_length = training_arguments.max_length
    if context is not None and max_length is not None and max_length > context:
        raise ValueError(f"max_length={max_length} is beyond the model's context of {context} tokens. Lower it.")
    if training_arguments.process_index == 0:
        lock_folder(training_arguments.output_dir)
    _settle_resuming(training_arguments)
    tokenizer = load_tokenizer(path, revision=model_arguments.model_revision)
    check_vocabulary(tokenizer, getattr(config, "vocab_size", None), path)
    return tokenizer


def _settle_resuming(arguments: TrainingArguments) -> None:
    """Find the checkpoint to go on from, or raise a `ValueError` where there is none, or one that is not asked for."""
    output, resume = arguments.output_dir, arguments.resume_from_checkpoint
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


def train(trainer: Trainer) -> dict[str, float]:
    """Train, and return what `metrics.json` says of training.

    Raises:
        ValueError: If the checkpoint to go on from is of another model or adapter.
    """
    trainer.add_callback(TrainingClock())
    trainer.add_callback(RunCheckpoints(trainer))
    trained, total = _count_parameters(trainer.model)  # before FSDP shards it: packed 4-bit weights lose their count
    checkpoint = trainer.args.resume_from_checkpoint
    try:
        with naming_full_disk(trainer.args.output_dir):
            result = trainer.train() if checkpoint is None else _resume(trainer, checkpoint)
    except RuntimeError as error:
        if checkpoint is None or "loading state_dict" not in str(error):
            raise
        raise ValueError(
            f"The checkpoint {checkpoint!r} has weights of other shapes than this run. Go on with the arguments that "
            "it was started with (model, lora_r, labels), or choose another output_dir."
        ) from error
    clock = next(each for each in trainer.callback_handler.callbacks if isinstance(each, TrainingClock))
    metrics = {
        "train_loss": _mean_loss(trainer.state.log_history, result.training_loss),
        "epochs": float(trainer.state.epoch or 0.0),
        "steps": trainer.state.global_step,
        "trainable_parameters": trained,
        "total_parameters": total,
        "train_samples_per_second": clock.samples_per_second(trainer),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if trainer.state.best_metric is not None:
        metrics[f"best_{trainer.args.metric_for_best_model}"] = trainer.state.best_metric
    return metrics


def _resume(trainer: Trainer, checkpoint: str) -> Any:
    """Go on from a checkpoint, with callbacks in the state that they had there, and settings as they are given now."""
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


def _mean_loss(log_history: Sequence[dict[str, float]], otherwise: float) -> float:
    """Mean training loss over all steps; the trainer's own is that of the steps since a run was resumed."""
    total = last = 0.0
    for entry in log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / last if last else otherwise


def early_stopping(run: RunArguments, training: TrainingArguments) -> list[TrainerCallback]:
    """Return the callback of early stopping, in a list; none where it is off."""
    if not run.early_stopping_patience or not training.load_best_model_at_end:
        return []
    return [EarlyStoppingCallback(early_stopping_patience=run.early_stopping_patience)]


def _count_parameters(model: Any) -> tuple[int, int]:
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    return model.num_parameters(only_trainable=True), model.num_parameters()
