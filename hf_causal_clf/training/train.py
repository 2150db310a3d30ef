"""Checking what a training needs besides documents and weights, training, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import (
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from ..backbone.layers import check_lora_layers
from ..backbone.loading import check_vocabulary, load_tokenizer, read_decoder_config
from ..data.splits import ClassificationData
from ..evaluation.calibration import to_probabilities
from ..runs.disk import lock_folder, naming_full_disk
from ..runs.measuring import majority_logits
from .arguments import AdapterModelArguments, RunArguments
from .callbacks import EarlyStopping, RunCheckpoints, TimeEstimate, TrainingClock, evaluation_metrics
from .frozen import check_cache
from .memory import peak_memory_bytes
from .processes import check_launch
from .resuming import choose_checkpoint, resume
from .tracking import check_trackers

if TYPE_CHECKING:
    from trl import ModelConfig

logger = logging.get_logger(__name__)

_PATIENCE = 3  # evaluations, as the paper has it


def prepare(model_arguments: AdapterModelArguments, training_arguments: TrainingArguments) -> PreTrainedTokenizerBase:
    """Check everything that a training needs besides documents and weights, and load the tokenizer.

    It locks the output folder, and settles which checkpoint to go on from.

    Raises:
        OSError: If there is no such model, or nothing can be written into the output folder.
        ValueError: If the model is not decoder-only or its files are damaged, `max_length` is beyond its context, one
            process sees several GPUs, or the output folder has checkpoints of an unfinished run or is in use.
    """
    path = model_arguments.model_name_or_path
    if os.path.isdir(path):
        model_arguments.model_name_or_path = path = os.path.abspath(path)
    config = read_decoder_config(path, model_arguments.model_revision).get_text_config()
    check_launch(training_arguments)
    check_trackers(training_arguments.report_to)
    _warn_of_rounding(model_arguments, config)
    _check_context(training_arguments.max_length, config)
    check_lora_layers(model_arguments.lora_layers, config, cached=model_arguments.cache_frozen_layers)
    check_cache(training_arguments, cached=model_arguments.cache_frozen_layers)
    if training_arguments.process_index == 0:
        lock_folder(training_arguments.output_dir)
    choose_checkpoint(training_arguments)
    tokenizer = load_tokenizer(path, revision=model_arguments.model_revision)
    check_vocabulary(tokenizer, getattr(config, "vocab_size", None), path)
    return tokenizer


def _warn_of_rounding(model_arguments: ModelConfig, config: PreTrainedConfig) -> None:
    """Warn where all weights are trained in a data type that loses small updates."""
    dtype = str(config.dtype if model_arguments.dtype == "auto" else model_arguments.dtype).removeprefix("torch.")
    if not model_arguments.use_peft and dtype in ("bfloat16", "float16"):
        logger.warning(
            f"All weights are trained in {dtype} (use_peft false): updates that are small beside a weight are rounded "
            "away. Set dtype to float32; on a GPU, bf16 to true keeps it fast."
        )


def _check_context(max_length: int | None, config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for more tokens than the model takes."""
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and max_length is not None and max_length > context:
        raise ValueError(f"max_length={max_length} is beyond the model's context of {context} tokens. Lower it.")


def train(trainer: Trainer, settings: dict[str, Any] | None = None) -> dict[str, float]:
    """Train, and return what `metrics.json` says of training.

    Args:
        trainer: The trainer.
        settings: What makes this run another than the next, for its checkpoints.

    Raises:
        ValueError: If the checkpoint to go on from is of another model or adapter.
    """
    trainer.add_callback(TrainingClock())
    trainer.add_callback(TimeEstimate())
    trainer.add_callback(RunCheckpoints(trainer, settings))
    trained, total = _count_parameters(trainer.model)  # before FSDP shards it: packed 4-bit weights lose their count
    checkpoint = trainer.args.resume_from_checkpoint
    try:
        with naming_full_disk(trainer.args.output_dir):
            result = trainer.train() if checkpoint is None else resume(trainer, checkpoint)
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


def _mean_loss(log_history: Sequence[dict[str, float]], otherwise: float) -> float:
    """Mean training loss over all steps; the trainer's own is that of the steps since a run was resumed."""
    total = last = 0.0
    for entry in log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / last if last else otherwise


def early_stopping(run: RunArguments, training: TrainingArguments, data: ClassificationData) -> list[TrainerCallback]:
    """Return the callback of early stopping, in a list; none where it is off.

    Args:
        run: Its patience.
        training: The metric that is watched.
        data: Documents with gold labels: what always answering the most frequent label gets is not counted.
    """
    patience = _PATIENCE if run.early_stopping_patience is None else run.early_stopping_patience
    if not patience or not training.load_best_model_at_end:
        return []
    probabilities = to_probabilities(majority_logits(data)["validation"], multi_label=data.label_space.multi_label)
    untrained = evaluation_metrics(data.gold("validation"), probabilities)
    untrained["loss"] = untrained["nll"]
    return [EarlyStopping(patience, untrained[str(training.metric_for_best_model or "loss").removeprefix("eval_")])]


def _count_parameters(model: Any) -> tuple[int, int]:
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    return model.num_parameters(only_trainable=True), model.num_parameters()
