"""Fine-tuning an encoder by the stock Trainer: whole, as encoders are, or by adapters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from ..backbone.loading import load_tokenizer
from ..backbone.settings import commit_of
from ..cli.logs import expected_weights
from ..data.splits import ClassificationData
from ..embedding.evaluation import head_metrics
from ..runs.run import BaseModel, Truncation
from ..training.checkpoints import remove_traces, whole_checkpoints
from ..training.facts import base_licence, trainer_facts
from ..training.folds import out_of_fold
from ..training.output_folder import documents_content
from ..training.train import train
from .encoder import EncoderScorer, token_ids
from .fitting import Outcome, describe

if TYPE_CHECKING:
    from trl import ModelConfig

# Of BERT and its like: the head is new, and what they were pretrained with is left
_HEADS = ("classifier", "pre_classifier", "score", "head.", "pooler", "bert.pooler")
_LM_HEADS = ("cls.", "lm_head", "decoder.", "head.", "vocab_", "lm_predictions", "mask_predictions", "classifier")


def fine_tuned_encoder(
    data: ClassificationData,
    name_or_path: str,
    *,
    max_length: int | None,
    learning_rate: float,
    num_train_epochs: float,
    batch_size: int,
    seed: int,
    output_dir: Path,
) -> Outcome:
    """Train an encoder on all its weights, keep the best epoch by validation macro F1, and predict.

    Documents that are too long lose their tail. Checkpoints are kept in `output_dir` until it is done, and an
    interrupted training goes on from the last. With folds, each training goes to its last epoch: one for each fold, and
    one on all labelled documents.

    Raises:
        ValueError: If training diverged.
    """
    settings: dict[str, Any] = {
        "learning_rate": learning_rate,
        "num_train_epochs": num_train_epochs,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "seed": seed,
    }
    tokenizer = load_tokenizer(name_or_path)

    def score(part: ClassificationData, folder: Path) -> np.ndarray:
        arguments = _arguments(folder, **settings, save_strategy="no")
        trainer = encoder_trainer(part, name_or_path, tokenizer, max_length, arguments)
        train(trainer)
        return _predict(_scorer(trainer, tokenizer, max_length, batch_size), part.texts("validation"))

    logits = {}
    if data.folds is None:
        best = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "f1_macro"}
    else:
        best = {}
        content = [name_or_path, max_length, settings, documents_content(data)]
        logits["validation"] = out_of_fold(data, output_dir, content, score)
    last = next(reversed(whole_checkpoints(output_dir)), None)
    resumed = {"save_strategy": "epoch", "resume_from_checkpoint": None if last is None else str(last)}
    arguments = _arguments(output_dir, **settings, **best, **resumed)
    trainer = encoder_trainer(data, name_or_path, tokenizer, max_length, arguments)
    training = train(trainer)
    scorer = _scorer(trainer, tokenizer, max_length, batch_size)
    if data.folds is None:
        logits["validation"] = _predict(scorer, data.texts("validation"))
    start = time.perf_counter()
    logits["test"] = _predict(scorer, data.texts("test"))
    training["predict_samples_per_second"] = len(logits["test"]) / (time.perf_counter() - start)
    remove_traces(output_dir)
    base = BaseModel(name_or_path, commit_of(name_or_path, None), "float32")
    licence = base_licence(name_or_path, None)
    facts = {**trainer_facts(trainer), **({"base_licence": licence} if licence else {})}
    limits = Truncation(scorer.max_length)
    return Outcome(logits, training, describe("encoder", data, base, limits, training=facts), scorer.save)


def _arguments(output_dir: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output_dir),
        **settings,
        warmup_steps=0.1,
        weight_decay=0.01,
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=torch.accelerator.is_available(),
    )


def _scorer(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, max_length: int | None, batch_size: int
) -> EncoderScorer:
    longest = longest_input(trainer.model.config, tokenizer, max_length)
    return EncoderScorer(trainer.model, tokenizer, longest, batch_size=batch_size)


def _predict(scorer: EncoderScorer, texts: list[str]) -> np.ndarray:
    logits = scorer.logits(texts)
    if not np.isfinite(logits).all():
        raise ValueError("The encoder's training diverged: it gives no numbers. Lower encoder_learning_rate.")
    return logits


def encoder_trainer(
    data: ClassificationData,
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    arguments: TrainingArguments,
    *,
    revision: str = "main",
    lora: ModelConfig | None = None,
) -> Trainer:
    """Build the stock `Trainer` of an encoder with a new head, in float32.

    Args:
        data: Documents with gold labels.
        name_or_path: The encoder.
        tokenizer: Its tokenizer.
        max_length: Most tokens of a document, which loses its tail.
        arguments: Those of the trainer; the seed is also the new head's.
        revision: Branch, tag or commit of the encoder.
        lora: Adapters to train beside the new head; by default all weights are trained.
    """
    space = data.label_space
    set_seed(arguments.seed)
    with expected_weights(missing=_HEADS, unused=_LM_HEADS):
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name_or_path,
            output_loading_info=True,
            num_labels=len(space),
            id2label=space.id2label,
            label2id=space.label2id,
            problem_type=space.problem_type,
            dtype=torch.float32,
            revision=revision,
        )
    if lora is not None:
        model = _with_adapters(model, loaded["missing_keys"], lora)
    longest = longest_input(model.config, tokenizer, max_length)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=_encode(data, "train", tokenizer, longest),
        eval_dataset=_encode(data, "validation", tokenizer, longest),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda prediction: head_metrics(prediction, space.multi_label),
    )


def _with_adapters(model: PreTrainedModel, new_weights: Iterable[str], arguments: ModelConfig) -> Any:
    """Return an encoder with LoRA on its linear layers; what is new in it, such as the head, is trained as it is."""
    from peft import get_peft_model
    from trl import get_peft_config

    heads = ("classifier", "score")  # which PEFT trains whole for a sequence classifier
    new = {name.rpartition(".")[0] for name in new_weights}
    config = get_peft_config(arguments)
    config.modules_to_save = sorted(name for name in new if name.partition(".")[0] not in heads)
    if config.target_modules is None:
        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        config.target_modules = {name for name in linear if name not in new and name.partition(".")[0] not in heads}
    return get_peft_model(model, config)


def longest_input(config: Any, tokenizer: Any, max_length: int | None) -> int:
    """Return the most tokens of a document: as many as asked for, if the encoder has as many positions."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [limit for limit in (max_length, positions, tokenizer.model_max_length) if limit is not None]
    return min(limits)


def _encode(data: ClassificationData, split: str, tokenizer: Any, max_length: int) -> Any:
    rows, space = data.splits[split], data.label_space

    def row(example: dict[str, Any]) -> dict[str, Any]:
        label = space.encode(example["label"])
        labels = [float(value) for value in label] if space.multi_label else int(label)  # type: ignore[arg-type,union-attr]
        return {**token_ids(example["text"], tokenizer, max_length), "labels": labels}

    return rows.map(row, remove_columns=rows.column_names, keep_in_memory=True, desc=f"Tokenizing {split}")
