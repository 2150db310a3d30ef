"""Label scoring in a training whose frozen layers are run once: later evaluations start above them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..backbone.context import Context
from ..backbone.frozen_layers import FrozenLayers
from ..backbone.frozen_states import FILE_BYTES
from .scorer import LabelScorer, Scoring
from .trie import LabelTrie

_END = -1  # of a document's tokens; no token has this id


class FrozenLabelScorer(LabelScorer):
    """A `LabelScorer` whose first scores of a document keep what its frozen layers give, for all later ones.

    That is done for the trie of all answers. Where a part of them is scored, by need, on top of a document's key-value
    cache (multi-label tasks, and label spaces of more than 64 tokens), all layers are run each time.

    Args:
        args: As for `LabelScorer`.
        frozen: The model's frozen layers.
        kwargs: As for `LabelScorer`.
    """

    def __init__(self, *args: Any, frozen: FrozenLayers, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._frozen = frozen
        self._new: list[tuple[list[int], torch.Tensor]] = []
        self._new_bytes = 0

    @cached_property
    def _tree(self) -> list[int]:
        """What tells the trie of all answers from another."""
        return [number for edge in self._whole_trie.root_trie.edges for number in edge]

    def _score(self, documents: Sequence[list[list[int]]], scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
        try:
            return super()._score(documents, scoring)
        finally:
            self._keep()

    def _extend(self, context: Context, chains: Sequence[list[int]], trie: LabelTrie) -> tuple[torch.Tensor, Context]:
        if trie is not self._whole_trie.root_trie or not self._forward.one_pass:
            return super()._extend(context, chains, trie)
        keys = [[*seen, *chain, _END, *self._tree] for seen, chain in zip(context.ids, chains, strict=True)]
        known = [self._frozen.known.get(key) for key in keys]
        found = [states for states in known if states is not None]
        if len(found) == len(keys):
            with self._frozen.given(_stacked(found).to(self.model.device)):
                return super()._extend(context, chains, trie)
        with self._frozen.seen() as seen_states:
            scored = super()._extend(context, chains, trie)
        self._note(keys, [len(chain) + len(trie) for chain in chains], seen_states[0])
        return scored

    def _note(self, keys: list[list[int]], lengths: list[int], states: torch.Tensor) -> None:
        """Note the states of a batch, `(rows, tokens, hidden)`, padded on the left; on disk when they are many."""
        store = self._frozen.known
        for key, length, row in zip(keys, lengths, states, strict=True):
            if store.size + self._new_bytes + row[-length:].nbytes <= store.limit:
                self._new.append((key, row[-length:].cpu().clone()))
                self._new_bytes += row[-length:].nbytes
        if self._new_bytes >= FILE_BYTES:
            self._keep()

    def _keep(self) -> None:
        if self._new:
            self._frozen.known.write(self._new)
            self._frozen.known.read()
            self._new, self._new_bytes = [], 0


def _stacked(found: Sequence[torch.Tensor]) -> torch.Tensor:
    """States of sequences as a batch, `(rows, longest, hidden)`, padded with zeros on the left."""
    filled = found[0].new_zeros(len(found), max(map(len, found)), found[0].shape[1])
    for row, states in zip(filled, found, strict=True):
        row[-len(states) :] = states
    return filled
