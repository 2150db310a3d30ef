"""What a run leaves behind: saving it, and measuring it through the door that its users take."""

from __future__ import annotations

import gc
import math
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from .backbone.settings import bitsandbytes_settings, commit_of
from .classifier import TextClassifier
from .data.splits import ClassificationData
from .embedding.model import CausalLMForLastTokenClassification
from .evaluation.calibration import Calibration, to_probabilities
from .evaluation.conformal import Conformal
from .evaluation.selective import Abstention
from .runs.disk import naming_full_disk, write_json, write_text
from .runs.files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    CARD_FILE,
    CLASSIFICATION_FILE,
    CONFIG_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FILE,
    read_json,
)
from .runs.measuring import (
    Metrics,
    calibrating_silently,
    generation_metrics,
    generation_rows,
    majority_metrics,
    measure,
)
from .runs.results import read_results, write_results
from .runs.run import BaseModel, Prompt, Run, Truncation
from .runs.selecting import fit_run_abstention, run_conformal
from .runs.summary import print_metrics, weakest_labels
from .sharing.card import render_card
from .task.documents import DocumentEncoder
from .task.labels import LabelSpace
from .task.prompts import PromptEncoder
from .training.output_folder import Settings, finish, unfinished_folder
from .training.processes import gather_weights, over_processes


def describe_run(
    encoder: DocumentEncoder | PromptEncoder,
    base_model: BaseModel,
    label_space: LabelSpace,
    *,
    pooling: str | None,
    head_init: str = "random",
    training: dict[str, Any] | None = None,
) -> Run:
    """Describe a run that has been trained and is not calibrated yet.

    Args:
        encoder: What read the documents in training.
        base_model: The base model (`settings.base_model_of`).
        label_space: Labels.
        pooling: That of the head; `None` for the instruction-based approach.
        head_init: What the head started from; with a prompt, that is the answers.
        training: `training_facts`, for the model card.
    """
    prompt = Prompt(encoder.template, encoder.verbalizer) if isinstance(encoder, PromptEncoder) else None
    limits = encoder.template if isinstance(encoder, PromptEncoder) else encoder
    head_init = head_init if prompt is None else "verbalizer"
    return Run(
        approach="instruction" if pooling is None else "embedding",
        label_space=label_space,
        truncation=Truncation(limits.max_length, limits.truncation, limits.long_documents),
        calibration=Calibration(),
        base_model=base_model,
        version=version("hf_causal_clf"),
        pooling=pooling,
        head_init=None if pooling is None else head_init,
        prompt=prompt,
        document_suffix=None if isinstance(encoder, PromptEncoder) else encoder.suffix,
        training=training or {},
    )


