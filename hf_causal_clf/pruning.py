"""Label scoring of large label spaces: answers that cannot matter are left out, with a guaranteed error.

A partial answer's probability bounds that of all answers that begin with it together, so whole branches of the answers'
trie need not be run once their bounds are small. Knows token ids and models; neither labels nor prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from .trie import LabelTrie

if TYPE_CHECKING:
    from .tree_attention import Context, TreeForward

MAX_LOGIT_ROWS = 1024  # rows of vocabulary-sized logits held at once


@dataclass
class _Branches:
    """What is known of one document: log-probabilities of whole answers, and of beginnings that may be run on."""

    complete: dict[tuple[int, ...], float] = field(default_factory=dict)
    open: dict[tuple[int, ...], float] = field(default_factory=dict)

    def error(self) -> float:
        """Upper bound on the error of each probability: the share of the answers that have not been run."""
        rest = np.logaddexp.reduce([*self.open.values(), -np.inf])
        found = np.logaddexp.reduce([*self.complete.values(), -np.inf])
        return float(np.exp(rest - np.logaddexp(rest, found))) if rest > -np.inf else 0.0

    def choose(self, max_error: float) -> dict[tuple[int, ...], float]:
        """Take the beginnings to run next: all but the least probable ones, which together may be left out."""
        if self.error() <= max_error:
            return {}
        order = sorted(self.open, key=self.open.__getitem__)
        masses = np.logaddexp.accumulate([self.open[beginning] for beginning in order])
        everything = np.logaddexp.reduce([*self.complete.values(), *self.open.values()])
        kept = int(np.searchsorted(masses, everything + np.log(max_error / 4), side="right"))
        return {beginning: self.open.pop(beginning) for beginning in order[min(kept, len(order) - 1) :]}


@dataclass(frozen=True)
class _Round:
    """Beginnings to continue, with their log-probabilities: the trie of what may follow, and its paths."""

    known: dict[tuple[int, ...], float]
    steps: dict[tuple[int, ...], list[tuple[int, ...]]]
    trie: LabelTrie
    paths: dict[tuple[int, ...], list[int]]
    longer: frozenset[tuple[int, ...]]


class PrunedScoring:
    """Normalised probabilities of answers, each off by at most `max_error`.

    With `found` the summed probability of the answers that were run and `rest` that of the beginnings that were not
    (an upper bound on what follows them), no normalised probability is off by more than `rest / (found + rest)`:
    branches are run until that is at most `max_error`. Answers that were not run share the probability of their
    beginning, so none is zero.

    Args:
        forward: Tree forward of the model, which has to be able to run a trie in one pass.
        answers: Token-id lists, end of answer included; none may be a beginning of another.
        max_error: Largest error of a probability, above 0.
    """

    def __init__(self, forward: TreeForward, answers: Sequence[Sequence[int]], max_error: float) -> None:
        self._forward = forward
        self._answers = [tuple(answer) for answer in answers]
        self._max_error = max_error
        self._below: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for answer in self._answers:
            for end in range(len(answer)):
                self._below.setdefault(answer[:end], []).append(answer)
        self._root = self._round({(): 0.0})
        self.root_trie = self._root.trie

    def _steps(self, beginning: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The next things to score after a beginning: one token more, or the whole answer where only one is left."""
        longer = dict.fromkeys(answer[: len(beginning) + 1] for answer in self._below[beginning])
        if not beginning:
            return [*longer]
        alone = {step for step in longer if len(self._below.get(step, ())) == 1}
        return [self._below[step][0] if step in alone else step for step in longer]

    def run(self, edges: torch.Tensor, context: Context) -> np.ndarray:
        """Return the probabilities of a batch of documents whose prompts and root trie have been run.

        Args:
            edges: Log-probabilities of the root trie's edges, `(documents, edges)`.
            context: The documents' prompts.

        Returns:
            Probability of each answer, float32 `(documents, answers)`.
        """
        documents = [_Branches() for _ in edges]
        for document, scores in zip(documents, edges.double().numpy(), strict=True):
            _record(document, self._root, scores)
        while chosen := self._choose(documents):
            size = max(1, MAX_LOGIT_ROWS // (max(len(item.trie) for _, item in chosen) + 1))
            for start in range(0, len(chosen), size):
                rows, rounds = zip(*chosen[start : start + size], strict=True)
                tries = [item.trie for item in rounds]
                scored = self._forward.branches(context.select(rows), tries)
                for row, item, found in zip(rows, rounds, scored, strict=True):
                    _record(documents[row], item, found.double().numpy())
        return np.stack([self._probabilities(document) for document in documents])

    def _choose(self, documents: Sequence[_Branches]) -> list[tuple[int, _Round]]:
        """For each document that needs it: its row and what to run next."""
        chosen = [(row, document.choose(self._max_error)) for row, document in enumerate(documents)]
        return [(row, self._round(known)) for row, known in chosen if known]

    def _round(self, known: dict[tuple[int, ...], float]) -> _Round:
        steps = {beginning: self._steps(beginning) for beginning in known}
        sequences = [step for found in steps.values() for step in found]
        trie = LabelTrie(sequences)
        paths = dict(zip(sequences, trie.paths, strict=True))
        return _Round(known, steps, trie, paths, frozenset(step for step in sequences if step in self._below))

    def _probabilities(self, document: _Branches) -> np.ndarray:
        scores = {**document.complete}
        for beginning, log_prob in document.open.items():
            below = self._below[beginning]
            scores |= dict.fromkeys(below, log_prob - float(np.log(len(below))))
        values = np.array([scores[answer] for answer in self._answers])
        values = np.exp(values - values.max())
        return (values / values.sum()).astype(np.float32)


def _record(document: _Branches, item: _Round, scores: np.ndarray) -> None:
    """Note the log-probabilities of what follows the beginnings of a round, from its trie's edges."""
    for beginning, log_prob in item.known.items():
        for step in item.steps[beginning]:
            value = log_prob + float(scores[item.paths[step][len(beginning) :]].sum())
            (document.open if step in item.longer else document.complete)[step] = value
