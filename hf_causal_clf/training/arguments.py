"""Arguments that both approaches share: model, training, run and prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments
from trl import ModelConfig

from ..cli.mistakes import report
from ..cli.packages import missing_packages
from ..cli.sources import missing_folder
from ..data.arguments import DEFAULT_OUTPUT
from ..data.folds import check_folds
from ..evaluation.metrics import METRICS
from ..evaluation.selective import check_target_error
from ..task.labels import LabelSpace
from ..task.prompts import PromptTemplate
from ..task.tokens import LONG_DOCUMENTS, TRUNCATION_SIDES, check_truncation
from ..task.verbalizer import Verbalizer
from .length import SENTENCE

_LEAST = {
    "learning_rate": 0,
    "seed": 0,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
}
LOSSES = ("loss", "nll", "brier", "ece")  # metrics that should be small
_BITSANDBYTES = ("adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb")  # so its optimizers begin
# Trackers that are called as their packages
_TRACKERS = (
    *("clearml", "codecarbon", "comet_ml", "dvclive", "mlflow"),
    *("neptune", "swanlab", "tensorboard", "trackio", "wandb"),
)


def setting(value: Any, text: str, **metadata: Any) -> Any:
    """A field of an argument dataclass: its default and its help."""
    return field(default=value, metadata={"help": text, **metadata})


@dataclass
class AdapterModelArguments(ModelConfig):
    """TRL's `ModelConfig` with LoRA on, bfloat16 weights and double quantisation."""

    _argument_group_name = "Model"

    dtype: str | None = setting(
        "bfloat16",
        "Data type of the base model's weights, or to compute in where they are quantised.",
        choices=["auto", "bfloat16", "float16", "float32"],
    )
    model_revision: str = setting("main", "Branch, tag or commit of a model on the Hub.")
    attn_implementation: str | None = setting(None, "Attention: sdpa, eager, flash_attention_2 … Default: the fastest.")
    use_peft: bool = setting(True, "Whether to train LoRA adapters, not all weights.")
    load_in_4bit: bool = setting(False, "Whether to quantise the base model to 4 bits.")
    lora_target_modules: list[str] | None = setting(
        None,
        "Modules that get an adapter. Default: q, k, v, o, gate, up and down; without these names, all linear layers.",
    )
    use_bnb_nested_quant: bool = setting(True, "With load_in_4bit: whether to quantise its scales as well.")
    lora_layers: float | None = setting(None, "Last layers that get an adapter; below 1: a share. Default: all.")
    cache_frozen_layers: bool = setting(
        False, "With lora_layers: whether to run the layers below once for each document, not in every epoch."
    )
    frozen_cache_gb: float = setting(
        20.0, "With cache_frozen_layers: most GB kept in output_dir until the end; else every epoch runs all layers."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules.isidentifier():
            self.lora_target_modules = [self.lora_target_modules]  # TRL makes one name a pattern for whole paths
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        quantised = self.load_in_4bit or self.load_in_8bit
        if not self.model_name_or_path:
            yield "No model is given. Set model_name_or_path to a Hub id or a folder."
        elif (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if self.lora_r < 1 or not 0 <= self.lora_dropout < 1:
            yield (
                "lora_r must be 1 or more and lora_dropout in [0, 1), got "
                f"lora_r={self.lora_r} and lora_dropout={self.lora_dropout}."
            )
        if quantised:
            yield from missing_packages(["bitsandbytes"], "load_in_4bit or load_in_8bit")
        yield from self._layer_mistakes()
        if quantised and not self.use_peft:
            yield "Quantised weights cannot be trained without an adapter: set use_peft to true."
        if self.load_in_4bit and self.dtype == "auto":
            yield "load_in_4bit needs a dtype to compute in: set dtype to bfloat16, float16 or float32."

    def _layer_mistakes(self) -> Iterator[str]:
        layers = self.lora_layers
        if layers is not None and not (0 < layers < 1 or (layers >= 1 and float(layers).is_integer())):
            yield f"lora_layers must be a number of layers from 1, or a share between 0 and 1, got {layers:g}."
        if layers is not None and not self.use_peft:
            yield "lora_layers says where adapters are, but use_peft is false. Leave one of the two out."
        pattern = isinstance(self.lora_target_modules, str) and self.lora_target_modules != "all-linear"
        if layers is not None and pattern:
            yield "lora_layers needs lora_target_modules by their names, not by a pattern. Leave one of the two out."
        if self.cache_frozen_layers and layers is None:
            yield (
                "cache_frozen_layers needs layers without an adapter: set lora_layers to the number of the last layers "
                "that get one, such as 10, or to a share, such as 0.33."
            )
        if not 0 < self.frozen_cache_gb < math.inf:
            yield f"frozen_cache_gb must be above 0, got {self.frozen_cache_gb:g}."


def training_mistakes(arguments: TrainingArguments) -> Iterator[str]:
    """Name settings with which training would fail after the model is loaded, or teach nothing."""
    for name, least in _LEAST.items():
        value = getattr(arguments, name)
        if isinstance(value, (int, float)) and not least <= value < math.inf:
            yield f"{name} must be {least} or more, got {value}."
    if not 0 <= arguments.label_smoothing_factor < 1:
        yield f"label_smoothing_factor must be in [0, 1), got {arguments.label_smoothing_factor}."
    epochs = arguments.num_train_epochs
    if not (arguments.max_steps > 0 or epochs is None or 0 < epochs < math.inf):
        yield f"num_train_epochs must be above 0, got {epochs}; or set max_steps, or leave both out."
    if arguments.load_best_model_at_end and str(arguments.eval_strategy) == "no":
        yield (
            "load_best_model_at_end needs evaluations to tell which checkpoint is best: set eval_strategy to epoch or "
            "steps, or load_best_model_at_end to false."
        )
    if arguments.fp16 and (arguments.use_cpu or not torch.accelerator.is_available()):
        yield (
            "fp16 is mixed precision on a GPU; on a CPU it would do nothing. Leave it out; or set bf16 and use_cpu to "
            "true, which computes in mixed precision on a CPU."
        )
    for name in ("bf16", "bf16_full_eval"):
        if getattr(arguments, name) and not (arguments.use_cpu or torch.accelerator.is_available()):
            yield f"{name} needs a GPU, and there is none. Leave it out; or set use_cpu to true too, to use the CPU."
    yield from _missing_packages(arguments)
    metric = str(arguments.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in ("loss", *METRICS):
        yield f"metric_for_best_model must be loss or one of {list(METRICS)}, got {metric!r}."


def _missing_packages(arguments: TrainingArguments) -> Iterator[str]:
    """Name the packages of the optimizer and of the trackers that are not installed."""
    optimizer = str(getattr(arguments.optim, "value", arguments.optim))
    if optimizer.startswith(_BITSANDBYTES):
        yield from missing_packages(["bitsandbytes"], f"optim {optimizer}")
    trackers = arguments.report_to or []
    for name in [trackers] if isinstance(trackers, str) else trackers:
        if name in _TRACKERS and not (name == "tensorboard" and find_spec("tensorboardX")):
            yield from missing_packages([name], f"report_to {name}")


def settle_best_metric(arguments: TrainingArguments) -> None:
    """Decide by its name whether the metric that chooses a checkpoint should be large."""
    if arguments.greater_is_better is None and arguments.metric_for_best_model:
        arguments.greater_is_better = not arguments.metric_for_best_model.endswith(LOSSES)


@dataclass
class SharedTrainingArguments:
    """The defaults that both approaches set in the arguments of their trainer: list it before the trainer's class."""

    output_dir: str | None = setting(
        DEFAULT_OUTPUT,
        "Folder of the finished run. By default {name} is that of the documents' file or data set, and {approach} "
        "is embed or instruct.",
    )
    num_train_epochs: float | None = setting(None, f"Highest number of epochs. {SENTENCE}")
    max_steps: int = setting(-1, "Number of update steps, in place of num_train_epochs.")
    learning_rate: float = setting(2e-4, "Highest learning rate, at the end of the warm-up.")
    warmup_steps: float = setting(0.1, "Steps of the warm-up; below 1: share of all steps.")
    per_device_train_batch_size: int = setting(8, "Documents per device and step in training.")
    eval_strategy: str = setting("epoch", "When to measure on the validation documents: 'no', 'steps' or 'epoch'.")
    save_strategy: str = setting("epoch", "When to save a checkpoint: 'no', 'steps', 'epoch' or 'best'.")
    save_total_limit: int | None = setting(2, "Number of checkpoints to keep during training.")
    load_best_model_at_end: bool | None = setting(
        None,
        "Whether the finished run is the best checkpoint, and not the last one. Default: only where num_train_epochs "
        "or max_steps is given.",
    )
    metric_for_best_model: str | None = setting(
        "f1_macro",
        "Metric of the validation documents that tells which checkpoint is best. Multi-label: at the one threshold "
        "with the best F1, not at 0.5.",
    )
    greater_is_better: bool | None = setting(None, "Whether larger is better. Default: by the metric's name.")
    resume_from_checkpoint: str | None = setting(
        None,
        "Go on with a run that did not finish: true for the last checkpoint in output_dir, or a checkpoint's folder.",
    )
    push_to_hub: bool = setting(
        False, "Whether to push the finished run to the Hub: at the end, in one commit, without the checkpoints."
    )
    hub_model_id: str | None = setting(
        None, "With push_to_hub: id of the repository. Default: the name of the folder output_dir."
    )

    def check(self) -> None:
        """Check what can be wrong, and settle what depends on the machine; before the trainer's class does its own.

        Raises:
            ValueError: For settings with which training would fail after the model is loaded, or teach nothing.
        """
        assert isinstance(self, TrainingArguments)
        if self.output_dir is None:
            self.output_dir = DEFAULT_OUTPUT  # the trainer's own default would be the same for all runs
        if self.load_best_model_at_end is None:  # a chosen length ends well; a few documents choose by chance
            self.load_best_model_at_end = self.num_train_epochs is not None or self.max_steps > 0
        report(training_mistakes(self))
        settle_best_metric(self)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False


@dataclass
class RunArguments:
    """What both approaches share beside data, model and training arguments."""

    _argument_group_name = "Run"

    truncation: str = setting(
        "tail",
        "Where a document that is too long for max_length loses text: at its 'tail', its 'head', at 'both' ends, or in "
        "its middle ('head_tail').",
        choices=list(TRUNCATION_SIDES),
    )
    long_documents: str = setting(
        "truncate",
        "'truncate': cut a document that is too long for max_length. 'chunks': read it whole, in overlapping chunks, "
        "and average their logits.",
        choices=list(LONG_DOCUMENTS),
    )
    class_weight: str | None = setting(
        None,
        "'balanced': rare labels weigh more in the loss. Default: no.",
        choices=["balanced"],
    )
    early_stopping_patience: int | None = setting(
        None,
        "Stop after this number of evaluations without a better metric_for_best_model, counted once that of the most "
        "frequent label is passed; for load_best_model_at_end. 0: never. Default: 3.",
    )
    folds: int = setting(
        0,
        "Number of folds, 2 to 20, in place of a validation split: each is predicted by a training on the others, for "
        "calibration, and the finished run is trained on all documents. Takes folds + 1 trainings. 0: off.",
    )
    target_error: float | None = setting(
        None,
        "Highest share of errors, such as 0.02, among the answers that predict(…, abstain=True) gives. Default: none.",
    )
    overwrite_output_dir: bool = setting(
        False,
        "Whether to train again where output_dir has a finished run, and replace its files at the end.",
    )
    hub_base_model: str | None = setting(
        None, "With push_to_hub: Hub id of the base model, needed where model_name_or_path is a folder."
    )

    def __post_init__(self) -> None:
        check_truncation(None, self.truncation, self.long_documents)
        if self.long_documents == "chunks" and self.truncation != "tail":
            raise ValueError(
                f"truncation {self.truncation} says where a long document is cut, but long_documents chunks reads it "
                "whole. Leave one of the two out."
            )
        if self.class_weight not in (None, "balanced"):
            raise ValueError(f"class_weight must be 'balanced' or left out, got {self.class_weight!r}.")
        check_folds(self.folds)
        if self.target_error is not None:
            check_target_error(self.target_error)
        if self.early_stopping_patience is not None and self.early_stopping_patience < 0:
            raise ValueError(f"early_stopping_patience must be 0 (off) or more, got {self.early_stopping_patience}.")


@dataclass
class PromptArguments:
    """The prompt and the answers: of the instruction-based approach, and of a head that starts from the answers."""

    _argument_group_name = "Prompt"

    instruction: str | None = setting(
        None,
        "Text before each document, with {labels}, {delimiter} and {empty_answer}. Default: short, with all labels.",
    )
    use_chat_template: bool = setting(
        False, "Whether to write the prompt with the tokenizer's chat template. Default: plain text."
    )
    answers: str | None = setting(
        None, "Answers that are not the label's name: a mapping from label to text, in YAML or JSON. Default: none."
    )
    answer_delimiter: str = setting(", ", "Multi-label: text between two labels of an answer.")
    empty_answer: str = setting("none", "Multi-label: answer for a document without labels.")

    def __post_init__(self) -> None:
        if not isinstance(self.answer_delimiter, str) or not isinstance(self.empty_answer, str):
            raise ValueError("answer_delimiter and empty_answer must be texts; in YAML, put them in quotes.")
        self._answers: dict[str, str] = {}
        if self.answers is not None:
            try:
                given = json.loads(self.answers) if isinstance(self.answers, str) else self.answers
            except json.JSONDecodeError as error:
                raise ValueError(f"answers is not valid JSON ({error}): {self.answers!r}.") from error
            if not isinstance(given, dict):
                raise ValueError(f"answers must map label names to answer texts, got {given!r}.")
            wrong = {name: text for name, text in given.items() if type(text) not in (str, int, float)}
            if wrong:
                raise ValueError(
                    f"answers must be texts, got {wrong}. In YAML, put words such as yes and no in quotes."
                )
            self._answers = {str(name): str(text) for name, text in given.items()}

    def verbalizer(self, labels: LabelSpace) -> Verbalizer:
        """Build the verbalizer that these arguments describe."""
        return Verbalizer(labels, self._answers, delimiter=self.answer_delimiter, empty_answer=self.empty_answer)

    def template(self, max_length: int | None, truncation: str, long_documents: str = "truncate") -> PromptTemplate:
        """Build the prompt template that these arguments describe."""
        return PromptTemplate(
            instruction=self.instruction,
            use_chat_template=self.use_chat_template,
            max_length=max_length,
            truncation=truncation,
            long_documents=long_documents,
        )
