"""What is told of a training before its model is loaded: tokens of the documents, and steps."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from transformers import TrainingArguments

from ..cli.telling import tell

_LOOKED_AT = 1000


class WholeEncoder(Protocol):
    """Token ids of a whole document, and how many of them fit; `None` for all."""

    document_budget: int | None

    def whole_ids(self, document: str) -> list[int]:
        """Return the token ids of a document, none cut off."""
        ...


def tell_outline(
    lengths: Sequence[int] | np.ndarray,
    budget: int | None,
    documents: int,
    arguments: TrainingArguments,
    *,
    in_chunks: bool = False,
) -> None:
    """Tell how long the training documents are, how many are cut, and how many steps there are.

    Args:
        lengths: Number of tokens of training documents, before any is cut off: of all, or of a sample.
        budget: Number of tokens of a document that fit; `None` for all.
        documents: Number of training documents.
        arguments: `max_length`, batch size, epochs and processes.
        in_chunks: Whether documents that do not fit are read in chunks.
    """
    found = np.asarray(lengths)
    middle, long = (round(value) for value in np.percentile(found, (50, 95)))
    sample = f" ({len(found):,} of {documents:,}, drawn at random)" if len(found) < documents else ""
    tell(f"Tokens of a training document{sample}: {middle:,} at the 50th percentile, {long:,} at the 95th.")
    limit = arguments.max_length
    cut = 0 if budget is None else int((found > budget).sum())
    if budget is None or not cut:
        tell(f"max_length={limit} cuts none of them.")
    else:
        room = "" if budget == limit else f" leaves {budget:,} tokens for a document, and"
        lost = (found - budget).clip(min=0).sum() / found.sum()
        done, rest = ("reads", " in chunks.") if in_chunks else ("cuts", f": {lost:.1%} of all tokens are not read.")
        tell(f"max_length={limit}{room} {done} {cut:,} of {len(found):,} documents{rest}")
    per_epoch, total = planned_steps(arguments, documents)
    batch = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    tell(f"Steps: {per_epoch:,} per epoch, {total:,} in all at most, each with {batch:,} documents.")


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
