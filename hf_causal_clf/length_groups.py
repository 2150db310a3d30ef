"""Running the rows of a padded batch in groups of similar length. Knows lengths and masks only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

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
