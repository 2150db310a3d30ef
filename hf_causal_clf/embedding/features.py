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
    """Return the pooled last hidden states of documents, float32 `(n, hidden)` for each pooling."""
    documents = [encoder.chunks(text) for text in texts]
    return features_of(backbone, documents, batch_size=batch_size, poolings=poolings, description=description)


def features_of(
    backbone: PreTrainedModel,
    documents: Sequence[list[list[int]]],
    *,
    batch_size: int,
    poolings: Sequence[str] = POOLINGS,
    description: str = "Computing features",
) -> dict[str, np.ndarray]:
    """As `pooled_features`, of the token ids of each chunk of documents.

    Of a document in chunks, the mean of theirs: a head's logits are linear, so it gives the mean of their logits.
    """
    encoded, counts = rows_of(documents)
    width = hidden_size(backbone.config)
    features = {pooling: np.empty((len(encoded), width), dtype=np.float32) for pooling in poolings}
    lengths = [len(ids) for ids in encoded]
    for rows in prediction_batches(backbone, lengths, batch_size, description=description):
        batch = {name: tensor.to(backbone.device) for name, tensor in pad([encoded[row] for row in rows], 0).items()}
        hidden = backbone(**batch, use_cache=False).last_hidden_state
        for pooling, matrix in features.items():
            matrix[rows] = pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy()
    return {pooling: mean_over_chunks(matrix, counts) for pooling, matrix in features.items()}
