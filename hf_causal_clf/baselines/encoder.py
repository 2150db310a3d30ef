"""The encoder baseline: a stock sequence classifier, fine-tuned whole by the stock Trainer, as encoders are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from ..cli.logs import expected_weights
from ..data.splits import ClassificationData
from ..embedding.trainer import head_metrics
from ..training.checkpoints import remove_traces, whole_checkpoints
from ..training.train import train
from .fitting import Outcome

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
    interrupted training goes on from the last.

    Raises:
        ValueError: If training diverged.
    """
    last = next(reversed(whole_checkpoints(output_dir)), None)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=learning_rate,
        num_train_epochs=num_train_epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        warmup_steps=0.1,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="f1_macro",
        report_to="none",
        dataloader_pin_memory=torch.accelerator.is_available(),
        seed=seed,
        resume_from_checkpoint=None if last is None else str(last),
    )
    trainer, test = _trainer(data, name_or_path, max_length, arguments)
    training = train(trainer)
    logits = {}
    for split, rows in (("validation", trainer.eval_dataset), ("test", test)):
        start = time.perf_counter()
        logits[split] = np.asarray(trainer.predict(rows).predictions, dtype=np.float32)
        training["predict_samples_per_second"] = len(logits[split]) / (time.perf_counter() - start)
        if not np.isfinite(logits[split]).all():
            raise ValueError("The encoder's training diverged: it gives no numbers. Lower encoder_learning_rate.")
    remove_traces(output_dir)
    return Outcome(logits, training)


def _trainer(
    data: ClassificationData, name_or_path: str, max_length: int | None, arguments: TrainingArguments
) -> tuple[Trainer, Any]:
    """Return the trainer, and the tokenised test documents."""
    space = data.label_space
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    set_seed(arguments.seed)
    with expected_weights(missing=_HEADS, unused=_LM_HEADS):
        model = AutoModelForSequenceClassification.from_pretrained(
            name_or_path,
            num_labels=len(space),
            id2label=space.id2label,
            label2id=space.label2id,
            problem_type=space.problem_type,
            dtype=torch.float32,
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [limit for limit in (max_length, positions, tokenizer.model_max_length) if limit is not None]
    encoded = {split: _encode(data, split, tokenizer, min(limits)) for split in data.splits}
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda prediction: head_metrics(prediction, space.multi_label),
    )
    return trainer, encoded["test"]


def _encode(data: ClassificationData, split: str, tokenizer: Any, max_length: int) -> Any:
    rows, space = data.splits[split], data.label_space

    def row(example: dict[str, Any]) -> dict[str, Any]:
        label = space.encode(example["label"])
        labels = [float(value) for value in label] if space.multi_label else int(label)  # type: ignore[arg-type,union-attr]
        return {**tokenizer(example["text"], truncation=True, max_length=max_length), "labels": labels}

    return rows.map(row, remove_columns=rows.column_names, keep_in_memory=True, desc=f"Tokenizing {split}")
