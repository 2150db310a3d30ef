"""Answers that are not scored label by label: sets of labels, by best-first search."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from ..task.prompts import PromptEncoder
from .tree_attention import rows_at_once
from .trie import LabelTrie

if TYPE_CHECKING:
    from ..backbone.context import Context
    from .tree_attention import TreeForward


_ROWS = 32  # partial answers expanded in one forward pass, over all documents of a batch
_LARGEST_LOGIT = 745.0  # float64 holds no smaller probability than exp(-745)
_AT_ONCE = 4  # of one document, before the next are chosen; the same in every batch, or its company would matter


@dataclass
class _Search:
    """The state of one document's search.

    `found` is the summed probability of complete answers, `present` that of those with each label, `absent` that of
    those without it. `frontier` is a heap of `(-bound, labels, log_prob)`: partial answers, their log-probability so
    far, and an upper bound on the probability of all their completions together. `room` is the number of tokens that
    the model can read after the prompt, `lost` the bound on the answers that are longer.
    """

    present: np.ndarray
    absent: np.ndarray
    found: float = 0.0
    frontier: list[tuple[float, tuple[int, ...], float]] = field(default_factory=list)
    expansions: int = 0
    room: float = math.inf
    lost: float = 0.0

    @property
    def uncovered(self) -> float:
        """Upper bound on the share of the probability of all valid answers that has not been found."""
        rest = self.lost - sum(bound for bound, _, _ in self.frontier)
        return rest / (self.found + rest) if self.found + rest > 0 else 1.0

    def add(self, labels: tuple[int, ...], log_prob: float, end: float, onward: float, needed: int) -> None:
        """Record one more label: the answer that ends here, and the partial answer that goes on in `needed` tokens."""
        self.complete(labels, log_prob + end)
        if onward > -np.inf and needed > self.room:
            self.lost += float(np.exp(log_prob + onward))
        elif onward > -np.inf:
            heapq.heappush(self.frontier, (-float(np.exp(log_prob + onward)), labels, log_prob))

    def complete(self, labels: tuple[int, ...], log_prob: float) -> None:
        """Record a complete answer."""
        probability = float(np.exp(log_prob))
        self.found += probability
        without = np.full_like(self.absent, probability)
        without[[*labels]] = 0.0
        self.absent += without  # not `found - present`, which would cancel
        self.present[[*labels]] += probability

    def log_odds(self) -> np.ndarray:
        """Log-odds of each label over the complete answers, float64 `(labels,)`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = np.log(self.present) - np.log(self.absent)
        return odds.clip(-_LARGEST_LOGIT, _LARGEST_LOGIT)

    def pop(self) -> tuple[tuple[int, ...], float]:
        """Take the most promising partial answer off the frontier."""
        self.expansions += 1
        _, labels, log_prob = heapq.heappop(self.frontier)
        return labels, log_prob


