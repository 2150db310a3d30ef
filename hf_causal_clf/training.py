"""Building and running the `Trainer` of either approach.

The trainers are the stock ones: transformers' `Trainer` and TRL's `SFTTrainer`, with a collator and callbacks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint, set_seed
from transformers.utils import logging

from .arguments import HeadArguments, RunArguments
from .classifier import head_probabilities
from .collators import ClassificationCollator, DocumentEncoder, VerbalizerCollator, padding_id
from .data import ClassificationData
from .distributed import over_processes
from .metrics import classification_metrics
from .modeling import CausalLMForLastTokenClassification, keep_exact_gradients
from .presets import loading_kwargs, peft_config
from .prompts import PromptTemplate
from .scoring import LabelScorer
from .verbalizer import Verbalizer

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, SFTTrainer

logger = logging.get_logger(__name__)


def prepare(model_arguments: ModelConfig, training_arguments: TrainingArguments) -> PreTrainedTokenizerBase:
    """Check the model's configuration and the output folder, and load the tokenizer, before any weights are loaded.

    Raises:
        ValueError: If the model is not decoder-only, `max_length` is beyond its context, evaluation is off although the
            best checkpoint is asked for, or the output folder has checkpoints of an unfinished run.
    """
    path = model_arguments.model_name_or_path
    if os.path.isdir(path):
        model_arguments.model_name_or_path = path = os.path.abspath(path)
    config = AutoConfig.from_pretrained(path, revision=model_arguments.model_revision)
    if config.is_encoder_decoder:
        raise ValueError(f"{path!r} is an encoder-decoder model ({config.model_type}); use a decoder-only one.")
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    max_length = training_arguments.max_length
    if context is not None and max_length is not None and max_length > context:
        raise ValueError(f"max_length={max_length} is beyond the model's context of {context} tokens. Lower it.")
    last = get_last_checkpoint(training_arguments.output_dir) if os.path.isdir(training_arguments.output_dir) else None
    resume = training_arguments.resume_from_checkpoint
    if str(resume).lower() == "true":
        if last is None:
            raise ValueError(f"There is no checkpoint to resume from in {training_arguments.output_dir!r}.")
        training_arguments.resume_from_checkpoint = last
    elif last is not None and not resume:
        raise ValueError(
            f"{training_arguments.output_dir!r} has checkpoints of a run that did not finish, the last is "
            f"{Path(last).name}. Go on with --resume_from_checkpoint true, or choose another output_dir."
        )
    return AutoTokenizer.from_pretrained(path, revision=model_arguments.model_revision)


def embedding_trainer(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    encoder: DocumentEncoder,
    model_arguments: ModelConfig,
    training_arguments: TrainingArguments,
    head_arguments: HeadArguments,
    run_arguments: RunArguments,
) -> Trainer:
    """Build the standard `Trainer` of the embedding-based approach."""
    label_space = data.label_space
    encoded = {split: _encode(data, split, encoder) for split in ("train", "validation")}
    set_seed(training_arguments.seed)  # the head is random, and has to be the same in all processes
    model: Any = CausalLMForLastTokenClassification.from_pretrained(
        model_arguments.model_name_or_path,
        label_space=label_space,
        pooling=head_arguments.pooling,
        label_smoothing=0.0 if label_space.multi_label else training_arguments.label_smoothing_factor,
        **(_balanced_weights(data) if head_arguments.class_weight == "balanced" else {}),
        **_device_kwargs(loading_kwargs(model_arguments)),
    )
    training_arguments.label_smoothing_factor = 0.0  # the model's own loss does it, normalised
    config = peft_config(model_arguments, model)
    if config is not None:
        model = _add_adapter(model, config, model_arguments, training_arguments)
    return Trainer(
        model=model,
        args=training_arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        data_collator=ClassificationCollator(label_space, padding_id(tokenizer)),
        compute_metrics=lambda prediction: _head_metrics(prediction, label_space.multi_label),
        callbacks=_early_stopping(run_arguments, training_arguments),
    )


def instruction_trainer(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    verbalizer: Verbalizer,
    model_arguments: ModelConfig,
    training_arguments: SFTConfig,
    run_arguments: RunArguments,
) -> SFTTrainer:
    """Build TRL's `SFTTrainer` of the instruction-based approach, evaluated by label scoring."""
    from trl import SFTTrainer

    collator = VerbalizerCollator(tokenizer, template, verbalizer)
    set_seed(training_arguments.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_arguments.model_name_or_path, **_device_kwargs(loading_kwargs(model_arguments))
    )
    keep_exact_gradients(model)
    config = peft_config(model_arguments, model)
    if config is not None:
        config.revision = _commit(model_arguments)
    trainer = SFTTrainer(
        model=model,
        args=training_arguments,
        train_dataset=data.splits["train"],
        eval_dataset=data.splits["validation"],
        processing_class=tokenizer,
        data_collator=collator,
        peft_config=config,
    )
    if config is not None:
        # TRL casts the adapter of a quantised model to bfloat16, where small updates are lost
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    scorer = LabelScorer(
        trainer.model,
        tokenizer,
        template=template,
        verbalizer=verbalizer,
        batch_size=training_arguments.per_device_eval_batch_size,
    )
    trainer.add_callback(LabelScoringCallback(trainer, scorer, data.texts("validation"), data.gold("validation")))
    for callback in _early_stopping(run_arguments, training_arguments):
        trainer.add_callback(callback)
    return trainer


