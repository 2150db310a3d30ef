"""Tries of token sequences: what tree attention needs to score many continuations of one prompt at once.

Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class LabelTrie:
    """A trie over token sequences, laid out for one forward pass.

    Only nodes with children are fed to the model; the last token of a sequence is predicted and never fed. Row 0 of the
    model's output stands for the end of the prompt, row `i + 1` for fed node `i`.

    Args:
        sequences: Token-id sequences, none empty. One may be a prefix of another.

    Attributes:
        tokens: Token id of each fed node, parents before children.
        depths: Depth of each fed node; 0 follows the prompt directly.
        edges: `(row, token)` pairs: the predictions that the sequences consist of, each once.
        paths: For each sequence, the indices of its edges.

    Raises:
        ValueError: If a sequence is empty.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.edges: list[tuple[int, int]] = []
        self.paths: list[list[int]] = []
        self._parents: list[int] = []
        rows: dict[tuple[int, ...], int] = {(): 0}
        edge_ids: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            if len(sequence) == 0:
                raise ValueError("A trie cannot hold an empty token sequence.")
            path = []
            for depth, token in enumerate(sequence):
                row = self._row(tuple(sequence[:depth]), rows)
                edge = edge_ids.setdefault((row, token), len(edge_ids))
                if edge == len(self.edges):
                    self.edges.append((row, token))
                path.append(edge)
            self.paths.append(path)

    def _row(self, prefix: tuple[int, ...], rows: dict[tuple[int, ...], int]) -> int:
        if prefix not in rows:
            self._parents.append(rows[prefix[:-1]] - 1)
            self.tokens.append(prefix[-1])
            self.depths.append(len(prefix) - 1)
            rows[prefix] = len(self.tokens)
        return rows[prefix]

    def __len__(self) -> int:
        """Number of fed nodes."""
        return len(self.tokens)

    def mask(self) -> np.ndarray:
        """Boolean `(nodes, nodes)`: entry `[i, j]` says that node `i` sees node `j` (itself or an ancestor)."""
        visible = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return visible

    def children(self, prefix: Sequence[int]) -> list[int]:
        """Return the tokens allowed after `prefix`, in the order of the sequences; empty if none or unknown."""
        row = 0
        for token in prefix:
            found = [
                node + 1
                for node, parent in enumerate(self._parents)
                if parent == row - 1 and self.tokens[node] == token
            ]
            if not found:
                return []
            row = found[0]
        return [token for source, token in self.edges if source == row]
