"""What only the training knows of a run, kept in `classification.json` so that its card can be written at any time.

No path and no document text is kept: a folder or a file is somebody's machine, and a card is for everybody.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from transformers import EarlyStoppingCallback, Trainer

from ..data.arguments import SPLITS, DataArguments
from ..data.splits import WEIGHT, ClassificationData
from ..evaluation.metrics import label_counts
from ..runs.files import CARD_FILE, is_hub_id

if TYPE_CHECKING:
    from trl import ModelConfig

    from ..task.prompts import PromptEncoder

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers")
_ARGUMENTS = (
    *("learning_rate", "head_learning_rate", "weight_decay", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "seed", "bf16", "fp16"),
)
_LICENCE_KEYS = ("license", "license_name", "license_link")


def training_facts(
    trainer: Trainer,
    data: ClassificationData,
    data_arguments: DataArguments,
    model_arguments: ModelConfig,
    prompt: PromptEncoder | None = None,
) -> dict[str, Any]:
    """Return the `training` part of `classification.json`; what is not known is left out.

    Args:
        trainer: After training, with its model.
        data: Documents with gold labels.
        data_arguments: Where they are from; only a Hub id is kept.
        model_arguments: Base model, for its licence.
        prompt: Where there is one: the text before and after a document, and how long an answer can be.
    """
    facts = {**document_facts(data), **trainer_facts(trainer)}
    dataset = data_arguments.dataset_name
    if dataset and not os.path.exists(dataset) and is_hub_id(dataset):
        facts["dataset"] = {"id": dataset}
        if data_arguments.dataset_config:
            facts["dataset"]["config"] = data_arguments.dataset_config
    licence = base_licence(model_arguments.model_name_or_path, model_arguments.model_revision)
    if licence:
        facts["base_licence"] = licence
    if WEIGHT in trainer.train_dataset.column_names:
        facts["prior"] = _weighted_shares(data, np.asarray(trainer.train_dataset[WEIGHT]))
    if prompt is not None:
        facts |= {"prompt": list(prompt.frame), "answer_tokens": prompt.longest_answer}
    return facts


def document_facts(data: ClassificationData) -> dict[str, Any]:
    """Return what a run was trained on, as far as its documents tell, and the versions of the packages."""
    facts: dict[str, Any] = {
        "documents": {split: len(data.splits[split]) for split in SPLITS},
        "label_counts": {
            split: label_counts(data.gold(split), len(data.label_space)).tolist() for split in ("train", "validation")
        },
        "overlap": data.overlap,
        "versions": _versions(),
    }
    return facts if data.text_column is None else {**facts, "text_column": data.text_column}


def trainer_facts(trainer: Trainer) -> dict[str, Any]:
    """Return what a trainer was told, and what it ran on."""
    return {"arguments": _arguments(trainer), "hardware": _hardware(trainer)}


def base_licence(name_or_path: str, revision: str | None) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` of a base model, if its card is on this machine.

    Nothing is downloaded.
    """
    from huggingface_hub import ModelCard

    if os.path.isdir(name_or_path):
        path: Any = Path(name_or_path) / CARD_FILE
    else:
        path = try_to_load_from_cache(name_or_path, CARD_FILE, revision=revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        data = ModelCard.load(Path(path), ignore_metadata_errors=True).data
    except Exception:  # a damaged card of somebody else must not cost a finished run
        return {}
    return {key: value for key in _LICENCE_KEYS if isinstance(value := data.get(key), str)}


def _arguments(trainer: Trainer) -> dict[str, Any]:
    arguments = trainer.args
    facts = {name: getattr(arguments, name, None) for name in _ARGUMENTS}
    for name in ("optim", "lr_scheduler_type"):
        value = getattr(arguments, name)
        facts[name] = str(getattr(value, "value", value))
    facts["warmup_steps"] = arguments.get_warmup_steps(trainer.state.max_steps)
    if arguments.load_best_model_at_end:
        facts["metric_for_best_model"] = arguments.metric_for_best_model
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            facts["early_stopping_patience"] = callback.early_stopping_patience
    config = trainer.accelerator.unwrap_model(trainer.model).config
    facts["label_smoothing"] = getattr(config, "label_smoothing", 0.0)
    in_loss = any(getattr(config, name, None) for name in ("class_weights", "pos_weight"))
    facts["balanced_classes"] = in_loss or WEIGHT in trainer.train_dataset.column_names
    return {name: value for name, value in facts.items() if value is not None}


def _weighted_shares(data: ClassificationData, weights: np.ndarray) -> list[float]:
    """Share of each label in training documents that count by their weights."""
    gold = data.gold("train")
    rows = gold if gold.ndim == 2 else np.eye(len(data.label_space))[gold]
    return (weights @ rows / weights.sum()).tolist()


def _hardware(trainer: Trainer) -> dict[str, Any]:
    device = trainer.args.device
    facts = {"device": device.type, "processes": trainer.args.world_size}
    if device.type == "cuda":
        facts["name"] = torch.cuda.get_device_name(device)
    return facts


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
