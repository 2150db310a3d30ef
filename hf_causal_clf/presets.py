"""Settings of the two approaches (arXiv 2512.12677): NF4, LoRA and optimizer, as command-line arguments.

The classes are TRL's and transformers' own with other defaults, so every name means what it means there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TrainingArguments
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from .metrics import METRICS
from .mistakes import report
from .sources import missing_folder

if TYPE_CHECKING:
    from peft import PeftConfig

_LEAST = {
    "learning_rate": 0,
    "seed": 0,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
}
_TRL_CHECKPOINTING = SFTConfig.__dataclass_fields__["gradient_checkpointing"].default
LOSSES = ("loss", "nll", "brier", "ece")  # metrics that should be small
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _default(value: Any, text: str, **metadata: Any) -> Any:
    return field(default=value, metadata={"help": text, **metadata})


@dataclass
class _ModelArguments(ModelConfig):
    """TRL's `ModelConfig` with LoRA on, bfloat16 weights and double quantisation."""

    dtype: str | None = _default(
        "bfloat16",
        "Data type of the base model's weights, and of the computation where they are quantised.",
        choices=["auto", "bfloat16", "float16", "float32"],
    )
    use_peft: bool = _default(True, "Whether to train LoRA adapters instead of all weights.")
    lora_target_modules: list[str] | None = _default(
        None,
        "Modules that get an adapter. Default: q, k, v, o, gate, up and down; all linear layers if named otherwise.",
    )
    use_bnb_nested_quant: bool = _default(
        True, "Whether to quantise the quantisation constants too (double quantisation)."
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
        if quantised and find_spec("bitsandbytes") is None:
            yield "load_in_4bit and load_in_8bit need bitsandbytes: pip install bitsandbytes."
        if quantised and not self.use_peft:
            yield "Quantised weights cannot be trained without an adapter: set use_peft to true."
        if self.load_in_4bit and self.dtype == "auto":
            yield "load_in_4bit needs a dtype to compute in: set dtype to bfloat16, float16 or float32."


@dataclass
class EmbeddingModelArguments(_ModelArguments):
    """Model arguments of the embedding-based approach: rank 8, task type of a sequence classifier."""

    lora_r: int = _default(8, "LoRA rank.")
    lora_alpha: int = _default(16, "LoRA alpha.")
    lora_task_type: str = _default("SEQ_CLS", "PEFT task type.", choices=["SEQ_CLS"])


@dataclass
class InstructionModelArguments(_ModelArguments):
    """Model arguments of the instruction-based approach: rank 64, task type of a causal language model."""

    lora_r: int = _default(64, "LoRA rank.")
    lora_alpha: int = _default(128, "LoRA alpha.")
    lora_task_type: str = _default("CAUSAL_LM", "PEFT task type.", choices=["CAUSAL_LM"])


@dataclass
class EmbeddingTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the embedding-based approach's defaults."""

    learning_rate: float = _default(1e-4, "The initial learning rate for AdamW.")
    num_train_epochs: float = _default(20, "Maximum number of epochs; early stopping may end training before.")
    per_device_train_batch_size: int = _default(8, "Documents a device and step.")
    optim: str = _default("adamw_8bit", "The optimizer to use.")
    logging_steps: float = _default(10, "Log every so many update steps; below 1, a share of all steps.")
    eval_strategy: str = _default("epoch", "When to evaluate: 'no', 'steps' or 'epoch'.")
    save_strategy: str = _default("epoch", "When to save a checkpoint: 'no', 'steps', 'epoch' or 'best'.")
    save_total_limit: int | None = _default(2, "Number of checkpoints to keep during training.")
    load_best_model_at_end: bool = _default(True, "Whether to end with the best checkpoint.")
    metric_for_best_model: str | None = _default(
        "f1_macro",
        "The validation metric that tells which checkpoint is best. Multi-label F1, precision, recall and accuracy are "
        "at the one threshold that gives the best F1 on the validation documents, not at 0.5.",
    )
    greater_is_better: bool | None = _default(None, "Whether that metric should be large. Default: by its name.")
    max_length: int | None = _default(
        512,
        "Maximum number of tokens of a document, special tokens included. With head_init verbalizer, of prompt and "
        "answer together, as in the instruction-based approach; only the document is shortened to fit.",
    )
    length_groups: bool | None = _default(
        None,
        "Whether to run the rows of a training batch in groups of similar length, so that little is padded, with the "
        "same gradients. Default: wherever that is safe, so not with FSDP, DeepSpeed or torch_compile.",
    )

    def __post_init__(self) -> None:
        report(_training_mistakes(self))
        _settle_best_metric(self)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory: bool = False
        super().__post_init__()


@dataclass
class InstructionTrainingArguments(SFTConfig):
    """TRL's `SFTConfig` with the instruction-based approach's defaults."""

    learning_rate: float = _default(1e-4, "The initial learning rate for AdamW.")
    lr_scheduler_type: str = _default("cosine", "The learning rate schedule.")
    num_train_epochs: float = _default(5, "Maximum number of epochs; early stopping may end training before.")
    per_device_train_batch_size: int = _default(8, "Documents a device and step.")
    optim: str = _default("paged_adamw_32bit", "The optimizer to use.")
    eval_strategy: str = _default("epoch", "When to evaluate: 'no', 'steps' or 'epoch'.")
    save_strategy: str = _default("epoch", "When to save a checkpoint: 'no', 'steps', 'epoch' or 'best'.")
    save_total_limit: int | None = _default(2, "Number of checkpoints to keep during training.")
    load_best_model_at_end: bool = _default(True, "Whether to end with the best checkpoint.")
    metric_for_best_model: str | None = _default(
        "f1_macro",
        "The validation metric that tells which checkpoint is best. Multi-label F1, precision, recall and accuracy are "
        "at the one threshold that gives the best F1 on the validation documents, not at 0.5.",
    )
    greater_is_better: bool | None = _default(None, "Whether that metric should be large. Default: by its name.")
    max_length: int | None = _default(
        1024, "Maximum number of tokens of prompt and answer together; only the document is shortened to fit."
    )
    share_prefix: bool | None = _default(
        None,
        "Whether to run the instruction that all prompts start with once a batch, with the same gradients. Default: "
        "wherever that is exact and safe, so not with activation_checkpointing (on by default, to save memory), FSDP, "
        "DeepSpeed, torch_compile, flash attention, or a sliding window shorter than max_length.",
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not torch.cuda.is_available():
            self.bf16: bool | None = False  # TRL's default, mixed precision, is refused without a GPU
        if self.activation_checkpointing is None and self.gradient_checkpointing is _TRL_CHECKPOINTING:
            self.activation_checkpointing: bool | None = _TRL_CHECKPOINTING  # TRL's default, by its name of today
        report(_training_mistakes(self))
        _settle_best_metric(self)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory: bool = False
        super().__post_init__()
        if self.share_prefix and self.activation_checkpointing:
            raise ValueError(
                "share_prefix needs the key-value cache, which activation_checkpointing (TRL's default) discards: set "
                "activation_checkpointing to false, or leave share_prefix out."
            )
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # the collator makes the tokens
        self.remove_unused_columns = False


def _training_mistakes(arguments: TrainingArguments) -> Iterator[str]:
    """Name settings with which training would fail after the model is loaded, or teach nothing."""
    for name, least in _LEAST.items():
        value = getattr(arguments, name)
        if isinstance(value, (int, float)) and not least <= value < math.inf:
            yield f"{name} must be {least} or more, got {value}."
    if not 0 <= arguments.label_smoothing_factor < 1:
        yield f"label_smoothing_factor must be in [0, 1), got {arguments.label_smoothing_factor}."
    if not (arguments.max_steps > 0 or 0 < arguments.num_train_epochs < math.inf):
        yield f"num_train_epochs must be above 0, got {arguments.num_train_epochs}; or set max_steps."
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
    metric = str(arguments.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in ("loss", *METRICS):
        yield f"metric_for_best_model must be loss or one of {list(METRICS)}, got {metric!r}."


def _settle_best_metric(arguments: TrainingArguments) -> None:
    if arguments.greater_is_better is None and arguments.metric_for_best_model:
        arguments.greater_is_better = not arguments.metric_for_best_model.endswith(LOSSES)


def lora_target_modules(backbone: nn.Module) -> list[str]:
    """Names of the modules below a backbone that get an adapter: the seven projections, else all linear layers."""
    linear = {
        name.rsplit(".", 1)[-1] for name, module in backbone.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    return list(PROJECTIONS) if linear.issuperset(PROJECTIONS) else sorted(linear)


def peft_config(arguments: ModelConfig, model: PreTrainedModel) -> PeftConfig | None:
    """Return TRL's LoRA configuration for a model, with target modules filled in; `None` without `use_peft`."""
    config = get_peft_config(arguments)
    if config is not None:
        config.revision = base_revision(arguments)
        if config.target_modules is None:
            config.target_modules = set(lora_target_modules(model.base_model))
        elif arguments.lora_target_modules != ["all-linear"]:
            _check_targets(config.target_modules, model)
    return config


def _check_targets(targets: Any, model: PreTrainedModel) -> None:
    """Raise a `ValueError` for names of modules that the model does not have, which PEFT passes over in silence."""
    names = [name for name, _ in model.named_modules()]
    missing = [
        target
        for target in ([] if isinstance(targets, str) else sorted(targets))
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        raise ValueError(
            f"lora_target_modules has {missing}, which the model does not have. It has "
            f"{lora_target_modules(model.base_model)}; or leave it out."
        )


def loading_kwargs(arguments: ModelConfig) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that the arguments ask for."""
    kwargs = {
        "revision": arguments.model_revision,
        "dtype": arguments.dtype,
        "attn_implementation": arguments.attn_implementation,
        "quantization_config": get_quantization_config(arguments),
    }
    if kwargs["quantization_config"] is not None:  # quantised where they stay, on this process's device
        kwargs["device_map"] = {"": PartialState().device}
    return kwargs


def quantization_settings(arguments: ModelConfig) -> dict[str, Any] | None:
    """Arguments of the `BitsAndBytesConfig` that the arguments ask for, as JSON; `None` without quantisation."""
    config = get_quantization_config(arguments)
    return None if config is None else bitsandbytes_settings(config)


def bitsandbytes_settings(config: BitsAndBytesConfig) -> dict[str, Any]:
    """Arguments of a `BitsAndBytesConfig`, as JSON."""
    return {name: value for name, value in config.to_diff_dict().items() if name != "quant_method"}


def base_revision(arguments: ModelConfig) -> str | None:
    """The commit that the base model's revision stands for; `None` for a folder."""
    return commit_of(arguments.model_name_or_path, arguments.model_revision)


def commit_of(name_or_path: str, revision: str | None) -> str | None:
    """The commit that a revision of a Hub model stands for; `None` for a folder or a model without a name."""
    from transformers.utils.hub import resolve_revision

    if not name_or_path or os.path.isdir(name_or_path):
        return None
    resolved = resolve_revision(name_or_path, revision)
    return getattr(resolved, "resolved", resolved)
