"""Padded batches of tokenised documents with their labels, for a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbone.batching import pad
from ..task.labels import LabelSpace


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
