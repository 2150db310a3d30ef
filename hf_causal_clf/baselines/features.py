"""Features of documents that an untouched language model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ..backbone.batching import pad, prediction_batches
from ..embedding.configuration import POOLINGS
from ..embedding.model import pool
from ..task.documents import DocumentEncoder


def pooled_features(
    backbone: PreTrainedModel,
    encoder: DocumentEncoder,
    texts: Sequence[str],
    *,
    batch_size: int,
    poolings: Sequence[str] = POOLINGS,
    description: str = "Computing features",
) -> dict[str, np.ndarray]:
    """Return the pooled last hidden states of documents, float32 `(n, hidden)` for each pooling."""
    encoded = [encoder.encode(text) for text in texts]
    width = backbone.config.get_text_config().hidden_size
    features = {pooling: np.empty((len(texts), width), dtype=np.float32) for pooling in poolings}
    lengths = [len(ids) for ids in encoded]
    for rows in prediction_batches(backbone, lengths, batch_size, description=description):
        batch = {name: tensor.to(backbone.device) for name, tensor in pad([encoded[row] for row in rows], 0).items()}
        hidden = backbone(**batch, use_cache=False).last_hidden_state
        for pooling, matrix in features.items():
            matrix[rows] = pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy()
    return features
