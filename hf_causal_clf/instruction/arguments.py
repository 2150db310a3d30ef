"""Arguments of the instruction-based approach, with the paper's defaults (arXiv 2512.12677)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trl import SFTConfig

from ..training.arguments import AdapterModelArguments, SharedTrainingArguments, setting

GENERATE = "200"  # enough to tell an F1 of 0.95 from 0.90, and seconds on a GPU
_TRL_CHECKPOINTING = SFTConfig.__dataclass_fields__["gradient_checkpointing"].default


@dataclass
class InstructionModelArguments(AdapterModelArguments):
    """Model arguments of the instruction-based approach: rank 64, task type of a causal language model."""

    lora_r: int = setting(64, "Rank of the LoRA adapters.")
    lora_alpha: int = setting(128, "Scale of the LoRA adapters: what they add is multiplied by lora_alpha / lora_r.")
    lora_task_type: str = setting("CAUSAL_LM", "Task type that PEFT knows.", choices=["CAUSAL_LM"])


@dataclass
class InstructionTrainingArguments(SharedTrainingArguments, SFTConfig):
    """TRL's `SFTConfig` with the instruction-based approach's defaults."""

    _argument_group_name = "Training"

    lr_scheduler_type: str = setting("cosine", "How the learning rate changes during training.")
    optim: str = setting("paged_adamw_32bit", "The optimizer.")
    max_length: int | None = setting(
        1024, "Highest number of tokens of prompt, document and answer together; only the document is cut to fit."
    )
    share_prefix: bool | None = setting(
        None,
        "Whether to run the instruction, with which all prompts start, once per batch; the gradients are the same. "
        "Default: wherever that is exact and safe: not with activation_checkpointing (on by default, to save memory), "
        "FSDP, DeepSpeed, torch_compile, flash attention, or a sliding window shorter than max_length.",
    )
    generate: str = setting(
        GENERATE,
        "Number of test documents that greedy generation answers as well, for comparison with label scoring: a sample "
        "in which labels keep their shares, the same for every run. Or 'all', or 'none'.",
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not torch.cuda.is_available():
            self.bf16: bool | None = False  # TRL's default, mixed precision, is refused without a GPU
        if self.activation_checkpointing is None and self.gradient_checkpointing is _TRL_CHECKPOINTING:
            self.activation_checkpointing: bool | None = _TRL_CHECKPOINTING  # TRL's default, by its name of today
        self.generate = str(self.generate)
        if self.generate not in ("all", "none") and not (self.generate.isdecimal() and int(self.generate) > 0):
            raise ValueError(f"generate must be all, none or a number of documents from 1, got {self.generate!r}.")
        self.check()
        super().__post_init__()
        if self.share_prefix and self.activation_checkpointing:
            raise ValueError(
                "share_prefix needs the key-value cache, which activation_checkpointing (TRL's default) discards: set "
                "activation_checkpointing to false, or leave share_prefix out."
            )
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # the collator makes the tokens
        self.remove_unused_columns = False
