"""Label scoring: the probability of every label from the log-probabilities of the label texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..backbone.batching import evaluation_mode, prediction_batches
from ..backbone.context import Context
from ..backbone.variants import in_one_piece, read_variants
from ..evaluation.calibration import to_probabilities
from ..task.chunks import largest_of_chunks, mean_over_chunks, rows_of
from ..task.prompts import PromptTemplate
from ..task.scorer import check_list
from ..task.verbalizer import Verbalizer
from .label_sets import LabelSetSearch
from .pruning import PrunedScoring
from .tree_attention import TreeForward, rows_at_once
from .trie import LabelTrie

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

_LARGE_TRIE = 64  # tokens; running fewer costs less than finding out which of them matter


class Scoring(Protocol):
    """A way to find the logits of documents whose prompts have been run, together with its root trie.

    Attributes:
        root_trie: What follows the prompt in all documents.
    """

    root_trie: LabelTrie

    def run(self, edges: torch.Tensor, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of a batch of documents.

        Args:
            edges: Log-probabilities of the root trie's edges, `(documents, edges)`.
            context: The documents' prompts.

        Returns:
            Float32 `(documents, labels)`; and an upper bound on the error of each probability of a document for
            answers that were left out, float32 `(documents,)`.
        """
        ...


class WholeTrie:
    """The log-probabilities of all answers, none left out.

    Args:
        answers: Token-id lists, end of answer included.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.root_trie = LabelTrie(answers)

    def run(self, edges: torch.Tensor, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities and errors of zero, as `Scoring.run`."""
        log_probs = [edges[:, path].sum(dim=1).numpy() for path in self.root_trie.paths]
        return np.stack(log_probs, axis=1), np.zeros(len(edges), dtype=np.float32)


