"""What a run leaves behind: saving it, and measuring it through the door that its users take."""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .calibration import Calibration, to_probabilities
from .classifier import TextClassifier
from .collators import DocumentEncoder
from .data import ClassificationData
from .distributed import gather_weights, over_processes
from .labels import LabelSpace
from .metrics import decision_metrics
from .model_card import render_card
from .presets import base_revision, quantization_settings
from .prompts import PromptEncoder, PromptTemplate
from .results import measure, print_metrics, write_results
from .run_files import (
    CARD_FILE,
    CLASSIFICATION_FILE,
    CONFIG_FOLDER,
    FIGURES_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FILE,
    SCHEMA_VERSION,
    naming_full_disk,
    read_run,
    write_json,
    write_text,
)
from .verbalizer import ParsedAnswer, Verbalizer

if TYPE_CHECKING:
    from trl import ModelConfig


# Files of an earlier run: an adapter beside a full model would be taken for a part of it
_REPLACED = (
    *(CLASSIFICATION_FILE, METRICS_FILE, PREDICTIONS_FILE, f"{FIGURES_FOLDER}/*", f"{CONFIG_FOLDER}/*", CARD_FILE),
    *("adapter_config.json", "adapter_model*", "config.json", "generation_config.json", "model*.safetensors*"),
)


def describe_run(
    label_space: LabelSpace,
    model_arguments: ModelConfig,
    *,
    max_length: int | None,
    truncation: str,
    training: dict[str, Any] | None = None,
    **approach: Any,
) -> dict[str, Any]:
    """Return the content of `classification.json`.

    `embedding` and `instruction` give the last part, `training_facts` gives `training`, which is for the model card.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "hf_causal_clf_version": version("hf_causal_clf"),
        **approach,
        "label_space": label_space.to_dict(),
        "problem_type": label_space.problem_type,
        "truncation": {"max_length": max_length, "side": truncation},
        **Calibration().to_dict(),
        "base_model": {
            "name_or_path": model_arguments.model_name_or_path,
            "revision": base_revision(model_arguments),
            "dtype": model_arguments.dtype,
            "quantization": quantization_settings(model_arguments),
        },
        **({} if training is None else {"training": training}),
    }


def embedding(pooling: str, encoder: DocumentEncoder | PromptEncoder | None = None) -> dict[str, Any]:
    """The part of `classification.json` that is the embedding-based approach's own; with its prompt, if it has one."""
    part = {"approach": "embedding", "pooling": pooling, "head_init": "random"}
    if isinstance(encoder, PromptEncoder):
        part |= {"head_init": "verbalizer", **_wording(encoder.template, encoder.verbalizer)}
    return part


def instruction(template: PromptTemplate, verbalizer: Verbalizer) -> dict[str, Any]:
    """The part of `classification.json` that is the instruction-based approach's own."""
    return {"approach": "instruction", **_wording(template, verbalizer)}


def _wording(template: PromptTemplate, verbalizer: Verbalizer) -> dict[str, Any]:
    return {"prompt_template": template.to_dict(), "verbalizer": verbalizer.to_dict()}


def save_run(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, description: dict[str, Any]) -> Path:
    """Save adapter, tokenizer and `classification.json` into the trainer's output folder, and let go of the model.

    Files are written aside and moved in when all are whole; only then are the results of an earlier run in the folder
    removed.

    Raises:
        ValueError: If training has diverged; then the earlier results are kept.
    """
    output = Path(trainer.args.output_dir)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    weights = gather_weights(trainer, model)
    _check_finite(model, weights)
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        with naming_full_disk(output), tempfile.TemporaryDirectory(dir=output, prefix=".saving-") as name:
            aside = Path(name)
            options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
            model.save_pretrained(aside, state_dict=weights, **options)
            tokenizer.save_pretrained(aside)
            (aside / CARD_FILE).unlink(missing_ok=True)  # PEFT's empty model card
            if options:  # for AutoConfig
                (aside / CONFIG_FOLDER).mkdir()
                write_text(aside / CONFIG_FOLDER / "config.json", model.config.to_json_string())
            write_json(aside / CLASSIFICATION_FILE, description)
            _move_in(aside, output)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = trainer.callback_handler = None
    del model, weights
    unset_hf_deepspeed_config()  # or ZeRO-3 would shard the model that measures the run
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return output