class LabelSetSearch:
    """Finds the most probable label sets of a document, constrained to valid answers.

    An answer's probability is that of its text under the model, unconstrained; the distribution over answers is these
    divided by their sum over all valid answers. A partial answer's probability bounds that of all its completions, so
    the share that has not been found yet is known, and best-first expansion ends once it is small.

    Args:
        forward: Tree forward of the model.
        encoder: Prompt encoder of a multi-label task.
        min_coverage: Share of the probability of all valid answers to find.
        max_expansions: Number of partial answers to expand for a document at the most.
    """

    def __init__(self, forward: TreeForward, encoder: PromptEncoder, min_coverage: float, max_expansions: int) -> None:
        self._forward = forward
        self._encoder = encoder
        self._min_coverage = min_coverage
        self._max_expansions = max_expansions
        self._count = len(encoder.answer_ids)
        self.root_trie, self._root = self._plan(encoder.first_ids, [encoder.empty_ids])
        self._next_trie, self._next = self._plan(encoder.joined_ids, [])
        self._longest = max(map(len, encoder.joined_ids)) + len(encoder.end_ids)

    def _plan(
        self, labels: Sequence[list[int]], others: Sequence[list[int]]
    ) -> tuple[LabelTrie, list[tuple[list[int], list[int], list[int]]]]:
        """A trie of the labels as continuations, and for each its edges, those of its end and those that go on."""
        sequences: list[list[int]] = []
        spans = []
        for label, ids in enumerate(labels):
            onward = dict.fromkeys(joined[0] for joined in self._encoder.joined_ids[label + 1 :])
            spans.append((len(sequences), len(onward)))
            sequences += [[*ids, *self._encoder.end_ids], *([*ids, token] for token in onward)]
        trie = LabelTrie([*sequences, *others])
        plan = []
        for (start, count), ids in zip(spans, labels, strict=True):
            path = trie.paths[start]
            after = [trie.paths[start + 1 + item][-1] for item in range(count)]
            plan.append((path[: len(ids)], path[len(ids) :], after))
        return trie, plan

    def run(self, edges: torch.Tensor, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Search the answers of a batch of documents whose prompts and root trie have been run.

        Args:
            edges: Log-probabilities of the root trie's edges, `(documents, edges)`.
            context: The documents' prompts.

        Returns:
            Log-odds of each label over the answers found, float32 `(documents, labels)`, between -745 and 745; and the
            uncovered share, float32 `(documents,)`.
        """
        searches = [
            _Search(np.zeros(self._count), np.zeros(self._count), room=room_after(self._forward.model, ids))
            for ids in context.ids
        ]
        for search, scores in zip(searches, edges.double().numpy(), strict=True):
            none = float(scores[self.root_trie.paths[-1]].sum())
            best = max(none, *(float(scores[[*path, *end]].sum()) for path, end, _ in self._root))
            search.complete((), none - best)  # relative to `best`: long answers would underflow
            self._expand(search, (), -best, scores, self._root)
        while active := [index for index, search in enumerate(searches) if self._unfinished(search)]:
            states = [(index, *state) for index in active for state in self._choose(searches[index])]
            size = min(_ROWS, rows_at_once(len(self._next_trie)))
            for start in range(0, len(states), size):
                part = states[start : start + size]
                chains = [self._encoder.chain_ids(labels) for _, labels, _ in part]
                scored, _ = self._forward(context.select([index for index, _, _ in part]), chains, self._next_trie)
                for (index, labels, log_prob), scores in zip(part, scored.double().numpy(), strict=True):
                    self._expand(searches[index], labels, log_prob, scores, self._next)
        logits = np.stack([search.log_odds() for search in searches])
        return logits.astype(np.float32), np.array([search.uncovered for search in searches], dtype=np.float32)

    def _choose(self, search: _Search) -> list[tuple[tuple[int, ...], float]]:
        """Take the most promising partial answers, no more than it takes to cover enough."""
        states = [search.pop()]
        while len(states) < _AT_ONCE and self._unfinished(search):
            states.append(search.pop())
        return states

    def _unfinished(self, search: _Search) -> bool:
        room = search.frontier and search.expansions < self._max_expansions
        return bool(room and search.uncovered > 1 - self._min_coverage)

    def _expand(
        self,
        search: _Search,
        labels: tuple[int, ...],
        log_prob: float,
        scores: np.ndarray,
        plan: list[tuple[list[int], list[int], list[int]]],
    ) -> None:
        """Add every label that may follow `labels` in label-space order."""
        used = len(self._encoder.chain_ids(labels)) if labels else 0
        for label in range(labels[-1] + 1 if labels else 0, self._count):
            path, end, onward = plan[label]
            reached = log_prob + float(scores[path].sum())
            bound = float(np.logaddexp.reduce(scores[onward])) if onward else -np.inf
            search.add((*labels, label), reached, float(scores[end].sum()), bound, used + len(path) + self._longest)


def room_after(model: PreTrainedModel, prompt: Sized) -> float:
    """Number of tokens that a model can read after a prompt; without limit where the prompt itself is too long."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    return positions - len(prompt) if positions > len(prompt) else math.inf
