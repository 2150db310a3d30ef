"""Documents that are read again with a part left out: what stands before that part is run once.

Knows token ids and caches; neither labels nor prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from .batching import OVERHEAD, partition, prediction_batches
from .context import Context

Reader = Callable[[Context, list[list[int]]], tuple[np.ndarray, Context]]
"""Reads chains on top of a context: the logits at their ends, `(rows, labels)`, and the context with the chains."""


def read_variants(
    read: Reader,
    start: Context,
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    model: nn.Module,
    batch_size: int,
) -> list[np.ndarray]:
    """Return the logits of the variants of documents.

    A document's first variant is read whole. Of each other one, the tokens that it begins with like the first are taken
    from its cache, so that only the rest is run; of equal ones, one is.

    Args:
        read: Reads chains.
        start: One row: what comes before all documents.
        documents: Token ids of each variant of each document, none empty.
        model: What is read with; it is put into evaluation mode.
        batch_size: Most rows per forward pass, and most documents whose caches are held at once.

    Returns:
        Float32 `(variants, labels)` for each document.
    """
    found: list[dict[tuple[int, ...], np.ndarray]] = [{} for _ in documents]
    keys = [[tuple(ids) for ids in variants] for variants in documents]
    lengths = [len(variants[0]) for variants in keys]
    before = len(start.ids[0])
    for batch in prediction_batches(model, lengths, batch_size, description="Leaving out"):
        logits, context = read(start.select([0] * len(batch)), [list(keys[index][0]) for index in batch])
        for index, row in zip(batch, logits, strict=True):
            found[index][keys[index][0]] = row
        rows = [
            (place, ids, shared_beginning(ids, keys[index][0]))
            for place, index in enumerate(batch)
            for ids in dict.fromkeys(keys[index][1:])
            if ids != keys[index][0]
        ]
        for part in _groups([len(ids) - shared for _, ids, shared in rows], batch_size, start.positions.device):
            places, variants, shared = zip(*(rows[row] for row in part), strict=True)
            seen = context.select(places).shortened([before + length for length in shared])
            logits, _ = read(seen, [list(ids[length:]) for ids, length in zip(variants, shared, strict=True)])
            for place, ids, row in zip(places, variants, logits, strict=True):
                found[batch[place]][ids] = row
    return [np.stack([rows[ids] for ids in variants]) for rows, variants in zip(found, keys, strict=True)]


def shared_beginning(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens two lists begin with alike, at the most all of `ids` but the last."""
    limit = min(len(ids) - 1, len(others))
    return next((place for place in range(limit) if ids[place] != others[place]), limit)


def _groups(lengths: Sequence[int], batch_size: int, device: torch.device) -> list[list[int]]:
    """Rows that are run together, of similar length."""
    groups = partition(lengths, OVERHEAD.get(device.type, OVERHEAD["cuda"]))
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


def in_one_piece(
    documents: Sequence[Sequence[list[list[int]]]],
    together: Callable[[list[list[list[int]]]], list[np.ndarray]],
    alone: Callable[[Sequence[list[list[int]]]], np.ndarray],
) -> list[np.ndarray]:
    """Return the logits of the variants of documents, of which some are read in chunks.

    Args:
        documents: Token ids of each chunk of each variant of each document.
        together: As `read_variants`, for documents whose variants all have one chunk.
        alone: Returns the logits of the variants of any other document, none of them shared.
    """
    whole = [all(len(chunks) == 1 for chunks in variants) for variants in documents]
    pairs = list(zip(documents, whole, strict=True))
    shared = iter(together([[chunks[0] for chunks in variants] for variants, one in pairs if one]))
    return [next(shared) if one else alone(variants) for variants, one in pairs]