def _move_in(aside: Path, output: Path) -> None:
    """Replace the files of a run by those that lie aside, `classification.json` first gone and last there."""
    for pattern in _REPLACED:
        for path in output.glob(pattern):
            path.unlink()
    files = [path for path in aside.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == CLASSIFICATION_FILE):
        target = output / path.relative_to(aside)
        target.parent.mkdir(exist_ok=True)
        os.chmod(path, 0o644)
        os.replace(path, target)


def _check_finite(model: Any, weights: dict[str, torch.Tensor] | None) -> None:
    """Raise a `ValueError` if training has diverged, while the results of an earlier run are still there."""
    trained = weights or {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    bad = [name for name, weight in trained.items() if not weight.isfinite().all()]
    if bad:
        raise ValueError(
            f"Training diverged: {len(bad)} of {len(trained)} trained weights are not finite, such as {bad[0]}. Lower "
            "learning_rate. Nothing was saved."
        )


def evaluate_run(
    output: Path,
    data: ClassificationData,
    training: dict[str, float],
    *,
    batch_size: int,
    log_history: Sequence[dict[str, float]] = (),
) -> dict[str, dict[str, float]]:
    """Load a saved run, calibrate it on the validation documents, measure it, and complete its folder.

    The metrics are those of calibrated predictions, with the uncalibrated ones beside them as `uncalibrated_*`.

    Args:
        output: Folder that `save_run` returned.
        data: Documents with gold labels.
        training: What `train` returned; the speed of prediction is added to it.
        batch_size: Documents a forward pass.
        log_history: `trainer.state.log_history`, for the training curves.

    Returns:
        The content of `metrics.json`.
    """
    classifier = TextClassifier.from_pretrained(output, calibrated=False, batch_size=batch_size)
    logits = {}
    for split in ("validation", "test"):
        start = time.perf_counter()
        logits[split] = over_processes(classifier.scorer.logits, data.texts(split))
        training["predict_samples_per_second"] = len(logits[split]) / (time.perf_counter() - start)
    if not math.isfinite(training["train_loss"]) or any(_no_numbers(each, data) for each in logits.values()):
        raise ValueError(
            f"Training diverged (train_loss={training['train_loss']}): the saved model gives no numbers. Lower "
            "learning_rate."
        )
    calibration, metrics = measure(data, logits)
    if classifier.approach == "instruction":
        answers = over_processes(classifier.generate, data.texts("test"))
        metrics["test"] |= generation_metrics(answers, data.gold("test"), data.label_space)
    metrics["training"] = training
    if PartialState().is_main_process:
        with naming_full_disk(output):
            write_results(output, data, logits, calibration, metrics, log_history)
            write_json(output / CLASSIFICATION_FILE, {**read_run(output), **calibration.to_dict()})
            write_text(output / CARD_FILE, str(render_card(output)))
        for checkpoint in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)
        print_metrics(metrics)
        print(f"The run is in {output}: TextClassifier.from_pretrained({str(output)!r})")
    PartialState().wait_for_everyone()
    return metrics


def _no_numbers(logits: np.ndarray, data: ClassificationData) -> bool:
    return not np.isfinite(to_probabilities(logits, multi_label=data.label_space.multi_label)).all()


def generation_metrics(answers: list[ParsedAnswer], gold: np.ndarray, labels: LabelSpace) -> dict[str, float]:
    """Return the share of malformed answers and the metrics of greedy generation, where a malformed answer is wrong."""
    malformed = np.array([answer.error is not None for answer in answers])
    if labels.multi_label:
        predicted = labels.encode_batch([answer.labels for answer in answers])
    else:
        predicted = np.array([labels.index(answer.labels[0]) if answer.labels else -1 for answer in answers])
    found = decision_metrics(gold, predicted)
    if labels.multi_label:  # an empty set is a hit for a document without labels, but not where it is malformed
        found["accuracy"] = float(((predicted == gold).all(axis=1) & ~malformed).mean())
    return {"malformed_rate": float(malformed.mean()), **{f"generation_{name}": value for name, value in found.items()}}
