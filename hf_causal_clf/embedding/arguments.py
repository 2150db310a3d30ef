"""Arguments of the embedding-based approach, with the paper's defaults (arXiv 2512.12677)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from transformers import TrainingArguments

from ..cli.mistakes import report
from ..runs.schema import HEAD_INITS, POOLINGS
from ..task.documents import SUFFIXES
from ..training.arguments import AdapterModelArguments, PromptArguments, SharedTrainingArguments, setting
from ..training.processes import sharding


@dataclass
class HeadArguments:
    """The classification head of the embedding-based approach."""

    _argument_group_name = "Head"

    pooling: str = setting(
        "last",
        "What the head reads: the 'last' token, or the 'mean' of all. 'auto': what a frozen model does better with, "
        "out of fold.",
        choices=["auto", *POOLINGS],
    )
    document_suffix: str = setting(
        "auto",
        "Text after each document, which a head on the last token reads (\\n is a new line), or 'none'. 'auto': what a "
        f"frozen model does best with, out of fold: none, or one of {len(SUFFIXES)}.",
    )
    head_init: str = setting(
        "auto",
        "What the head starts from: 'random' weights; the language model's for the answers ('verbalizer'), with each "
        "document in the prompt; or a logistic regression on frozen features ('probe'). 'auto': a probe, or random "
        "where the model is sharded.",
        choices=["auto", *HEAD_INITS],
    )

    answer_loss_weight: float | None = setting(
        None,
        "With head_init verbalizer: weight of the language model's loss on the answer, beside the head's. Default: 1; "
        "in chunks 0.",
    )

    def __post_init__(self) -> None:
        report(self._mistakes())
        self.document_suffix = self.document_suffix.replace("\\n", "\n")  # as a command line has it
        if self.head_init == "verbalizer":  # the answer slot, and nothing is to be chosen
            self.pooling, self.document_suffix = "last", "none"

    def _mistakes(self) -> Iterator[str]:
        if self.pooling not in ("auto", *POOLINGS):
            yield f"pooling must be one of {['auto', *POOLINGS]}, got {self.pooling!r}."
        if not isinstance(self.document_suffix, str) or not self.document_suffix.strip():
            yield f"document_suffix must be a text, or auto, or none, got {self.document_suffix!r}."
        if self.head_init not in ("auto", *HEAD_INITS):
            yield f"head_init must be one of {['auto', *HEAD_INITS]}, got {self.head_init!r}."
        if (given := self.answer_loss_weight) is not None and not 0 <= given < math.inf:
            yield f"answer_loss_weight must be 0 or more, got {given}."
        if self.answer_loss_weight is not None and self.head_init != "verbalizer":
            yield (
                f"answer_loss_weight is for head_init verbalizer, whose prompt asks for an answer, not "
                f"{self.head_init}: leave it out."
            )
        if self.head_init == "verbalizer" and self.document_suffix not in ("auto", "none"):
            yield "head_init verbalizer reads the answer slot of the prompt: leave document_suffix out."
        if self.head_init == "verbalizer" and self.pooling == "mean":
            yield (
                f"head_init verbalizer reads the answer slot, the last token: set pooling to last, not {self.pooling}, "
                "or head_init to random."
            )

    def answer_weight(self, *, in_chunks: bool) -> float:
        """`answer_loss_weight` with a prompt, with what its default is.

        Raises:
            ValueError: If it is above 0 for documents in chunks.
        """
        if in_chunks and self.answer_loss_weight:
            raise ValueError(
                "answer_loss_weight is not possible with long_documents chunks, which have no answer each. Leave one "
                "of the two out."
            )
        if self.answer_loss_weight is None:
            return 0.0 if in_chunks else 1.0
        return self.answer_loss_weight

    def start(self, training: TrainingArguments) -> str:
        """`head_init`, with what `"auto"` is for a training."""
        if self.head_init != "auto":
            return self.head_init
        return "random" if sharding(training) else "probe"

    @property
    def suffix(self) -> str | None:
        """`document_suffix`, with `None` for none."""
        return None if self.document_suffix == "none" else self.document_suffix

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

    lora_r: int = setting(8, "Rank of the LoRA adapters.")
    lora_alpha: int = setting(16, "Scale of the LoRA adapters: what they add is multiplied by lora_alpha / lora_r.")
    lora_task_type: str = setting("SEQ_CLS", "Task type that PEFT knows.", choices=["SEQ_CLS"])


@dataclass
class EmbeddingTrainingArguments(SharedTrainingArguments, TrainingArguments):
    """`TrainingArguments` with the embedding-based approach's defaults."""

    _argument_group_name = "Training"

    head_learning_rate: float | None = setting(None, "Highest learning rate of the head. Default: learning_rate.")
    optim: str = setting("adamw_8bit", "The optimizer.")
    logging_steps: float = setting(10, "Log the loss after this number of steps; below 1: after this share of all.")
    max_length: int | None = setting(
        512,
        "Highest number of tokens of a document, special tokens and document_suffix included; with head_init "
        "verbalizer, of prompt and document.",
    )
    length_groups: bool | None = setting(
        None,
        "Whether to run the documents of a batch in groups of similar length. Less is padded, and the gradients are "
        "the same. Default: wherever that is safe: not with FSDP, DeepSpeed or torch_compile.",
    )

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if self.head_learning_rate is None:
            return
        if not 0 <= self.head_learning_rate < math.inf:
            yield f"head_learning_rate must be 0 or more, got {self.head_learning_rate}."
        if found := sharding(self):
            yield f"head_learning_rate is not possible with {found}, which groups the weights itself. Leave it out."
