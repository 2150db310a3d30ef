"""Batches: padding, grouping by length, and evaluation mode. Knows token ids, lengths and masks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import logging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Padding that costs as much as one more call of the backbone, in tokens. Seen with 135 M parameters on a CPU; a GPU
# needs large batches to be busy, so its number is a guess on the safe side.
OVERHEAD = {"cpu": 32, "cuda": 1024}


def partition(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Divide rows into groups so that the tokens that are run, padding included, and the calls cost the least.

    Args:
        lengths: Number of tokens of each row.
        overhead: Cost of a group, in tokens.

    Returns:
        Indices of the rows of each group, shortest rows first.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best: list[tuple[int, int]] = [(0, 0)]  # of the first rows: their cost, and where the last group starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + overhead, start) for start in range(end)))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def run_in_groups(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Run the rows of a batch in groups of similar length, without the columns that are padding in all of a group.

    Args:
        run: Returns one row of output for each row of token ids and mask, `(rows, …)`.
        input_ids: Token ids `(batch, length)`, padded at either side.
        attention_mask: 1 for tokens and 0 for padding, `(batch, length)`; each row has a token.

    Returns:
        What `run` returns for the whole batch, in its order.
    """
    real = attention_mask.ne(0)
    groups = partition(real.sum(dim=1).tolist(), OVERHEAD.get(input_ids.device.type, OVERHEAD["cuda"]))
    parts = []
    for rows in groups:
        columns = real[rows].any(dim=0).nonzero()
        span = slice(int(columns[0]), int(columns[-1]) + 1)
        parts.append(run(input_ids[rows, span], attention_mask[rows, span]))
    order = torch.tensor([row for rows in groups for row in rows], device=input_ids.device)
    return torch.cat(parts)[order.argsort()]


def run_in_parts(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """Run a batch of any number of rows in the memory that `rows` of them take.

    Where there are gradients, a part's activations are let go and computed again in the backward pass.

    Args:
        run: As for `run_in_groups`.
        input_ids: Token ids `(batch, length)`.
        attention_mask: 1 for tokens and 0 for padding, `(batch, length)`.
        rows: Rows to run at a time.

    Returns:
        What `run` returns for the whole batch, in its order.
    """
    keep = partial(checkpoint, run, use_reentrant=False) if torch.is_grad_enabled() else run
    return torch.cat(list(map(keep, input_ids.split(rows), attention_mask.split(rows))))


def pad(sequences: Sequence[Sequence[int]], value: int, *, side: str = "right") -> dict[str, torch.Tensor]:
    """Pad token-id lists to `input_ids` and `attention_mask`, int64 `(rows, longest)`."""
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), value, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(length - len(sequence), length)
        input_ids[row, place] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A valid token id to pad with: the tokenizer's pad token, else its end-of-sequence token, else 0."""
    for index in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if index is not None:
            return index
    return 0


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group row indices of similar length, the longest first, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def prediction_batches(
    model: nn.Module | None, lengths: Sequence[int], batch_size: int, *, description: str
) -> Iterator[list[int]]:
    """Group row indices as `length_batches`, with a model of torch in evaluation mode and a progress bar over rows."""
    evaluated = nullcontext() if model is None else evaluation_mode(model)
    options = {"delay": 2.0, "leave": None}  # below another bar, as that of shards, it goes away when it is full
    with evaluated, logging.tqdm(total=len(lengths), desc=description, unit="doc", **options) as progress:
        for rows in length_batches(lengths, batch_size):
            yield rows
            progress.update(len(rows))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
