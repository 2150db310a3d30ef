"""Token ids of documents, and padded batches of them with their labels, for a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..backbone.batching import pad
from ..task.labels import LabelSpace
from ..task.tokens import PlainTokenizer, check_truncation, special_frame, truncate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DocumentEncoder:
    """Token ids of documents for the embedding-based approach, special tokens of the tokenizer around them.

    Args:
        tokenizer: The backbone's tokenizer.
        max_length: Maximum number of tokens, special tokens included; `None` for no limit.
        truncation: Where a document that is too long loses text: `"tail"`, `"head"` or `"both"`.

    Attributes:
        document_budget: Number of tokens of a document that fit; `None` for all.

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
        self.document_budget = None if max_length is None else max_length - special

    def encode(self, document: str) -> list[int]:
        """Return the token ids of one document.

        Raises:
            ValueError: If there are none.
        """
        return self.fit(self.whole_ids(document))

    def whole_ids(self, document: str) -> list[int]:
        """Return the token ids of one document, none cut off and no special tokens around them.

        Raises:
            ValueError: If a head would have none to read.
        """
        ids = self._plain.encode(document)
        if not ids and not self._before and not self._after:
            raise ValueError(
                f"The document {document[:60]!r} has no tokens with this tokenizer, so there is nothing to classify. "
                "Remove it, or use a model whose tokenizer knows its characters."
            )
        return ids

    def fit(self, ids: list[int]) -> list[int]:
        """Return what `encode` does, from the ids of the whole document."""
        return [*self._before, *truncate(ids, self.document_budget, self.truncation), *self._after]


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
