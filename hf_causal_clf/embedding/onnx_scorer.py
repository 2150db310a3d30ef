"""Class probabilities of documents from an exported head, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..backbone.batching import pad, padding_id, prediction_batches
from ..sharing.onnx import INPUTS, onnx_logits, open_onnx
from ..task.chunks import mean_over_chunks, rows_of
from ..task.scorer import check_list


class OnnxScorer:
    """Reads the logits from a `model.onnx` that `recipes/export.py` wrote, on the CPU, without the model's weights.

    Args:
        path: The file.
        tokenizer: The tokenizer beside it.
        chunks: Turns a document into the token ids of its chunks, of one if it is not read in chunks.
        labels: Number of labels.
        approach: That of the run.
        batch_size: Documents, or chunks of them, per forward pass.

    Raises:
        ImportError: If ONNX Runtime is not installed.
        ValueError: If it refuses the file, or the file is not of a head with so many labels.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        chunks: Callable[[str], list[list[int]]],
        labels: int,
        *,
        approach: str = "embedding",
        batch_size: int = 16,
    ) -> None:
        self.session = open_onnx(path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = {each.name: each.shape for each in outputs}
        if {each.name for each in inputs} != set(INPUTS) or shapes.get("logits", [])[1:] != [labels]:
            raise ValueError(
                f"{path} is no head with {labels} labels: it makes {shapes} of {[each.name for each in inputs]}. "
                "Export the run again with --onnx true."
            )
        self.approach = approach
        self.tokenizer = tokenizer
        self.chunks = chunks
        self.labels = labels
        self.batch_size = batch_size
        self._pad = padding_id(tokenizer)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logit of each label, float32 `(n, labels)`; of a document in chunks, the mean of theirs.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        check_list(texts)
        encoded, counts = rows_of([self.chunks(text) for text in texts])
        found = np.empty((len(encoded), self.labels), dtype=np.float32)
        for rows in prediction_batches(None, list(map(len, encoded)), self.batch_size, description="Predicting"):
            batch = pad([encoded[row] for row in rows], self._pad)
            found[rows] = onnx_logits(self.session, batch["input_ids"], batch["attention_mask"]).numpy()
        return mean_over_chunks(found, counts)