class LabelScorer:
    """Scores all labels of a document in one forward pass over the trie of their answers.

    Args:
        model: Causal language model, also wrapped by PEFT.
        tokenizer: Its tokenizer.
        template: Prompt template.
        verbalizer: Labels and their answer texts.
        batch_size: Documents, or chunks of them, per forward pass.
        min_coverage: Multi-label: share of the probability of all valid answers that the search must find.
        max_expansions: Multi-label: number of partial answers per document that the search may expand.
        max_error: Single-label: how much a probability may change, at the most, for leaving out answers that cannot
            matter, where the answers are many (more than 64 tokens to run for each document); 0 for none. It is kept in
            every data type, before any temperature. The rounding of the model's own forward pass, which depends on what
            is run together, comes on top, at 0 as well: below 1e-5 in float32, up to 0.13 in bfloat16 (SmolLM2-135M).

    Attributes:
        answer_ids: One token-id list per label, end of answer included.
    """

    approach = "instruction"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: PromptTemplate,
        verbalizer: Verbalizer,
        batch_size: int = 16,
        min_coverage: float = 0.99,
        max_expansions: int = 64,
        max_error: float = 1e-3,
    ) -> None:
        self.model = model
        self.encoder = template.bind(tokenizer, verbalizer)
        self.verbalizer = verbalizer
        self.batch_size = batch_size
        self.min_coverage = min_coverage
        self.max_expansions = max_expansions
        self.max_error = max_error
        self.answer_ids = self.encoder.answer_ids
        self._forward = TreeForward(model)
        self._chosen: tuple[tuple[float, int, float], Scoring] | None = None

    @cached_property
    def _whole_trie(self) -> WholeTrie:
        return WholeTrie(self.answer_ids)

    @property
    def _scoring(self) -> Scoring:
        """How `logits` are found; chosen, and its tries built, once for the settings as they are."""
        settings = (self.min_coverage, self.max_expansions, self.max_error)
        if self._chosen is None or self._chosen[0] != settings:
            self._chosen = settings, self._choose()
        return self._chosen[1]

    def _choose(self) -> Scoring:
        if self.verbalizer.labels.multi_label:
            return LabelSetSearch(self._forward, self.encoder, self.min_coverage, self.max_expansions)
        if self.max_error > 0 and self._forward.one_pass and len(self._whole_trie.root_trie) > _LARGE_TRIE:
            return PrunedScoring(self._forward, self.answer_ids, self.max_error)
        return self._whole_trie

    def prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each document's prompt, up to the answer slot; a long document is cut."""
        check_list(texts)
        return [self.encoder.prompt_ids(text) for text in texts]

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """Return log p(answer of the label, end of answer | prompt), float32 `(n, labels)`, not normalised over labels.

        In a multi-label space, the answer is the one that names this label alone.

        Raises:
            ValueError: If a single text is given instead of a list; so do the other methods.
        """
        return self._score(self.encode(texts), self._whole_trie)[0]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each label, float32 `(n, labels)`: the softmax or sigmoid of `logits`."""
        return to_probabilities(self.logits(texts), multi_label=self.verbalizer.labels.multi_label)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits of the labels, float32 `(n, labels)`, which a temperature divides.

        Single-label: `log_probs`; in large label spaces without the answers that cannot matter, which changes no
        probability by more than `max_error`, guaranteed (`PrunedScoring`). Multi-label: the log-odds of `marginals`,
        with a warning where the search ended before it had covered enough. Of a document in chunks: the mean of theirs,
        of which no answer is left out.
        """
        return self.logits_of(self.encode(texts))

    def encode(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """Return the token ids of each chunk of each document, for `logits_of`."""
        check_list(texts)
        return [self.encoder.document_chunks(text) for text in texts]

    def logits_of(self, documents: Sequence[list[list[int]]]) -> np.ndarray:
        """Return the `logits` of documents that `encode` has read: once, for any number of evaluations."""
        logits, errors = self._score(documents, self._scoring)
        self._warn_of_uncovered(errors)
        return logits

    def logits_of_variants(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the `logits` of texts that are variants of one another, float32 `(variants, labels)` a document.

        What a variant's prompt begins with like that of the document's first one is run once, where the model's
        attention allows it and the document is not read in chunks.

        Args:
            documents: The variants of each document, at least one.
        """
        encoded = [self.encode(variants) for variants in documents]
        if not self._forward.one_pass:
            return [self.logits_of(variants) for variants in encoded]
        return in_one_piece(encoded, self._shared, self.logits_of)

    def _shared(self, documents: list[list[list[int]]]) -> list[np.ndarray]:
        scoring, errors = self._scoring, [np.zeros(0, dtype=np.float32)]

        def read(context: Context, chains: list[list[int]]) -> tuple[np.ndarray, Context]:
            edges, context = self._extend(context, chains, scoring.root_trie)
            logits, bounds = scoring.run(edges, context)
            errors.append(bounds)
            return logits, context

        with evaluation_mode(self.model):
            start = self._forward.start(self.encoder.prefix_ids)
        chains = [[[*ids, *self.encoder.suffix_ids] for ids in variants] for variants in documents]
        size = min(self.batch_size, rows_at_once(len(scoring.root_trie)))
        found = read_variants(read, start, chains, model=self.model, batch_size=size)
        self._warn_of_uncovered(np.concatenate(errors))
        return found

    def _warn_of_uncovered(self, errors: np.ndarray) -> None:
        short = int((errors > 1 - self.min_coverage).sum()) if self.verbalizer.labels.multi_label else 0
        if short:
            logger.warning(
                f"For {short} of {len(errors)} documents, {self.max_expansions} expansions covered less than "
                f"{self.min_coverage:.0%} of the probability of all valid answers (worst: {1 - errors.max():.1%}). "
                "Their label probabilities are off by at most the rest."
            )

    def marginals(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the marginal probability of each label over the valid multi-label answers.

        Returns:
            Probabilities, float32 `(n, labels)`, and the uncovered share of the probability of all valid answers,
            float32 `(n,)`, an upper bound on the error of each probability of that document (of one in chunks: the
            largest of theirs).

        Raises:
            ValueError: If the label space is single-label.
        """
        if not self.verbalizer.labels.multi_label:
            raise ValueError("`marginals` is for multi-label spaces; use `probabilities`.")
        logits, uncovered = self._score(self.encode(texts), self._scoring)
        return to_probabilities(logits, multi_label=True), uncovered

    def _score(self, documents: Sequence[list[list[int]]], scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
        """Logits `(n, labels)`, and an upper bound on the error of each document's probabilities, `(n,)`.

        Of a document in chunks: the mean of their logits, and the largest of their bounds.
        """
        rows, counts = rows_of(documents)
        logits = np.empty((len(rows), len(self.answer_ids)), dtype=np.float32)
        errors = np.empty(len(rows), dtype=np.float32)
        for places, way in self._ways(counts, scoring):
            for batch, edges, context in self._batches([rows[place] for place in places], way.root_trie):
                logits[places[batch]], errors[places[batch]] = way.run(edges, context)
        return mean_over_chunks(logits, counts), largest_of_chunks(errors, counts)

    def _ways(self, counts: np.ndarray, scoring: Scoring) -> list[tuple[np.ndarray, Scoring]]:
        """Rows, and how they are scored: an answer that cannot matter in one chunk may matter in the mean."""
        chunked = np.repeat(counts > 1, counts)
        if not isinstance(scoring, PrunedScoring):
            return [(np.arange(len(chunked)), scoring)]
        return [(np.flatnonzero(~chunked), scoring), (np.flatnonzero(chunked), self._whole_trie)]

    def _batches(
        self, documents: Sequence[list[int]], trie: LabelTrie
    ) -> Iterator[tuple[list[int], torch.Tensor, Context]]:
        """Run prompts and trie in batches of similar length: document indices, edge log-probabilities, context."""
        if not documents:
            return
        chains = [[*ids, *self.encoder.suffix_ids] for ids in documents]
        with evaluation_mode(self.model):
            prefix = self._forward.start(self.encoder.prefix_ids)
        lengths, size = [len(chain) for chain in chains], min(self.batch_size, rows_at_once(len(trie)))
        for indices in prediction_batches(self.model, lengths, size, description="Scoring labels"):
            context = prefix.select([0] * len(indices))
            edges, context = self._extend(context, [chains[index] for index in indices], trie)
            yield indices, edges, context

    def _extend(self, context: Context, chains: Sequence[list[int]], trie: LabelTrie) -> tuple[torch.Tensor, Context]:
        return self._forward(context, chains, trie)
