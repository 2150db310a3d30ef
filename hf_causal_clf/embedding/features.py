"""What a frozen backbone says of documents: its pooled last hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ..backbone.batching import pad, prediction_batches
from ..runs.schema import POOLINGS
from ..task.chunks import mean_over_chunks, rows_of
from ..task.documents import DocumentEncoder
from ..task.prompts import PromptEncoder
from .model import hidden_size, pool


def pooled_features(
    backbone: PreTrainedModel,
    encoder: DocumentEncoder | PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int,
    poolings: Sequence[str] = POOLINGS,
    description: str = "Computing features",
) -> dict[str, np.ndarray]:
    """Return the pooled last hidden states of documents, float32 `(n, hidden)` for each pooling.

    Of a document in chunks, the mean of theirs: a head's logits are linear, so it gives the mean of their logits.
    """
    encoded, counts = rows_of([encoder.chunks(text) for text in texts])
    width = hidden_size(backbone.config)
    features = {pooling: np.empty((len(encoded), width), dtype=np.float32) for pooling in poolings}
    lengths = [len(ids) for ids in encoded]
    for rows in prediction_batches(backbone, lengths, batch_size, description=description):
        batch = {name: tensor.to(backbone.device) for name, tensor in pad([encoded[row] for row in rows], 0).items()}
        hidden = backbone(**batch, use_cache=False).last_hidden_state
        for pooling, matrix in features.items():
            matrix[rows] = pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy()
    return {pooling: mean_over_chunks(matrix, counts) for pooling, matrix in features.items()}
