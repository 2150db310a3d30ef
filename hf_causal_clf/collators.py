"""Collators: rows of a data set to padded batches, and the grouping of rows by length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .labels import Label, LabelSpace
from .prompts import PlainTokenizer, PromptTemplate, check_truncation, special_frame, truncate
from .verbalizer import Verbalizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DocumentEncoder:
    """Token ids of documents for the embedding-based approach, special tokens of the tokenizer around them.

    Args:
        tokenizer: The backbone's tokenizer.
        max_length: Maximum number of tokens, special tokens included; `None` for no limit.
        truncation: Where a document that is too long loses text: `"tail"`, `"head"` or `"both"`.

    Raises:
        ValueError: If `max_length` leaves no room for the document.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, truncation: str = "tail") -> None:
        check_truncation(max_length, truncation)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self._plain = PlainTokenizer(tokenizer)
        self._before, self._after = special_frame(tokenizer)
        special = len(self._before) + len(self._after)
        if max_length is not None and max_length <= special:
            raise ValueError(
                f"max_length={max_length} leaves no room for the document: special tokens alone take {special}."
            )
        self._budget = None if max_length is None else max_length - special

    def encode(self, document: str) -> list[int]:
        """Return the token ids of one document.

        Raises:
            ValueError: If there are none.
        """
        ids = truncate(self._plain.encode(document), self._budget, self.truncation)
        ids = [*self._before, *ids, *self._after]
        if not ids:
            raise ValueError(
                f"The document {document[:60]!r} has no tokens with this tokenizer, so there is nothing to classify. "
                "Remove it, or use a model whose tokenizer knows its characters."
            )
        return ids


@dataclass
class ClassificationCollator:
    """Pads tokenised documents on the right and makes label tensors for `CausalLMForLastTokenClassification`.

    Args:
        label_space: Decides between int64 class ids and float32 multi-hot labels.
        pad_token_id: Any valid token id; padding is told apart by the attention mask.
    """

    label_space: LabelSpace
    pad_token_id: int = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch rows with `input_ids` and, optionally, encoded `labels`."""
        batch = pad([row["input_ids"] for row in rows], self.pad_token_id)
        if "labels" in rows[0]:
            dtype = torch.float32 if self.label_space.multi_label else torch.int64
            batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=dtype)
        return batch


class VerbalizerCollator:
    """Makes instruction-based training batches from rows of text and label, for an unmodified TRL `SFTTrainer`.

    Prompt ids and answer ids are put side by side, never tokenised as one text, so the boundary is exact. Only the
    answer and its end token have labels; everything else is -100. Give `SFTConfig` the values
    `dataset_kwargs={"skip_prepare_dataset": True}` and `remove_unused_columns=False`.

    Args:
        tokenizer: The model's tokenizer.
        template: Prompt template. In a multi-label space, `PromptTemplate.reserving` keeps free what the answers need.
        verbalizer: Labels and their answer texts.
        text_column: Column of the document.
        label_column: Column of the gold label(s), as names or ids.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        verbalizer: Verbalizer,
        *,
        text_column: str = "text",
        label_column: str = "label",
    ) -> None:
        self.encoder = template.bind(tokenizer, verbalizer)
        self.text_column = text_column
        self.label_column = label_column
        self.pad_token_id = padding_id(tokenizer)

    def encode(self, text: str, label: Label | Iterable[Label]) -> tuple[list[int], list[int]]:
        """Return `(input_ids, labels)` of one document."""
        answer = self.encoder.target_ids(label)
        prompt = self.encoder.prompt_ids(text, answer_tokens=len(answer))
        return prompt + answer, [-100] * len(prompt) + answer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch rows into `input_ids`, `attention_mask` and `labels`, int64 `(batch, length)`, padded on the right."""
        encoded = [self.encode(row[self.text_column], row[self.label_column]) for row in rows]
        batch = pad([input_ids for input_ids, _ in encoded], self.pad_token_id)
        batch["labels"] = pad([labels for _, labels in encoded], -100)["input_ids"]
        return batch


def pad(sequences: Sequence[Sequence[int]], value: int, *, side: str = "right") -> dict[str, torch.Tensor]:
    """Pad token-id lists to `input_ids` and `attention_mask`, int64 `(rows, longest)`."""
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), value, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(length - len(sequence), length)
        input_ids[row, place] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A valid token id to pad with: the tokenizer's pad token, else its end-of-sequence token, else 0."""
    for index in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if index is not None:
            return index
    return 0


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group row indices of similar length, the longest first, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
