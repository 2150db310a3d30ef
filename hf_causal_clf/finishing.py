"""What a run leaves behind: saving it, and measuring it through the door that its users take."""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from .backbone.loading import ADAPTER_WEIGHTS_FILE
from .backbone.settings import base_revision, bitsandbytes_settings, commit_of, quantization_settings
from .classifier import TextClassifier
from .data.splits import ClassificationData
from .embedding.model import CausalLMForLastTokenClassification
from .evaluation.calibration import Calibration, to_probabilities
from .evaluation.metrics import decision_metrics
from .runs.disk import naming_full_disk, write_json, write_text
from .runs.files import (
    ADAPTER_CONFIG_FILE,
    CARD_FILE,
    CLASSIFICATION_FILE,
    CONFIG_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FILE,
    SCHEMA_VERSION,
    read_json,
    read_run,
)
from .runs.results import Metrics, majority_metrics, measure, print_metrics, write_results
from .sharing.card import render_card
from .task.documents import DocumentEncoder
from .task.labels import LabelSpace
from .task.prompts import PromptEncoder, PromptTemplate
from .task.verbalizer import ParsedAnswer, Verbalizer
from .training.output_folder import Settings, finish, unfinished_folder
from .training.processes import gather_weights, over_processes

if TYPE_CHECKING:
    from trl import ModelConfig


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
    base = {
        "name_or_path": model_arguments.model_name_or_path,
        "revision": base_revision(model_arguments),
        "dtype": model_arguments.dtype,
        "quantization": quantization_settings(model_arguments),
    }
    return run_description(
        label_space, base, max_length=max_length, truncation=truncation, training=training, **approach
    )


def run_description(
    label_space: LabelSpace,
    base_model: dict[str, Any],
    *,
    max_length: int | None,
    truncation: str,
    training: dict[str, Any] | None = None,
    **approach: Any,
) -> dict[str, Any]:
    """Return the content of `classification.json` of a run on a base model, uncalibrated."""
    return {
        "schema_version": SCHEMA_VERSION,
        "hf_causal_clf_version": version("hf_causal_clf"),
        **approach,
        "label_space": label_space.to_dict(),
        "problem_type": label_space.problem_type,
        "truncation": {"max_length": max_length, "side": truncation},
        **Calibration().to_dict(),
        "base_model": base_model,
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
    """Save adapter, tokenizer and `classification.json`, and let go of the model.

    Returns:
        A folder inside the trainer's output folder, whose files stay as they are; `evaluate_run` makes the run whole
        and puts it in place.

    Raises:
        ValueError: If training has diverged.
    """
    output = Path(trainer.args.output_dir)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    weights = gather_weights(trainer, model)
    _check_finite(model, weights)
    folder = unfinished_folder(output)
    if trainer.is_world_process_zero():
        for earlier in filter(Path.is_dir, folder.parent.glob("*")):  # under another name of the output folder, perhaps
            shutil.rmtree(earlier)
        try:
            with naming_full_disk(output):
                folder.mkdir(parents=True)
                _write(folder, model, weights, tokenizer, description)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = trainer.callback_handler = None
    del model, weights
    unset_hf_deepspeed_config()  # or ZeRO-3 would shard the model that measures the run
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return folder


def _write(
    folder: Path,
    model: Any,
    weights: dict[str, torch.Tensor] | None,
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
) -> None:
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, state_dict=weights, **options)
    tokenizer.save_pretrained(folder)
    (folder / CARD_FILE).unlink(missing_ok=True)  # PEFT's empty model card
    if options:  # for AutoConfig
        (folder / CONFIG_FOLDER).mkdir()
        write_text(folder / CONFIG_FOLDER / "config.json", model.config.to_json_string())
    write_json(folder / CLASSIFICATION_FILE, description)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        os.chmod(path, 0o644)


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
    folder: Path,
    data: ClassificationData,
    training: dict[str, float],
    *,
    batch_size: int,
    log_history: Sequence[dict[str, float]] = (),
    settings: Settings | None = None,
) -> Metrics:
    """Load a saved run, calibrate it on the validation documents, measure it, and put it into its output folder, whole.

    The metrics are those of calibrated predictions, with the uncalibrated ones beside them as `uncalibrated_*`;
    `majority` are those of the majority baseline on the test documents.

    Only now does it take the place of an earlier run there, and are its checkpoints removed.

    Args:
        folder: What `save_run` returned.
        data: Documents with gold labels.
        training: What `train` returned; the speed of prediction is added to it.
        batch_size: Documents a forward pass.
        log_history: `trainer.state.log_history`, for the training curves.
        settings: What the run was made with, by which another start knows it.

    Returns:
        The content of `metrics.json`.
    """
    classifier = TextClassifier.from_pretrained(folder, calibrated=False, batch_size=batch_size)
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
    metrics |= {"majority": majority_metrics(data), "training": training}
    if PartialState().is_main_process:
        with naming_full_disk(folder):
            write_results(folder, data, logits, calibration, metrics, log_history)
            write_json(folder / CLASSIFICATION_FILE, {**read_run(folder), **calibration.to_dict()})
            write_text(folder / CARD_FILE, str(render_card(folder)))
            output = finish(folder, settings)
        print_metrics(metrics, multi_label=data.label_space.multi_label)
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