def save_run(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, run: Run) -> Path:
    """Save adapter, tokenizer and `classification.json`, and let go of the model.

    Returns:
        A folder inside the trainer's output folder, whose files stay as they are; `finish_run` makes the run whole and
        puts it in place.

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
                _write(folder, model, weights, tokenizer, run)
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
    run: Run,
) -> None:
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, state_dict=weights, **options)
    tokenizer.save_pretrained(folder)
    (folder / CARD_FILE).unlink(missing_ok=True)  # PEFT's empty model card
    if options:  # for AutoConfig
        (folder / CONFIG_FOLDER).mkdir()
        write_text(folder / CONFIG_FOLDER / "config.json", model.config.to_json_string())
    run.write(folder)
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


@dataclass(frozen=True)
class Measured:
    """What `measure_run` found.

    Attributes:
        logits: Those of the validation and test documents, float32 `(n, labels)` each.
        calibration: Fitted on the validation documents.
        metrics: Content of `metrics.json`.
        abstention: Where the run does not answer, if a target error was asked for.
        conformal: Scores for conformal sets, if there are documents that nothing was fitted on.
        decisions: Those of the documents of `logits`, where the thresholds of `calibration` do not give them.
    """

    logits: dict[str, np.ndarray]
    calibration: Calibration
    metrics: Metrics
    abstention: Abstention | None = None
    conformal: Conformal | None = None
    decisions: dict[str, np.ndarray] | None = None


def measure_run(
    folder: Path,
    data: ClassificationData,
    training: dict[str, float],
    *,
    batch_size: int,
    validation: np.ndarray | None = None,
    generate: str = "none",
    target_error: float | None = None,
    chosen: bool = False,
) -> Measured:
    """Load a saved run, calibrate it on the validation documents and measure it. All processes have to call it.

    The metrics are those of calibrated predictions, with the uncalibrated ones beside them as `uncalibrated_*`;
    `majority` are those of the majority baseline on the test documents.

    Args:
        folder: What `save_run` returned.
        data: Documents with gold labels.
        training: What `train` returned; the metrics have it with the speed of prediction.
        batch_size: Documents per forward pass.
        validation: Logits of the validation documents where they are known: those of an evaluation of the very same
            weights (`EvaluatedLogits`), or out of fold. By default they are the saved run's.
        generate: Test documents that greedy generation answers as well (instruction-based approach): `"all"`, `"none"`
            or a number.
        target_error: Highest error among the answers of a run that need not always answer; `None` for one that does.
        chosen: Whether the validation documents told which checkpoint is kept: they make no conformal sets then.

    Raises:
        ValueError: If the saved model gives no numbers: training has diverged; or if there are too few validation
            documents for the target error.
    """
    classifier = TextClassifier.from_pretrained(folder, calibrated=False, batch_size=batch_size)
    logits = {} if validation is None else {"validation": validation}
    for split in ("validation", "test")[len(logits) :]:
        start = time.perf_counter()
        logits[split] = over_processes(classifier.scorer.logits, data.texts(split))
        speed = len(logits[split]) / (time.perf_counter() - start)
    if not math.isfinite(training["train_loss"]) or any(gives_no_numbers(each, data) for each in logits.values()):
        raise ValueError(
            f"Training diverged (train_loss={training['train_loss']}): the saved model gives no numbers. Lower "
            "learning_rate."
        )
    with nullcontext() if PartialState().is_main_process else calibrating_silently():
        calibration, metrics = measure(data, logits)
    rows = generation_rows(data.gold("test"), generate)
    if classifier.approach == "instruction" and len(rows):
        texts = data.texts("test")
        answers = over_processes(classifier.generate, [texts[row] for row in rows])
        multi_label = data.label_space.multi_label
        scored = calibration.decide(
            calibration.apply(logits["test"][rows], multi_label=multi_label), multi_label=multi_label
        )
        metrics["test"] |= generation_metrics(answers, data.gold("test")[rows], data.label_space, scored)
    metrics["majority"] = majority_metrics(data)
    metrics["training"] = {**training, "predict_samples_per_second": speed}
    abstention = None
    if target_error is not None:
        abstention, metrics["abstention"] = fit_run_abstention(data, logits, calibration, target_error)
    return Measured(logits, calibration, metrics, abstention, None if chosen else run_conformal(data, logits))


def finish_run(
    folder: Path,
    data: ClassificationData,
    measured: Measured,
    *,
    log_history: Sequence[dict[str, float]] = (),
    settings: Settings | None = None,
) -> None:
    """Make a saved run whole, with results and card, and put it into its output folder.

    Only now does it take the place of an earlier run there, and are its checkpoints removed. All processes have to call
    it; the main one writes.

    Args:
        folder: What `save_run` returned.
        data: Documents with gold labels.
        measured: What `measure_run` found.
        log_history: `trainer.state.log_history`, for the training curves.
        settings: What the run was made with, by which another start knows it.
    """
    if PartialState().is_main_process:
        with naming_full_disk(folder):
            results = (measured.logits, measured.calibration, measured.metrics, log_history)
            write_results(folder, data, *results, conformal=measured.conformal, decisions=measured.decisions)
            fitted = {name: getattr(measured, name) for name in ("calibration", "abstention", "conformal")}
            replace(Run.read(folder), **fitted).write(folder)
            write_text(folder / CARD_FILE, str(render_card(folder)))
            finish(folder, settings)
    PartialState().wait_for_everyone()


def print_run(output: str | PathLike[str], metrics: Metrics, *, multi_label: bool) -> None:
    """Print, in the main process, what was measured of a run and where it is."""
    if PartialState().is_main_process:
        print_metrics(metrics, multi_label=multi_label)
        results = read_results(Path(output), label_space := Run.read(output).label_space)
        print(weakest_labels(results.gold, results.predicted, label_space.names))
        folder = shlex.quote(str(output))
        print(f"The run is in {output}: TextClassifier.from_pretrained({str(output)!r}). What may come next:")
        print(f"  hf-causal-clf predict --model_name_or_path {folder} --test_file more.jsonl --output_dir predictions")
        print(f"  hf-causal-clf serve --model_name_or_path {folder}")


def gives_no_numbers(logits: np.ndarray, data: ClassificationData) -> bool:
    """Whether some logits are no numbers: training has diverged."""
    return not np.isfinite(to_probabilities(logits, multi_label=data.label_space.multi_label)).all()


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
    run = _describe(model, encoder)
    if hasattr(model, "get_base_model"):
        settings, revision = read_json(folder / ADAPTER_CONFIG_FILE), run.base_model.revision
        if settings.get("revision") is None and revision:
            write_json(folder / ADAPTER_CONFIG_FILE, settings | {"revision": revision})
    encoder.tokenizer.save_pretrained(folder)
    run.write(folder)
    return folder / CLASSIFICATION_FILE


def _check_folder(folder: Path, *, adapter: bool) -> None:
    saved = [folder / ADAPTER_WEIGHTS_FILE] if adapter else list(folder.glob("model*.safetensors"))
    if not saved or not saved[0].is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no weights of the model. Call trainer.save_model(…) on it first.")
    results = [name for name in (METRICS_FILE, PREDICTIONS_FILE) if (folder / name).exists()]
    if results:
        raise ValueError(f"{str(folder)!r} has {results} of another run. Save the model into a folder of its own.")


def _describe(model: Any, encoder: DocumentEncoder | PromptEncoder) -> Run:
    peft_config = model.peft_config[model.active_adapter] if hasattr(model, "get_base_model") else None
    plain = model.get_base_model() if peft_config is not None else model
    source = plain.name_or_path if peft_config is None else peft_config.base_model_name_or_path
    if peft_config is not None and not source:
        raise ValueError("The adapter does not know its base model's name. Load the base model with from_pretrained.")
    label_space, pooling = _labels_and_pooling(plain, peft_config, encoder)
    settings = getattr(plain.config, "quantization_config", None)
    base_model = BaseModel(
        name_or_path=source,
        revision=commit_of(source, getattr(peft_config, "revision", None)),
        dtype=str(plain.get_input_embeddings().weight.dtype).removeprefix("torch."),
        quantization=bitsandbytes_settings(settings) if isinstance(settings, BitsAndBytesConfig) else None,
    )
    return describe_run(encoder, base_model, label_space, pooling=pooling)


def _labels_and_pooling(
    plain: Any, peft_config: Any, encoder: DocumentEncoder | PromptEncoder
) -> tuple[LabelSpace, str | None]:
    """Label space, and the pooling of the head, if there is one; checks that model and encoder fit each other."""
    if not isinstance(plain, CausalLMForLastTokenClassification):
        if not isinstance(encoder, PromptEncoder):
            raise ValueError(
                f"{type(plain).__name__} has no classification head, so it answers a prompt. Give as encoder "
                "template.bind(tokenizer, verbalizer), or the encoder of its VerbalizerCollator."
            )
        return encoder.verbalizer.labels, None
    label_space = plain.config.label_space
    if isinstance(encoder, PromptEncoder) and encoder.verbalizer.labels != label_space:
        raise ValueError(
            f"The model has the labels {list(label_space.names)}, the verbalizer "
            f"{list(encoder.verbalizer.labels.names)}. Give both the same label space."
        )
    if peft_config is not None and "score" not in (peft_config.modules_to_save or ()):
        raise ValueError('The adapter was saved without its head. Train it with LoraConfig(task_type="SEQ_CLS", …).')
    return label_space, plain.config.pooling
