"""Class probabilities of documents from a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..backbone.batching import pad, padding_id, prediction_batches
from ..backbone.context import Context, read_on, takes_cache
from ..backbone.variants import in_one_piece, read_variants
from ..evaluation.calibration import to_probabilities
from ..task.chunks import mean_over_chunks, rows_of
from ..task.documents import DocumentEncoder
from ..task.prompts import PromptEncoder
from ..task.scorer import check_list
from .model import CausalLMForLastTokenClassification


class HeadScorer:
    """Reads the logits from the head of the embedding-based approach.

    Args:
        model: Model with a head.
        tokenizer: Its tokenizer.
        encoder: Turns a document into the token ids that the head was trained on.
        batch_size: Documents, or chunks of them, per forward pass.
    """

    approach = "embedding"

    def __init__(
        self,
        model: CausalLMForLastTokenClassification,
        tokenizer: PreTrainedTokenizerBase,
        encoder: DocumentEncoder | PromptEncoder,
        *,
        batch_size: int = 16,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.encoder = encoder
        self._pad = padding_id(tokenizer)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each label, float32 `(n, labels)`: the softmax or sigmoid of `logits`."""
        return to_probabilities(self.logits(texts), multi_label=self.model.config.label_space.multi_label)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logit of each label, float32 `(n, labels)`; of a document in chunks, the mean of theirs.

        No more than `batch_size` chunks are run at a time. What all prompts start with is run once, where the model's
        attention allows it.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        return self._logits_of(self._encode(texts))

    def logits_of_variants(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the `logits` of texts that are variants of one another, float32 `(variants, labels)` a document.

        What a variant begins with like the document's first one is run once, where the model's attention and pooling
        allow it and the document is not read in chunks.

        Args:
            documents: The variants of each document, at least one.
        """
        encoded = [self._encode(variants) for variants in documents]
        if self.model.config.pooling != "last" or not takes_cache(self.model.backbone):
            return [self._logits_of(variants) for variants in encoded]
        return in_one_piece(encoded, self._shared, self._logits_of)

    def _shared(self, documents: list[list[list[int]]]) -> list[np.ndarray]:
        start = Context.empty(self.model.device)
        return read_variants(self._read, start, documents, model=self.model, batch_size=self.batch_size)

    def _read(self, context: Context, chains: list[list[int]]) -> tuple[np.ndarray, Context]:
        outputs, context = read_on(self.model.backbone, context, chains)
        logits = self.model.logits_of_states(outputs.last_hidden_state[:, -1])  # chains end in the same place
        return logits.cpu().numpy(), context

    def _encode(self, texts: Sequence[str]) -> list[list[list[int]]]:
        check_list(texts)
        return [self.encoder.chunks(text) for text in texts]

    def _logits_of(self, documents: Sequence[list[list[int]]]) -> np.ndarray:
        encoded, counts = rows_of(documents)
        found = np.empty((len(encoded), self.model.config.num_labels), dtype=np.float32)
        prefix = self._prefix() if len(encoded) > 1 else []
        start: Context | None = None
        lengths = [len(ids) for ids in encoded]
        for rows in prediction_batches(self.model, lengths, self.batch_size, description="Predicting"):
            if prefix:
                start = start or self._read(Context.empty(self.model.device), [prefix])[1]
                chains = [encoded[row][len(prefix) :] for row in rows]
                found[rows] = self._read(start.select([0] * len(rows)), chains)[0]
            else:
                batch = pad([encoded[row] for row in rows], self._pad)
                logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()}).logits
                found[rows] = logits.float().cpu().numpy()
        return mean_over_chunks(found, counts)

    def _prefix(self) -> list[int]:
        """What all prompts start with, which is run once for all documents; nothing where that is not possible."""
        if not isinstance(self.encoder, PromptEncoder) or not takes_cache(self.model.backbone):
            return []
        return self.encoder.prefix_ids
