"""What is told of a training before its model is loaded: the documents, their tokens, and steps."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from transformers import TrainingArguments

from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..data.table import tell_data

_LOOKED_AT = 1000


class WholeEncoder(Protocol):
    """Token ids of a whole document, and how many of them fit; `None` for all."""

    document_budget: int | None

    def whole_ids(self, document: str) -> list[int]:
        """Return the token ids of a document, none cut off."""
        ...


def tell_outline(
    data: ClassificationData,
    lengths: Sequence[int] | np.ndarray,
    budget: int | None,
    arguments: TrainingArguments,
    *,
    in_chunks: bool = False,
) -> None:
    """Tell what the documents are, how long, how many are cut, and how many steps there are.

    Of the training without a fold, which many are like, the steps alone.

    Args:
        data: The documents.
        lengths: Number of tokens of training documents, before any is cut off: of all, or of a sample.
        budget: Number of tokens of a document that fit; `None` for all.
        arguments: `max_length`, batch size, epochs and processes.
        in_chunks: Whether documents that do not fit are read in chunks.
    """
    documents = len(data.splits["train"])
    if not data.of_fold:
        tell_data(data, _token_rows(np.asarray(lengths), budget, arguments.max_length, in_chunks=in_chunks))
        if len(lengths) < documents:
            tell(f"(Tokens: of {len(lengths):,} training documents, drawn at random.)")
    per_epoch, total = planned_steps(arguments, documents)
    batch = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    tell(f"Steps: {per_epoch:,} per epoch, {total:,} in all at most, each with {batch:,} documents.")


def _token_rows(
    lengths: np.ndarray, budget: int | None, limit: int | None, *, in_chunks: bool
) -> list[tuple[str, str]]:
    """Rows of a table on the tokens of documents."""
    rows = [(f"tokens, {share}th percentile", f"{np.percentile(lengths, share):,.0f}") for share in (50, 95)]
    if budget is None:
        return [*rows, ("  cut: max_length is none", "0")]
    room = "" if budget == limit else f", {budget:,} for a document"
    cut = int((lengths > budget).sum())
    rows.append((f"  {'in chunks' if in_chunks else 'cut'}: max_length {limit:,}{room}", f"{cut:,}"))
    if cut and not in_chunks:
        rows.append(("  tokens that are not read", f"{(lengths - budget).clip(min=0).sum() / lengths.sum():.1%}"))
    return rows


def sampled_lengths(encoder: WholeEncoder, texts: Sequence[str]) -> list[int]:
    """Count the tokens of the texts; of many, 1,000 are drawn."""
    return [len(encoder.whole_ids(text)) for text in random.Random(0).sample(texts, min(_LOOKED_AT, len(texts)))]


def planned_steps(arguments: TrainingArguments, documents: int) -> tuple[int, int]:
    """Return the number of update steps per epoch, and in all, as the `Trainer` counts them."""
    whole = math.floor if arguments.dataloader_drop_last else math.ceil
    batches = whole(whole(documents / arguments.train_batch_size) / arguments.world_size)
    per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    if arguments.max_steps > 0:
        return per_epoch, arguments.max_steps
    return per_epoch, math.ceil(arguments.num_train_epochs * per_epoch)