def save_description(
    folder: str | PathLike[str], model: PreTrainedModel, encoder: DocumentEncoder | PromptEncoder
) -> Path:
    """Write `classification.json` and the tokenizer beside a saved model, so that `TextClassifier` loads the folder.

    Call it after `trainer.save_model(folder)` of any `Trainer`, in one process. Labels, pooling, base model, data type
    and quantisation are read from the model. The base model's commit is that of the adapter's `revision`, by default
    of its main branch, and is written into `adapter_config.json` where that has none. Probabilities are as the model
    gives them: nothing is calibrated.

    Args:
        folder: Where the model was saved.
        model: `CausalLMForLastTokenClassification`, or for the instruction-based approach any causal language model;
            as it is or in a PEFT model.
        encoder: What read the documents in training: `DocumentEncoder(tokenizer, max_length, truncation)`, or with a
            prompt `template.bind(tokenizer, verbalizer)`, which `VerbalizerCollator` has as its `encoder`.

    Returns:
        The path of `classification.json`.

    Raises:
        FileNotFoundError: If the model has not been saved in the folder.
        ValueError: If encoder and model do not fit each other, the adapter lacks its base model's name or its head, or
            the folder has the results of another run.
    """
    folder = Path(folder)
    _check_folder(folder, adapter=hasattr(model, "get_base_model"))
    description = _describe(model, encoder)
    if hasattr(model, "get_base_model"):
        settings = read_json(folder / ADAPTER_CONFIG_FILE)
        if settings.get("revision") is None and description["base_model"]["revision"]:
            write_json(folder / ADAPTER_CONFIG_FILE, settings | {"revision": description["base_model"]["revision"]})
    encoder.tokenizer.save_pretrained(folder)
    write_json(folder / CLASSIFICATION_FILE, description)
    return folder / CLASSIFICATION_FILE


def _check_folder(folder: Path, *, adapter: bool) -> None:
    saved = [folder / ADAPTER_WEIGHTS_FILE] if adapter else list(folder.glob("model*.safetensors"))
    if not saved or not saved[0].is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no weights of the model. Call trainer.save_model(…) on it first.")
    results = [name for name in (METRICS_FILE, PREDICTIONS_FILE) if (folder / name).exists()]
    if results:
        raise ValueError(f"{str(folder)!r} has {results} of another run. Save the model into a folder of its own.")


def _describe(model: Any, encoder: DocumentEncoder | PromptEncoder) -> dict[str, Any]:
    peft_config = model.peft_config[model.active_adapter] if hasattr(model, "get_base_model") else None
    plain = model.get_base_model() if peft_config is not None else model
    source = plain.name_or_path if peft_config is None else peft_config.base_model_name_or_path
    if peft_config is not None and not source:
        raise ValueError("The adapter does not know its base model's name. Load the base model with from_pretrained.")
    limits = encoder.template if isinstance(encoder, PromptEncoder) else encoder
    label_space, approach = _approach(plain, peft_config, encoder)
    settings = getattr(plain.config, "quantization_config", None)
    return run_description(
        label_space,
        {
            "name_or_path": source,
            "revision": commit_of(source, getattr(peft_config, "revision", None)),
            "dtype": str(plain.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "quantization": bitsandbytes_settings(settings) if isinstance(settings, BitsAndBytesConfig) else None,
        },
        max_length=limits.max_length,
        truncation=limits.truncation,
        **approach,
    )


def _approach(
    plain: Any, peft_config: Any, encoder: DocumentEncoder | PromptEncoder
) -> tuple[LabelSpace, dict[str, Any]]:
    """Label space, and the part of `classification.json` that is the approach's own."""
    if not isinstance(plain, CausalLMForLastTokenClassification):
        if not isinstance(encoder, PromptEncoder):
            raise ValueError(
                f"{type(plain).__name__} has no classification head, so it answers a prompt. Give as encoder "
                "template.bind(tokenizer, verbalizer), or the encoder of its VerbalizerCollator."
            )
        return encoder.verbalizer.labels, instruction(encoder.template, encoder.verbalizer)
    label_space = plain.config.label_space
    if isinstance(encoder, PromptEncoder) and encoder.verbalizer.labels != label_space:
        raise ValueError(
            f"The model has the labels {list(label_space.names)}, the verbalizer "
            f"{list(encoder.verbalizer.labels.names)}. Give both the same label space."
        )
    if peft_config is not None and "score" not in (peft_config.modules_to_save or ()):
        raise ValueError('The adapter was saved without its head. Train it with LoraConfig(task_type="SEQ_CLS", …).')
    return label_space, embedding(plain.config.pooling, encoder)
