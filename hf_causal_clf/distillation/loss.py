"""The loss of a student: what the teacher says of a document and its gold label, through the standard `Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Trainer

_SMALLEST, _LARGEST = 1e-30, 60.0  # a probability, and logits whose sigmoid is 0 or 1 in float32


def softened(probabilities: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """Return probabilities at a temperature: those of their logits divided by it.

    Args:
        probabilities: `(n, labels)`, of any float data type; a row sums to 1, or each entry stands alone.
        temperature: Above 1 they become more even, below 1 more extreme. 1 leaves them as they are.
        multi_label: Whether each entry stands alone.

    Returns:
        Float64 `(n, labels)`.
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    if multi_label:
        odds = logs - np.log(np.maximum(1 - probabilities.astype(np.float64), _SMALLEST))
        return 1 / (1 + np.exp(-(odds / temperature).clip(-_LARGEST, _LARGEST)))
    logs /= temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class SoftLabelLoss:
    """Cross-entropy, or binary cross-entropy for multi-label, against the teacher's probabilities and gold labels.

    Of a document with a gold label, it is `gold_weight` times the loss against that and `1 - gold_weight` times the one
    against the teacher; of a document without one, that against the teacher. The teacher's probabilities are those at
    the temperature, which divides the student's logits there too, and that part is multiplied by the temperature's
    square, so that its gradients keep their size (Hinton et al., 2015, arXiv 1503.02531).

    Args:
        gold_weight: Share of the gold label, from 0 to 1.
        temperature: Above 0.
        multi_label: Whether a document may have several labels.
    """

    gold_weight: float
    temperature: float
    multi_label: bool

    def targets(self, taught: np.ndarray, gold: np.ndarray | None = None) -> np.ndarray:
        """Return what `__call__` takes as the labels of documents.

        Args:
            taught: What the teacher says, probabilities `(n, labels)`.
            gold: Label ids `(n,)`, or 0/1 `(n, labels)`; `None` for documents without gold labels.

        Returns:
            Float32 `(n, 2 * labels)`: the gold labels as 0 and 1, or NaN, and the teacher's softened probabilities.
        """
        if gold is None:
            known = np.full(taught.shape, np.nan)
        else:
            known = gold if gold.ndim == 2 else np.eye(taught.shape[1])[gold]
        soft = softened(taught, self.temperature, multi_label=self.multi_label)
        return np.concatenate([known, soft], axis=1).astype(np.float32)

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the mean loss over the documents, for a multi-label task over document-label pairs.

        Args:
            outputs: What the model returns, with `logits` `(batch, labels)`.
            labels: Rows of `targets`; in evaluations gold labels, ids `(batch,)` or 0/1 `(batch, labels)`, whose plain
                loss is returned.
            num_items_in_batch: Number of entries of the labels in the whole accumulated batch over all processes, as
                `Trainer` counts them.
        """
        logits = outputs["logits"].float()
        width = logits.shape[-1]
        labels = labels.to(logits.device)
        if labels.ndim == 1 or labels.shape[-1] == width:
            return self._plain(logits, labels)
        gold, soft = labels[:, :width], labels[:, width:]
        known = ~gold.isnan().any(dim=-1)
        weight = self.gold_weight * known
        taught = self.temperature**2 * self._terms(logits / self.temperature, soft)
        total = (weight * self._terms(logits, gold.nan_to_num()) + (1 - weight) * taught).sum()
        items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return total / (items / (2 * width))

    def _terms(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each document, `(batch,)`."""
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)
        return F.cross_entropy(logits, targets, reduction="none")

    def _plain(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class TargetCollator:
    """Batches documents as another collator does, with the rows of targets as `labels`.

    Args:
        documents: Batches all but the labels.
    """

    documents: Callable[[Sequence[dict[str, Any]]], Any]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        """Return the batch, its labels float32 or, in evaluations of a single-label task, int64."""
        batch = self.documents([{name: value for name, value in row.items() if name != "labels"} for row in rows])
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


def teach(trainer: Trainer, targets: np.ndarray, loss: SoftLabelLoss) -> Trainer:
    """Have a trainer learn targets in the place of its training documents' labels; return it.

    Args:
        trainer: Any trainer of a classifier.
        targets: Rows of `SoftLabelLoss.targets`, in the order of its training documents.
        loss: The loss.
    """
    rows = trainer.train_dataset.remove_columns("labels")
    trainer.train_dataset = rows.add_column("labels", list(targets))
    trainer.data_collator = TargetCollator(trainer.data_collator)
    trainer.compute_loss_func = loss
    return trainer
