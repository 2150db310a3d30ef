"""Drawing documents so that labels keep their shares, and documents that are alike stay together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from ..evaluation.metrics import label_counts


def normalized(text: str) -> str:
    """A text up to case and spacing, by which documents count as the same."""
    return " ".join(text.casefold().split())


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """Return a hash of each normalized text, uint64 `(n,)`, by which documents that are alike are found."""
    hashes = (hashlib.blake2b(normalized(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(hashes), dtype=np.uint64)


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


def stratified_split(gold: np.ndarray, groups: Sequence[Hashable] | np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw row numbers as `stratified_sample` does, and keep the rows of a group together.

    Groups that the draw divides go to one side or the other, large ones first, so that the number of rows, and then
    those of each label, stay as near to the draw's as can be. Without groups of several rows it is that draw.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        groups: Group of each row, such as a key of its text.
        size: Number of rows to draw, below `n`. The result differs by half the largest group at most, but for groups
            with all rows of a label, which are left, and a side that has the smallest group alone.
        seed: Seed of the draw.

    Returns:
        Sorted row numbers, int64. Some are drawn and some are left.

    Raises:
        ValueError: If all rows are one group.
    """
    drawn = np.zeros(len(gold), dtype=bool)
    drawn[stratified_sample(gold, size, seed)] = True
    numbers: dict[Hashable, int] = {}
    if not isinstance(groups, np.ndarray):
        groups = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    _, firsts, group_of, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        raise ValueError(f"Cannot set {size} of {len(gold)} documents apart: all of them have the same text.")
    by_group, starts = np.argsort(group_of, kind="stable"), np.cumsum(counts) - counts
    labels = gold.shape[1] if gold.ndim == 2 else int(gold.max()) + 1
    left = label_counts(gold[~drawn], labels)
    more, more_labels = 0, np.zeros_like(left)  # rows drawn beyond those of the draw
    found = np.bincount(group_of[drawn], minlength=len(counts))
    divided = np.flatnonzero((found > 0) & (found < counts))
    for group in divided[np.lexsort((firsts[divided], -counts[divided]))]:
        rows = by_group[starts[group] : starts[group] + counts[group]]
        sides = []
        for sign, moved in ((-1, rows[drawn[rows]]), (1, rows[~drawn[rows]])):  # all out, or all in
            change = sign * label_counts(gold[moved], labels)
            takes_all = bool((left == change)[change > 0].any())  # of a label
            cost = (takes_all, abs(more + sign * len(moved)), int(abs(more_labels + change).sum()))
            sides.append((cost, sign * len(moved), change, moved))
        _, number, change, moved = min(sides, key=lambda side: side[0])
        drawn[moved] = number > 0
        more, more_labels, left = more + number, more_labels + change, left - change
    if drawn.all() or not drawn.any():
        smallest = group_of == np.lexsort((firsts, counts))[0]
        drawn[smallest] = ~drawn[smallest]
    return np.flatnonzero(drawn)
