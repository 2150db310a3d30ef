"""Arguments of the embedding-based approach, with the paper's defaults (arXiv 2512.12677)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments

from ..cli.mistakes import report
from ..runs.schema import HEAD_INITS, POOLINGS
from ..training.arguments import AdapterModelArguments, PromptArguments, setting, settle_best_metric, training_mistakes


@dataclass
class HeadArguments:
    """The classification head of the embedding-based approach."""

    _argument_group_name = "Head"

    pooling: str = field(
        default="last",
        metadata={"help": "What the head reads: the 'last' token, or the 'mean' of all.", "choices": list(POOLINGS)},
    )
    class_weight: str | None = field(
        default=None,
        metadata={
            "help": "'balanced' weights classes (multi-label: positives) by their inverse frequency in training.",
            "choices": ["balanced"],
        },
    )
    head_init: str = field(
        default="random",
        metadata={
            "help": "What the head starts from: 'random' weights, or the LM head's rows of the answers ('verbalizer'), "
            "with each document in the prompt up to the answer.",
            "choices": list(HEAD_INITS),
        },
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if self.pooling not in POOLINGS:
            yield f"pooling must be one of {list(POOLINGS)}, got {self.pooling!r}."
        if self.class_weight not in (None, "balanced"):
            yield f"class_weight must be 'balanced' or left out, got {self.class_weight!r}."
        if self.head_init not in HEAD_INITS:
            yield f"head_init must be one of {list(HEAD_INITS)}, got {self.head_init!r}."
        if self.head_init == "verbalizer" and self.pooling != "last":
            yield (
                f"head_init verbalizer reads the answer slot, the last token: set pooling to last, not {self.pooling}, "
                "or head_init to random."
            )

    def check_prompt(self, prompt: PromptArguments) -> None:
        """Raise a `ValueError` for settings of a prompt that a random head has no use for."""
        given = [item.name for item in fields(prompt) if getattr(prompt, item.name) != item.default]
        if given and self.head_init != "verbalizer":
            raise ValueError(
                f"{given} belong to the prompt, which head_init {self.head_init} does not use. Set head_init to "
                "verbalizer, or leave them out."
            )


@dataclass
class EmbeddingModelArguments(AdapterModelArguments):
    """Model arguments of the embedding-based approach: rank 8, task type of a sequence classifier."""

    lora_r: int = setting(8, "LoRA rank.")
    lora_alpha: int = setting(16, "LoRA alpha.")
    lora_task_type: str = setting("SEQ_CLS", "PEFT task type.", choices=["SEQ_CLS"])


@dataclass
class EmbeddingTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the embedding-based approach's defaults."""

    _argument_group_name = "Training"

    learning_rate: float = setting(1e-4, "The initial learning rate for AdamW.")
    num_train_epochs: float = setting(20, "Maximum number of epochs; early stopping may end training before.")
    per_device_train_batch_size: int = setting(8, "Documents per device and step.")
    optim: str = setting("adamw_8bit", "The optimizer to use.")
    logging_steps: float = setting(10, "Log every so many update steps; below 1, a share of all steps.")
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
        512,
        "Maximum number of tokens of a document, special tokens included. With head_init verbalizer, of prompt and "
        "answer together, as in the instruction-based approach; only the document is shortened to fit.",
    )
    length_groups: bool | None = setting(
        None,
        "Whether to run the rows of a training batch in groups of similar length, so that little is padded, with the "
        "same gradients. Default: wherever that is safe, so not with FSDP, DeepSpeed or torch_compile.",
    )

    def __post_init__(self) -> None:
        report(training_mistakes(self))
        settle_best_metric(self)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory: bool = False
        super().__post_init__()
