"""A head on the hidden states of an untouched language model as a run: logits of documents, loading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..backbone.loading import check_vocabulary, load_backbone, load_tokenizer
from ..backbone.weights import BaseWeights
from ..runs.files import CLASSIFICATION_FILE, HEAD_FILE
from ..runs.run import Run
from ..task.documents import DocumentEncoder
from ..task.scorer import check_list
from .features import pooled_features
from .linear import LinearHead


class FrozenScorer:
    """Reads the logits from a head on the pooled last hidden states of a language model.

    Args:
        backbone: The language model without its LM head.
        encoder: Turns a document into the token ids that the head was fitted on.
        pooling: `"last"` or `"mean"`.
        head: What gives the hidden states logits.
        batch_size: Documents per forward pass.
    """

    approach = "frozen"

    def __init__(
        self,
        backbone: PreTrainedModel,
        encoder: DocumentEncoder,
        pooling: str,
        head: LinearHead,
        *,
        batch_size: int = 16,
    ) -> None:
        self.backbone = backbone
        self.encoder = encoder
        self.pooling = pooling
        self.head = head
        self.batch_size = batch_size

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logit of each label, float32 `(n, labels)`.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        check_list(texts)
        options: dict[str, Any] = {"poolings": (self.pooling,), "description": "Predicting"}
        features = pooled_features(self.backbone, self.encoder, texts, batch_size=self.batch_size, **options)
        return self.head.logits(features[self.pooling])

    @classmethod
    def load(
        cls, source: str, run: Run, weights: BaseWeights, *, batch_size: int = 16, **hub_kwargs: Any
    ) -> FrozenScorer:
        """Load a run's head and tokenizer, from a folder or Hub repository, and the language model that it names.

        Raises:
            FileNotFoundError: If that is a folder that is not there.
            ValueError: If a file is missing or damaged, or head and language model do not fit each other.
        """
        head, _ = LinearHead.load(source, len(run.label_space), **hub_kwargs)
        base = run.base_model.name_or_path
        if not base or (os.path.isabs(base) and not os.path.isdir(base)):
            raise FileNotFoundError(
                f"The base model {base!r} of {source!r} is not there. Put it back, or write its new folder or its Hub "
                f"id into `base_model` of its {CLASSIFICATION_FILE}."
            )
        tokenizer = load_tokenizer(source, **hub_kwargs)
        backbone = load_backbone(base, weights, **{**hub_kwargs, "revision": run.base_model.revision})
        check_vocabulary(tokenizer, backbone.get_input_embeddings().num_embeddings, base)
        width = backbone.config.get_text_config().hidden_size
        if head.weight.shape[1] != width:
            raise ValueError(
                f"{HEAD_FILE} of {source!r} is for {head.weight.shape[1]} hidden units, but {base!r} has {width}. It "
                "is another base model than that of training: put that back."
            )
        limits = run.truncation
        encoder = DocumentEncoder(tokenizer, limits.max_length, limits.side, suffix=run.document_suffix)
        assert run.pooling is not None
        return cls(backbone, encoder, run.pooling, head, batch_size=batch_size)
