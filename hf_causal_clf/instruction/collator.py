"""Padded batches of prompt and answer, with labels on the answer alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..backbone.batching import pad, padding_id
from ..task.labels import Label
from ..task.prompts import PromptTemplate
from ..task.verbalizer import Verbalizer
from .weighting import WEIGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VerbalizerCollator:
    """Makes instruction-based training batches from rows of text and label, for an unmodified TRL `SFTTrainer`.

    Prompt ids and answer ids are put side by side, never tokenised as one text, so the boundary is exact. Only the
    answer and its end token have labels; everything else is -100. Give `SFTConfig` the values
    `dataset_kwargs={"skip_prepare_dataset": True}` and `remove_unused_columns=False`.

    Of a document that the template reads in chunks, a batch has one, drawn anew each time: the expected loss is the
    mean over the document's chunks, every document counts once an epoch however long it is, and a step takes the memory
    that it takes with documents that are cut.

    Args:
        tokenizer: The model's tokenizer.
        template: Prompt template. In a multi-label space, `PromptTemplate.reserving` keeps free what the answers need.
        verbalizer: Labels and their answer texts.
        text_column: Column of the document.
        label_column: Column of the gold label(s), as names or ids.
        weight_column: Column of the documents' weights in the loss, for a trainer that `weigh_documents` has seen. By
            default, none.

    Attributes:
        epoch: Which chunk is drawn depends on this number and the document alone, whatever it is batched with; `None`
            leaves it to Python's `random`, which a `Trainer` seeds.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        verbalizer: Verbalizer,
        *,
        text_column: str = "text",
        label_column: str = "label",
        weight_column: str | None = None,
    ) -> None:
        self.encoder = template.bind(tokenizer, verbalizer)
        self.text_column = text_column
        self.label_column = label_column
        self.weight_column = weight_column
        self.pad_token_id = padding_id(tokenizer)
        self.epoch: int | None = None

    def encode(self, text: str, label: Label | Iterable[Label]) -> tuple[list[int], list[int]]:
        """Return `(input_ids, labels)` of one document; of one in chunks, of a chunk that is drawn."""
        prompts, answer = self._parts(text, label)
        prompt = prompts[0] if len(prompts) == 1 else self._draw(text).choice(prompts)
        return prompt + answer, [-100] * len(prompt) + answer

    def sequences(self, rows: Iterable[dict[str, Any]]) -> Iterator[list[int]]:
        """Return all `input_ids` that `encode` may give for some rows: of a document in chunks, those of each."""
        for row in rows:
            prompts, answer = self._parts(row[self.text_column], row[self.label_column])
            yield from (prompt + answer for prompt in prompts)

    def _parts(self, text: str, label: Label | Iterable[Label]) -> tuple[list[list[int]], list[int]]:
        answer = self.encoder.target_ids(label)
        return self.encoder.chunks(text, answer_tokens=len(answer)), answer

    def _draw(self, text: str) -> Any:
        return random if self.epoch is None else random.Random(f"{self.epoch} {text}")

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch rows into `input_ids`, `attention_mask` and `labels`, int64 `(batch, length)`, padded on the right.

        With a `weight_column`, `weights` beside them, float32 `(batch,)`.
        """
        encoded = [self.encode(row[self.text_column], row[self.label_column]) for row in rows]
        batch = pad([input_ids for input_ids, _ in encoded], self.pad_token_id)
        batch["labels"] = pad([labels for _, labels in encoded], -100)["input_ids"]
        if self.weight_column is not None:
            batch[WEIGHTS] = torch.tensor([row[self.weight_column] for row in rows], dtype=torch.float32)
        return batch
