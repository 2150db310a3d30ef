"""One forward pass over a prompt and a trie of its continuations.

The trie's nodes follow the prompt in the input; a 4-D mask lets each node see the prompt and its own ancestors only,
and `position_ids` put it at its depth, so every continuation is scored as if it stood there alone. Models whose
attention cannot be masked so (ALiBi, recurrent layers, flash attention) are run one continuation at a time instead.
Knows token ids and models; neither labels nor prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..backbone.batching import pad
from ..backbone.context import Branches, Context, read_on, takes_cache
from .trie import LabelTrie

logger = logging.get_logger(__name__)

MAX_LOGIT_ROWS = 1024  # rows of vocabulary-sized logits held at once
_CACHED_ROWS = 8


class TreeForward:
    """Scores tries of continuations with a causal language model.

    Args:
        model: Causal language model, also wrapped by PEFT.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config()
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._keeps_logits = "logits_to_keep" in inspect.signature(type(base).forward).parameters
        self.one_pass = takes_cache(base)
        if not self.one_pass:
            logger.warning_once(
                f"{type(base).__name__} with {config._attn_implementation!r} attention cannot score all labels in one "
                "forward pass; it is run once for each label."
            )

    def start(self, ids: list[int]) -> Context:
        """Run the tokens that all rows start with, once."""
        context = Context.empty(self.model.device)
        if not self.one_pass or not ids:
            context.ids = [list(ids)]
            return context
        return self(context, [list(ids)], LabelTrie([[ids[-1]]]))[1]

    def __call__(self, context: Context, chains: Sequence[list[int]], trie: LabelTrie) -> tuple[torch.Tensor, Context]:
        """Extend each row of a context by a chain of tokens and score a trie of continuations after it.

        Args:
            context: What the model has seen, with as many rows as there are chains.
            chains: Token ids to append, none empty unless the context is not empty.
            trie: Continuations, the same for all rows.

        Returns:
            Log-probabilities of the trie's edges, float32 `(rows, edges)`, and the context with the chains appended.
        """
        with torch.no_grad():
            if self.one_pass:
                logits, context = self._run(context, chains, [trie] * len(chains))
                return torch.stack([_edge_log_probs(row, trie) for row in logits]), context
            extended = [[*seen, *chain] for seen, chain in zip(context.ids, chains, strict=True)]
            return self._one_by_one(extended, trie), Context(extended, [], context.positions, context.visible)

    def branches(self, context: Context, tries: Sequence[LabelTrie]) -> list[torch.Tensor]:
        """Score a trie of continuations for each row of a context, in one pass.

        The predictions at the end of the context itself are not made again: edges from a trie's root get no meaningful
        value.

        Args:
            context: What the model has seen, with as many rows as there are tries. Only where `one_pass` is true.
            tries: Continuations of each row.

        Returns:
            Log-probabilities of the edges of each trie, float32 `(edges,)`.
        """
        with torch.no_grad():
            logits, _ = self._run(context, [[]] * len(tries), tries)
            return [_edge_log_probs(row, trie) for row, trie in zip(logits, tries, strict=True)]

    def _run(
        self, context: Context, chains: Sequence[list[int]], tries: Sequence[LabelTrie]
    ) -> tuple[torch.Tensor, Context]:
        """Logits `(rows, nodes + 1, vocabulary)`, and the context with the chains."""
        branches = _stack(tries)
        count = branches.tokens.shape[1]
        arguments = {"logits_to_keep": count + 1} if self._keeps_logits else {}
        outputs, extended = read_on(self.model, context, chains, branches, **arguments)
        logits = outputs.logits[:, -count - 1 :]
        if not any(chains):  # nothing was run at the end of the context
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        return logits, extended

    def _one_by_one(self, prompts: list[list[int]], trie: LabelTrie) -> torch.Tensor:
        """One forward for each prompt and path of fed nodes: slower, right for every causal model."""
        scores = torch.empty(len(prompts), len(trie.edges))
        for row, prompt in enumerate(prompts):
            for path in trie.paths:
                tokens = [trie.edges[edge][1] for edge in path]
                input_ids = torch.tensor([[*prompt, *tokens[:-1]]], device=self.model.device)
                logits = self.model(input_ids=input_ids, use_cache=False).logits[0, len(prompt) - 1 :]
                picked = torch.tensor(tokens, device=logits.device).unsqueeze(1)
                scores[row, path] = logits.float().log_softmax(dim=-1).gather(1, picked).squeeze(1).cpu()
        return scores


def rows_at_once(nodes: int) -> int:
    """How many tries of so many nodes one forward may score, at least one, so that their logits stay few."""
    return max(1, MAX_LOGIT_ROWS // (nodes + 1))


def _stack(tries: Sequence[LabelTrie]) -> Branches:
    """The nodes of one trie a row."""
    if all(trie is tries[0] for trie in tries):
        rows = len(tries)
        tokens, depths = (torch.tensor(values, dtype=torch.int64) for values in (tries[0].tokens, tries[0].depths))
        mask = torch.from_numpy(tries[0].mask())
        return Branches(tokens.expand(rows, -1), depths.expand(rows, -1), mask.expand(rows, -1, -1))
    count = max(map(len, tries))
    tree = torch.zeros(len(tries), count, count, dtype=torch.bool)
    for row, trie in enumerate(tries):
        tree[row, : len(trie), : len(trie)] = torch.from_numpy(trie.mask())
    tokens, depths = (pad(rows, 0)["input_ids"] for rows in ([t.tokens for t in tries], [t.depths for t in tries]))
    return Branches(tokens, depths, tree)


def _edge_log_probs(logits: torch.Tensor, trie: LabelTrie) -> torch.Tensor:
    """Float32 `(edges,)` from one row's logits `(at least nodes + 1, vocabulary)`."""
    source = torch.tensor([row for row, _ in trie.edges], device=logits.device)
    token = torch.tensor([token for _, token in trie.edges], device=logits.device)
    parts = logits[: len(trie) + 1].split(_CACHED_ROWS)  # of more at once, float32 copies would leave the CPU's cache
    log_normalizers = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
    return (logits[source, token].float() - log_normalizers[source]).cpu()
