"""Stratified draws of documents. Knows arrays of gold labels only."""

from __future__ import annotations

from collections import Counter

import numpy as np


def stratified_sample(gold: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw row numbers so that labels (or sets of labels) keep their shares, as far as their numbers allow.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        size: Number of rows to draw, below `n`.
        seed: Seed of the draw.

    Returns:
        Sorted row numbers, int64 `(size,)`.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < size < len(gold):
        raise ValueError(f"Cannot set {size} of {len(gold)} documents apart; at least one must be on either side.")
    strata = [tuple(row) if isinstance(row, list) else row for row in gold.tolist()]
    counts = Counter(strata)
    room = min(size, len(gold) - size)
    common = [stratum for stratum, count in counts.most_common(room) if count > 1]
    kept = set(common[: room - 1] if len(common) < len(counts) else common)
    pooled = [stratum if stratum in kept else "rare" for stratum in strata]
    if pooled.count("rare") == 1:
        pooled[pooled.index("rare")] = common[0] if common else "rare"
    codes = {stratum: code for code, stratum in enumerate(dict.fromkeys(pooled))}
    groups = [codes[stratum] for stratum in pooled] if len(codes) > 1 and room >= len(codes) else None
    chosen, _ = train_test_split(np.arange(len(gold)), train_size=size, random_state=seed, stratify=groups)
    return np.sort(chosen)
