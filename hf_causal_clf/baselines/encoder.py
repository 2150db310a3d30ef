"""A fine-tuned encoder as a run: logits of documents, saved as a stock checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..backbone.batching import prediction_batches
from ..backbone.loading import check_weights, load_tokenizer
from ..backbone.weights import BaseWeights, process_device
from ..runs.files import CLASSIFICATION_FILE
from ..runs.run import Run
from ..task.scorer import check_list


class EncoderScorer:
    """Reads the logits from a fine-tuned encoder.

    Args:
        model: A stock sequence classifier.
        tokenizer: Its tokenizer.
        max_length: Most tokens of a document, which loses its tail.
        batch_size: Documents per forward pass.
    """

    approach = "encoder"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        *,
        batch_size: int = 16,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logit of each label, float32 `(n, labels)`.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        check_list(texts)
        found = np.empty((len(texts), self.model.config.num_labels), dtype=np.float32)
        encoded = [token_ids(text, self.tokenizer, self.max_length) for text in texts]
        lengths = [len(each["input_ids"]) for each in encoded]
        collate = DataCollatorWithPadding(self.tokenizer)
        for rows in prediction_batches(self.model, lengths, self.batch_size, description="Predicting"):
            batch = collate([encoded[row] for row in rows])
            logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()}).logits
            found[rows] = logits.float().cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a stock checkpoint."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(
        cls, source: str, run: Run, weights: BaseWeights, *, batch_size: int = 16, **hub_kwargs: Any
    ) -> EncoderScorer:
        """Load what `save` wrote, from a folder or Hub repository.

        Raises:
            ValueError: If weights or tokenizer are missing or damaged, or of another number of labels.
        """
        tokenizer = load_tokenizer(source, **hub_kwargs)
        check_weights(source)
        model = AutoModelForSequenceClassification.from_pretrained(source, **weights.kwargs(), **hub_kwargs)
        if model.config.num_labels != len(run.label_space):
            raise ValueError(
                f"The model in {source!r} has {model.config.num_labels} labels, its {CLASSIFICATION_FILE} "
                f"{len(run.label_space)}. Train or download it again."
            )
        if "device_map" not in weights.kwargs():
            model = model.to(process_device())
        return cls(model, tokenizer, run.truncation.max_length, batch_size=batch_size)


def token_ids(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> dict[str, Any]:
    """Return what an encoder reads of a document, in training and at inference."""
    return dict(tokenizer(text, truncation=True, max_length=max_length))