def train(trainer: Trainer) -> dict[str, float]:
    """Train, and return what `metrics.json` says of training."""
    clock = TrainingClock()
    trainer.add_callback(clock)
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trained, total = _count_parameters(trainer.accelerator.unwrap_model(trainer.model))
    metrics = {
        "train_loss": result.training_loss,
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


class LabelScoringCallback(TrainerCallback):
    """Adds the metrics of label scoring on the validation documents to every evaluation of a trainer.

    Add it before `EarlyStoppingCallback`, which reads them.
    """

    def __init__(self, trainer: Trainer, scorer: LabelScorer, texts: Sequence[str], gold: np.ndarray) -> None:
        self.trainer = trainer
        self.scorer = scorer
        self.texts = texts
        self.gold = gold

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score the documents, shared out over the processes."""
        probabilities = over_processes(self.scorer.probabilities, self.texts)
        found = {f"eval_{name}": value for name, value in classification_metrics(self.gold, probabilities).items()}
        kwargs["metrics"].update(found)  # the trainer picks the best checkpoint from this same dictionary
        self.trainer.log(found)


class TrainingClock(TrainerCallback):
    """Counts the time spent in training steps, without evaluation and saving."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0
        self._first_epoch = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where a resumed run starts."""
        self._first_epoch = float(state.epoch or 0.0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._start

    def samples_per_second(self, trainer: Trainer) -> float:
        """Documents a second over all processes."""
        epochs = float(trainer.state.epoch or 0.0) - self._first_epoch
        return epochs * len(trainer.train_dataset) / self.seconds if self.seconds else 0.0


def peak_memory_bytes() -> int:
    """Peak memory of this process: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _encode(data: ClassificationData, split: str, encoder: DocumentEncoder) -> Any:
    rows = data.splits[split]
    encode_label = data.label_space.encode

    def row(example: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": encoder.encode(example["text"]), "labels": encode_label(example["label"])}

    return rows.map(row, remove_columns=rows.column_names, keep_in_memory=True, desc=f"Tokenizing {split}")


def _head_metrics(prediction: EvalPrediction, multi_label: bool) -> dict[str, float]:
    probabilities = head_probabilities(torch.as_tensor(prediction.predictions), multi_label)
    return classification_metrics(np.asarray(prediction.label_ids).astype(np.int64), probabilities)


def _balanced_weights(data: ClassificationData) -> dict[str, list[float]]:
    """Inverse-frequency weights of the training documents, as scikit-learn's "balanced"."""
    gold, count = data.gold("train"), len(data.label_space)
    if data.label_space.multi_label:
        positive = gold.sum(axis=0).clip(min=1)
        return {"pos_weight": ((len(gold) - positive) / positive).tolist()}
    return {"class_weights": (len(gold) / (count * np.bincount(gold, minlength=count).clip(min=1))).tolist()}


def _add_adapter(
    model: PreTrainedModel, config: Any, model_arguments: ModelConfig, arguments: TrainingArguments
) -> Any:
    from peft import get_peft_model

    config.revision = _commit(model_arguments)
    peft_model = get_peft_model(model, config)
    if arguments.activation_checkpointing:
        peft_model.enable_input_require_grads()
    return peft_model


def _commit(model_arguments: ModelConfig) -> str | None:
    """The commit that the base model's revision stands for; `None` for a folder."""
    from transformers.utils.hub import resolve_revision

    if os.path.isdir(model_arguments.model_name_or_path):
        return None
    revision = resolve_revision(model_arguments.model_name_or_path, model_arguments.model_revision)
    return getattr(revision, "resolved", revision)


def _device_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put quantised weights on this process's GPU, where there is one."""
    if kwargs["quantization_config"] is not None and torch.cuda.is_available():
        from accelerate import PartialState

        kwargs["device_map"] = {"": PartialState().local_process_index}
    return kwargs


def _early_stopping(run: RunArguments, training: TrainingArguments) -> list[TrainerCallback]:
    if not run.early_stopping_patience or not training.load_best_model_at_end:
        return []
    return [EarlyStoppingCallback(early_stopping_patience=run.early_stopping_patience)]


def _count_parameters(model: Any) -> tuple[int, int]:
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    return model.num_parameters(only_trainable=True), model.num_parameters()
