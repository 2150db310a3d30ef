"""The two kinds of students: an encoder through stock classes, and a decoder through this package's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase, Trainer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from ..backbone.loading import check_vocabulary, check_weights, load_tokenizer
from ..backbone.settings import base_model_of
from ..baselines.encoder_training import encoder_trainer, longest_input
from ..baselines.fitting import describe
from ..cli.sources import check_source
from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..data.table import tell_data
from ..embedding.arguments import EmbeddingModelArguments, HeadArguments
from ..embedding.reading import choose_reading, readings
from ..embedding.trainer import embedding_trainer
from ..finishing import describe_run
from ..runs.disk import lock_folder
from ..runs.run import Run, Truncation
from ..task.documents import DocumentEncoder
from ..training.arguments import RunArguments
from ..training.length import encoder_epochs
from ..training.processes import check_launch
from ..training.pushing import publish_runs
from ..training.resuming import choose_checkpoint
from ..training.tracking import check_trackers
from ..training.train import early_stopping
from .arguments import StudentTrainingArguments


@dataclass(frozen=True)
class Student:
    """A model that learns.

    Attributes:
        tokenizer: Its tokenizer.
        build: Builds its trainer from documents, of which the labels are in the place of targets, and arguments.
        run: What it is as a run that is not calibrated yet.
    """

    tokenizer: PreTrainedTokenizerBase
    build: Callable[[ClassificationData, StudentTrainingArguments], Trainer]
    run: Run


def is_encoder(name_or_path: str, revision: str | None = None) -> bool:
    """Whether a model is an encoder, which stock classes fine-tune; if not, it is decoder-only.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is neither.
    """
    kind = _config(name_or_path, revision)
    masked = kind.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not kind.is_encoder_decoder:
        if kind.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked:
            return False
        if kind.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            return True
    raise ValueError(
        f"{name_or_path!r} is of type {kind.model_type!r}: a student is an encoder (BERT and its like) or "
        "decoder-only. Use another one."
    )


def _config(name_or_path: str, revision: str | None) -> PreTrainedConfig:
    check_source(name_or_path, "config.json", revision=revision)
    try:
        return AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise OSError(
            f"The model {name_or_path!r} cannot be read. Give a Hub id or the path of a folder. {error}"
        ) from error


def prepare_encoder(
    model_arguments: EmbeddingModelArguments, training_arguments: StudentTrainingArguments
) -> PreTrainedTokenizerBase:
    """Check what an encoder's training needs besides documents and weights, and load the tokenizer.

    As `training.train.prepare` does for a decoder-only model.
    """
    path = model_arguments.model_name_or_path
    if os.path.isdir(path):
        model_arguments.model_name_or_path = path = os.path.abspath(path)
    check_weights(path)
    check_launch(training_arguments)
    check_trackers(training_arguments.report_to)
    if training_arguments.process_index == 0:
        lock_folder(str(training_arguments.output_dir))
    choose_checkpoint(training_arguments)
    tokenizer = load_tokenizer(path, revision=model_arguments.model_revision)
    config = _config(path, model_arguments.model_revision)
    check_vocabulary(tokenizer, getattr(config, "vocab_size", None), path)
    return tokenizer


def encoder_student(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: EmbeddingModelArguments,
    run_arguments: RunArguments,
    training_arguments: StudentTrainingArguments,
) -> Student:
    """Return a student that is an encoder, trained whole or by adapters; its run is a stock checkpoint."""
    name, revision = model_arguments.model_name_or_path, model_arguments.model_revision
    longest = longest_input(_config(name, revision), tokenizer, training_arguments.max_length)
    tell_data(data)

    def build(documents: ClassificationData, arguments: StudentTrainingArguments) -> Trainer:
        _settle_length(arguments, len(documents.splits["train"]))
        options: dict[str, Any] = {"revision": revision, "lora": model_arguments if model_arguments.use_peft else None}
        trainer = encoder_trainer(documents, name, tokenizer, longest, arguments, **options)
        for callback in early_stopping(run_arguments, arguments, data):
            trainer.add_callback(callback)
        publish_runs(trainer, run_arguments)
        return trainer

    run = describe("encoder", data, base_model_of(model_arguments), Truncation(longest))
    return Student(tokenizer, build, run)


def merge_adapters(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Add an encoder's trained adapters, if it has any, to its weights, so that it is saved as a stock checkpoint.

    Returns:
        The part `lora` of the run's facts, which says what they were; empty without adapters.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if run.approach != "encoder" or not hasattr(model, "peft_config"):
        return {}
    config = model.active_peft_config
    trainer.model = trainer.model_wrapped = model.merge_and_unload()
    facts = {name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout")}
    return {"lora": {**facts, "target_modules": sorted({name.rpartition(".")[2] for name in config.target_modules})}}


def _settle_length(arguments: Any, documents: int) -> None:
    """Choose how often an encoder reads each document, where that is not given."""
    if arguments.num_train_epochs is not None:
        return
    batch = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    given = arguments.max_steps > 0
    arguments.num_train_epochs = arguments.max_steps * batch / documents if given else encoder_epochs(documents)
    if not given:
        epochs = f"{arguments.num_train_epochs:.3g} epochs"
        tell(f"Neither num_train_epochs nor max_steps is given: {epochs} fit {documents:,} documents.")


def decoder_student(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: EmbeddingModelArguments,
    head_arguments: HeadArguments,
    run_arguments: RunArguments,
    training_arguments: StudentTrainingArguments,
) -> Student:
    """Return a student that is a decoder-only model with a head, as `embed.py` trains one."""
    limits: dict[str, Any] = {"max_length": training_arguments.max_length, "truncation": run_arguments.truncation}
    batch_size = training_arguments.per_device_eval_batch_size
    candidates = readings(head_arguments.pooling, head_arguments.suffix)
    reading = choose_reading(data, tokenizer, model_arguments, candidates, **limits, batch_size=batch_size)
    head_arguments = replace(head_arguments, pooling=reading.pooling)
    limits |= {"suffix": reading.suffix, "long_documents": run_arguments.long_documents}
    encoder = DocumentEncoder(tokenizer, **limits)
    build = partial(
        _build_decoder,
        tokenizer=tokenizer,
        encoder=encoder,
        model_arguments=model_arguments,
        head_arguments=head_arguments,
        run_arguments=run_arguments,
    )
    head: dict[str, Any] = {"pooling": reading.pooling, "head_init": head_arguments.start(training_arguments)}
    return Student(tokenizer, build, describe_run(encoder, base_model_of(model_arguments), data.label_space, **head))


def _build_decoder(documents: ClassificationData, arguments: StudentTrainingArguments, **parts: Any) -> Trainer:
    return embedding_trainer(documents, training_arguments=arguments, **parts)
