"""Arguments of the instruction-based approach, with the paper's defaults (arXiv 2512.12677)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trl import SFTConfig

from ..cli.mistakes import report
from ..training.arguments import AdapterModelArguments, setting, settle_best_metric, training_mistakes

_TRL_CHECKPOINTING = SFTConfig.__dataclass_fields__["gradient_checkpointing"].default


@dataclass
class InstructionModelArguments(AdapterModelArguments):
    """Model arguments of the instruction-based approach: rank 64, task type of a causal language model."""

    lora_r: int = setting(64, "LoRA rank.")
    lora_alpha: int = setting(128, "LoRA alpha.")
    lora_task_type: str = setting("CAUSAL_LM", "PEFT task type.", choices=["CAUSAL_LM"])


@dataclass
class InstructionTrainingArguments(SFTConfig):
    """TRL's `SFTConfig` with the instruction-based approach's defaults."""

    _argument_group_name = "Training"

    learning_rate: float = setting(1e-4, "The initial learning rate for AdamW.")
    lr_scheduler_type: str = setting("cosine", "The learning rate schedule.")
    num_train_epochs: float = setting(5, "Maximum number of epochs; early stopping may end training before.")
    per_device_train_batch_size: int = setting(8, "Documents per device and step.")
    optim: str = setting("paged_adamw_32bit", "The optimizer to use.")
    eval_strategy: str = setting("epoch", "When to evaluate: 'no', 'steps' or 'epoch'.")
    save_strategy: str = setting("epoch", "When to save a checkpoint: 'no', 'steps', 'epoch' or 'best'.")
    save_total_limit: int | None = setting(2, "Number of checkpoints to keep during training.")
    load_best_model_at_end: bool = setting(True, "Whether to end with the best checkpoint.")
    metric_for_best_model: str | None = setting(
        "f1_macro",
        "The validation metric that tells which checkpoint is best. Multi-label F1, precision, recall and accuracy are "
        "at the one threshold that gives the best F1 on the validation documents, not at 0.5.",
    )
    greater_is_better: bool | None = setting(None, "Whether that metric should be large. Default: by its name.")
    max_length: int | None = setting(
        1024, "Maximum number of tokens of prompt and answer together; only the document is shortened to fit."
    )
    share_prefix: bool | None = setting(
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
        report(training_mistakes(self))
        settle_best_metric(self)
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
