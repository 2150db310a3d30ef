"""What an untouched language model says of documents, computed once for the same texts where there is a cache."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedModel

from ..backbone.cache import cached
from ..backbone.identity import fingerprint
from ..backbone.loading import load_backbone
from ..backbone.settings import base_weights, model_identity
from ..task.documents import DocumentEncoder
from .features import pooled_features

if TYPE_CHECKING:
    from trl import ModelConfig


class FrozenFeatures:
    """The pooled last hidden states of documents. The model is loaded when the first of them is not in the cache.

    Args:
        model_arguments: The language model.
        batch_size: Documents per forward pass.
        cache: Folder of what was computed; `None` for none.
    """

    def __init__(self, model_arguments: ModelConfig, *, batch_size: int, cache: Path | None) -> None:
        self.model_arguments = model_arguments
        self.batch_size = batch_size
        self.cache = cache

    def of(self, texts: Sequence[str], encoder: DocumentEncoder) -> tuple[dict[str, np.ndarray], float]:
        """Return float32 `(n, hidden)` for each pooling, and the seconds that computing them took."""
        content = {
            "model": model_identity(self.model_arguments),
            "max_length": encoder.max_length,
            "truncation": encoder.truncation,
            "texts": fingerprint(list(texts)),
            **({"suffix": encoder.suffix} if encoder.suffix else {}),
        }

        def compute(backbone: PreTrainedModel) -> dict[str, np.ndarray]:
            return pooled_features(backbone, encoder, texts, batch_size=self.batch_size)

        return cached(self.cache, content, lambda: self._backbone, compute)

    @functools.cached_property
    def _backbone(self) -> PreTrainedModel:
        weights, revision = base_weights(self.model_arguments), self.model_arguments.model_revision
        return load_backbone(self.model_arguments.model_name_or_path, weights, revision=revision)
