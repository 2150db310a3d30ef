"""Label scoring of large label spaces: answers that cannot matter are left out, with a bound on what that changes.

A partial answer's probability bounds that of all answers that begin with it together, so whole branches of the answers'
trie need not be run once their bounds are small. Knows token ids and models; neither labels nor prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from .tree_attention import rows_at_once
from .trie import LabelTrie

if TYPE_CHECKING:
    from ..backbone.context import Context
    from .tree_attention import TreeForward


@dataclass
class _Branches:
    """What is known of one document: log-probabilities of whole answers, and of beginnings that may be run on."""

    complete: dict[tuple[int, ...], float] = field(default_factory=dict)
    open: dict[tuple[int, ...], float] = field(default_factory=dict)

    def error(self) -> float:
        """Upper bound on the error of each probability, where open beginnings count half of theirs."""
        found, rest = self._scaled()
        if not len(rest):
            return 0.0
        total, left = found.sum(), rest.sum()
        if total == 0.0:
            return 1.0
        of_found = found.max() * left / (2 * total * (total + left / 2))
        return float(max(of_found, rest.max() / (total + rest.max())))

    def choose(self, max_error: float) -> dict[tuple[int, ...], float]:
        """Take the beginnings to run next: all but the least probable ones, which can be left out."""
        if self.error() <= max_error:
            return {}
        found, rest = self._scaled()
        order = np.argsort(rest)
        masses = np.cumsum(rest[order])
        total = found.sum()
        if total == 0.0:  # it is not known yet what the answers have: first those that most of it can be in
            kept = int((masses <= 0.01 * masses[-1]).sum())
        else:
            room = 2 * max_error * total**2 / max(found.max() - max_error * total, 1e-300)
            kept = int(((rest[order] <= max_error * total) & (masses <= room)).sum())
        beginnings = list(self.open)
        chosen = order[min(kept, len(order) - 1) :]
        return {beginnings[index]: self.open.pop(beginnings[index]) for index in chosen}

    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of complete answers and of open beginnings, divided by the largest of them."""
        found, rest = (np.array([*values.values()], dtype=np.float64) for values in (self.complete, self.open))
        best = max(found.max(initial=-np.inf), rest.max(initial=-np.inf))
        return np.exp(found - best), np.exp(rest - best)


@dataclass(frozen=True)
class _Round:
    """Beginnings to continue, with their log-probabilities: the trie of what may follow, and its paths."""

    known: dict[tuple[int, ...], float]
    steps: dict[tuple[int, ...], list[tuple[int, ...]]]
    trie: LabelTrie
    paths: dict[tuple[int, ...], list[int]]
    longer: frozenset[tuple[int, ...]]


class PrunedScoring:
    """Logits of answers, of whose probabilities none is off by more than `max_error` for what is left out.

    With `found` the summed probability of the answers that were run and `rest` that of the beginnings that were not
    (each an upper bound `bound` on all that follows it), the normaliser is between `found` and `found + rest`. Taken as
    `found + rest / 2`, it puts an answer that was run with probability p off by at most `p * rest / 2 / (found * (found
    + rest / 2))`, and that of one that was not is between 0 and `bound / (found + bound)`. Beginnings are run
    on until all that is at most `max_error`. Answers that were not run share half of their beginning's
    probability, so none is zero.

    The bound needs no more than that the probabilities of what may follow a token add up to one. They do in every data
    type of the model, since log-softmaxes are taken in float32 and added in float64. What it does not bound is the
    rounding of the hidden states: in bfloat16 the same answer, run beside others, has another probability.

    Args:
        forward: Tree forward of the model, which has to be able to run a trie in one pass.
        answers: Token-id lists, end of answer included; none may be a beginning of another.
        max_error: Largest change of a probability by what is left out, above 0.
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
        """What may follow a beginning, one token longer."""
        return [*dict.fromkeys(answer[: len(beginning) + 1] for answer in self._below[beginning])]

    def run(self, edges: torch.Tensor, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of a batch of documents whose prompts and root trie have been run.

        Args:
            edges: Log-probabilities of the root trie's edges, `(documents, edges)`.
            context: The documents' prompts.

        Returns:
            Logits, float32 `(documents, answers)`: log-probabilities of the answers, of which each row's largest is
            taken off, so that float32 is exact where it matters. And the bound on what is left out, float32
            `(documents,)`.
        """
        documents = [_Branches() for _ in edges]
        for document, scores in zip(documents, edges.double().numpy(), strict=True):
            _record(document, self._root, scores)
        while chosen := self._choose(documents):
            size = rows_at_once(max(len(item.trie) for _, item in chosen))
            for start in range(0, len(chosen), size):
                rows, rounds = zip(*chosen[start : start + size], strict=True)
                tries = [item.trie for item in rounds]
                scored = self._forward.branches(context.select(rows), tries)
                for row, item, found in zip(rows, rounds, scored, strict=True):
                    _record(documents[row], item, found.double().numpy())
        errors = np.array([document.error() for document in documents], dtype=np.float32)
        return np.stack([self._log_probs(document) for document in documents]), errors

    def _choose(self, documents: Sequence[_Branches]) -> list[tuple[int, _Round]]:
        """For each document that needs it: its row and what to run next."""
        chosen = [(row, document.choose(self._max_error)) for row, document in enumerate(documents)]
        return [(row, self._round(known)) for row, known in chosen if known]

    def _round(self, known: dict[tuple[int, ...], float]) -> _Round:
        answers = [answer for beginning in known for answer in self._below[beginning]]
        if () not in known and len(answers) > len(self._answers) / 2:  # hardly any can be left out: all at once
            steps = {beginning: self._below[beginning] for beginning in known}
        else:
            steps = {beginning: self._steps(beginning) for beginning in known}
        sequences = [step for found in steps.values() for step in found]
        trie = LabelTrie(sequences)
        paths = dict(zip(sequences, trie.paths, strict=True))
        return _Round(known, steps, trie, paths, frozenset(step for step in sequences if step in self._below))

    def _log_probs(self, document: _Branches) -> np.ndarray:
        scores = {**document.complete}
        for beginning, log_prob in document.open.items():
            below = self._below[beginning]
            scores |= dict.fromkeys(below, log_prob - float(np.log(2 * len(below))))
        values = np.array([scores[answer] for answer in self._answers])
        return (values - values.max()).astype(np.float32)


def _record(document: _Branches, item: _Round, scores: np.ndarray) -> None:
    """Note the log-probabilities of what follows the beginnings of a round, from its trie's edges."""
    for beginning, log_prob in item.known.items():
        for step in item.steps[beginning]:
            value = log_prob + float(scores[item.paths[step][len(beginning) :]].sum())
            (document.open if step in item.longer else document.complete)[step] = value
