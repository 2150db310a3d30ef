"""Padded batches of tokenised documents with their labels, for a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbone.batching import pad
from ..data.rows import values_of
from ..task.chunks import rows_of
from ..task.labels import LabelSpace


def sequences_of(splits: Iterable[Any], in_chunks: bool) -> Iterator[list[int]]:
    """Return the token ids of each row of a batch that encoded documents give: of a document, or of a chunk of one."""
    for split in splits:
        for ids in values_of(split, "input_ids"):
            yield from ids if in_chunks else [ids]


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
        """Batch rows with `input_ids` and, optionally, encoded `labels`.

        Where `input_ids` are lists of chunks, each chunk is a row of the batch, and `chunks`, int64 `(documents,)`, is
        the number of them that each document has. Where rows have `answer_tokens`, so has the batch, int64
        `(documents,)`.
        """
        documents = [row["input_ids"] for row in rows]
        if isinstance(documents[0][0], list):
            chunks, counts = rows_of(documents)
            batch = {**pad(chunks, self.pad_token_id), "chunks": torch.from_numpy(counts)}
        else:
            batch = pad(documents, self.pad_token_id)
        if "answer_tokens" in rows[0]:
            batch["answer_tokens"] = torch.tensor([row["answer_tokens"] for row in rows])
        if "labels" in rows[0]:
            dtype = torch.float32 if self.label_space.multi_label else torch.int64
            batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=dtype)
        return batch
